"""Wrong calls that newcomers make: each ends in an error that names the argument and a way out."""

import collections
import copy
import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, FunctionOperator, HessianOperator
from tests.newcomers import (
    BATCH,
    KEY,
    PARAMS,
    Loader,
    X,
    alone,
    density,
    gauss_newton,
    hessian,
    identity,
    loss,
    outer,
    outputs,
    tasks,
    trace,
)

pytestmark = pytest.mark.any_dtype


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
    "a misspelt option": (
        lambda: trace(hessian(), key=KEY, num_matvec=3),
        "got an unexpected keyword argument 'num_matvec' (did you mean 'num_matvecs'?)); call",
    ),
    "a misspelt option of an operator": (
        lambda: HessianOperator(loss, PARAMS, data=BATCH, rematerialise=True),
        "'rematerialise' (did you mean 'rematerialize'?)); call `HessianOperator(loss_fn, params, "
        "data=batch)`.",
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


def test_an_operator_may_be_copied():
    operator = HessianOperator(loss, PARAMS, data=BATCH)
    for twin in (copy.copy(operator), copy.deepcopy(operator)):
        np.testing.assert_array_equal(twin.dense(), operator.dense())
