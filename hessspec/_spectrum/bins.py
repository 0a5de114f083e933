"""Numbers of eigenvalues in bins as fine as a run resolves, each with an interval.

A rule of m nodes says how many eigenvalues lie in an interval only up to what its ends may cut off
(`mass_bounds`). A bin is resolved if that is at most what the bin holds. The bins are the finest
whose every member is resolved; about 0, where most eigenvalues of a network are, that is one wide
cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from hessspec._base.arguments import did_you_mean
from hessspec._base.printing import Facts, Printed, number
from hessspec._spectrum.bands import count_band, open_counts
from hessspec._spectrum.rows import Rows

Steps = Literal["linear", "log", "symlog", "decades"]

# An axis of eigenvalues begins this many decades below its end: 54 cells of the rule 1-2-5.
_MOST_DECADES = 9.0
_LINEAR_CELLS = 48
_BAR = 24
# What the moments leave open of a bin is at most this share of what is in it, or one eigenvalue.
_OPEN_SHARE, _OPEN_COUNT = 1.0, 1.0
# An eigenvalue is drawn by itself if its place is known to this share of its size.
_PLACED = 0.1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Histogram(Printed):
    """Numbers of eigenvalues in bins that the run resolves, with an interval for each.

    The bins lie side by side and hold all P eigenvalues: the first and the last also count what
    may be beyond their outer ends.

    Attributes:
        edges: of the bins, rising, in the units of H; bin i is (edges[i], edges[i + 1]].
        counts: estimated number of eigenvalues in each bin, atoms included; P in all.
        lower, upper: ends of an interval for each of these numbers.
        atoms, multiplicities: eigenvalues that are known one by one, rising, each once, and of
            how many eigenvectors.
        resolution: an eigenvalue smaller than this cannot be told from 0.
        dim: P.
        level: with which each interval holds, for that bin alone.
    """

    edges: Float[np.ndarray, " bins+1"]
    counts: Float[np.ndarray, " bins"]
    lower: Float[np.ndarray, " bins"]
    upper: Float[np.ndarray, " bins"]
    atoms: Float[np.ndarray, " atoms"]
    multiplicities: Int[np.ndarray, " atoms"]
    resolution: float
    dim: int = field(metadata={"static": True})
    level: float = field(default=0.95, metadata={"static": True})

    @property
    def known(self) -> Int[np.ndarray, " bins"]:
        """How many eigenvalues of each bin are atoms."""
        return _in_bins(self.edges, self.atoms, self.multiplicities)

    @property
    def about_zero(self) -> int:
        """The number of the bin that holds 0, or -1 if none does."""
        inside = np.flatnonzero((self.edges[:-1] < 0) & (self.edges[1:] >= 0))
        return int(inside[0]) if inside.size else -1

    @property
    def cell(self) -> float:
        """How far the bin about 0 reaches; where there is none, the end nearest to 0."""
        zero = self.about_zero
        if zero < 0:
            return float(np.abs(self.edges[self.edges != 0]).min())
        return float(np.abs(self.edges[zero : zero + 2]).max())

    def rest(
        self,
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """`counts`, `lower` and `upper` without the atoms: what is known as a number alone."""
        known = self.known
        value, low, high = (
            np.maximum(n - known, 0.0) for n in (self.counts, self.lower, self.upper)
        )
        return value, low, high

    def lines(self) -> list[str]:
        """A text of the bins that may hold anything, a bar for each as long as log(1 + count)."""
        shown = np.flatnonzero(self.upper > 0)
        where = [f"({number(self.edges[i])}, {number(self.edges[i + 1])}]" for i in shown]
        counts = [f"{count:,}" for count in whole_numbers(self.counts)[shown]]
        ends = [f"[{self.lower[i]:,.0f}, {self.upper[i]:,.0f}]" for i in shown]
        lengths = np.log1p(self.counts[shown])
        units = np.round(_BAR * lengths / max(float(lengths.max(initial=0.0)), 1e-300)).astype(int)
        wide = _longest(ends)
        rows = zip(_justified(where), _justified(counts), ends, units, strict=True)
        return [f"{a}  {b} {c:<{wide}}  {'#' * unit}".rstrip() for a, b, c, unit in rows]

    def _facts(self) -> Facts:
        title = f"Histogram of P = {self.dim:,}, {100 * self.level:.4g} % interval for each bin"
        return Facts(title, lines=self.lines())


def whole_numbers(counts: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The counts rounded up or down, so that they have the same sum: the largest rests go up."""
    down = np.floor(counts)
    up = np.argsort(down - counts, kind="stable")[: round(float((counts - down).sum()))]
    down[up] += 1
    return down.astype(int)


