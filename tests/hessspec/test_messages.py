"""Wrong calls that newcomers make: each ends in an error that names the argument and a way out."""

import collections
import copy
import inspect
import pickle
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, FunctionOperator, GaussNewtonOperator, HessianOperator

pytestmark = pytest.mark.any_dtype

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
BATCH = (X, X.sum(axis=1))
PARAMS = {"w": jnp.ones(3, X.dtype)}
density = partial(hessspec.density, progress=False)
trace = partial(hessspec.trace, progress=False)


def loss(params, batch):
    x, y = batch
    return ((jnp.tanh(x @ params["w"]) - y) ** 2).mean()


def alone(params):
    return loss(params, BATCH)


def tasks(params):
    return jnp.stack([alone(params), 2 * alone(params)])


class Loader:
    """What holds batches and is no sequence."""

    def __iter__(self):
        return iter([BATCH, BATCH])


def with_auxiliary(params, batch):
    return loss(params, batch), {"outputs": outputs(params, batch)}


def several(params, batch):
    return {"first": loss(params, batch), "second": loss(params, batch)}


def identity(size=3, **kwargs):
    return FunctionOperator(lambda v: v, jnp.zeros(size), **kwargs)


def hessian():
    return HessianOperator(alone, PARAMS)


def gauss_newton(model, outer):
    return GaussNewtonOperator(model, outer, PARAMS, BATCH)


def outputs(params, batch):
    return batch[0] @ params["w"]


def outer(z, batch):
    return ((z - batch[1]) ** 2).mean()


def missing_rate() -> str:
    """What this version of Python says of a keyword argument `rate` that must be given."""

    def function(p, *, rate): ...

    with pytest.raises(TypeError, match="rate") as caught:
        inspect.signature(function).bind(1)
    return str(caught.value)


