"""What is multiplied: every operator against the dense matrix that JAX gives."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessspec
from hessspec._base.arguments import check_key
from hessspec._operators.algebra import ScaledOperator, compiled_rows
from hessspec._operators.batches import Batches
from hessspec._operators.function import FunctionOperator
from hessspec._operators.hessian import GaussNewtonOperator, HessianOperator
from hessspec._operators.hvp import hvp
from hessspec._operators.verbs import Call

X = jnp.asarray(np.random.default_rng(0).normal(size=(11, 3)))
RANDOM = np.random.default_rng(9)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(11, 2)))


def scalar_loss(params, batch):
    return vector_loss(params, batch).sum()


def vector_loss(params, batch):
    x, y = batch
    outputs = jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"]
    return ((outputs - y) ** 2).mean(0)


def network_params():
    rng = np.random.default_rng(2)
    return {
        "w1": jnp.asarray(rng.normal(size=(3, 4))),
        "b1": jnp.asarray(rng.normal(size=4)),
        "w2": jnp.asarray(rng.normal(size=(4, 2))),
    }


def dense_hessian(operator, loss, *arguments):
    """The Hessian by two reverse and forward passes of JAX over the flat parameters."""

    def flat(x):
        return loss(eqx.combine(operator.space.unflatten(x), operator.held), *arguments)

    return np.asarray(jax.hessian(flat)(operator.space.flatten(operator.chosen)))


def close(actual, expected, units=100.0):
    """Equal up to `units` of rounding in the dtype of `actual`, relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    eps = np.finfo(actual.dtype).eps
    scale = max(np.abs(expected).max(initial=0.0), np.finfo(actual.dtype).tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=units * eps * scale)


@pytest.mark.parametrize("loss", [scalar_loss, vector_loss])
def test_dense_is_the_hessian_of_jax(loss):
    operator = HessianOperator(loss, network_params(), data=(X, Y))
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


def test_a_flax_model_is_a_loss_like_any_other():
    nn = pytest.importorskip("flax.linen")
    model = nn.Dense(2, param_dtype=X.dtype)
    params = model.init(jax.random.key(0), X)

    def loss(params, batch):
        return ((model.apply(params, batch[0]) - batch[1]) ** 2).mean()

    operator = HessianOperator(loss, params, data=(X, Y))
    assert operator.space.paths == ("params/bias", "params/kernel")
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


def test_an_equinox_module_keeps_its_functions_out_of_the_hessian():
    model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def loss(model, batch):
        return ((jax.vmap(model)(batch[0]) - batch[1]) ** 2).mean()

    operator = HessianOperator(loss, model, data=(X, Y))
    assert operator.dim == 3 * 4 + 4 + 4 * 2 + 2
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


def test_haiku_style_dicts_and_a_bare_array_are_parameter_trees():
    params = {"linear": {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, "unused": {}}

    def loss(params):
        return jnp.sin(X @ params["linear"]["w"] + params["linear"]["b"][None]).sum()

    operator = HessianOperator(loss, params)
    close(operator.dense(), dense_hessian(operator, loss))
    bare = HessianOperator(lambda x: (x**3).sum(), jnp.arange(4.0))
    close(bare.dense(), np.diag(6.0 * np.arange(4.0)))
    assert bare.space.paths == ("params",)


@pytest.mark.parametrize("narrow", [jnp.float16, jnp.bfloat16])
def test_mixed_dtypes_compute_in_the_widest_and_return_their_own(narrow):
    """The Hessian is that of the same point in float32: symmetric, and its verbs go through."""
    params = {"half": network_params()["w1"].astype(narrow), "single": jnp.ones(3, jnp.float32)}

    def loss(params):
        hidden = jnp.tanh(X.astype(jnp.float32) @ params["half"].astype(jnp.float32))
        return jnp.mean(hidden[:, :3] @ params["single"]) ** 2

    operator = HessianOperator(loss, params)
    assert operator.dtype == np.float32
    assert operator.matvec(params)["half"].dtype == narrow
    wide = HessianOperator(loss, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))
    np.testing.assert_array_equal(operator.dense(), wide.dense())
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        hessspec.trace(operator, key=key, num_matvecs=12).value,
        hessspec.trace(wide, key=key, num_matvecs=12).value,
    )
    found = hessspec.eigenpairs(operator, key=key, k=2)
    assert found.vectors["half"].dtype == narrow
    assert np.all(found.converged)


