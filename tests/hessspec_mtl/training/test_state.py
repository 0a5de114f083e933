"""A run after an epoch, on its way to the disk and back, and what its text says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hessspec_mtl.training.state import (
    TrainingState,
    extended,
    load_history,
    training_seconds,
    unpacked,
    write_curves,
)

PARAMS = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(4)}}
OPTIMIZER = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda step: 0.1))


def state(epochs: int = 3) -> TrainingState:
    """After two steps, so that no two leaves of the optimiser are alike."""
    opt_state = OPTIMIZER.init(PARAMS)
    for factor in (1.0, -2.0):
        gradient = jax.tree.map(lambda leaf, c=factor: c * (leaf + 1), PARAMS)
        _, opt_state = OPTIMIZER.update(gradient, opt_state)
    history = np.random.default_rng(0).uniform(size=(epochs, 2, 2, 2))
    history[1, 1] = np.nan  # not evaluated
    return TrainingState(PARAMS, opt_state, history, np.array([np.nan, 0.25, 0.5][:epochs]))


def test_a_state_comes_back_from_its_packed_form_bit_for_bit():
    """Leaves of whole numbers and of floats are joined apart, and find their places again."""
    before = state()
    packed = before.packed()
    assert set(packed["opt_state"]) == {"float32", "int32"}
    assert {leaf.ndim for leaf in packed["opt_state"].values()} == {1}
    after = unpacked(packed, PARAMS, OPTIMIZER.init(PARAMS))
    for ours, theirs in ((before.params, after.params), (before.opt_state, after.opt_state)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(after.history, before.history)
    np.testing.assert_array_equal(after.seconds, before.seconds)


def test_a_state_of_a_time_without_seconds_has_unknown_ones():
    packed = state().packed()
    del packed["seconds"]
    assert np.isnan(unpacked(packed, PARAMS, OPTIMIZER.init(PARAMS)).seconds).tolist() == [True] * 3


def test_a_history_grows_by_an_epoch_and_leaves_open_what_was_not_evaluated():
    train, test = np.full((2, 2), 1.0), np.full((2, 2), 2.0)
    first = extended(None, train, test, ("a", "b"))
    second = extended(first, 3 * train, None, ("a", "b"))
    assert first.shape == (1, 2, 2, 2)
    np.testing.assert_array_equal(second[0], first[0])
    np.testing.assert_array_equal(second[1, 0], 3 * train)
    assert np.isnan(second[1, 1]).all()


@pytest.mark.parametrize(("split", "error"), [("train", np.inf), ("test", np.nan)])
def test_an_error_that_is_not_finite_is_named_with_its_task_and_epoch(split, error):
    errors = {"train": np.ones((2, 2)), "test": np.ones((2, 2))}
    errors[split][0, 1] = error
    before = np.zeros((5, 2, 2, 2))
    with pytest.raises(
        FloatingPointError, match=f"the {split} error of task 'b' is {error} in epoch 5"
    ):
        extended(before, errors["train"], errors["test"], ("a", "b"))


def test_what_is_written_is_read_to_the_last_bit_and_a_task_may_be_called_na(tmp_path):
    before = state()
    write_curves(tmp_path, before, ("NA", "b"))
    table = load_history(tmp_path)
    assert list(table.columns) == ["epoch", "split", "task", "mse", "mae"]
    assert set(table.task) == {"NA", "b"}
    assert len(table) == 3 * 2 * 2 - 2
    for row in table.itertuples():
        i, t = ("train", "test").index(row.split), ("NA", "b").index(row.task)
        assert (row.mse, row.mae) == tuple(before.history[row.epoch, i, :, t])


def test_seconds_add_up_and_unknown_ones_count_nothing(tmp_path):
    assert training_seconds(tmp_path) == 0.0
    write_curves(tmp_path, state(), ("a", "b"))
    assert training_seconds(tmp_path) == 0.75