# What a function is called with.
CALLS = {
    "data forgotten": (
        lambda: density(loss, PARAMS, KEY),
        "`loss_fn` is called as `loss_fn(params)`, but it takes (params, batch), missing a "
        "required argument: 'batch': pass its second argument as `data=batch`.",
    ),
    "data given to a loss of one argument": (
        lambda: hessspec.hvp(alone, PARAMS, PARAMS, data=BATCH),
        "`loss_fn` is called as `loss_fn(params, batch)`, but it takes (params), too many "
        "positional arguments: leave out `data`, or let it take the batch as second argument.",
    ),
    "under jit": (lambda: density(jax.jit(loss), PARAMS, KEY), "pass its second argument as"),
    "a keyword that must be given": (
        lambda: HessianOperator(lambda p, *, rate: rate * alone(p), PARAMS),
        f"it takes (p, *, rate), {missing_rate()}: pass its second",
    ),
    "no function": (
        lambda: HessianOperator(3, PARAMS),
        "`loss_fn` must be a function, called as `loss_fn(params)`, got int 3.",
    ),
    "a model without batch": (
        lambda: gauss_newton(lambda p: p["w"], outer),
        "`model_fn` is called as `model_fn(params, batch)`, but it takes (p)",
    ),
    "an outer loss without batch": (
        lambda: gauss_newton(outputs, lambda z: z.sum()),
        "`loss_fn` is called as `loss_fn(outputs, batch)`, but it takes (z)",
    ),
    "a matvec of two": (
        lambda: FunctionOperator(lambda a, v: a @ v, jnp.zeros(3)),
        "`matvec` is called as `matvec(vector)`, but it takes (a, v), missing a required "
        "argument: 'v': bind further arguments with `functools.partial`.",
    ),
    "where without leaf": (
        lambda: HessianOperator(alone, PARAMS, where=lambda path: True),
        "`where` is called as `where(path, leaf)`, but it takes (path)",
    ),
    "where as text": (
        lambda: HessianOperator(alone, PARAMS, where="w"),
        "`where=lambda path, leaf: 'w' in path`",
    ),
    "a key beside an operator": (
        lambda: density(hessian(), KEY),
        "`params` came with it (beside an operator, `key` goes by name); call "
        "`hessspec.density(operator, key=key)`",
    ),
    "a vector beside an operator": (
        lambda: hessspec.hvp(hessian(), PARAMS, PARAMS),
        "`vector` goes by name); call `hessspec.hvp(operator, vector=vector)`",
    ),
    "an iterator as data": (
        lambda: HessianOperator(loss, PARAMS, data=iter([BATCH])),
        "`data` must be one batch or `hessspec.Batches`, got an iterator",
    ),
    "a dict as batches": (
        lambda: Batches({"x": X}),
        "`batches` must be a sequence of batches, got",
    ),
    "a number as batches": (lambda: Batches(3), "a single batch is passed as `data=batch`"),
    "one number as sizes": (lambda: Batches([X], sizes=3), "`sizes` must be a sequence of numbers"),
    "numbers in like": (
        lambda: FunctionOperator(lambda v: v, {"a": 1.0}),
        "`like` must be a tree of float arrays or `jax.ShapeDtypeStruct`s, got float at `a`",
    ),
    "another record": (
        lambda: hessspec.wasserstein1(density(identity(), key=KEY), 3),
        "`b` must be a SpectralDensity, got int.",
    ),
    "no random key": (
        lambda: hessspec.rademacher(3, jnp.arange(2), 4, X.dtype),
        "`key` must be one random key",
    ),
    "a verb under jit": (
        lambda: jax.jit(lambda p: trace(alone, p, KEY).value)(PARAMS),
        "`trace` looks at its numbers on the host, so it cannot run inside `jit`, `grad` or `vmap`",
    ),
    "a verb for many keys": (
        lambda: jax.vmap(lambda key: trace(hessian(), key=key).value)(jax.random.split(KEY, 3)),
        "`trace` looks at its numbers on the host",
    ),
    "a verb under jit by its key": (
        lambda: jax.jit(lambda key: trace(hessian(), key=key).value)(KEY),
        "`trace` looks at its numbers on the host",
    ),
    "a forecast under jit": (
        lambda: jax.jit(lambda p: hessspec.forecast(HessianOperator(alone, p)).nbytes)(PARAMS),
        "`forecast` looks at its numbers on the host",
    ),
    "a product under jit": (
        lambda: jax.jit(lambda v: hessspec.hvp(alone, v, v))(PARAMS),
        "Inside, `HessianOperator(loss_fn, params).matvec(vector)` and `hessspec.lanczos` can be",
    ),
    "a batch by position": (
        lambda: HessianOperator(loss, PARAMS, BATCH),
        "`HessianOperator` cannot be called so (too many positional arguments); call "
        "`HessianOperator(loss_fn, params, data=batch)`.",
    ),
    "a batch by position beside a key": (
        lambda: density(loss, PARAMS, KEY, BATCH),
        "`density` cannot be called so (too many positional arguments); call",
    ),
    "a batch by position in place of the key": (
        lambda: density(loss, PARAMS, BATCH),
        "missing a required argument: 'batch': pass its second argument as `data=batch`",
    ),
    "a batch by position beside a vector": (
        lambda: hessspec.hvp(loss, PARAMS, PARAMS, BATCH),
        "call `hvp(loss_fn, params, vector, data=batch)` or `hvp(operator, vector=v)`.",
    ),
    "an option of another library": (
        lambda: HessianOperator(loss, PARAMS, batch=BATCH),
        "cannot be called so (got an unexpected keyword argument 'batch'); call `HessianOperator",
    ),
    "a loss for a forecast": (
        lambda: hessspec.forecast(loss, PARAMS, data=BATCH),
        "call `forecast(operator)` or `forecast(hessspec.HessianOperator(loss_fn, params, data=",
    ),
    "angles of one result": (
        lambda: hessspec.principal_angles(None),
        "missing a required argument: 'b'); call `principal_angles(a, b)` or `principal_angles(pai",
    ),
    "a loader as data": (
        lambda: HessianOperator(loss, PARAMS, data=Loader()),
        "got a Loader, which JAX does not know as a tree of arrays; if it holds batches, pass "
        "`data=hessspec.Batches(data)`.",
    ),
    "a mapping as data": (
        lambda: HessianOperator(loss, PARAMS, data=collections.UserDict(x=X)),
        "got a UserDict, which JAX does not know as a tree of arrays; if it is one batch, pass "
        "`data=dict(batch)`.",
    ),
    "an operator to be pickled": (
        lambda: pickle.dumps(HessianOperator(loss, PARAMS, data=BATCH)),
        "an operator cannot be pickled: it holds a traced loss. Pickle its parameters and data, "
        "and make it again where it is needed, as by `HessianOperator(loss_fn, params, data=",
    ),
    "an operator of a function without a name to be pickled": (
        lambda: pickle.dumps(HessianOperator(lambda w: jnp.sum(w**2), X)),
        "an operator cannot be pickled: it holds a traced loss. Pickle its parameters and data, ",
    ),
    # Operators.
    "a sum with a number": (lambda: hessian() + 1, "an operator adds to an operator, got int; the"),
    "a number less an operator": (lambda: 1 - hessian(), "an operator adds to an operator, got in"),
    "a difference with text": (lambda: hessian() - "a", "an operator adds to an operator, got str"),
    "a product of operators": (
        lambda: hessian() * hessian(),
        "is multiplied or divided by one real number, got HessianOperator; H v is `H.matvec(v)`",
    ),
    "an array times an operator": (lambda: np.ones(3) * hessian(), "number, got ndarray; H v is"),
    "division by an array": (lambda: hessian() / jnp.ones(3), "one real number, got ArrayImpl"),
    "text times an operator": (lambda: "a" * hessian(), "`scale` must be real, got str 'a'"),
    "a complex factor": (lambda: hessian() * 1j, "`scale` must be real, got complex 1j"),
    "weights as text": (
        lambda: HessianOperator(tasks, PARAMS).weighted("ab"),
        "`weights` must be real, got str 'ab'",
    ),
    "half a task": (
        lambda: HessianOperator(tasks, PARAMS).task(0.5),
        "`index` must be a whole number, got float 0.5",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_of_the_wrong_kind_is_a_type_error_that_shows_the_right_one(case):
    call, message = CALLS[case]
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


AUXILIARY = (
    "(if it is a loss with auxiliary outputs, as `has_aux=True` has them, pass "
    "`lambda *arguments: loss_fn(*arguments)[0]`; if these are several losses, return "
    "`jnp.stack(jax.tree.leaves(losses))`)"
)

VALUES = {
    "a loss with auxiliary outputs": (
        lambda: HessianOperator(with_auxiliary, PARAMS, data=BATCH),
        "got PyTreeDef((*, {'outputs': *})) " + AUXILIARY,
    ),
    "several losses by name": (
        lambda: density(several, PARAMS, KEY, data=BATCH),
        "got PyTreeDef({'first': *, 'second': *}) " + AUXILIARY,
    ),
    "an endless batch": (
        lambda: Batches([X, X], sizes=[1, np.inf]),
        "`sizes` must be positive and finite, got [1.0, inf]",
    ),
    "sizes of a sum": (
        lambda: Batches([X], sizes=[6], reduction="sum"),
        "`sizes` must be left out with `reduction='sum'`",
    ),
    "whole numbers in like": (
        lambda: FunctionOperator(lambda v: v, jnp.arange(3)),
        "`like` must choose at least one parameter, but holds no float array with entries",
    ),
    "numbers in params": (
        lambda: HessianOperator(alone, {"w": [1, 2, 3]}),
        "(Python's whole numbers are constants, and so is every number in an equinox module; "
        "make arrays of them by `jnp.asarray(x, float)`)",
    ),
    "where of entries": (
        lambda: HessianOperator(alone, PARAMS, where=lambda path, leaf: leaf > 0),
        "`where` must say True or False of a whole leaf, got shape (3,) at `w`",
    ),
    "a model of several outputs": (
        lambda: gauss_newton(lambda p, b: {"out": p["w"]}, outer),
        "`model_fn` must return one array, got a tree of them, PyTreeDef({'out': *}); stack",
    ),
    "a model of whole numbers": (
        lambda: gauss_newton(lambda p, b: jnp.arange(3, dtype=jnp.int32), outer),
        "`model_fn` must return floats, got int32(3,)",
    ),
    "an operator without tasks": (lambda: identity(num_tasks=0), "`num_tasks` must be at least 1"),
    "rows of another length": (
        lambda: hessian().rows(jnp.ones((2, 5))),
        "`block` must have shape (k, 3), one flat vector in each row, got (2, 5)",
    ),
    "weights that are no numbers": (
        lambda: HessianOperator(tasks, PARAMS).weighted([1.0, np.nan]),
        "`weights` must be finite, got [1.0, nan]",
    ),
    "a vector that is no number": (
        lambda: hessspec.hvp(alone, PARAMS, {"w": jnp.full(3, jnp.nan)}),
        "`vector` must be finite",
    ),
    "a matvec of the kernel": (
        lambda: hessspec.lanczos(lambda v: v[:2], jnp.ones(4), 2),
        "`matvec` must keep the shape (4,), got (2,)",
    ),
    "indices of probes": (
        lambda: hessspec.gaussian(KEY, jnp.asarray(3), 4, X.dtype),
        "`indices` must be a list such as `jnp.arange(k)`",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_out_of_range_is_named_with_what_is_in_range(case):
    call, message = VALUES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


COUNTS = {
    "num_probes": lambda n: density(identity(), key=KEY, num_probes=n),
    "num_steps": lambda n: density(identity(), key=KEY, num_steps=n),
    "num_matvecs": lambda n: trace(identity(), key=KEY, num_matvecs=n),
    "num_matvecs of diagonal": lambda n: hessspec.diagonal(identity(), key=KEY, num_matvecs=n),
    "k": lambda n: hessspec.eigenpairs(identity(), key=KEY, k=n),
    "max_matvecs": lambda n: hessspec.eigenpairs(identity(), key=KEY, k=1, max_matvecs=n),
    "block_rows": lambda n: HessianOperator(alone, PARAMS, block_rows=n),
    "abreast": lambda n: HessianOperator(alone, PARAMS, abreast=n),
    "num_steps of lanczos": lambda n: hessspec.lanczos(lambda v: v, jnp.ones(3), n),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_numbers_of_python_or_numpy(name):
    call, argument = COUNTS[name], name.split()[0]
    for number in (3, np.int32(3), np.uint8(3)):
        call(number)
    for wrong, hint in ((2.0, "float 2.0; write 2."), (True, "bool True."), ("3", "str '3'.")):
        message = f"`{argument}` must be a whole number, got {hint}"
        with pytest.raises(TypeError, match=re.escape(message)):
            call(wrong)
    with pytest.raises(ValueError, match=rf"`{argument}` must (be at least 1|lie in \[1, 3\]).* 0"):
        call(0)


def test_tolerances_and_levels_are_numbers():
    for call, name in (
        (lambda: trace(identity(), key=KEY, rtol="1e-2"), "rtol"),
        (lambda: hessspec.eigenpairs(identity(), key=KEY, k=1, tol=[1e-3]), "tol"),
        (lambda: trace(identity(), key=KEY).confidence_interval("95%"), "level"),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must be a number, got"):
            call()


def test_a_factor_that_would_vanish_or_overflow_in_the_operators_dtype_is_refused():
    """Half a unit in the last place of a normal number is kept; below that is nothing."""
    operator = hessian()
    limits = np.finfo(operator.dtype)
    tiny, huge = float(limits.tiny), float(limits.max)
    for factor in (tiny, -tiny, huge, 0.0):
        assert (operator * factor).scale == factor
    too_far = [tiny / 2, -tiny / 2] + ([1e-50, 1e50] if operator.dtype == np.float32 else [])
    for factor in too_far:
        message = rf"`scale` must have a size between .* got {re.escape(f'{factor:g}')}: scale"
        with pytest.raises(ValueError, match=message):
            operator * factor
        with pytest.raises(ValueError, match=r"`weights` must have a size between"):
            HessianOperator(tasks, PARAMS).weighted([factor, 1.0])
    if operator.dtype == np.float32:
        with pytest.raises(ValueError, match=r"in float32, .* or take `params` in float64 \(`jax_"):
            operator / 1e50
        wide = HessianOperator(alone, PARAMS)  # nothing was left behind by the errors
        np.testing.assert_array_equal(wide.dense(), operator.dense())
    with pytest.raises(ZeroDivisionError):
        operator / 0


def test_errors_of_the_users_own_code_pass_as_they_are():
    def broken(params, batch):
        return len(3) + loss(params, batch)

    with pytest.raises(TypeError, match=r"^object of type 'int' has no len\(\)") as caught:
        HessianOperator(broken, PARAMS, data=BATCH)
    assert not getattr(caught.value, "__notes__", None) or "hessspec" not in str(
        caught.value.__notes__
    )

    def supplied(function):
        def given(params):
            return function(params, None)

        given.__wrapped__ = function  # what `functools.wraps` leaves: the signature of another
        return given

    with pytest.raises(TypeError, match="cannot unpack non-iterable NoneType"):
        HessianOperator(supplied(loss), PARAMS)


def test_the_failed_call_is_the_cause_of_its_explanation():
    with pytest.raises(TypeError, match="`loss_fn` is called as") as caught:
        HessianOperator(loss, PARAMS)
    assert "missing 1 required positional argument: 'batch'" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (
            [BATCH, BATCH],
            "`data` is one batch, which the loss got whole (list); if it holds several",
        ),
        (((X, X), (X, X), (X, X)), "pass `data=hessspec.Batches(data)`"),
        (Batches(BATCH), "if the two are one batch, pass `data=(x, y)` or `Batches([(x, y)])`"),
        (
            lambda: iter([BATCH]),
            "fresh each time, pass `data=hessspec.Batches(data)`.",
        ),
        (iter([BATCH]), None),  # refused with a way out of its own
        ((X, X, X), None),
    ],
)
def test_a_loss_that_fails_on_a_list_of_batches_keeps_its_error_and_gets_a_note(data, hint):
    with pytest.raises((TypeError, ValueError)) as caught:
        HessianOperator(loss, PARAMS, data=data)
    notes = [note for note in getattr(caught.value, "__notes__", []) if "hessspec" in note]
    assert (hint is None and notes == []) or hint in notes[0]


def broken_at(place, value=jnp.nan):
    """Batches of which one is not finite, or has no items."""
    batches = [(X[:2], BATCH[1][:2]), (X[2:4], BATCH[1][2:4]), (X[4:], BATCH[1][4:])]
    x, y = batches[place]
    batches[place] = (x, y.at[1].set(value))
    return batches


BLAME = {
    "a batch": (
        lambda: density(loss, PARAMS, KEY, data=Batches(broken_at(1))),
        "the loss is nan at these parameters (of batch 1 of `data`, not finite at `1`), so",
    ),
    "a batch among those of another shape": (
        lambda: trace(loss, PARAMS, KEY, data=Batches([BATCH, *broken_at(2, jnp.inf)])),
        "the loss is inf at these parameters (of batch 3 of `data`, not finite at `1`), so",
    ),
    "a batch of a stream": (
        lambda: trace(loss, PARAMS, KEY, data=Batches(broken_at(1)), memory_budget=480),
        "the loss is nan at these parameters (of batch 1 of `data`, not finite at `1`), so",
    ),
    "an empty batch whose size was given": (
        lambda: trace(loss, PARAMS, KEY, data=Batches([BATCH, (X[:0], X[:0, 0])], sizes=[6, 2])),
        "the loss is nan at these parameters (of batch 1 of `data`, empty at `0`), so",
    ),
    "the one batch": (
        lambda: hessspec.eigenpairs(loss, PARAMS, KEY, data=(X * jnp.nan, BATCH[1]), k=1),
        "the loss is nan at these parameters (of `data`, not finite at `0`), so",
    ),
    "the loss itself": (
        lambda: trace(
            lambda p, x: jnp.log(-(p["w"] ** 2).sum() * x.sum() ** 2), PARAMS, KEY, data=X
        ),
        "the loss is nan at these parameters (of `data`), so it has no Hessian there; check",
    ),
    "a parameter that is held": (
        lambda: trace(
            lambda p: (p["w"] ** 2).sum() * p["held"].sum(),
            {**PARAMS, "held": X * jnp.nan},
            KEY,
            where={"w": True, "held": False},
        ),
        "the loss is nan at these parameters (`params` is not finite at `held`), so",
    ),
}


@pytest.mark.parametrize("case", BLAME)
def test_a_loss_that_is_not_finite_says_which_batch_and_leaf_make_it_so(case):
    call, message = BLAME[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_budget_that_is_too_small_advises_to_leave_alone_only_what_was_set():
    for options, advice in (
        ({}, "or let `where` choose fewer parameters."),
        ({"block_rows": 4}, "fewer parameters, or leave `block_rows` to be chosen."),
        (
            {"block_rows": 4, "rematerialize": False},
            "fewer parameters, or leave `block_rows` and `rematerialize` to be chosen.",
        ),
    ):
        with pytest.raises(MemoryError, match=re.escape(advice)):
            HessianOperator(alone, PARAMS, memory_budget=10, **options)


def test_an_operator_may_be_copied():
    operator = HessianOperator(loss, PARAMS, data=BATCH)
    for twin in (copy.copy(operator), copy.deepcopy(operator)):
        np.testing.assert_array_equal(twin.dense(), operator.dense())


def test_no_norm_from_an_exact_trace_and_the_way_that_leads_to_one():
    matrix = np.random.default_rng(3).normal(size=(12, 12))
    matrix = jnp.asarray(matrix + matrix.T)
    operator = FunctionOperator(lambda v: matrix @ v, jnp.zeros(12))
    exact = trace(operator, key=KEY)
    message = r"more than the diagonal of H: get it by `trace\(method='xtrace'\)` with 4 to 11 prod"
    with pytest.raises(ValueError, match=message):
        _ = exact.frobenius_norm
    norm = np.linalg.norm(np.asarray(matrix, np.float64))
    # Both ways that the message names.
    moment = density(operator, key=KEY).moment(2)
    np.testing.assert_allclose((12 * moment) ** 0.5, norm, rtol=1e-5)
    for products in (4, 11):
        estimate = trace(operator, key=KEY, method="xtrace", num_matvecs=products)
        assert 0.2 * norm < estimate.frobenius_norm < 5 * norm
    both = trace(HessianOperator(tasks, PARAMS), key=KEY)
    with pytest.raises(ValueError, match=r"get it by `\(3 \* density\(\.\.\.\)\.moment\(2\)\)"):
        _ = both.difference(0, 1).frobenius_norm
