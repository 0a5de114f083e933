"""A verb written for one question is called with a loss or with an operator."""

import inspect
import pickle
from dataclasses import dataclass
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import hessspec
from hessspec import AbstractOperator, HessianOperator
from hessspec._operators.verbs import Call, verb

pytestmark = pytest.mark.any_dtype

KEY = jax.random.key(3)
PARAMS = jnp.array([1.0, 2.0])


def loss(params, batch=1.0):
    return batch * jnp.sum(params**3)


@dataclass(frozen=True)
class Answer:
    product: Array
    key: Array
    times: float


@verb
def ask(call: Call, *, times: float = 1.0, memory_budget: int | None = None) -> Answer:
    """H(1, 1) some times, and the key."""
    if times < 0:
        raise ValueError("`times` must be at least 0")
    operator, key = call.resolve(memory_budget)
    return Answer(times * operator.matvec(jnp.ones(2)), key, times)


def test_both_forms_are_the_same_question():
    operator = HessianOperator(loss, PARAMS, data=2.0)
    of_loss = ask(loss, PARAMS, KEY, data=2.0, times=3.0)
    by_name = ask(loss_fn=loss, key=KEY, params=PARAMS, data=2.0, times=3.0)
    of_operator = ask(operator, key=KEY, times=3.0)
    for answer in (of_loss, by_name, of_operator):
        np.testing.assert_allclose(answer.product, 3 * 2 * 6 * PARAMS, rtol=1e-6)
        assert answer.key == KEY
    assert ask(operator, key=KEY).times == 1.0


def test_a_signature_shows_what_is_multiplied_and_then_the_options():
    """What `help` and completion in a notebook go by."""
    parameters = inspect.signature(ask).parameters
    names = ["loss_fn", "params", "key", "data", "where", "times", "memory_budget"]
    assert list(parameters) == names
    by_place = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_place == ["loss_fn", "params", "key"]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in names[3:])
    assert parameters["times"].default == 1.0
    hints = get_type_hints(ask)
    assert list(hints) == [*names, "return"]
    assert hints["times"] is float
    assert hints["return"] is Answer
    assert AbstractOperator in hints["loss_fn"].__args__
    assert ask.__doc__ == "H(1, 1) some times, and the key."
    assert ask.__name__ == "ask"


def test_public_verbs_are_pickled_by_name():
    """Workers of a pool or a cluster are sent functions like this."""
    for function in (hessspec.trace, hessspec.density, hessspec.eigenpairs):
        assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        ((), {}, "missing a required argument: 'loss_fn'"),
        ((loss, PARAMS, KEY, 2.0), {}, "too many positional arguments"),
        ((loss, PARAMS, KEY), {"tims": 3}, "got an unexpected keyword argument 'tims'"),
        ((loss, PARAMS, KEY), {"params": PARAMS}, "multiple values for argument 'params'"),
    ],
)
def test_a_call_that_fits_no_form_is_shown_both(arguments, options, reason):
    with pytest.raises(TypeError) as caught:
        ask(*arguments, **options)
    said = str(caught.value)
    assert reason in said
    assert "`hessspec.ask(loss_fn, params, key, data=batch)`" in said
    assert "`hessspec.ask(operator, key=key)`" in said
    assert said.endswith(
        "ask(loss_fn, params=None, key=None, *, data=None, where=None, times=1.0, "
        "memory_budget=None)."
    )


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"data": 2.0}, "`data`"),
        ({"params": PARAMS, "data": 2.0}, "`params`, `data`"),
        ({"where": lambda path, leaf: True}, "`where`"),
    ],
)
def test_an_operator_comes_alone(beside, named):
    operator = HessianOperator(loss, PARAMS)
    with pytest.raises(TypeError, match=f"already holds .*, but {named} came with it; call"):
        ask(operator, key=KEY, **beside)
    with pytest.raises(TypeError, match="beside an operator, `key` goes by name"):
        ask(operator, KEY)


def test_options_are_looked_at_before_the_loss():
    def unread(params):
        raise AssertionError("the loss was called")

    with pytest.raises(ValueError, match="`times`"):
        ask(unread, PARAMS, KEY, times=-1.0)
