"""The paper's appendix E: a quadratic loss whose whole spectrum is known, through the public verbs.

L(x) = xᵀAx/2 with A = (B + Bᵀ)/2 and the entries of B independent standard normal has the Hessian
A at every x. Its eigenvalues fill the semicircle of radius (2n)^(1/2), its trace is normal with
variance n: the true ones of a given draw come from a dense eigendecomposition.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import hessspec

if TYPE_CHECKING:
    from hessspec import SpectralDensity, TraceEstimate

DIMENSION = 1000
NUM_STEPS = 100  # the paper's number of Lanczos steps
NUM_PROBES = 8
NUM_GRID = 181  # points at which the distribution functions are compared
NUM_MATVECS = 500  # the paper's "approximately 500 samples"
NUM_TRIALS = 100  # further estimates of the trace: one interval alone says little


def quadratic_loss(x: Float[Array, " n"], matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """L(x) = xᵀAx/2, whose Hessian is A everywhere."""
    return 0.5 * x @ (matrix @ x)


@dataclass(frozen=True)
class AppendixE:
    """One draw of A, its true spectrum and what `hessspec` made of it.

    Attributes:
        eigenvalues: the n true eigenvalues, ascending, computed in float64.
        density: Lanczos estimate of their distribution.
        trace: stochastic estimate of their sum.
        seed: seed of A and of the probes.
        further_traces: as many estimates again, each with probes of its own.
    """

    eigenvalues: Float[np.ndarray, " n"]
    density: SpectralDensity
    trace: TraceEstimate
    seed: int
    further_traces: tuple[TraceEstimate, ...] = ()

    @property
    def true_trace(self) -> float:
        return float(self.eigenvalues.sum())

    @property
    def trace_z(self) -> float:
        """Error of the estimated trace in units of its own standard error."""
        error = float(self.trace.standard_error)
        return (float(self.trace.value) - self.true_trace) / error if error > 0 else 0.0

    @property
    def trace_within_interval(self) -> bool:
        return self._holds(self.trace)

    @property
    def num_covering(self) -> int:
        """How many of `further_traces` have the true trace in their 95 % interval."""
        return sum(map(self._holds, self.further_traces))

    def _holds(self, trace: TraceEstimate) -> bool:
        low, high = trace.confidence_interval(0.95)
        return float(low) <= self.true_trace <= float(high)

    @property
    def extreme_errors(self) -> tuple[float, float]:
        """Estimated minus true, for the smallest and the largest eigenvalue."""
        nodes = np.asarray(self.density.nodes, np.float64)[np.asarray(self.density.weights) > 0]
        return (
            float(nodes.min() - self.eigenvalues[0]),
            float(nodes.max() - self.eigenvalues[-1]),
        )

    def true_cdf(self, x: Float[np.ndarray, " grid"]) -> Float[np.ndarray, " grid"]:
        """Share of true eigenvalues at or below each x."""
        return np.searchsorted(self.eigenvalues, x, side="right") / self.eigenvalues.size

    @functools.cached_property
    def cdf_agreement(self) -> CdfAgreement:
        """How the true distribution function lies in the reported 95 % band for all λ at once."""
        reach = np.abs(self.eigenvalues).max()
        grid = np.linspace(-1.1 * reach, 1.1 * reach, NUM_GRID)
        low, high = (
            np.asarray(end, np.float64)
            for end in self.density.cdf_band(grid, level=0.95, uniform=True)
        )
        truth, estimate = self.true_cdf(grid), np.asarray(self.density.cdf(grid), np.float64)
        return CdfAgreement(
            grid=grid,
            truth=truth,
            estimate=estimate,
            low=low,
            high=high,
            largest_error=float(np.abs(estimate - truth).max()),
            # One part in a million for the rounding of float32 nodes at a jump of the truth.
            inside=bool(np.all((truth >= low - 1e-6) & (truth <= high + 1e-6))),
        )


@dataclass(frozen=True)
class CdfAgreement:
    """A true distribution function, its estimate and the band that should hold it."""

    grid: Float[np.ndarray, " grid"]
    truth: Float[np.ndarray, " grid"]
    estimate: Float[np.ndarray, " grid"]
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]
    largest_error: float
    inside: bool


def symmetric_normal_matrix(seed: int, n: int = DIMENSION) -> Float[np.ndarray, "n n"]:
    """A = (B + Bᵀ)/2, the entries of B independent standard normal."""
    normal = np.random.default_rng(seed).standard_normal((n, n))
    return 0.5 * (normal + normal.T)


def semicircle(x: Float[np.ndarray, " grid"], n: int) -> Float[np.ndarray, " grid"]:
    """Wigner's limit of the density: off-diagonal variance 1/2 gives the radius (2n)^(1/2)."""
    radius = (2.0 * n) ** 0.5
    return 2.0 / (np.pi * radius**2) * np.sqrt(np.maximum(radius**2 - x**2, 0.0))


def appendix_e(
    seed: int = 0,
    *,
    n: int = DIMENSION,
    num_probes: int = NUM_PROBES,
    num_steps: int = NUM_STEPS,
    num_matvecs: int = NUM_MATVECS,
    num_trials: int = NUM_TRIALS,
) -> AppendixE:
    """Draw A, and estimate the density and the trace of the Hessian of xᵀAx/2.

    The trace is estimated from quadratic forms of Rademacher probes, as in the paper, and not by
    a method that would find it exactly: what is shown is whether the stated error holds.

    Cost: `num_probes * num_steps + (1 + num_trials) * num_matvecs` products and one dense
    eigendecomposition.
    """
    matrix = symmetric_normal_matrix(seed, n)
    x = jnp.zeros(n)
    data = jnp.asarray(matrix, x.dtype)
    hessian = hessspec.HessianOperator(quadratic_loss, x, data=data)
    density_key, trace_key = jax.random.split(jax.random.key(seed))
    density = hessspec.density(
        hessian, key=density_key, num_probes=num_probes, num_steps=num_steps, progress=False
    )

    def trace(key: PRNGKeyArray) -> TraceEstimate:
        return hessspec.trace(
            hessian, key=key, method="hutchinson", num_matvecs=num_matvecs, progress=False
        )

    further = tuple(trace(jax.random.fold_in(trace_key, trial)) for trial in range(num_trials))
    # The spectrum of what the estimators were given: A as rounded to the dtype of x.
    eigenvalues = np.linalg.eigvalsh(np.asarray(data, np.float64))
    return AppendixE(eigenvalues, density, trace(trace_key), seed, further)
