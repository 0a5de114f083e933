"""Numbers read off estimated spectra, each with its probe error.

A density of T tasks holds, for every probe, a discrete probability measure (nodes and weights).
Every number here is the mean over probes of the same functional of each probe's measure, and its
standard error is their spread: probe error, given the graphs that the Hessian was averaged over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal

if TYPE_CHECKING:
    from hessspec import SpectralDensity


# No eigenvalue is resolved with a multiplicity above the number of probes, which are few.
MAX_MULTIPLICITY = 64


@dataclass(frozen=True)
class Measured:
    """A number and the standard error that its source left on it (NaN: not measured).

    `dof` are the degrees of freedom behind the error, infinite where it is known well.
    """

    value: float
    error: float = float("nan")
    dof: float = float("inf")


@dataclass(frozen=True)
class TaskSpectrum:
    """The spectrum of one task: one discrete measure for each probe.

    Attributes:
        nodes: eigenvalues where the mass sits, in units of loss / parameter².
        weights: mass of each node; every row sums to 1.
        dim: P, the number of eigenvalues, so that `dim * weights` counts eigenvalues.
        resolution: below this magnitude an eigenvalue cannot be told from 0.
    """

    nodes: Float[np.ndarray, "probes steps"]
    weights: Float[np.ndarray, "probes steps"]
    dim: int
    resolution: float

    def measure(self, functional: Callable[[np.ndarray, np.ndarray], float]) -> Measured:
        """Mean over probes of `functional(nodes, weights)` and its standard error.

        One probe alone gives a value and no error.
        """
        values = np.array([functional(n, w) for n, w in zip(self.nodes, self.weights, strict=True)])
        if values.size == 1:
            return Measured(float(values[0]))
        error = float(values.std(ddof=1) / values.size**0.5)
        return Measured(float(values.mean()), error, values.size - 1)

    def expectation(self, function: Callable[[np.ndarray], np.ndarray]) -> Measured:
        """E[f(λ)] over all P eigenvalues."""
        return self.measure(lambda nodes, weights: float(weights @ function(nodes)))

    @property
    def radius(self) -> float:
        """Largest |λ| that any probe saw."""
        return float(np.abs(self.nodes[self.weights > 0]).max(initial=0.0))

    def magnitude_quantile(self, level: float) -> float:
        """The smallest r for which a share `level` of all eigenvalues has |λ| ≤ r."""
        magnitudes = np.abs(self.nodes).ravel()
        order = np.argsort(magnitudes)
        mass = np.cumsum(self.weights.ravel()[order]) / self.nodes.shape[0]
        return float(magnitudes[order][min(np.searchsorted(mass, level), mass.size - 1)])

    def smoothed(
        self, grid: Float[np.ndarray, " grid"], bandwidth: float
    ) -> Float[np.ndarray, "probes grid"]:
        """Each probe's density on `grid`, smoothed by a Gaussian of width `bandwidth`."""
        scaled = (grid[None, :, None] - self.nodes[:, None, :]) / bandwidth
        kernel = np.exp(-0.5 * scaled**2) / (bandwidth * (2 * np.pi) ** 0.5)
        return (kernel * self.weights[:, None, :]).sum(axis=-1)

    def counts(self, edges: Float[np.ndarray, " bins_1"]) -> Float[np.ndarray, "probes bins"]:
        """Number of eigenvalues between consecutive `edges`, as each probe estimates it."""
        return self.dim * np.array(
            [
                np.histogram(nodes, bins=edges, weights=weights)[0]
                for nodes, weights in zip(self.nodes, self.weights, strict=True)
            ]
        )

    def atoms(self) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
        """Eigenvalues that were resolved one by one, and how often each occurs.

        These are nodes whose weight is a small whole number of eigenvalues, which random weights
        never are; they stand in every probe, and are read off the first.
        """
        counts = self.dim * self.weights[0]
        whole = np.round(counts)
        exact = (whole >= 1) & (whole <= MAX_MULTIPLICITY) & (np.abs(counts - whole) <= 1e-5)
        return self.nodes[0][exact], whole[exact]


def task_spectrum(density: SpectralDensity, task: int) -> TaskSpectrum:
    """The spectrum of task number `task`, in float64 on the host."""
    nodes = np.asarray(density.nodes, dtype=np.float64)
    weights = np.asarray(density.weights, dtype=np.float64)
    if nodes.ndim != 3:
        raise ValueError(
            f"`density` must hold one density a task, nodes of shape (T, probes, steps), "
            f"got {nodes.shape}; estimate it from a loss that returns shape (T,)."
        )
    resolution = np.broadcast_to(np.asarray(density.resolution, np.float64), nodes.shape[:1])
    return TaskSpectrum(nodes[task], weights[task], int(density.dim), float(resolution[task]))


def extreme_residual(density: SpectralDensity) -> Float[np.ndarray, " T"] | None:
    """Residual of each task's two extreme Ritz values, relative to its largest |λ|; the worse one.

    A Ritz value θ of m Lanczos steps with eigenvector s of T has an eigenvalue of H within
    β_m |s_m| of it (Golub and Van Loan's bound follows from H Q s = θ Q s + β_m s_m q_{m+1}).
    Of several probes the best counts, since they name the same extremes. None where the density
    does not hold its coefficients.
    """
    alpha, beta = getattr(density, "alpha", None), getattr(density, "beta", None)
    valid = getattr(density, "num_valid_steps", None)
    if alpha is None or beta is None or valid is None:
        return None
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    counts = np.asarray(valid)
    worst = np.zeros(alpha.shape[0])
    for task in range(alpha.shape[0]):
        bounds = []
        for probe in range(alpha.shape[1]):
            m = int(counts[task, probe])
            values, vectors = eigh_tridiagonal(alpha[task, probe, :m], beta[task, probe, : m - 1])
            last = beta[task, probe, m - 1] if beta.shape[-1] >= m else 0.0
            residuals = np.abs(last * vectors[-1])
            scale = max(float(np.abs(values).max()), np.finfo(float).tiny)
            bounds.append(residuals[[0, -1]] / scale)
        worst[task] = np.min(bounds, axis=0).max()
    return worst