def histogram(rows: Rows, cells: Float[np.ndarray, " edges"], level: float) -> Histogram:
    """The finest bins made of whole `cells` that one spectrum resolves, counted.

    Args:
        rows: the spectrum.
        cells: possible edges, rising; the outer ones lie beyond the spectrum.
        level: of the interval of each bin.
    """
    atoms, multiplicities = distinct_atoms(rows)
    cells = _clear_of_atoms(cells, rows)
    at = np.concatenate([[-np.inf], cells[1:-1], [np.inf]])
    first, last = np.triu_indices(at.size, k=1)
    inside, size, low, high = open_counts(rows, at[first], at[last])
    least, most = inside + size * low, inside + size * high
    middle = 0.5 * (least + most)
    resolved = most - least <= np.maximum(_OPEN_SHARE * middle, _OPEN_COUNT)
    table = np.zeros((at.size, at.size), bool)
    table[first, last] = resolved
    openness = np.zeros(table.shape)
    openness[first, last] = most - least
    chosen = _finest(table, openness)
    counts = _in_bins(at[chosen], rows.nodes.ravel(), rows.counts.ravel()) / rows.num_probes
    # What is certain of a bin, whole eigenvalues, stands against the estimate of its number.
    band = count_band(rows, at[chosen[:-1]], at[chosen[1:]], level, uniform=False)
    lower, upper = map(np.round, band)
    return Histogram(
        edges=cells[chosen],
        counts=_adding_up(np.clip(counts, lower, upper), lower, upper, rows.dim),
        lower=lower,
        upper=upper,
        atoms=atoms,
        multiplicities=multiplicities,
        resolution=rows.resolution,
        dim=rows.dim,
        level=level,
    )


def distinct_atoms(rows: Rows) -> tuple[Float[np.ndarray, " atoms"], Int[np.ndarray, " atoms"]]:
    """Eigenvalues that are known one by one, rising, each once, with the eigenvectors known.

    Each row has the atoms that the other probes found; the row that has most is taken. In an exact
    spectrum every eigenvalue is known. One whose place is known to less than a tenth of its size
    belongs to the bulk, unless the resolution says no more of any.
    """
    known = np.round(rows.counts[:1]) if rows.exact else rows.known
    probe = int(known.sum(axis=1).argmax())
    placed = np.maximum(rows.resolution, _PLACED * np.abs(rows.nodes[probe]))
    settled = (known[probe] > 0) & (rows.exact | (rows.residuals[probe] <= placed))
    values, counts = rows.nodes[probe][settled], known[probe][settled].astype(int)
    order = np.argsort(values, kind="stable")
    return values[order], counts[order]


