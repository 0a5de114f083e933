"""A loss that was not averaged over the examples is told so; losses of several tasks are not."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import hessspec
from hessspec import Batches, HessianOperator

pytestmark = pytest.mark.any_dtype

KEYS = jax.random.split(jax.random.key(0), 4)
MANY = 17  # one more than what is taken for tasks without a question


def batch(count: int, outputs: int = 1, key: int = 0):
    inputs, targets = jax.random.split(KEYS[key])
    shapes = (count, 3), (count, outputs)
    return jax.random.normal(inputs, shapes[0]), jax.random.normal(targets, shapes[1])


def squares(params, data):
    return (jnp.tanh(data[0] @ params) - data[1]) ** 2


def for_each_example(params, data):
    return squares(params, data).mean(axis=1)


def for_each_output(params, data):
    return squares(params, data).mean(axis=0)


def params(outputs: int = 1):
    return jax.random.normal(KEYS[3], (3, outputs))


def is_warned(loss, params, data) -> bool:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        HessianOperator(loss, params, data=data).validate()
    return any("one value for each of the" in str(one.message) for one in said)


def test_every_verb_says_that_examples_are_taken_for_tasks():
    says = r"shape \(17,\).*17 examples.*`losses.mean\(\)`"
    with pytest.warns(UserWarning, match=says) as said:
        hessspec.trace(for_each_example, params(), jax.random.key(0), data=batch(MANY))
    assert [one.filename for one in said] == [__file__]  # the line that asked, not one of ours


def test_so_does_a_loss_of_several_batches_in_memory_or_streamed():
    data = [batch(MANY, key=key) for key in range(2)]
    assert is_warned(for_each_example, params(), Batches(data))
    assert is_warned(for_each_example, params(), Batches(lambda: iter(data)))
    tight = HessianOperator(
        for_each_example, params(), data=Batches(lambda: iter(data)), memory_budget=40_000
    )
    with pytest.warns(UserWarning, match="17 examples"):
        tight.validate()


def test_as_many_tasks_as_examples_are_no_examples():
    """Means over the examples stay as they are when these are turned round."""
    data = batch(MANY, outputs=MANY)
    assert not is_warned(for_each_output, params(MANY), data)
    assert is_warned(for_each_example, params(MANY), data)


def test_few_data_sets_side_by_side_are_tasks():
    assert not is_warned(for_each_example, params(), batch(MANY - 1))


def test_losses_of_other_lengths_and_of_no_data_are_tasks():
    assert not is_warned(for_each_output, params(MANY), batch(MANY + 1, outputs=MANY))
    inside = batch(MANY)
    assert not is_warned(lambda p: for_each_example(p, inside), params(), None)


@pytest.mark.parametrize("budget", [None, 40_000])
def test_examples_of_batches_of_different_sizes_are_no_tasks(budget):
    data = Batches(lambda: iter([batch(MANY), batch(MANY - 4)]))
    message = r"same shape for every batch, got \(17,\) and \(13,\).*`losses.mean\(\)`"
    with pytest.raises(ValueError, match=message):
        HessianOperator(for_each_example, params(), data=data, memory_budget=budget).losses()


def test_a_loss_that_keeps_its_axes_is_told_to_take_the_mean():
    with pytest.raises(ValueError, match=r"got float32\[17, 1\] \(if it has a value for each ex"):
        HessianOperator(lambda p, d: squares(p, d).astype("float32"), params(), data=batch(MANY))