def test_where_restricts_the_hessian_to_its_block():
    params = network_params()
    whole = HessianOperator(scalar_loss, params, data=(X, Y))
    part = HessianOperator(
        scalar_loss, params, data=(X, Y), where=lambda path, leaf: path != "b1" and leaf.ndim == 2
    )
    assert part.space.paths == ("w1", "w2")
    assert f"w1: {X.dtype}[3, 4]" in repr(part)
    chosen, held = repr(part).split("held constant:")
    assert "b1" not in chosen
    assert "b1: " in held
    close(part.dense(), np.asarray(whole.dense())[4:, 4:])  # b1 comes first in the tree's order
    assert part.matvec(part.chosen)["b1"] is None


def test_unused_parameters_have_zero_rows():
    params = network_params() | {"head_of_another_task": jnp.ones(3)}
    operator = HessianOperator(scalar_loss, params, data=(X, Y))
    dense = np.asarray(operator.dense())
    start = operator.space.sizes[0]
    assert operator.space.paths[1] == "head_of_another_task"
    np.testing.assert_array_equal(dense[start : start + 3], 0.0)


@pytest.mark.parametrize("vectors", [None, 1500])
def test_ragged_batches_give_the_mean_of_one_big_batch(vectors):
    """The same mean whether batches are kept or, for want of memory, streamed."""
    x, y = jnp.tile(X, (200, 1)), jnp.tile(Y, (200, 1))
    cuts = [slice(0, 800), slice(800, 1600), slice(1600, 2200)]
    whole = HessianOperator(vector_loss, network_params(), data=(x, y))
    budget = None if vectors is None else vectors * whole.dim * X.dtype.itemsize
    parts = HessianOperator(
        vector_loss,
        network_params(),
        data=Batches([(x[cut], y[cut]) for cut in cuts]),
        memory_budget=budget,
    )
    assert (parts.streamed is not None) == (vectors is not None)
    close(parts.dense(), whole.dense())
    block = np.random.default_rng(3).normal(size=(5, whole.dim))
    close(parts.forms(block), whole.forms(block))
    close(parts.losses(), whole.losses())


def test_sums_over_batches_are_sums():
    def total(params, batch):
        return ((batch @ params) ** 2).sum()

    whole = HessianOperator(total, jnp.ones(3), data=X)
    parts = HessianOperator(total, jnp.ones(3), data=Batches([X[:6], X[6:]], reduction="sum"))
    close(parts.dense(), whole.dense())


def test_one_shot_iterators_and_unknown_sizes_are_refused():
    with pytest.raises(TypeError, match="iterable more than once"):
        Batches(iter([X]))
    ragged_leaves = Batches([{"x": X, "scale": jnp.float32(2.0)}])
    with pytest.raises(ValueError, match="`sizes` is required"):
        HessianOperator(lambda p, b: (b["x"] @ p).sum(), jnp.ones(3), data=ragged_leaves)
    with pytest.raises(ValueError, match="one size for each batch"):
        HessianOperator(lambda p, b: (b @ p).sum(), jnp.ones(3), data=Batches([X], sizes=[1, 2]))
    with pytest.raises(ValueError, match="at least one batch"):
        HessianOperator(lambda p, b: (b @ p).sum(), jnp.ones(3), data=Batches([]))


def test_tasks_and_weights_share_one_compiled_program():
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return vector_loss(params, batch)

    operator = HessianOperator(loss, network_params(), data=(X, Y))
    dense = np.asarray(operator.dense())
    block = jnp.eye(operator.dim, dtype=operator.dtype)[:4]
    operator.task(0).rows(block)
    before = traces
    close(operator.task(1).rows(block), dense[1][:4])
    close(operator.task(-1).rows(block), dense[1][:4])
    close(operator.weighted(np.array([2.0, -3.0])).rows(block), (2 * dense[0] - 3 * dense[1])[:4])
    assert traces == before
    with pytest.raises(IndexError, match="one of 2 tasks, got 2"):
        operator.task(2)
    with pytest.raises(ValueError, match="needs an operator with a task axis"):
        operator.task(0).task(0)


def test_a_new_checkpoint_and_a_new_batch_reuse_the_compiled_program():
    compiled = []

    def run(params, batch):
        with jax.log_compiles(False):
            operator = HessianOperator(scalar_loss, params, data=batch)
        size = compiled_rows._cached._cache_size()  # equinox's view of jit's cache
        operator.rows(jnp.ones((2, operator.dim)))
        compiled.append(compiled_rows._cached._cache_size() - size)

    run(network_params(), (X, Y))
    run(jax.tree.map(lambda leaf: 2 * leaf, network_params()), (X + 1, Y))
    assert compiled[1] == 0


