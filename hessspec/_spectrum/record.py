"""The record of a spectral density: a discrete rule for each probe, and what is read off it."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hessspec._base.intervals import check_level
from hessspec._base.origin import Origin, about, merged_origin, record_tree
from hessspec._base.printing import Facts, Printed, number, percent, with_error
from hessspec._base.records import load_record, record_parts, save_record
from hessspec._base.tasks import TaskAxis
from hessspec._pictures.frame import small_figure
from hessspec._pictures.scales import Scale, coordinate
from hessspec._spectrum.bands import count_band
from hessspec._spectrum.bins import Histogram, Steps, cells_of, histogram
from hessspec._spectrum.drawing import linear_part, plot_cdf, plot_density
from hessspec._spectrum.merging import merged, proved_rows
from hessspec._spectrum.quadrature import gauss_quadrature
from hessspec._spectrum.readings import Extremes, IntervalEstimate
from hessspec._spectrum.rows import Rows
from hessspec._spectrum.smoothing import gaussian_mixture
from hessspec._spectrum.trace import SpectralTrace, TraceParts, trace_parts

_KIND = "SpectralDensity"


Points = Float[Array | np.ndarray, "..."] | Sequence[float] | float
Method = TypeVar("Method", bound=Callable[..., Any])


def _for_each_task(method: Method) -> Method:
    """Apply a method written for one spectrum to every task, and stack the results."""

    @functools.wraps(method)
    def mapped(self: "SpectralDensity", *arguments: Any, **options: Any) -> Any:
        if self.num_tasks is None:
            return method(self, *arguments, **options)
        results = [method(self.task(t), *arguments, **options) for t in range(self.num_tasks)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

    return mapped  # type: ignore[return-value]


@record_tree
@dataclass(frozen=True, repr=False)
class SpectralDensity(Printed, TaskAxis):
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
        runs: of a merged density, how many rows each run has, and whether its atoms were proved.
        origin: fingerprints of key and operator, which `merge` compares; None in files of
            versions before 0.2.0.
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
    runs: tuple[tuple[int, bool], ...] = field(default=(), metadata={"static": True})
    origin: Origin | None = field(default=None, metadata={"static": True})

    @property
    def num_probes(self) -> int:
        """Number of random starts."""
        return int(np.shape(self.nodes)[-2])

    @property
    def num_steps(self) -> int:
        """Lanczos steps asked for, at most P."""
        return int(np.shape(self.nodes)[-1])

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
    def cdf(self, x: Points) -> Float[np.ndarray, "..."]:
        """Share of the eigenvalues at or below each x, averaged over probes."""
        points = np.asarray(x, np.float64)
        nodes, order = self._pooled()
        cumulative = np.concatenate([[0.0], np.cumsum(np.asarray(self.weights).ravel()[order])])
        index = np.searchsorted(nodes, points, side="right")
        return np.minimum(cumulative[index] / self.num_probes, 1.0)

    @_for_each_task
    def quantile(self, q: Points) -> Float[np.ndarray, "..."]:
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
        self, x: Points, level: float = 0.95, uniform: bool = False
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Lower and upper ends of a band that covers the true cdf with probability `level`.

        Two uncertainties are added: what T leaves open about each start's measure (bounds that
        hold for every measure with these moments) and the randomness of the starts (the Beta
        law). Atoms carry neither. Positions are uncertain by `resolution`.

        Args:
            x: points, in the units of H.
            level: for each x alone, or for all x together if `uniform`.
            uniform: a band for the whole curve, by Kolmogorov's law; wider.

        Raises:
            ValueError: unless 0 < level < 1.
            TypeError: if `level` is no number.
        """
        check_level(level)
        points = np.asarray(x, np.float64)
        grid = points.ravel()
        low, high = count_band(self._rows(), np.full_like(grid, -np.inf), grid, level, uniform)
        return (low / self.dim).reshape(points.shape), (high / self.dim).reshape(points.shape)

    @_for_each_task
    def mass(self, lo: float, hi: float, level: float = 0.95) -> IntervalEstimate:
        """Share of the eigenvalues in (lo, hi], with an interval for it.

        A bound within `resolution` of an eigenvalue cannot be told to lie below or above it: the
        interval then holds both cases (the sign of an eigenvalue near 0, for one).

        Raises:
            ValueError: if `lo` exceeds `hi`, or unless 0 < level < 1.
            TypeError: if `level` is no number.
        """
        check_level(level)
        if not lo <= hi:
            raise ValueError(f"`lo` must be at most `hi`, got ({lo}, {hi}]")
        ends = self.cdf(np.array([lo, hi]))
        low, high = count_band(self._rows(), np.array([lo]), np.array([hi]), level, uniform=False)
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

    def histogram(
        self, scale: Scale = "symlog", *, level: float = 0.95, linthresh: float | None = None
    ) -> Histogram:
        """Numbers of eigenvalues in the finest bins that this run resolves, with intervals.

        A bin is resolved if what the Lanczos coefficients leave open of its number (bounds that
        hold for every measure with these moments) is at most that number, or one eigenvalue.
        Cost: no product.

        Args:
            scale: "symlog" and "log" for ends at 1, 2 and 5 times powers of ten, "linear" for
                round steps.
            level: of each interval, for its bin alone.
            linthresh: no end of "log" and "symlog" is nearer to 0; twice `resolution` by default.

        Raises:
            ValueError: with a task axis, unless 0 < level < 1, or if `scale` is unknown.
            TypeError: if `level` is no number.
        """
        check_level(level)
        if self.num_tasks is not None:
            raise ValueError(
                f"`histogram` needs one spectrum, this density has {self.num_tasks} tasks, each "
                "with bins of its own; use `density.task(t).histogram()`."
            )
        return self._histogram(scale, level, linthresh)

    def trace(self) -> SpectralTrace:
        """tr H from the same run: no further product. See `SpectralTrace` for its error."""
        return SpectralTrace(
            **self._trace_parts()._asdict(),
            method="lanczos",
            dim=self.dim,
            num_matvecs=self.num_matvecs,
            matvecs_per_sample=float(self.num_steps * (self.num_tasks or 1)),
        )

    def merge(self, other: "SpectralDensity") -> "SpectralDensity":
        """The density of all probes of both runs, this one and one with another key.

        Rows are unbiased one by one and independent between runs, so `cdf`, moments and the rest
        are means over all of them. Each row keeps the atoms of its own run; as numbers, atoms
        proved in either run hold for both, and bound every interval. Where one run is exact, its
        rows stand for those of the other. More than two are merged one after the other. Cost: no
        product.

        Raises:
            ValueError: for a run with the same key, at other parameters, data, dtype or number of
                tasks, of another task, or in a record that keeps no key.
            TypeError: if `other` is no `SpectralDensity`.

        Source: derived in this package, see `docs/density.md`.
        """
        return merged(self, other, merged_origin(self, other))

    @_for_each_task
    def pdf(
        self,
        x: Points,
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
        place = self.coordinate(scale, linthresh)
        used = (weights > 0) & (nodes > 0 if scale == "log" else True)
        if not used.any():
            return np.zeros(points.shape)
        centres, weights = place(nodes[used]), weights[used]
        inside = points > 0 if scale == "log" else np.ones(points.shape, bool)
        at = place(np.where(inside, points, 1.0))
        return np.where(inside, gaussian_mixture(at, centres, weights, bandwidth), 0.0)

    def coordinate(
        self, scale: Scale, linthresh: float | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The function that maps an eigenvalue to its place on an axis of that scale.

        Raises:
            ValueError: if `scale` is unknown.
        """
        return coordinate(scale, linear_part(self.resolution, linthresh))

    def plot(self, **options: Any) -> Any:
        """Draw the spectrum; see `hessspec.plotting.plot_density`. Needs matplotlib."""
        return plot_density(self, **options)

    def plot_cdf(self, **options: Any) -> Any:
        """Draw its distribution; see `hessspec.plotting.plot_cdf`. Needs matplotlib."""
        return plot_cdf(self, **options)

    def _facts(self) -> Facts:
        spent = f"{self.num_probes} probes x {self.num_steps} steps, {self.num_matvecs:,} products"
        if self.num_tasks is not None:
            rows = [(f"task {t}", _in_a_line(self.task(t))) for t in range(self.num_tasks)]
            title = f"SpectralDensity of {self.num_tasks} tasks, P = {self.dim:,} ({spent})"
            return Facts(title, rows)
        found = self._histogram("decades")
        single = f"{found.multiplicities.sum():,} one by one; the rest in bins, 95 % each"
        known = "all, exact" if bool(self.exact) else single
        rows = [("contents", _in_a_line(self)), ("known", known)]
        return Facts(f"SpectralDensity of P = {self.dim:,} ({spent})", rows, found.lines())

    def _draw_small(self) -> Any:
        return small_figure(lambda ax: self.plot(ax=ax), self.num_tasks or 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays, meta = record_parts(self)
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralDensity":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        meta["runs"] = tuple((int(n), bool(proved)) for n, proved in meta.get("runs", ()))
        meta["origin"] = Origin.read(meta.get("origin"))
        return cls(**arrays, **meta)

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        nodes = np.asarray(self.nodes).ravel()
        order = np.argsort(nodes, kind="stable")
        return nodes[order], order

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.nodes)[:-2]

    def _task(self, index: int) -> Self:
        origin = about(self.origin, f"task {index % np.shape(self.nodes)[0]}")
        return replace(super()._task(index), origin=origin)

    @_for_each_task
    def _trace_parts(self) -> TraceParts:
        return trace_parts(self._rows())

    def _histogram(
        self, steps: Steps, level: float = 0.95, linthresh: float | None = None
    ) -> Histogram:
        rows = self._rows()
        return histogram(rows, cells_of(rows, steps, linthresh), level)

    def _rows(self) -> Rows:
        """One spectrum as plain arrays."""
        return Rows(
            nodes=np.asarray(self.nodes),
            residuals=np.asarray(self.residuals),
            counts=self.dim * np.asarray(self.weights),
            known=np.maximum(np.asarray(self.multiplicities), 0),
            dim=self.dim,
            resolution=float(self.resolution),
            exact=bool(self.exact),
            proved=proved_rows(self.runs) if self.runs else None,
        )


def _in_a_line(density: SpectralDensity) -> str:
    """The ends of one spectrum, its negative share and its trace."""
    ends, below, trace = density.extremes(), density.mass(-np.inf, 0.0), density.trace()
    share = f"{percent(below.value)} [{percent(below.lower)}, {percent(below.upper)}] below 0"
    total = with_error(trace.value, trace.standard_error)
    return f"{number(ends.smallest)} to {number(ends.largest)}, {share}, tr H = {total}"
