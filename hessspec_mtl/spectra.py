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