def test_a_loss_defined_anew_reuses_the_compiled_program_but_not_its_old_arrays():
    """Closed-over arrays are lifted, so a fresh closure is the same program on other data."""

    def operator_for(data):
        return HessianOperator(lambda p: ((data @ p) ** 4).sum(), jnp.ones(3))

    first = operator_for(X)
    first.rows(jnp.ones((2, 3)))
    size = compiled_rows._cached._cache_size()
    second = operator_for(2 * X)
    close(second.rows(jnp.ones((2, 3))), 16 * np.asarray(first.rows(jnp.ones((2, 3)))))
    assert compiled_rows._cached._cache_size() == size


def test_arrays_closed_over_inside_jit_are_lifted_too():
    inner = jax.jit(lambda p: ((X @ p) ** 2).sum())
    operator = HessianOperator(jax.jit(lambda p: inner(p) + (Y.sum() * p**3).sum()), jnp.ones(3))
    shapes = [constant.shape for constant in operator.chunks[0].functions[0].constants]
    assert X.shape in shapes
    close(operator.dense(), dense_hessian(operator, lambda p: inner(p) + (Y.sum() * p**3).sum()))


def test_a_changed_global_is_not_served_from_a_stale_program():
    factor = 2.0

    def loss(p):
        return factor * (p**2).sum()

    assert np.asarray(HessianOperator(loss, jnp.ones(2)).dense())[0, 0] == 4.0
    factor = 3.0
    assert np.asarray(HessianOperator(loss, jnp.ones(2)).dense())[0, 0] == 6.0


def test_gauss_newton_is_jacobian_curvature_jacobian():
    params = network_params()

    def model(params, batch):
        return jnp.tanh(batch[0] @ params["w1"] + params["b1"][None]) @ params["w2"]

    def outer(outputs, batch):
        return ((outputs - batch[1]) ** 4).mean(0)

    data = Batches([(X[:6], Y[:6]), (X[6:], Y[6:])])
    operator = GaussNewtonOperator(model, outer, params, data)
    dense = np.zeros((2, operator.dim, operator.dim))
    x = operator.space.flatten(operator.chosen)
    jacobian = np.asarray(jax.jacobian(lambda x: model(operator.space.unflatten(x), (X, Y)))(x))
    outputs = np.asarray(model(params, (X, Y)))
    for task in range(2):
        second = 12 * (outputs[:, task] - Y[:, task]) ** 2 / len(X)
        dense[task] = jacobian[:, task].T @ (second[:, None] * jacobian[:, task])
    close(operator.dense(), dense)
    close(operator.task(1).dense(), dense[1])
    block = np.random.default_rng(3).normal(size=(3, operator.dim))
    close(operator.forms(block), np.einsum("kp,tpq,kq->tk", block, dense, block))


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    params = {"w": jnp.ones((3, 2))}

    def outer(outputs, batch):
        return ((outputs - batch[1]) ** 2).mean()

    def model(params, batch):
        return batch[0] @ params["w"]

    gauss_newton = GaussNewtonOperator(model, outer, params, (X, Y))
    hessian = HessianOperator(lambda p, b: outer(model(p, b), b), params, data=(X, Y))
    close(gauss_newton.dense(), hessian.dense())
    with pytest.raises(ValueError, match="`data` is required"):
        GaussNewtonOperator(model, outer, params, None)


def symmetric(seed, size):
    square = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(square + square.T)


@given(
    seed=st.integers(0, 2**16),
    # Subnormal factors vanish in float32 and are refused.
    scale=st.floats(-8, 8, width=32, allow_subnormal=False),
    weights=st.lists(st.floats(-4, 4, width=32, allow_subnormal=False), min_size=2, max_size=2),
)
def test_operators_form_a_vector_space(seed, scale, weights):
    a, b = symmetric(seed, 6), symmetric(seed + 1, 6)
    like = jnp.zeros(6)
    first = FunctionOperator(jax.tree_util.Partial(jnp.matmul, a), like)
    second = FunctionOperator(jax.tree_util.Partial(jnp.matmul, b), like)
    both = FunctionOperator(jax.tree_util.Partial(jnp.matmul, jnp.stack([a, b])), like, num_tasks=2)
    block = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 6)))
    np.testing.assert_allclose(
        (scale * first - second).rows(block),
        np.asarray(block) @ (scale * np.asarray(a) - np.asarray(b)),
        rtol=0,
        atol=1e-4,
    )
    np.testing.assert_allclose(
        both.weighted(np.array(weights)).forms(block),
        weights[0] * np.asarray(first.forms(block)) + weights[1] * np.asarray(second.forms(block)),
        rtol=0,
        atol=1e-3,
    )


