"""diffrax: a loss through the solution of a differential equation.

`DirectAdjoint` can be differentiated in both modes, which products of the Hessian use.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

diffrax = pytest.importorskip("diffrax", reason="needs diffrax")

START, TIMES = np.array([1.0, 2.0]), np.array([0.0, 0.5, 1.0])


def loss(rates, batch):
    """Σ u(t)² over times and entries, for u' = −r u."""
    start, times = batch
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, u, rates: -rates * u),
        diffrax.Dopri5(),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=start,
        args=rates,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        adjoint=diffrax.DirectAdjoint(),
        max_steps=256,
    )
    return (solution.ys**2).sum()


def test_the_hessian_by_rates_is_that_of_the_exponential():
    """u = u₀ exp(−rt): H = diag Σ_t 4t² u₀² exp(−2rt)."""
    rates = np.array([0.7, 1.3])
    batch = (jnp.asarray(START, float), jnp.asarray(TIMES, float))
    operator = hessspec.HessianOperator(loss, jnp.asarray(rates, float), data=batch)
    t = TIMES[:, None]
    truth = np.diag((4 * t**2 * START**2 * np.exp(-2 * rates * t)).sum(axis=0))
    np.testing.assert_allclose(operator.dense(), truth, rtol=1e-4, atol=1e-5)
