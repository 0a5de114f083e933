"""Critical sharpness on quadratics, where the rate at which the loss is back is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

pytestmark = pytest.mark.any_dtype

CURVATURES = jnp.asarray([8.0, 3.0, 0.5])
POINT = jnp.asarray([0.2, 1.0, -1.0])


def quadratic(x, batch):
    return 0.5 * jnp.sum(batch * x**2)


def both(x, batch):
    """The second loss has its minimum elsewhere, and nine times the curvature."""
    return jnp.stack([quadratic(x, batch), 4.5 * jnp.sum(batch * (x - 0.1) ** 2)])


def critical_rate(loss, updates, rate):
    """-2 u'∇L / u'Hu, in units of the rate of u."""
    gradient = jax.grad(loss)(POINT)
    return float(-2 * rate * (updates @ gradient) / (updates @ jax.hessian(loss)(POINT) @ updates))


@pytest.mark.parametrize("rate", [1e-4, 0.1, 30.0])
def test_of_a_quadratic_it_is_the_curvature_that_the_gradient_sees(rate):
    gradient = jax.grad(quadratic)(POINT, CURVATURES)
    found = hessspec.critical_sharpness(
        quadratic, POINT, -rate * gradient, learning_rate=rate, data=CURVATURES, rtol=1e-3
    )
    seen = float(gradient @ (CURVATURES * gradient) / (gradient @ gradient))
    assert found.low <= 2 / seen <= found.high
    np.testing.assert_allclose(found.sharpness, seen, rtol=1e-3)
    assert found.sharpness < CURVATURES.max()


def test_a_good_guess_takes_few_passes():
    gradient = jax.grad(quadratic)(POINT, CURVATURES)
    arguments = (quadratic, POINT, -0.1 * gradient)
    options = {"learning_rate": 0.1, "data": CURVATURES}
    first = hessspec.critical_sharpness(*arguments, **options)
    again = hessspec.critical_sharpness(*arguments, **options, guess=float(first.rate))
    assert again.num_passes <= 7
    assert first.high - first.low <= first.high / 16


def test_each_loss_is_followed_along_the_update_of_one_of_them():
    updates = -0.05 * jax.grad(quadratic)(POINT, CURVATURES)
    found = hessspec.critical_sharpness(
        both, POINT, updates, learning_rate=0.05, data=CURVATURES, rtol=1e-3
    )
    for task in range(2):
        truth = critical_rate(lambda x, t=task: both(x, CURVATURES)[t], updates, 0.05)
        assert found.task(task).low <= truth <= found.task(task).high
    assert found.num_tasks == 2
    assert "sharpness 2 / rate" in repr(found)


def test_an_update_that_raises_the_loss_at_once_has_infinite_sharpness_and_a_line_none():
    updates = 0.1 * jax.grad(quadratic)(POINT, CURVATURES)
    up = hessspec.critical_sharpness(quadratic, POINT, updates, data=CURVATURES, max_passes=20)
    assert up.low == 0
    assert np.isinf(up.sharpness)
    down = hessspec.critical_sharpness(jnp.sum, POINT, -jnp.ones(3), max_passes=20)
    assert np.isinf(down.high)
    assert down.sharpness == 0
    assert down.num_passes == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` and `guess` must be positive"),
        ({"rtol": 1.0}, r"`rtol` must lie in \(0, 1\)"),
        ({"updates": jnp.zeros(3)}, "`updates` must be one vector that is not 0, got 1 of zeros"),
        ({"updates": jnp.ones((2, 3))}, "`updates` must be one vector that is not 0, got 2"),
        ({"updates": jnp.full(3, jnp.nan)}, "`updates` must be finite"),
        ({"updates": {"a": jnp.ones(3)}}, "`updates` must be a tree like the chosen parameters"),
        ({"max_passes": 1}, "`max_passes` must be at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    arguments = {"updates": -jnp.ones(3), "data": CURVATURES} | options
    with pytest.raises(ValueError, match=message):
        hessspec.critical_sharpness(quadratic, POINT, **arguments)


@pytest.mark.any_dtype
def test_inside_jit_a_sentence_says_that_it_cannot_run_there():
    with pytest.raises(TypeError, match="`critical_sharpness` looks at its numbers on the host"):
        jax.jit(lambda p: hessspec.critical_sharpness(quadratic, p, -p, data=CURVATURES).rate)(
            POINT
        )


@pytest.mark.any_dtype
def test_updates_may_be_numbers_of_python_as_parameters_may():
    found = hessspec.critical_sharpness(lambda p: 2.0 * p["x"] ** 2, {"x": 1.0}, {"x": -4.0})
    assert found.low <= 0.5 <= found.high
