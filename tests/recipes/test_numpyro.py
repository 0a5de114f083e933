"""numpyro: the Hessian of a potential energy is the precision of Laplace's approximation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

numpyro = pytest.importorskip("numpyro", reason="needs numpyro")
dist = pytest.importorskip("numpyro.distributions")
infer = pytest.importorskip("numpyro.infer.util")

X = jax.random.normal(jax.random.key(0), (20, 3))
Y = jnp.sin(X.sum(axis=1))


def regression(x, y=None):
    weights = numpyro.sample("weights", dist.Normal(0, 2).expand([3]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


def test_the_potential_energy_is_a_loss_of_the_unconstrained_sites(dense, close):
    info = infer.initialize_model(jax.random.key(0), regression, model_args=(X, Y))
    energy, sites = info.potential_fn, info.param_info.z
    operator = hessspec.HessianOperator(energy, sites)
    assert operator.space.paths == ("scale", "weights")
    close(operator.dense(), dense(energy, sites))
    # The same with the observations as data, of which only one batch is looked at.
    of = infer.initialize_model(
        jax.random.key(0), regression, model_args=(X, Y), dynamic_args=True
    ).potential_fn
    with_data = hessspec.HessianOperator(lambda sites, batch: of(*batch)(sites), sites, data=(X, Y))
    close(with_data.dense(), dense(energy, sites))


def test_a_conjugate_model_has_the_precision_of_its_posterior(close):
    """y ~ N(Xw, s²), w ~ N(0, t²): H = X'X/s² + I/t², wherever it is taken."""

    def conjugate(x, y):
        weights = numpyro.sample("weights", dist.Normal(0, 2).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ weights, 0.5), obs=y)

    info = infer.initialize_model(jax.random.key(0), conjugate, model_args=(X, Y))
    operator = hessspec.HessianOperator(info.potential_fn, info.param_info.z)
    x = np.asarray(X, np.float64)
    np.testing.assert_allclose(
        operator.dense(), x.T @ x / 0.25 + np.eye(3) / 4, rtol=1e-4, atol=1e-3
    )
