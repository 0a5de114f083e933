"""Weights from curvature: what a narrow interval, a wide one and none at all do to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.weighting import inverse_curvature

LOSSES = jnp.ones(3)
CURVATURES = jnp.array([1.0, 10.0, 100.0])


def told(method, *measurements):
    state = method.init(3)
    for curvature, error in measurements:
        state = method.told_curvature(jnp.asarray(curvature), jnp.asarray(error), state)
    return np.asarray(method.update(LOSSES, state)[0], np.float64), state


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_exact_curvatures_give_their_inverse_power(power):
    found, _ = told(inverse_curvature(power=power), (CURVATURES, jnp.zeros(3)))
    expected = np.asarray(CURVATURES, np.float64) ** -power
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)


def test_weights_are_equal_before_anything_is_measured_and_where_nothing_is_known():
    np.testing.assert_array_equal(told(inverse_curvature())[0], 1.0)
    found, _ = told(inverse_curvature(), (CURVATURES, jnp.full(3, jnp.inf)))
    np.testing.assert_array_equal(found, 1.0)


def test_a_wide_interval_draws_the_first_measurement_to_the_others():
    """The posterior mean of log κ is between the prior's mean and what was measured."""
    logs = np.log(np.asarray(CURVATURES, np.float64))
    method, error = inverse_curvature(spread=1.0), 2.0
    found, state = told(method, (CURVATURES, jnp.full(3, error)))
    expected = logs.mean() + (logs - logs.mean()) / (1 + error**2)
    np.testing.assert_allclose(state.mean, expected, rtol=1e-5)
    np.testing.assert_allclose(state.variance, error**2 / (1 + error**2), rtol=1e-5)
    assert 1 < found[0] < 2.0


def test_a_later_measurement_counts_by_its_precision():
    """Two of equal error, a drift between: the gain of the second is that of a Kalman filter."""
    method = inverse_curvature(spread=1.0, drift=0.5)
    first, second = jnp.array([1.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 8.0])
    errors = jnp.full(3, 1.0)
    _, state = told(method, (first, errors), (second, errors))
    variance = 0.5 + 0.5  # 1 · 1 / (1 + 1), then the drift
    gain = variance / (variance + 1.0)
    np.testing.assert_allclose(state.mean, [0, 0, gain * np.log(8)], atol=1e-6)
    np.testing.assert_allclose(state.variance, (1 - gain) * variance, rtol=1e-6)


def test_a_measurement_without_an_interval_changes_nothing_but_the_doubt():
    method = inverse_curvature()
    before, known = told(method, (CURVATURES, jnp.full(3, 0.1)))
    unsaid = [(jnp.array([1.0, jnp.nan, -3.0]), jnp.array([jnp.inf, 0.1, 0.1]))]
    after, state = told(method, (CURVATURES, jnp.full(3, 0.1)), *unsaid)
    np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_allclose(state.variance, known.variance + 0.1, rtol=1e-5)


def test_scaling_a_loss_scales_its_curvature_and_leaves_the_weighted_losses():
    """For power 1: w_t L_t changes by one factor for all."""
    scales = jnp.array([1.0, 50.0, 0.02])
    before, _ = told(inverse_curvature(), (CURVATURES, jnp.zeros(3)))
    after, _ = told(inverse_curvature(), (CURVATURES * scales, jnp.zeros(3)))
    ratios = after * np.asarray(scales) / before
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)


def test_many_measurements_average_their_noise():
    """Errors of 1 in log κ, a hundred of them, hardly any drift: little of them is left."""
    method = inverse_curvature(drift=1e-6)
    noise = jax.random.normal(jax.random.key(2), (100, 3))

    def step(state, one):
        return method.told_curvature(CURVATURES * jnp.exp(one), jnp.ones(3), state), None

    state, _ = jax.lax.scan(step, method.init(3), noise)
    errors = np.asarray(state.mean - jnp.log(CURVATURES))
    deviations = np.asarray(state.variance) ** 0.5
    assert (deviations < 0.11).all()
    assert (np.abs(errors) < 3 * deviations).all()
