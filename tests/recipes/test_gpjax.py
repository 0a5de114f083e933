"""GPJax: the curvature of a marginal likelihood by the parameters as they are optimised."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

gpx = pytest.importorskip("gpjax", reason="needs gpjax")
parameters = pytest.importorskip("gpjax.parameters")

X = jnp.linspace(0, 1, 15)[:, None]
Y = jnp.sin(6 * X) + 0.1 * jax.random.normal(jax.random.key(0), X.shape)


def by_hand(raw, x, y):
    """−log N(y; 0, K + s²I) with an RBF kernel; all three parameters through softplus."""
    scale, variance, noise = jax.nn.softplus(raw)
    distances = ((x - x.T) / scale) ** 2
    covariance = variance * jnp.exp(-distances / 2) + noise**2 * jnp.eye(len(x))
    root = jnp.linalg.cholesky(covariance)
    half = jax.scipy.linalg.solve_triangular(root, y[:, 0], lower=True)
    return half @ half / 2 + jnp.log(jnp.diag(root)).sum() + len(x) * jnp.log(2 * jnp.pi) / 2


@pytest.mark.filterwarnings("ignore:. is not of type float64")
def test_the_negative_marginal_likelihood_by_its_trainable_parameters(dense, close):
    prior = gpx.gps.Prior(mean_function=gpx.mean_functions.Zero(), kernel=gpx.kernels.RBF())
    model = prior * gpx.likelihoods.Gaussian()
    data = gpx.Dataset(X=X, y=Y)

    def loss(model, data):
        return -gpx.objectives.conjugate_mll(model, data)

    trainable = (parameters.PositiveReal, parameters.NonNegativeReal)
    operator = hessspec.HessianOperator(loss, model, data=data, where=trainable)
    assert operator.space.paths == (
        "prior/kernel/lengthscale",
        "prior/kernel/variance",
        "likelihood/obs_stddev",
    )
    assert "prior/kernel/lengthscale: float" in repr(operator)
    raw = operator.space.flatten(operator.chosen)
    assert eqx.is_inexact_array(raw)
    # GPJax adds a jitter of 1e-6 to the covariance.
    np.testing.assert_allclose(operator.losses(), by_hand(raw, X, Y), rtol=1e-4)
    np.testing.assert_allclose(operator.dense(), dense(by_hand, raw, X, Y), rtol=2e-3, atol=2e-3)
