"""Wrong values that newcomers pass: each is named with what came, what may come and a way out."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, FunctionOperator, HessianOperator
from tests.newcomers import (
    BATCH,
    KEY,
    PARAMS,
    X,
    alone,
    density,
    gauss_newton,
    hessian,
    identity,
    loss,
    outer,
    several,
    tasks,
    trace,
    with_auxiliary,
)

pytestmark = pytest.mark.any_dtype

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
    "one of several losses, without data": (
        lambda: trace(
            lambda p: jnp.stack([(p["w"] ** 2).sum(), jnp.log(-(p["w"] ** 2).sum())]), PARAMS, KEY
        ),
        "the loss of task 1 is nan at these parameters, so it has no Hessian there; check",
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
