"""Linearised once for a whole run: the same products, the same programs, within the budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import (
    FunctionOperator,
    GaussNewtonOperator,
    HessianOperator,
    density,
    diagonal,
    eigenpairs,
    trace,
)
from hessspec._base.probes import gaussian
from hessspec._krylov.lockstep import krylov
from hessspec._operators.batches import Batches
from hessspec._operators.linearised import LinearisedOperator
from hessspec._operators.over_data import loss_values
from hessspec._operators.rows import compiled_rows

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(11, 3))), jnp.asarray(RNG.normal(size=(11, 2)))
PARAMS = {
    "w1": jnp.asarray(RNG.normal(size=(3, 4))),
    "b1": jnp.asarray(RNG.normal(size=4)),
    "w2": jnp.asarray(RNG.normal(size=(4, 2))),
}
ROWS = jnp.asarray(RNG.normal(size=(3, 24)))
PLENTY = 1 << 30
KEY = jax.random.key(0)


def model(params, batch):
    return jnp.tanh(batch[0] @ params["w1"] + params["b1"][None]) @ params["w2"]


def vector_loss(params, batch):
    return ((model(params, batch) - batch[1]) ** 2).mean(0)


def scalar_loss(params, batch):
    return vector_loss(params, batch).sum()


def parts(*cuts):
    """X and Y cut into batches of these sizes."""
    ends = np.cumsum(cuts)
    slices = [slice(end - n, end) for n, end in zip(cuts, ends, strict=True)]
    return Batches([(X[cut], Y[cut]) for cut in slices])


def close(actual, expected):
    """Equal up to rounding in the dtype of the operators."""
    bound = 1000 * np.finfo(X.dtype).eps * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


DATA = {"one batch": (X, Y), "equal batches": parts(4, 4), "ragged batches": parts(4, 4, 3)}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("loss", [scalar_loss, vector_loss])
def test_products_are_those_of_the_operator(loss, data):
    operator = HessianOperator(loss, PARAMS, data=DATA[data])
    linearised = operator.linearised(3, PLENTY)
    assert isinstance(linearised, LinearisedOperator)
    assert (linearised.num_tasks, linearised.dtype) == (operator.num_tasks, operator.dtype)
    close(linearised.rows(ROWS), operator.rows(ROWS))
    close(linearised.forms(ROWS), operator.forms(ROWS))
    close(linearised.matvec(PARAMS)["w1"], operator.matvec(PARAMS)["w1"])


def test_a_loss_without_curvature_or_data_has_products_of_zero():
    for loss in (lambda p: p.sum(), lambda p: jnp.asarray(1.0) + 0 * p[0]):
        linearised = HessianOperator(loss, jnp.ones(4)).linearised(2, PLENTY)
        np.testing.assert_array_equal(linearised.rows(jnp.ones((2, 4))), 0.0)


@pytest.mark.any_dtype
def test_tasks_and_checkpoints_share_the_compiled_programs():
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return vector_loss(params, batch)

    def products(params, task):
        operator = HessianOperator(loss, params, data=DATA["ragged batches"])
        before = traces
        scalar = operator.task(task)
        rows = scalar.linearised(3, PLENTY).rows(ROWS)
        return rows, np.asarray(operator.rows(ROWS))[task], traces - before

    products(PARAMS, 0)
    size = compiled_rows._cached._cache_size()
    for params in (PARAMS, jax.tree.map(lambda leaf: 2 * leaf, PARAMS)):
        for task in range(2):
            found, expected, traced = products(params, task)
            close(found, expected)
            assert traced == 0
    assert compiled_rows._cached._cache_size() == size


@pytest.mark.any_dtype
def test_nothing_is_kept_beyond_the_budget():
    """All batches count, not only the largest."""
    one, many = (
        HessianOperator(scalar_loss, PARAMS, data=data) for data in ((X, Y), Batches([(X, Y)] * 50))
    )
    needed = one.linearised(3, PLENTY).product_bytes(3)
    all_needed = many.linearised(3, PLENTY).product_bytes(3)
    assert all_needed > 10 * needed
    assert one.linearised(3, needed) is not one
    assert one.linearised(3, needed - 1) is one
    assert many.linearised(3, all_needed - 1) is many


@pytest.mark.any_dtype
def test_the_budget_of_the_operator_itself_holds_too():
    data, budget = Batches([(X, Y)] * 400), 100_000 * X.dtype.itemsize
    operator = HessianOperator(scalar_loss, PARAMS, data=data, memory_budget=budget)
    assert operator.streamed is None
    assert operator.linearised(3, PLENTY) is operator


@pytest.mark.any_dtype
def test_what_cannot_be_kept_is_the_operator_as_it_was():
    streamed = HessianOperator(
        scalar_loss, PARAMS, data=Batches([(X, Y)] * 4000), memory_budget=400_000
    )
    assert streamed.streamed is not None
    unlike = [
        streamed,
        HessianOperator(scalar_loss, PARAMS, data=(X, Y), rematerialize=True),
        GaussNewtonOperator(model, lambda z, b: ((z - b[1]) ** 2).mean(), PARAMS, (X, Y)),
        FunctionOperator(lambda v: 2 * v, jnp.ones(3)),
    ]
    for operator in unlike:
        assert operator.linearised(2, PLENTY) is operator


@pytest.mark.any_dtype
def test_a_density_linearises_once_for_a_run(monkeypatch):
    """And finds what a run through the operator itself finds, at the same count of products."""
    found = []
    rows = LinearisedOperator.rows

    def counted(self, block):
        found.append(block.shape[0])
        return rows(self, block)

    monkeypatch.setattr(LinearisedOperator, "rows", counted)
    hessian = HessianOperator(vector_loss, PARAMS, data=DATA["ragged batches"])
    key = jax.random.key(0)
    spectrum = density(hessian, key=key, num_probes=2, num_steps=8, progress=False)
    assert sum(found) == spectrum.num_matvecs == 2 * 2 * 8
    starts = gaussian(key, jnp.arange(2), hessian.dim, jnp.dtype(hessian.dtype))
    for task in range(2):
        run = krylov(hessian.task(task), starts, 8)
        close(spectrum.alpha[task], run.alpha)
    assert sum(found) == spectrum.num_matvecs


def test_the_losses_of_a_density_come_with_what_is_linearised():
    """They are checked, and no program of their own is compiled for them."""
    hessian = HessianOperator(vector_loss, PARAMS, data=DATA["ragged batches"])
    kept = hessian.linearised(2, PLENTY)
    close(kept.losses, hessian.losses())
    size = loss_values._cached._cache_size()
    options = {"num_steps": 4, "progress": False}
    density(lambda p, b: 3 * vector_loss(p, b), PARAMS, KEY, data=(X[:7], Y[:7]), **options)
    assert loss_values._cached._cache_size() == size
    broken = (X.at[2].set(jnp.nan), Y)
    with pytest.raises(ValueError, match="the loss of task 0, 1 is nan"):
        density(vector_loss, PARAMS, KEY, data=broken, **options)


def test_blocks_of_any_length_go_through_the_program_of_two_rows():
    hessian = HessianOperator(lambda p, b: 5 * scalar_loss(p, b), PARAMS, data=(X, Y))
    linearised = hessian.linearised(2, PLENTY)
    block, matrix = jnp.asarray(RNG.normal(size=(8, 24))), hessian.dense()
    size = compiled_rows._cached._cache_size()
    for count in (2, 8, 5):
        close(linearised.rows(block[:count]), block[:count] @ matrix)
        close(linearised.forms(block[:count]), jnp.sum(block[:count] @ matrix * block[:count], 1))
    assert compiled_rows._cached._cache_size() == size + 1


def test_rows_of_zeros_that_fill_up_a_block_change_no_form():
    """They are not computed: the loop over rows ends before them."""
    hessian = HessianOperator(vector_loss, PARAMS, data=DATA["ragged batches"])
    filled = jnp.pad(ROWS, ((0, 5), (0, 0)))
    for operator in (hessian, hessian.linearised(2, PLENTY)):
        assert operator.skips_zeros
        found = operator.forms(filled)
        close(found[:, :3], hessian.forms(ROWS))
        np.testing.assert_array_equal(found[:, 3:], 0.0)
    between = ROWS.at[1].set(0.0)
    close(hessian.forms(between), hessian.forms(ROWS).at[:, 1].set(0.0))


def test_forms_inside_jit_keep_their_reverse_mode():
    """A loop whose length the rows decide has none: inside, all of them are computed."""
    hessian = HessianOperator(vector_loss, PARAMS, data=(X, Y))
    slope = jax.jit(jax.grad(lambda rows: hessian.forms(rows).sum()))(ROWS)
    close(slope, 2 * hessian.rows(ROWS).sum(0))


@pytest.mark.parametrize("number", range(3))
def test_a_first_call_compiles_its_products_once_and_no_losses(number):
    """Pilot, basis and a last odd sample share the program; the losses come with the gradient."""

    def loss(params):
        return jnp.sum(jnp.cosh(params)) + (3.0 + number) * jnp.sum(params[:9]) ** 3

    verb, options = [
        (trace, {"num_matvecs": 51}),
        (diagonal, {"num_matvecs": 41}),
        (eigenpairs, {"k": 1}),
    ][number]
    programs = compiled_rows, loss_values
    before = [program._cached._cache_size() for program in programs]
    verb(loss, jnp.linspace(0.1, 1.0, 64), KEY, progress=False, **options)
    after = [program._cached._cache_size() for program in programs]
    assert after == [before[0] + 1, before[1]]


@pytest.mark.any_dtype
def test_a_loss_that_asks_the_host_is_still_evaluated_twice():
    def random(x):
        return RNG.normal(size=x.shape).astype(x.dtype)

    def loss(params):
        noise = jax.pure_callback(random, jnp.zeros(3), jnp.zeros(3))
        return (params**2).sum() + jax.lax.stop_gradient(noise).sum()

    with pytest.raises(ValueError, match="two evaluations of the loss"):
        density(loss, jnp.ones(9), KEY, num_steps=4, progress=False)


def test_leaves_are_read_at_places_that_the_compiler_does_not_know():
    """As constants they would stand in every kernel that reads a leaf."""
    hessian = HessianOperator(scalar_loss, PARAMS, data=(X, Y))
    kept = hessian.linearised(2, PLENTY)
    np.testing.assert_array_equal(kept.starts, hessian.space.starts)
    trace = str(jax.make_jaxpr(lambda arrays: compiled_rows.__wrapped__(arrays, ROWS))(kept))
    assert "dynamic_slice" in trace
    assert " split" not in trace