def test_quotients_and_sums_are_those_of_the_matrices():
    a, b = symmetric(0, 6), symmetric(1, 6)
    first, second = (FunctionOperator(partial(jnp.matmul, m), jnp.zeros(6)) for m in (a, b))
    close((first / 3).dense(), a / 3)
    close(sum([first, second, first]).dense(), 2 * a + b)
    for factor in (np.float32(2), np.float64(2), jnp.float32(2), np.int8(2), jnp.asarray(2)):
        np.testing.assert_array_equal((factor * first).dense(), 2 * first.dense())
        np.testing.assert_array_equal((first * factor).dense(), 2 * first.dense())
    weights = jnp.asarray([1.0, -2.0])
    both = FunctionOperator(partial(jnp.matmul, jnp.stack([a, b])), jnp.zeros(6), num_tasks=2)
    # Under jit the weights have no values to be checked, and need none.
    found = jax.jit(lambda w: both.weighted(w).rows(jnp.eye(6, dtype=a.dtype)))(weights)
    close(found, a - 2 * b)


def test_a_function_operator_must_keep_the_shape_of_its_vectors():
    with pytest.raises(ValueError, match="`matvec` must return a tree"):
        FunctionOperator(lambda v: v[:2], jnp.zeros(3))
    with pytest.raises(ValueError, match="`scale` must be finite, got inf"):
        ScaledOperator(FunctionOperator(lambda v: v, jnp.zeros(3)), np.inf)


def test_scipy_sees_the_same_operator():
    from scipy.sparse.linalg import eigsh

    matrix = symmetric(0, 12)
    operator = FunctionOperator(lambda v: matrix @ v, jnp.zeros(12)).as_scipy()
    largest = eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0]
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(matrix)[-1], rtol=1e-5)


def test_hvp_equals_the_dense_product():
    params = network_params()
    product = hvp(vector_loss, params, params, data=(X, Y))
    operator = HessianOperator(vector_loss, params, data=(X, Y))
    flat = np.asarray(operator.space.flatten(params))
    dense = dense_hessian(operator, vector_loss, (X, Y))
    close(operator.rows(flat[None])[:, 0], dense @ flat)
    assert product["w1"].shape == (2, 3, 4)
    np.testing.assert_array_equal(product["w1"], hvp(operator, vector=params)["w1"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hvp(scalar_loss, network_params()), TypeError, "`vector` is missing"),
        (
            lambda: hvp(HessianOperator(jnp.sum, jnp.ones(2)), jnp.ones(2), jnp.ones(2)),
            TypeError,
            r"an operator already holds its parameters.*`params`",
        ),
        (lambda: hvp(3, jnp.ones(2), jnp.ones(2)), TypeError, "must be a loss function"),
        (lambda: hvp(jnp.sum, None, jnp.ones(2)), TypeError, "`params` is missing"),
        (lambda: hvp(jnp.sum, jnp.ones(2), jnp.ones(3)), ValueError, "shape of its parameter"),
        (lambda: hvp(jnp.sum, jnp.ones(2), {"a": jnp.ones(2)}), ValueError, "must be a tree"),
        (
            lambda: hvp(lambda p: jnp.log(p - 1).sum(), jnp.ones(2), jnp.ones(2)),
            ValueError,
            "the loss is -inf",
        ),
        (
            lambda: hvp(lambda p: jnp.sqrt(p["a"]).sum(), {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}),
            ValueError,
            "not finite in `a`",
        ),
        (
            lambda: HessianOperator(lambda p: (p * RANDOM.normal()).sum(), jnp.ones(3)),
            ValueError,
            "the loss is random",
        ),
        (
            lambda: HessianOperator(jnp.sum, jnp.ones(2), where=lambda path, leaf: False),
            ValueError,
            "nothing was chosen; the leaves are: params",
        ),
        (lambda: HessianOperator(jnp.sum, {"n": 3}), ValueError, "holds no float array"),
        (lambda: HessianOperator(jnp.sum, jnp.ones(2, jnp.complex64)), ValueError, "must be real"),
        (
            lambda: HessianOperator(lambda p: p, jnp.ones((3, 2))),
            ValueError,
            r"one float scalar, or shape \(T,\)",
        ),
        (
            lambda: HessianOperator(jnp.sum, jnp.ones(4, jnp.float32)).dense(memory_budget=100),
            MemoryError,
            "dense matrix of 4 parameters needs 128 bytes, `memory_budget` allows 100 bytes",
        ),
        (lambda: Call(jnp.sum, jnp.ones(2), verb="trace").resolve(), TypeError, "`key`"),
        (lambda: check_key(0), TypeError, "got int 0"),
    ],
)
def test_bad_calls_name_the_argument_and_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_loss_that_answers_differently_each_time_is_refused():
    values = iter(range(10))

    def loss(p):
        noise = jax.pure_callback(
            lambda: np.float32(next(values)), jax.ShapeDtypeStruct((), np.float32)
        )
        return (p**2).sum() + noise

    operator = HessianOperator(loss, jnp.ones(2, jnp.float32))
    with pytest.raises(ValueError, match="two evaluations of the loss"):
        operator.validate()