def cells_of(
    rows: Rows, scale: Steps, linthresh: float | None = None
) -> Float[np.ndarray, " edges"]:
    """Possible edges for bins on an axis of that scale, around all of the spectrum.

    On logarithmic axes 1, 2 and 5 times powers of ten (for "decades" the powers alone) on both
    sides of a cell about 0 in which eigenvalues have no sign; on a linear one about 48 round steps.

    Raises:
        ValueError: if `scale` is unknown.
    """
    if scale not in get_args(Steps):
        near = did_you_mean(scale, ("linear", "log", "symlog"))
        raise ValueError(f"`scale` must be 'linear', 'log' or 'symlog', got {scale!r}{near}")
    used = rows.counts > 0
    low, high = float(rows.nodes[used].min()), float(rows.nodes[used].max())
    reach = max(abs(low), abs(high)) or 1.0
    if scale == "linear":
        step = float(_round_numbers(max(high - low, 1e-3 * reach) / _LINEAR_CELLS, reach)[0])
        return step * np.arange(np.floor(low / step) - 1, np.ceil(high / step) + 2)
    floor = max(2.0 * rows.resolution, reach * 10.0**-_MOST_DECADES, linthresh or 0.0)
    digits = (1,) if scale == "decades" else (1, 2, 5)
    outer = _round_numbers(min(floor, reach), 2.0 * reach, digits)
    negative = -outer[: np.searchsorted(outer, -low, side="right") + 1][::-1]
    positive = outer[: np.searchsorted(outer, high, side="right") + 1]
    if scale == "log":
        return np.concatenate([[0.0], positive])
    edges = np.concatenate([negative, positive])
    # Where all eigenvalues are of one sign, nothing is drawn between them and 0.
    first = max(int(np.searchsorted(edges, low, side="left")) - 1, 0)
    last = int(np.searchsorted(edges, high, side="right"))
    return edges[first : last + 1] if edges.size > 2 else edges


def _round_numbers(
    low: float, high: float, digits: Sequence[int] = (1, 2, 5)
) -> Float[np.ndarray, " n"]:
    """The digits times powers of ten, from the first at or above `low` to beyond `high`."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 2)
    numbers = np.array([float(f"{digit}e{power}") for power in powers for digit in digits])
    return numbers[numbers >= low * (1 - 1e-9)]


def _adding_up(
    counts: Float[np.ndarray, " n"],
    lower: Float[np.ndarray, " n"],
    upper: Float[np.ndarray, " n"],
    dim: int,
) -> Float[np.ndarray, " n"]:
    """The counts with the sum P: what is missing goes to each in proportion to its room."""
    missing = dim - float(counts.sum())
    room = upper - counts if missing > 0 else counts - lower
    whole = float(room.sum())
    return counts if whole <= 0 else counts + room * np.clip(missing / whole, -1.0, 1.0)


def _justified(texts: Sequence[str]) -> list[str]:
    return [text.rjust(_longest(texts)) for text in texts]


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=0)


def _clear_of_atoms(cells: np.ndarray, rows: Rows) -> np.ndarray:
    """Without the edges at which an eigenvalue that is known could lie on either side."""
    known = rows.counts > 0 if rows.exact else rows.known > 0
    radii = np.maximum(0.0 if rows.exact else rows.residuals, rows.resolution)
    apart = (
        np.abs(cells[:, None] - rows.nodes[known][None])
        > np.broadcast_to(radii, rows.nodes.shape)[known]
    )
    outer = np.isin(np.arange(cells.size), (0, cells.size - 1))
    return cells[apart.all(axis=1) | outer]


def _finest(resolved: Bool[np.ndarray, "n n"], openness: np.ndarray) -> Int[np.ndarray, " bins+1"]:
    """The edges of the most bins that are all resolved; among equals the least open together.

    By dynamic programming over the last edge: entry (i, j) is the bin from edge i to edge j. The
    bin that holds everything is always resolved.
    """
    n = resolved.shape[0]
    best: list[tuple[int, float, int]] = [(0, 0.0, -1)]
    for j in range(1, n):
        ways = [
            (best[i][0] + 1, best[i][1] - float(openness[i, j]), i)
            for i in range(j)
            if resolved[i, j] and best[i][2] > -2
        ]
        best.append(max(ways, default=(0, 0.0, -2)))
    path = [n - 1]
    while path[-1] > 0:
        path.append(best[path[-1]][2])
    return np.array(path[::-1])


def _in_bins(edges: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of the weights in each (edges[i], edges[i + 1]], what is beyond at the ends."""
    bins = np.searchsorted(edges[1:-1], values, side="left")
    return np.bincount(bins, weights, minlength=edges.size - 1)
