"""The record of a spectral density: a discrete rule for each probe, and what is read off it."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hessspec._base.records import load_record, save_record
from hessspec._spectrum.bands import atoms_at_most, count_interval, uniform_half_width
from hessspec._spectrum.mass_bounds import mass_bounds
from hessspec._spectrum.quadrature import gauss_quadrature
from hessspec._spectrum.trace import SpectralTrace

_KIND = "SpectralDensity"
Scale = Literal["linear", "log", "symlog"]
# Fewer eigenvalues than this in a node are rounding.
_DUST = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntervalEstimate:
    """A number with an interval that covers the truth with probability `level`.

    Attributes:
        value: the estimate; a share of the eigenvalues or their number.
        lower, upper: ends of the interval, in the same unit.
        level: its probability.
    """

    value: Float[Array | np.ndarray, "*tasks"]
    lower: Float[Array | np.ndarray, "*tasks"]
    upper: Float[Array | np.ndarray, "*tasks"]
    level: float = field(default=0.95, metadata={"static": True})

    def __float__(self) -> float:
        return float(self.value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extremes:
    """Both ends of the spectrum; an eigenvalue lies within the residual of each value.

    Attributes:
        smallest, largest: the ends as any probe saw them, in the units of H.
        smallest_residual, largest_residual: how far an eigenvalue is from them at most.
    """

    smallest: Float[Array | np.ndarray, "*tasks"]
    largest: Float[Array | np.ndarray, "*tasks"]
    smallest_residual: Float[Array | np.ndarray, "*tasks"]
    largest_residual: Float[Array | np.ndarray, "*tasks"]


def _for_each_task(method: Callable[..., Any]) -> Callable[..., Any]:
    """Apply a method written for one spectrum to every task, and stack the results."""

    @functools.wraps(method)
    def mapped(self: "SpectralDensity", *arguments: Any, **options: Any) -> Any:
        if self.num_tasks is None:
            return method(self, *arguments, **options)
        results = [method(self.task(t), *arguments, **options) for t in range(self.num_tasks)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

    return mapped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralDensity:
    """The distribution of the P eigenvalues of H as each probe's quadrature rule shows it.

    The density integrates to 1 (the density of states is P times it). Nothing is smoothed; all
    numbers are float64 on the host, eigenvalues in the units of H, loss / parameter². A loss
    with T values adds a leading task axis to every array and to every result; tasks share
    their probes.

    Attributes:
        nodes: eigenvalue estimates θ (Ritz values), ascending.
        weights: mass of each node, the rule in force: atoms carry 1/P for every eigenvector that
            is known, the rest of the row is scaled to fill it up to 1. Unused slots repeat a
            node with weight 0.
        multiplicities: number of eigenvectors that the node stands for, each with weight 1/P; 0
            where the weight is an estimate. Row p takes them from the other probes, so rows may
            differ; a weight beyond multiplicity / P is what start p has beside them.
        residuals: an eigenvalue lies within `residuals` of the node.
        alpha, beta: Lanczos coefficients, from which `plain` restores the rule without atoms.
        num_valid_steps: number of steps before each probe's Krylov space was exhausted.
        resolution: an eigenvalue smaller than this cannot be told from 0 (product error).
        exact: whether the rule is the spectrum itself, with no error but rounding.
        dim: P, the number of eigenvalues.
        num_matvecs: products executed; one unit is one H_t v.
        multiplicities_proved: whether every multiplicity given rests on what was found: those
            of `exact` are the eigenvalues' own, those of leave-one-out rows count eigenvectors
            that the other probes hold, of an eigenvalue that may have more. False if atoms were
            assumed to be simple eigenvalues (a single probe), or there can be none.
        reorthogonalized: False if Ritz values may repeat (ghosts); there are no atoms then.
        product_plan: how products were computed, in words: rows in a block, and how often the
            gradient was linearised.
    """

    nodes: Float[Array | np.ndarray, "*tasks probes steps"]
    weights: Float[Array | np.ndarray, "*tasks probes steps"]
    multiplicities: Int[Array | np.ndarray, "*tasks probes steps"]
    residuals: Float[Array | np.ndarray, "*tasks probes steps"]
    alpha: Float[Array | np.ndarray, "*tasks probes steps"]
    beta: Float[Array | np.ndarray, "*tasks probes steps"]
    num_valid_steps: Int[Array | np.ndarray, "*tasks probes"]
    resolution: Float[Array | np.ndarray, "*tasks"]
    exact: Bool[Array | np.ndarray, "*tasks"]
    dim: int = field(metadata={"static": True})
    num_matvecs: int = field(metadata={"static": True})
    multiplicities_proved: bool = field(default=True, metadata={"static": True})
    reorthogonalized: bool = field(default=True, metadata={"static": True})
    product_plan: str = field(default="", metadata={"static": True})

    @property
    def num_tasks(self) -> int | None:
        """Number of tasks T, or None for a scalar loss."""
        return None if np.ndim(self.nodes) == 2 else int(np.shape(self.nodes)[0])

    @property
    def num_probes(self) -> int:
        """Number of random starts."""
        return int(np.shape(self.nodes)[-2])

    @property
    def num_steps(self) -> int:
        """Lanczos steps asked for, at most P."""
        return int(np.shape(self.nodes)[-1])

    def task(self, index: int) -> "SpectralDensity":
        """The density of one task, without task axis; products are counted in the whole record.

        Raises:
            ValueError: if there is no task axis.
            IndexError: if there is no such task.
        """
        if self.num_tasks is None:
            raise ValueError("this density has no task axis: the loss was a scalar")
        if not -self.num_tasks <= index < self.num_tasks:
            raise IndexError(f"`index` must name one of {self.num_tasks} tasks, got {index}")
        return jax.tree.map(lambda leaf: leaf[index], self)

    def plain(self) -> "SpectralDensity":
        """The same run without atoms: the stochastic Lanczos quadrature of the literature."""
        rule = gauss_quadrature(self.alpha, self.beta, self.num_valid_steps)
        return replace(
            self,
            nodes=rule.nodes,
            weights=rule.weights,
            residuals=rule.residuals,
            multiplicities=np.zeros(np.shape(rule.nodes), int),
            exact=np.zeros_like(np.asarray(self.exact)),
        )

    @_for_each_task
    def expectation(
        self, function: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]
    ) -> Float[np.ndarray, "*tasks"]:
        """(1/P) Σ f(λᵢ), so tr f(H) is P times it; `function` maps arrays elementwise.

        Gauss quadrature with m nodes is exact for polynomials of degree 2m - 1 of the measure
        that each start sees.
        """
        values = np.where(self.weights > 0, function(np.asarray(self.nodes)), 0.0)
        return np.asarray((self.weights * values).sum(axis=-1).mean())

    def moment(self, order: int) -> Float[np.ndarray, "*tasks"]:
        """(1/P) tr H^order, in (loss / parameter²)^order; order 0 gives 1.

        Up to order 2m - 1 of the starts' moments nothing is lost to the quadrature.

        Raises:
            ValueError: unless `order` is a whole number, at least 0.
        """
        if not (order >= 0 and float(order).is_integer()):
            raise ValueError(
                f"`order` must be a whole number, at least 0, got {order}: negative eigenvalues "
                "have no other powers. For (1/P) tr |H|^p use "
                "`expectation(lambda x: np.abs(x) ** p)`."
            )
        return self.expectation(lambda x: x ** int(order))

    @property
    def effective_rank(self) -> Float[np.ndarray, "*tasks"]:
        """(Σ|λ|)² / Σ λ²: the number of equal eigenvalues with these two sums; 0 for H = 0."""
        first = self.expectation(np.abs)
        second = self.moment(2)
        return np.where(second > 0, self.dim * first**2 / np.where(second > 0, second, 1), 0.0)

    @_for_each_task
    def extremes(self) -> Extremes:
        """Smallest and largest eigenvalue seen by any probe, with their residuals.

        Ritz values lie inside the spectrum, so the ends are reached from within.
        """
        nodes, residuals = np.asarray(self.nodes).ravel(), np.asarray(self.residuals).ravel()
        low, high = int(np.argmin(nodes)), int(np.argmax(nodes))
        floor = np.asarray(self.resolution)
        return Extremes(
            nodes[low],
            nodes[high],
            np.maximum(residuals[low], floor),
            np.maximum(residuals[high], floor),
        )

    @_for_each_task
    def cdf(self, x: Float[Array | np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Share of the eigenvalues at or below each x, averaged over probes."""
        points = np.asarray(x, np.float64)
        nodes, order = self._pooled()
        cumulative = np.concatenate([[0.0], np.cumsum(np.asarray(self.weights).ravel()[order])])
        index = np.searchsorted(nodes, points, side="right")
        return np.minimum(cumulative[index] / self.num_probes, 1.0)

    @_for_each_task
    def quantile(self, q: Float[Array | np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The smallest node x with cdf(x) >= q, for each q in [0, 1].

        Raises:
            ValueError: if a `q` lies outside [0, 1].
        """
        q = np.asarray(q, np.float64)
        if np.any((q < 0) | (q > 1)):
            raise ValueError(f"`q` must lie in [0, 1], got {q}")
        nodes, order = self._pooled()
        weights = np.asarray(self.weights).ravel()[order] / self.num_probes
        nodes, weights = nodes[weights > 0], weights[weights > 0]
        cumulative = np.cumsum(weights)
        # The last sum is 1 up to rounding; a quantile at 1 is the largest node.
        index = np.searchsorted(cumulative, q - 1e-12, side="left")
        return nodes[np.minimum(index, nodes.size - 1)]

    @_for_each_task
    def cdf_band(
        self, x: Float[Array | np.ndarray, "..."], level: float = 0.95, uniform: bool = False
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Lower and upper ends of a band that covers the true cdf with probability `level`.

        Two uncertainties are added: what T leaves open about each start's measure (bounds that
        hold for every measure with these moments) and the randomness of the starts (the Beta
        law). Atoms carry neither. Positions are uncertain by `resolution`.

        Args:
            x: points, in the units of H.
            level: for each x alone, or for all x together if `uniform`.
            uniform: a band for the whole curve, by Kolmogorov's law; wider.
        """
        _check_level(level)
        points = np.asarray(x, np.float64)
        grid = points.ravel()
        low, high = self._count_band(np.full_like(grid, -np.inf), grid, level, uniform)
        return (low / self.dim).reshape(points.shape), (high / self.dim).reshape(points.shape)

    @_for_each_task
    def mass(self, lo: float, hi: float, level: float = 0.95) -> IntervalEstimate:
        """Share of the eigenvalues in (lo, hi], with an interval for it.

        A bound within `resolution` of an eigenvalue cannot be told to lie below or above it: the
        interval then holds both cases (the sign of an eigenvalue near 0, for one).

        Raises:
            ValueError: if `lo` exceeds `hi`, or unless 0 < level < 1.
        """
        _check_level(level)
        if not lo <= hi:
            raise ValueError(f"`lo` must be at most `hi`, got ({lo}, {hi}]")
        ends = self.cdf(np.array([lo, hi]))
        low, high = self._count_band(np.array([lo]), np.array([hi]), level, uniform=False)
        return IntervalEstimate(
            np.asarray(ends[1] - ends[0]),
            np.asarray(low[0] / self.dim),
            np.asarray(high[0] / self.dim),
            level,
        )

    def count(self, lo: float, hi: float, level: float = 0.95) -> IntervalEstimate:
        """Number of eigenvalues in (lo, hi], with an interval whose ends are whole numbers."""
        share = self.mass(lo, hi, level)
        return IntervalEstimate(
            self.dim * np.asarray(share.value),
            np.round(self.dim * np.asarray(share.lower)),
            np.round(self.dim * np.asarray(share.upper)),
            level,
        )

    def trace(self) -> SpectralTrace:
        """tr H from the same run: no further product. See `SpectralTrace` for its error."""
        if self.num_tasks is None:
            samples, exact, offsets, counts, unseen = self._trace_parts()
        else:
            parts = [self.task(t)._trace_parts() for t in range(self.num_tasks)]
            stacks = (np.stack(p) for p in zip(*parts, strict=True))
            samples, exact, offsets, counts, unseen = stacks
        return SpectralTrace(
            samples=samples,
            exact=exact,
            method="lanczos",
            dim=self.dim,
            num_matvecs=self.num_matvecs,
            matvecs_per_sample=float(self.num_steps * (self.num_tasks or 1)),
            offsets=offsets,
            counts=counts,
            unseen=unseen,
        )

    @_for_each_task
    def pdf(
        self,
        x: Float[Array | np.ndarray, "..."],
        bandwidth: float | None = None,
        *,
        scale: Scale = "linear",
        linthresh: float | None = None,
    ) -> Float[np.ndarray, "..."]:
        """The density at x, each node spread to a Gaussian of standard deviation `bandwidth`.

        Args:
            x: points, in the units of H.
            bandwidth: in the units of H; in decades for the other scales. By default
                0.9 min(σ, IQR / 1.34) n^(-1/5), with the spread of the spectrum on that scale and
                n the number of nodes: it stretches with the spectrum and ignores outliers.
            scale: "linear" for dF/dλ; "log" for dF/d log₁₀ λ of the positive eigenvalues;
                "symlog" for dF/ds, s = asinh(λ / 2c) / ln 10, which is linear near 0 and counts
                decades on either side.
            linthresh: c of "symlog"; by default `resolution`, below which nothing is known.

        Raises:
            ValueError: if `bandwidth` is not positive or `scale` unknown.
        """
        points = np.asarray(x, np.float64)
        nodes, weights = np.asarray(self.nodes).ravel(), np.asarray(self.weights).ravel()
        weights = weights / self.num_probes
        coordinate = self.coordinate(scale, linthresh)
        used = (weights > 0) & (nodes > 0 if scale == "log" else True)
        if not used.any():
            return np.zeros(points.shape)
        centres, weights = coordinate(nodes[used]), weights[used]
        width = _bandwidth(centres, weights) if bandwidth is None else float(bandwidth)
        if not width > 0:
            raise ValueError(f"`bandwidth` must be positive, got {bandwidth}")
        inside = points > 0 if scale == "log" else np.ones(points.shape, bool)
        at = coordinate(np.where(inside, points, 1.0))
        scaled = (at[..., None] - centres) / width
        kernels = np.exp(-0.5 * scaled**2) / (width * (2 * np.pi) ** 0.5)
        return np.where(inside, kernels @ weights, 0.0)

    def coordinate(
        self, scale: Scale, linthresh: float | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The function that maps an eigenvalue to its place on an axis of that scale.

        Raises:
            ValueError: if `scale` is unknown.
        """
        if scale == "linear":
            return lambda x: x
        if scale == "log":
            return np.log10
        if scale == "symlog":
            threshold = float(np.max(self.resolution)) if linthresh is None else linthresh
            threshold = threshold if threshold > 0 else 1.0
            return lambda x: np.arcsinh(x / (2 * threshold)) / np.log(10.0)
        raise ValueError(f"`scale` must be 'linear', 'log' or 'symlog', got {scale!r}")

    def plot(self, **options: Any) -> Any:
        """Draw the spectrum; see `hessspec.plotting.plot_density`. Needs matplotlib."""
        from hessspec.plotting import plot_density

        return plot_density(self, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays, meta = {}, {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.metadata.get("static"):
                meta[entry.name] = value
            else:
                arrays[entry.name] = np.asarray(value)
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralDensity":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        known: dict[str, Any] = {**arrays, **meta}
        return cls(**known)

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        nodes = np.asarray(self.nodes).ravel()
        order = np.argsort(nodes, kind="stable")
        return nodes[order], order

    def _bulk_counts(self) -> Float[np.ndarray, "probes steps"]:
        """P times what each weight holds beside the eigenvectors that are known."""
        known = np.maximum(np.asarray(self.multiplicities), 0)
        return np.maximum(self.dim * np.asarray(self.weights) - known, 0.0)

    def _trace_parts(self) -> tuple[np.ndarray, ...]:
        """Each probe's sample beside the mean trace of the atoms, that, and the bulk's spread."""
        nodes, counts = np.asarray(self.nodes), self._bulk_counts()
        known = np.maximum(np.asarray(self.multiplicities), 0)
        if bool(self.exact):
            # Nothing was sampled: the mean of the rows, without samples of its own.
            whole = (self.dim * np.asarray(self.weights) * nodes).sum(axis=1)
            nothing = np.zeros(nodes.size + self.num_probes)
            return whole * 0, np.asarray(whole.mean()), nothing, nothing, np.asarray(0.0)
        atoms, bulk = (known * nodes).sum(axis=1), (counts * nodes).sum(axis=1)
        sizes = self.dim - known.sum(axis=1)
        centre = bulk.sum() / sizes.sum()
        # A direction uniform on the sphere of `size` dimensions varies a little less than a
        # Gaussian vector of that mean length.
        shorter = (sizes / (sizes + 2.0)) ** 0.5
        offsets = (nodes - centre) * shorter[:, None]
        # What is left of an eigenspace of which k - 1 vectors are known, d dimensions, has the
        # correlation 1/(d + 3) between probes: its size is that of a start's part beside the
        # others' parts, and a volume is shared by all.
        shared = 1.0 + (self.num_probes - 1) / (counts + 3.0)
        offsets = np.where(known > 0, offsets * shared**0.5, offsets)
        exact = atoms.mean()
        residuals = np.asarray(self.residuals) * shorter[:, None]
        residuals = np.where(residuals > float(self.resolution), residuals, 0.0)
        return bulk + atoms - exact, np.asarray(exact), *_spread(offsets, counts, residuals)

    def _count_band(
        self, lo: np.ndarray, hi: np.ndarray, level: float, uniform: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on the number of eigenvalues in (lo, hi]: atoms counted, the bulk estimated.

        Rows may differ in their atoms. What all of them have is counted; what only some have is
        left to the law of the bulk, which is too wide for it.
        """
        blur = float(self.resolution)
        nodes = np.asarray(self.nodes)
        if bool(self.exact):
            known, radii = np.round(np.asarray(self.weights) * self.dim), np.zeros(nodes.shape)
        else:
            known = np.maximum(np.asarray(self.multiplicities), 0)
            radii = np.asarray(self.residuals)
        radii = np.maximum(radii, blur)
        surely = atoms_at_most(nodes + radii, known, hi) - atoms_at_most(nodes - radii, known, lo)
        surely = np.maximum(surely, 0)
        maybe = atoms_at_most(nodes - radii, known, hi) - atoms_at_most(nodes + radii, known, lo)
        if bool(self.exact):
            return surely.min(axis=0).astype(float), maybe.max(axis=0).astype(float)
        whole = known.sum(axis=1)[:, None]
        inside, outside = surely.min(axis=0), (whole - maybe).min(axis=0)
        size = self.dim - inside - outside
        low, high = self._bulk_mass_bounds(lo, hi)
        bulk = self.dim - whole
        low = np.clip((surely - inside + bulk * low).mean(axis=0) / size, 0.0, 1.0)
        high = np.clip((maybe - inside + bulk * high).mean(axis=0) / size, 0.0, 1.0)
        if uniform:
            half = uniform_half_width(int(size.max()), self.num_probes, level)
            few, many = size * (low - half), size * (high + half)
        else:
            few, many = count_interval(low, high, size, self.num_probes, level)
        return inside + np.clip(few, 0, size), inside + np.clip(many, 0, size)

    def _bulk_mass_bounds(
        self, lo: np.ndarray, hi: np.ndarray
    ) -> tuple[Float[np.ndarray, "probes g"], Float[np.ndarray, "probes g"]]:
        """Bounds on the share of each row's bulk in (lo, hi]."""
        blur = float(self.resolution)
        at = np.concatenate([lo, hi])
        lows, highs = (np.zeros((self.num_probes, hi.size)) for _ in range(2))
        counts = self._bulk_counts()
        for probe in range(self.num_probes):
            used = counts[probe] > 0
            nodes = np.asarray(self.nodes)[probe, used]
            residuals = np.asarray(self.residuals)[probe, used]
            weights = counts[probe, used] / counts[probe].sum()
            low, high = mass_bounds(nodes, weights, residuals, at, blur)
            # The weights, like the positions, carry the rounding of the products.
            norm = float(np.max(np.abs(np.asarray(self.nodes)[probe])))
            rounding = blur / norm if norm > 0 else 0.0
            low, high = np.clip(low - rounding, 0.0, 1.0), np.clip(high + rounding, 0.0, 1.0)
            low, high = (np.where(np.isinf(at), at > 0, side) for side in (low, high))
            lows[probe] = np.maximum(low[lo.size :] - high[: lo.size], 0.0)
            highs[probe] = high[lo.size :] - low[: lo.size]
        return lows, highs


def _spread(
    offsets: Float[np.ndarray, "probes m"],
    counts: Float[np.ndarray, "probes m"],
    residuals: Float[np.ndarray, "probes m"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets from the bulk's mean, numbers of eigenvalues there, and Σ δ⁴ d that they lack.

    n nodes of a Gauss rule have the moments of their measure up to degree 2n - 1; of the next
    they lack β₁²...βₙ², whatever its centre. Variance and fourth moment need three nodes. Two
    lack β₁²β₂² of the fourth, where β₁² = w₁w₂ (θ₁ - θ₂)² and β₂² is the sum of the squared
    residuals. One lacks its squared residual β₁² of the variance: half of its eigenvalues are
    put a residual below it and half, in the row's last slot, as far above. Which eigenvalues
    carry that variance it cannot tell, so the fourth moment has no bound.
    """
    offsets, counts = (np.pad(column, ((0, 0), (0, 1))) for column in (offsets, counts))
    lacking = 0.0
    for offset, count, residual in zip(offsets, counts, residuals, strict=True):
        used = np.flatnonzero(count > _DUST)
        number, squares = count[used], residual[used] ** 2
        if used.size == 1 and residual[used[0]] > 0:
            ends = [int(used[0]), -1]
            offset[ends] = offset[ends[0]] + np.array([-1.0, 1.0]) * residual[used]
            count[ends] = number / 2
            lacking = np.inf
        elif used.size == 2:
            first = np.prod(number) / number.sum() * np.diff(offset[used]) ** 2
            lacking += float(first[0] * squares.sum())
    return offsets.ravel(), counts.ravel(), np.asarray(lacking)


def _bandwidth(centres: np.ndarray, weights: np.ndarray) -> float:
    """The rule of thumb 0.9 min(σ, IQR / 1.34) n^(-1/5) of a weighted sample."""
    order = np.argsort(centres)
    centres, weights = centres[order], weights[order] / weights.sum()
    mean = float(weights @ centres)
    deviation = float(weights @ (centres - mean) ** 2) ** 0.5
    cumulative = np.cumsum(weights)
    quartiles = centres[np.minimum(np.searchsorted(cumulative, [0.25, 0.75]), centres.size - 1)]
    spread = float(quartiles[1] - quartiles[0]) / 1.34
    spread = min(deviation, spread) if spread > 0 else deviation
    if spread > 0:
        return 0.9 * spread * centres.size**-0.2
    largest = float(np.max(np.abs(centres)))
    return 0.01 * largest if largest > 0 else 1.0


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}")
