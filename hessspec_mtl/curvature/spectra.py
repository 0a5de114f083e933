"""Numbers read off estimated spectra, each with its probe error.

Errors come in two ways. Numbers about sizes and counts use the intervals of the density itself,
which hold both what Lanczos left open between its nodes and the randomness of the starts. Other
functionals are taken of each probe's measure, and their spread over probes is the error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float

from hessspec import Histogram, IntervalEstimate, SpectralDensity, kolmogorov_smirnov, wasserstein1
from hessspec._base.later import special

LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """A number and the standard error that its source left on it (NaN: not measured).

    `dof` are the degrees of freedom behind the error, infinite where it is known well.
    """

    value: float
    error: float = float("nan")
    dof: float = float("inf")


@dataclass(frozen=True)
class Bounded(Measured):
    """A number with an interval of its own, of at least 95 %: lopsided, or open on one side.

    A lower bound has `high` infinite: it can lie above a threshold but never below one. What is
    picked from many numbers is bounded for all of them together (`comparisons` of them).
    """

    low: float = -np.inf
    high: float = np.inf
    comparisons: int = 1


def measured_by_probes(values: Float[np.ndarray, " probes"]) -> Measured:
    """Mean over probes and its standard error; one probe alone gives no error."""
    if values.size == 1:
        return Measured(float(values[0]))
    error = float(values.std(ddof=1) / values.size**0.5)
    return Measured(float(values.mean()), error, values.size - 1)


def _level(comparisons: int) -> float:
    """Of each of `comparisons` intervals that hold together at 95 % (Bonferroni)."""
    return 1.0 - (1.0 - LEVEL) / comparisons


def _bounded(value: SupportsFloat, low: SupportsFloat, high: SupportsFloat, many: int) -> Bounded:
    """A number with the interval of its density; its error is that reach as if it were normal."""
    middle, lower, upper = float(value), float(low), float(high)
    reach = max(upper - middle, middle - lower, 0.0)
    error = reach / float(-special.ndtri(0.5 * (1.0 - LEVEL) / many))
    return Bounded(middle, error, low=lower, high=upper, comparisons=many)


@dataclass(frozen=True, eq=False)
class TaskSpectrum:
    """The spectrum of one task; eigenvalues in units of loss / parameter².

    Attributes:
        density: of this task alone, without task axis.
        nodes: eigenvalues where each probe's mass sits.
        weights: mass of each node; every row sums to 1.
    """

    density: SpectralDensity
    nodes: Float[np.ndarray, "probes steps"]
    weights: Float[np.ndarray, "probes steps"]

    @property
    def dim(self) -> int:
        """P, the number of eigenvalues."""
        return self.density.dim

    @property
    def resolution(self) -> float:
        """Below this magnitude an eigenvalue cannot be told from 0."""
        return float(self.density.resolution)

    @property
    def radii(self) -> Float[np.ndarray, " probes"]:
        """Largest |λ| as each probe saw it."""
        return np.where(self.weights > 0, np.abs(self.nodes), 0.0).max(axis=1)

    @property
    def radius(self) -> float:
        """Largest |λ| that any probe saw."""
        return float(self.radii.max())

    def measure(self, functional: Callable[[np.ndarray, np.ndarray], float]) -> Measured:
        """Mean over probes of `functional(nodes, weights)`, with the spread as its error."""
        values = [functional(n, w) for n, w in self._probes()]
        return measured_by_probes(np.array(values, np.float64))

    def mass_within(self, radius: float, comparisons: int = 1) -> Bounded:
        """Share of the eigenvalues with |λ| ≤ radius; the interval holds for `comparisons`."""
        share = self.density.mass(-radius, radius, _level(comparisons))
        return _bounded(share.value, share.lower, share.upper, comparisons)

    def mass_beyond(self, radius: float) -> float:
        """Share of the eigenvalues with |λ| > radius, precise where it is a few in a million."""
        return float(np.where(np.abs(self.nodes) > radius, self.weights, 0.0).sum(axis=1).mean())

    def magnitude_quantile(self, level: float) -> float:
        """The smallest r for which a share `level` of all eigenvalues has |λ| ≤ r."""
        magnitudes = np.abs(self.nodes).ravel()
        order = np.argsort(magnitudes)
        mass = np.cumsum(self.weights.ravel()[order]) / self.nodes.shape[0]
        return float(magnitudes[order][min(np.searchsorted(mass, level), mass.size - 1)])

    @functools.cached_property
    def blur(self) -> float:
        """Half-width of the cell about 0 that a single Lanczos node stands for.

        Most eigenvalues are there, and nothing is known of how they lie inside: the cell reaches
        half-way to the next nodes, and never less far than the resolution.
        """
        reach = self.resolution
        for nodes, weights in self._probes():
            used = np.sort(nodes[weights > 0])
            inner = int(np.argmin(np.abs(used)))
            sides = used[[max(inner - 1, 0), min(inner + 1, used.size - 1)]]
            reach = max(reach, float(np.abs(0.5 * (sides + used[inner])).max()))
        return reach

    @functools.cached_property
    def histogram(self) -> Histogram:
        """Numbers of eigenvalues in the finest bins that the steps resolve, 95 % each."""
        return self.density.histogram(level=LEVEL)

    def log_count(self, low: float, high: float, comparisons: int = 1) -> Bounded:
        """log₁₀ of the number of eigenvalues in (low, high], none counting as a half."""
        share = self.density.mass(low, high, _level(comparisons))
        return self._log_number(share, comparisons, complement=False)

    def log_count_beyond(self, radius: float, comparisons: int = 1) -> Bounded:
        """log₁₀ of the number of eigenvalues with |λ| > radius, none counting as a half."""
        share = self.density.mass(-radius, radius, _level(comparisons))
        return self._log_number(share, comparisons, complement=True)

    def _log_number(
        self, share: IntervalEstimate, comparisons: int, *, complement: bool
    ) -> Bounded:
        ends = np.array([float(share.value), float(share.lower), float(share.upper)])
        numbers = self.dim * (1.0 - ends if complement else ends)
        value, one, other = np.log10(np.maximum(numbers, 0.5))
        return _bounded(value, min(one, other), max(one, other), comparisons)

    def _probes(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(self.nodes, self.weights, strict=True)

    def extreme_residual(self) -> float:
        """The larger residual of the two extremes, relative to the largest |λ|."""
        ends = self.density.extremes()
        worst = max(float(ends.smallest_residual), float(ends.largest_residual))
        return worst / max(abs(float(ends.smallest)), abs(float(ends.largest)), 1e-300)


def task_spectra(density: SpectralDensity) -> list[TaskSpectrum]:
    """One spectrum a task.

    Raises:
        ValueError: if the density has no task axis.
    """
    if density.num_tasks is None:
        raise ValueError(
            "`density` must hold one spectrum a task, got the density of a scalar loss; estimate "
            "it from a loss that returns shape (T,)."
        )
    singles = [density.task(t) for t in range(density.num_tasks)]
    return [
        TaskSpectrum(d, np.asarray(d.nodes, np.float64), np.asarray(d.weights, np.float64))
        for d in singles
    ]


@dataclass(frozen=True, eq=False)
class TaskDistances:
    """How far the spectra of tasks are apart, by what Lanczos resolves of them.

    Eigenvalues in the cell about 0 that no task resolves count as 0: nearly all are there, and a
    few steps put them on one node whose place in the cell means nothing. Probe errors are those of
    `hessspec.SpectralDistance`.

    Attributes:
        moved: P times the Wasserstein distance, by how much eigenvalues must be moved in all to
            turn one spectrum into the other; loss / parameter².
        moved_error: of `moved`, by probes.
        miscounted: P times the Kolmogorov-Smirnov distance, the largest difference in the number
            of eigenvalues up to any one value.
        miscounted_error: of `miscounted`, by probes.
        cell: half-width of the cell about 0.
    """

    moved: Float[np.ndarray, "tasks tasks"]
    moved_error: Float[np.ndarray, "tasks tasks"]
    miscounted: Float[np.ndarray, "tasks tasks"]
    miscounted_error: Float[np.ndarray, "tasks tasks"]
    cell: float


def task_distances(density: SpectralDensity) -> TaskDistances:
    """The distances between the spectra of all tasks of `density`, outside their common cell."""
    cell = max(spectrum.blur for spectrum in task_spectra(density))
    nodes = np.asarray(density.nodes)
    resolved = replace(density, nodes=np.where(np.abs(nodes) <= cell, 0.0, nodes))
    moved, miscounted = wasserstein1(resolved), kolmogorov_smirnov(resolved)
    return TaskDistances(
        *(
            density.dim * np.asarray(number, np.float64)
            for number in (moved.value, moved.error, miscounted.value, miscounted.error)
        ),
        cell=cell,
    )
