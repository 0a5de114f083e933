"""Curvatures measured inside a step against matrices that are known."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from hessspec_mtl.training.measuring import (
    _frobenius_of,
    _gauss_newton_of,
    _largest_of,
    _trackers,
)

KEY = jax.random.key(0)
DIM = 12


@cache
def matrices() -> np.ndarray:
    """Two symmetric matrices of known eigenvalues, of either sign."""
    rng, found = np.random.default_rng(0), []
    for values in (np.append(np.linspace(-1, 2, DIM - 1), 4), -np.geomspace(0.01, 9, DIM)):
        basis = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        found.append(basis @ np.diag(values) @ basis.T)
    return np.stack(found)


def quadratics(params, batch):
    """½ x'A_t x, and a head that no curvature is asked of."""
    x = jnp.concatenate([params["shared"]["a"], params["shared"]["b"]])
    forms = jnp.einsum("tij,i,j->t", batch, x, x) / 2
    return forms + params["heads"] ** 2 * jnp.sum(x)


PARAMS = {"shared": {"a": jnp.ones(5), "b": jnp.ones(DIM - 5)}, "heads": jnp.float32(0.5)}
BATCH = jnp.asarray(matrices(), jnp.float32)


def test_the_frobenius_norm_is_the_root_of_a_mean_of_squares_with_its_error():
    measure = jax.jit(lambda key: _frobenius_of(quadratics)(PARAMS, None, BATCH, key, ())[:2])
    values, errors = jax.lax.map(lambda n: measure(jax.random.fold_in(KEY, n)), jnp.arange(40))
    norms = np.linalg.norm(matrices(), axis=(1, 2))
    squares = np.asarray(values, np.float64) ** 2
    deviations = (squares - norms**2) / norms**2
    assert (np.abs(deviations.mean(axis=0)) < 4 * deviations.std(axis=0) / 40**0.5).all()
    # The stated error is that of the logarithm of the norm.
    stated = np.sqrt((np.asarray(errors) ** 2).mean(axis=0))
    np.testing.assert_allclose(stated, np.log(values).std(axis=0), rtol=0.5)


@pytest.fixture(scope="module")
def largest():
    """The measuring of eigenvalues of D H D; before a step of Adam D is 1."""
    return jax.jit(_largest_of(quadratics, preconditioned=True))


ADAM = optax.adam(1e-3)


def test_the_largest_eigenvalue_is_followed_from_one_measurement_to_the_next(largest):
    state, opt_state = _trackers(PARAMS, 2), ADAM.init(PARAMS)
    for _ in range(2):
        values, errors, state = largest(PARAMS, opt_state, BATCH, KEY, state)
        np.testing.assert_allclose(values, [4.0, 9.0], rtol=0.02)
        assert (np.asarray(errors) < 0.05).all()
    assert state.count.tolist() == [2, 2]
    lost = largest(PARAMS, opt_state, BATCH * jnp.nan, KEY, state)
    np.testing.assert_array_equal(lost[2].rows, state.rows)  # nothing is learnt from no number


def test_the_preconditioned_eigenvalue_is_that_in_the_coordinates_of_adams_step(largest):
    gradient = jax.tree.map(lambda leaf: 0.3 + jnp.abs(jnp.sin(7 + jnp.cumsum(leaf))), PARAMS)
    gradient["heads"] = jnp.float32(1.0)
    _, opt_state = ADAM.update(gradient, ADAM.init(PARAMS), PARAMS)
    values, _, _ = largest(PARAMS, opt_state, BATCH, KEY, _trackers(PARAMS, 2))
    flat = np.asarray(ravel_pytree(gradient["shared"])[0], np.float64)
    scale = np.diag((np.abs(flat) + 1e-8) ** -0.5)  # after one step ν̂ is the square of the gradient
    expected = [np.abs(np.linalg.eigvalsh(scale @ a @ scale)).max() for a in matrices()]
    np.testing.assert_allclose(values, expected, rtol=0.05)


def test_the_gauss_newton_trace_is_a_mean_of_squared_gradients_of_the_examples():
    """(2/B) Σ m_it |∇f_it|² over real graphs, where one lacks the second target: exactly."""

    def outputs(params, batch):
        x = jnp.concatenate([params["shared"]["a"], params["shared"]["b"]])
        return jnp.sin(jnp.einsum("gtp,p->gt", batch.graph, x)) * params["heads"]

    rows = jax.random.normal(KEY, (4, 2, DIM)) / 3  # the last graph is padding
    weights = jnp.array([[1.0, 1.5], [1.0, 1.5], [1.0, 0.0], [0.0, 0.0]])
    batch = SimpleNamespace(graph=rows, mask=jnp.array([1.0, 1, 1, 0]), weights=weights)
    measure = _gauss_newton_of(outputs)

    def samples(n):
        return measure(PARAMS, None, batch, jax.random.fold_in(KEY, n), ())[:2]

    means, errors = jax.jit(lambda: jax.lax.map(samples, jnp.arange(100)))()
    slopes = 0.5 * np.cos(np.asarray(rows).sum(axis=2))[:, :, None] * np.asarray(rows)
    squares = np.asarray(weights) * (slopes**2).sum(axis=2)
    expected, means = 2 / 3 * squares.sum(axis=0), np.asarray(means, np.float64)
    standard = means.std(axis=0, ddof=1) / 100**0.5
    assert (np.abs(means.mean(axis=0) - expected) < 4 * standard + 1e-6).all()
    assert (standard < 0.1 * expected).all()
    np.testing.assert_allclose(
        np.asarray(errors).mean(axis=0), means.std(axis=0) / expected, rtol=0.4
    )