def test_the_hessian_is_taken_at_the_parameters_given():
    """A closed form: logistic regression has H = X' diag(s(1 - s)) X / n at these weights."""
    weights = jnp.asarray([0.3, -1.0, 2.0])
    labels = jnp.asarray(Y[:, 0] > 0, X.dtype)

    def loss(w):
        logits = X @ w
        return (jnp.logaddexp(0.0, logits) - labels * logits).mean()

    for scale in (1.0, 3.0):
        s = 1 / (1 + np.exp(-X @ np.asarray(scale * weights)))
        expected = X.T @ ((s * (1 - s))[:, None] * X) / len(X)
        close(HessianOperator(loss, scale * weights).dense(), expected)


def wide_loss(params, batch):
    """Few parameters and many items: what a linearised gradient keeps is nearly all it needs."""
    hidden = batch
    for kernel in params:
        hidden = jnp.tanh(hidden @ kernel)
    return (hidden**2).mean()


def long_loss(x, scale):
    """Many parameters and next to nothing kept."""
    return jnp.cos(scale * x).mean() + jnp.mean(x) ** 4


def compiled_bytes(operator, rows):
    """What XLA says a compiled block of products takes: vectors in and out, and its own arrays."""
    block = jnp.ones((rows, operator.dim), operator.dtype)
    memory = compiled_rows.lower(operator, block).compile().compiled.memory_analysis()
    return block.nbytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


ONE = np.dtype(X.dtype).itemsize
WIDE = ([jnp.full((8, 32), 0.1), jnp.full((32, 32), 0.1)], jnp.ones((4000, 8)))
LONG = (jnp.linspace(0.0, 1.0, 100_000), jnp.asarray(2.0))


@pytest.mark.parametrize(
    ("loss", "case", "numbers", "block_rows", "rematerialize"),
    [
        (wide_loss, WIDE, 10_000_000, 16, False),
        (wide_loss, WIDE, 1_600_000, 16, True),
        (long_loss, LONG, 10_000_000, 16, False),
        (long_loss, LONG, 1_500_000, 4, False),
    ],
)
def test_blocks_and_rematerialisation_follow_the_budget(
    loss, case, numbers, block_rows, rematerialize
):
    budget = numbers * ONE
    operator = HessianOperator(loss, case[0], data=case[1], memory_budget=budget)
    plan = operator.plan
    assert (plan.block_rows, plan.rematerialize) == (block_rows, rematerialize)
    assert plan.product_bytes() <= budget
    assert compiled_bytes(operator, plan.block_rows) <= 1.2 * budget


def test_rematerialisation_changes_nothing_but_rounding():
    params = network_params()
    for loss in (scalar_loss, vector_loss):
        kept, again = (
            HessianOperator(loss, params, data=(X, Y), rematerialize=choice, block_rows=3)
            for choice in (False, True)
        )
        assert (again.plan.block_rows, again.plan.rematerialize) == (3, True)
        close(again.dense(), kept.dense())


def test_a_product_that_cannot_fit_names_the_ways_out():
    with pytest.raises(MemoryError, match=r"smaller `Batches`, or let `where`"):
        HessianOperator(wide_loss, WIDE[0], data=WIDE[1], memory_budget=100_000)
    with pytest.raises(ValueError, match="`block_rows` must be at least 1, got 0"):
        HessianOperator(scalar_loss, network_params(), data=(X, Y), block_rows=0)
