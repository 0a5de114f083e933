"""Weights from losses: fixed points, balances and what stays the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.weighting import (
    dynamic_weight_average,
    equal,
    famo,
    fixed,
    random_weights,
    uncertainty,
)
from hessspec_mtl.weighting.losses import famo_gradient


def test_equal_weights_are_1_and_fixed_ones_those_that_were_given():
    losses = jnp.array([0.3, 4.0])
    assert equal().update(losses, ())[0].tolist() == [1.0, 1.0]
    assert fixed([0.5, 2.0]).update(losses, ())[0].tolist() == [0.5, 2.0]


def test_random_weights_sum_to_the_number_of_tasks_and_are_equal_on_average():
    method = random_weights(jax.random.key(1))

    def step(state, _):
        found, state = method.update(jnp.ones(3), state)
        return state, found

    _, found = jax.lax.scan(step, method.init(3), None, 4000)
    np.testing.assert_allclose(found.sum(axis=1), 3.0, rtol=1e-5)
    error = found.std(axis=0) / 4000**0.5
    assert (np.abs(found.mean(axis=0) - 1) < 4 * error).all()
    assert len(np.unique(found[:, 0])) > 3900


def test_uncertainty_weights_are_the_inverse_losses_where_these_stay():
    """There the gradient ½ (1 - exp(-s) L) of each log variance is 0."""
    losses, method = jnp.array([0.1, 2.0, 30.0]), uncertainty(rate=0.02)

    def step(state, _):
        found, state = method.update(losses, state)
        return state, found

    _, found = jax.lax.scan(step, method.init(3), None, 1500)
    np.testing.assert_allclose(found[0], 1.0)
    np.testing.assert_allclose(found[-1], 1 / np.asarray(losses), rtol=2e-3)


def test_dynamic_weights_compare_the_means_of_the_two_epochs_before():
    """Epochs of two steps; the mean losses are (2, 4), (1, 4), (0.9, 1)."""
    series = jnp.array([[1.0, 5.0], [3.0, 3.0], [1.0, 4.0], [1.0, 4.0], [0.8, 1.2], [1.0, 0.8]])
    series = jnp.concatenate([series, series[:2]])
    method = dynamic_weight_average(2, temperature=2.0)
    state, found = method.init(2), []
    for losses in series:
        weights, state = method.update(losses, state)
        found.append(np.asarray(weights))
    np.testing.assert_array_equal(found[:4], 1.0)
    for steps, ratios in ((found[4:6], (1 / 2, 4 / 4)), (found[6:8], (0.9 / 1, 1 / 4))):
        expected = np.exp(np.array(ratios) / 2)
        expected *= 2 / expected.sum()
        np.testing.assert_allclose(steps, [expected, expected], rtol=1e-5)


def test_dynamic_weights_do_not_see_the_scale_of_a_loss():
    series = jnp.exp(jax.random.normal(jax.random.key(0), (12, 3)))
    found = []
    for scales in (jnp.ones(3), jnp.array([1.0, 100.0, 0.01])):
        method = dynamic_weight_average(3)
        state = method.init(3)
        for losses in series:
            weights, state = method.update(losses * scales, state)
        found.append(weights)
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert np.ptp(found[0]) > 0.1


def test_famo_weighs_by_the_inverse_losses_first_and_its_weights_sum_to_their_number():
    losses, method = jnp.array([0.5, 2.0, 4.0]), famo()
    found, _ = method.update(losses, method.init(3))
    expected = 1 / np.asarray(losses)
    np.testing.assert_allclose(found, 3 * expected / expected.sum(), rtol=1e-6)


def test_the_gradient_of_famos_logits_sums_to_0_and_is_0_if_all_losses_fall_alike():
    """The Jacobian of a softmax has the constants in its kernel, on both sides."""
    logits = jnp.array([0.3, -1.0, 0.5])
    before, after = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.9, 3.3])
    gradient = famo_gradient(before, after, logits)
    jacobian = jax.jacobian(jax.nn.softmax)(logits)
    np.testing.assert_allclose(gradient, jacobian.T @ jnp.log(before / after), rtol=1e-4, atol=1e-6)
    assert abs(float(gradient.sum())) < 1e-6
    np.testing.assert_allclose(famo_gradient(before, 0.7 * before, logits), 0.0, atol=1e-6)


def test_famo_turns_to_the_task_that_falls_less():
    method = famo(decay=0.0)
    state, losses = method.init(2), jnp.array([1.0, 1.0])
    for _ in range(20):
        state = method.after(losses, jnp.array([0.5, 0.99]), state)
    weights, _ = method.update(losses, state)
    assert weights[1] > 1.5 * weights[0]
    np.testing.assert_allclose(weights.sum(), 2.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_first_direction_of_famo_has_a_factor_alone_of_a_losss_scale(scale):
    """w_t scale_t is the same but for a factor: a descent on logarithms."""
    losses, scales = jnp.array([0.5, 2.0]), jnp.array([1.0, scale])
    method = famo()
    before, _ = method.update(losses, method.init(2))
    after, _ = method.update(losses * scales, method.init(2))
    ratios = np.asarray(after * scales / before)
    np.testing.assert_allclose(ratios[1], ratios[0], rtol=2e-2)  # 1e-8 is added to a loss


@pytest.mark.parametrize("made", [famo, uncertainty, lambda: dynamic_weight_average(1)])
def test_a_loss_of_0_leaves_the_other_tasks_as_they_would_be_alone(made):
    """A batch without a target: its loss of 0 is no loss that is nearly learnt."""
    method, found = made(), {}
    for name, kept in (("three", [0, 1, 2]), ("two", [0, 2])):
        state, found[name] = method.init(len(kept)), []
        for losses in ([0.5, 0.0, 2.0], [0.4, 0.0, 1.9], [0.35, 0.0, 1.0], [0.3, 0.0, 1.1]):
            losses = jnp.array(losses)[jnp.array(kept)]
            weights, state = method.update(losses, state)
            state = method.after(
                losses, losses * jnp.array([0.8, 1.0, 0.9])[jnp.array(kept)], state
            )
            found[name].append(np.asarray(weights))
    three, two = np.array(found["three"])[:, ::2], np.array(found["two"])
    # The averages are a softmax over all tasks: ratios are what must not change.
    np.testing.assert_allclose(three / three[:, :1], two / two[:, :1], rtol=1e-5)
    assert np.ptp(two[-1]) > 1e-3


def test_a_task_without_a_window_to_compare_with_does_not_take_all_the_weight():
    method = dynamic_weight_average(1)
    state = method.init(2)
    for losses in ([1.0, 0.0], [1.0, 0.7], [1.0, 0.7]):
        weights, state = method.update(jnp.array(losses), state)
    np.testing.assert_array_equal(weights, 1.0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_log_variances_move_whatever_the_size_of_a_loss(scale):
    """The square of 1e30 is beyond float32."""
    method = uncertainty(rate=0.1)
    state = method.init(1)
    for _ in range(3):
        weights, state = method.update(jnp.array([scale]), state)
    np.testing.assert_allclose(np.sign(np.log(weights)), -np.sign(np.log(scale)))
    assert 0.15 < abs(float(jnp.log(weights[0]))) < 0.25
