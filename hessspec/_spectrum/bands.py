"""Intervals for eigenvalue counts: what the randomness of the starts leaves open.

If k of P eigenvalues lie at or below x, a Gaussian start gives them a share of its measure that
is Beta(k/2, (P - k)/2), exactly. Inverting this law on the bounds that T puts on the share
(`mass_bounds`) gives an interval for k, even from a single probe.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hessspec._base.later import special
from hessspec._spectrum.mass_bounds import mass_bounds
from hessspec._spectrum.rows import Rows


def count_interval(
    low_mass: Float[np.ndarray, " g"],
    high_mass: Float[np.ndarray, " g"],
    dim: Int[np.ndarray, " g"] | int,
    num_probes: int,
    level: float,
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Ends of an interval for k, given bounds on the mean share of k of `dim` directions.

    The shares of n independent Gaussian starts, weighted by the starts' squared lengths, average
    to a Beta(nk/2, n(dim - k)/2) variable; weighted equally their mean varies slightly less. The
    interval holds every k for which neither tail beyond what was seen is below (1 - level)/2.
    """
    tail = (1.0 - level) / 2
    dim = np.broadcast_to(dim, low_mass.shape)

    def share_at_most(mass: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Pr[share <= mass] if k eigenvalues take part; k = 0 and k = dim have no spread."""
        inner = np.clip(k, 1, np.maximum(dim - 1, 1))
        others = np.maximum(dim - inner, 1)
        law = special.betainc(num_probes * inner / 2, num_probes * others / 2, mass)
        return np.where(k <= 0, 1.0, np.where(k >= dim, np.where(mass >= 1.0, 1.0, 0.0), law))

    # Pr[share <= mass] falls with k: the largest k with Pr[share <= high] > tail, and the
    # smallest with Pr[share >= low] > tail.
    upper = _last_true(lambda k: share_at_most(high_mass, k) > tail, dim)
    too_small = _last_true(lambda k: _complement(low_mass, k, dim, share_at_most) <= tail, dim, -1)
    # A share that is surely positive excludes k = 0, and one surely below 1 excludes k = dim,
    # however unlikely such a share is for the neighbouring k.
    lower = np.minimum(too_small + 1, np.where(high_mass < 1.0, dim - 1, dim))
    return lower, np.maximum(upper, np.where(low_mass > 0.0, 1, 0))


def _complement(mass, k, dim, share_at_most):
    """Pr[share >= mass] for k eigenvalues."""
    at_least = 1.0 - share_at_most(mass, k)
    return np.where(mass <= 0.0, 1.0, np.where(k >= dim, 1.0, np.where(k <= 0, 0.0, at_least)))


def _last_true(holds, dim: np.ndarray, first: int = 0) -> np.ndarray:
    """The largest k in [first, dim] up to which `holds(k)` is true, by bisection."""
    low, high = np.full(dim.shape, float(first)), dim.astype(float)
    # Invariant: true at `low` (by convention at the start), false above `high`.
    while np.any(low < high):
        middle = np.ceil((low + high) / 2)
        true = holds(middle)
        low, high = np.where(true, middle, low), np.where(true, high, middle - 1)
    return low


def uniform_half_width(dim: int, num_probes: int, level: float) -> float:
    """Half the width of a band that holds for all x at once, as a share of `dim` directions.

    The shares of growing sets of eigenvalues form a Dirichlet process path with variance
    2 F (1 - F) / (nP + 2): scaled, a Brownian bridge in the limit of large P and, seen at P
    points only, with a smaller maximum before it. Kolmogorov's law gives the quantile of that
    maximum.
    """
    return float(special.kolmogi(1.0 - level)) * (2.0 / (num_probes * dim + 2.0)) ** 0.5


def atoms_at_most(
    nodes: Float[np.ndarray, "k m"],
    multiplicities: Float[np.ndarray, "k m"],
    x: Float[np.ndarray, " g"],
) -> Float[np.ndarray, "k g"]:
    """Number of eigenvalues in atoms at or below x, for each probe."""
    below: Bool[np.ndarray, "k m g"] = nodes[:, :, None] <= x[None, None]
    return (below * np.maximum(multiplicities, 0)[:, :, None]).sum(axis=1)


class OpenCounts(NamedTuple):
    """What the coefficients leave open of the numbers of eigenvalues in some intervals.

    Attributes:
        inside: eigenvalues that every row knows to be there.
        size: of how many more it is not known where they are.
        low, high: bounds on the share of these that the starts see there, mean over rows.
    """

    inside: Float[np.ndarray, " g"]
    size: Float[np.ndarray, " g"]
    low: Float[np.ndarray, " g"]
    high: Float[np.ndarray, " g"]


def count_band(
    rows: Rows,
    lo: Float[np.ndarray, " g"],
    hi: Float[np.ndarray, " g"],
    level: float,
    uniform: bool,
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Bounds on the number of eigenvalues in (lo, hi]: atoms counted, the bulk estimated."""
    inside, size, low, high = open_counts(rows, lo, hi)
    if rows.exact:
        return inside, inside + size
    if uniform:
        half = uniform_half_width(int(size.max()), rows.num_probes, level)
        few, many = size * (low - half), size * (high + half)
    else:
        few, many = count_interval(low, high, size, rows.num_probes, level)
    few, many = inside + np.clip(few, 0, size), inside + np.clip(many, 0, size)
    if rows.proved is None:
        return few, many
    least, most = _certain(rows, rows.proved, lo, hi)
    few = np.maximum(few, least)
    return np.minimum(few, most), np.maximum(np.minimum(many, most), few)


def _certain(
    rows: Rows,
    proved: Bool[np.ndarray, " n"],
    lo: Float[np.ndarray, " g"],
    hi: Float[np.ndarray, " g"],
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Bounds on the number in (lo, hi] from the atoms that any run has proved.

    The law of the bulk holds for what every row knows; this holds whatever the starts are.
    """
    surely, maybe, whole = _atom_counts(rows, rows.known, lo, hi)
    outside = whole - maybe
    surely, outside = (np.where(proved[:, None], n, 0) for n in (surely, outside))
    return surely.max(axis=0), rows.dim - outside.max(axis=0)


def _atom_counts(
    rows: Rows,
    known: Float[np.ndarray, "probes steps"] | Int[np.ndarray, "probes steps"],
    lo: Float[np.ndarray, " g"],
    hi: Float[np.ndarray, " g"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many atoms of each row are in (lo, hi], surely and perhaps, and how many it has."""
    radii = np.maximum(0.0 if rows.exact else rows.residuals, rows.resolution)
    early, late = rows.nodes - radii, rows.nodes + radii
    surely = np.maximum(atoms_at_most(late, known, hi) - atoms_at_most(early, known, lo), 0)
    maybe = atoms_at_most(early, known, hi) - atoms_at_most(late, known, lo)
    return surely, maybe, known.sum(axis=1)[:, None]


def open_counts(rows: Rows, lo: Float[np.ndarray, " g"], hi: Float[np.ndarray, " g"]) -> OpenCounts:
    """What is known of the number of eigenvalues in (lo, hi] before the starts' randomness.

    Rows may differ in their atoms. What all of them have is counted; what only some have is
    left to the law of the bulk, which is too wide for it. In an exact spectrum only eigenvalues
    closer than the resolution to an end are open.
    """
    known = np.round(rows.counts) if rows.exact else rows.known
    surely, maybe, whole = _atom_counts(rows, known, lo, hi)
    if rows.exact:
        least, most = surely.min(axis=0).astype(float), maybe.max(axis=0).astype(float)
        return OpenCounts(least, most - least, np.zeros(hi.size), np.ones(hi.size))
    inside, outside = surely.min(axis=0), (whole - maybe).min(axis=0)
    size = rows.dim - inside - outside
    low, high = _bulk_mass_bounds(rows, lo, hi)
    bulk = rows.dim - whole
    low = np.clip((surely - inside + bulk * low).mean(axis=0) / size, 0.0, 1.0)
    high = np.clip((maybe - inside + bulk * high).mean(axis=0) / size, 0.0, 1.0)
    return OpenCounts(inside, size, low, high)


def _bulk_mass_bounds(
    rows: Rows, lo: Float[np.ndarray, " g"], hi: Float[np.ndarray, " g"]
) -> tuple[Float[np.ndarray, "probes g"], Float[np.ndarray, "probes g"]]:
    """Bounds on the share of each row's bulk in (lo, hi]."""
    at, back = np.unique(np.concatenate([lo, hi]), return_inverse=True)
    first, last = back[: lo.size], back[lo.size :]
    lows, highs = (np.zeros((rows.num_probes, hi.size)) for _ in range(2))
    for probe, counts in enumerate(rows.bulk):
        used = counts > 0
        nodes, residuals = rows.nodes[probe, used], rows.residuals[probe, used]
        weights = counts[used] / counts.sum()
        low, high = mass_bounds(nodes, weights, residuals, at, rows.resolution)
        # The weights, like the positions, carry the rounding of the products.
        norm = float(np.max(np.abs(rows.nodes[probe])))
        rounding = rows.resolution / norm if norm > 0 else 0.0
        low, high = np.clip(low - rounding, 0.0, 1.0), np.clip(high + rounding, 0.0, 1.0)
        low, high = (np.where(np.isinf(at), at > 0, side) for side in (low, high))
        lows[probe] = np.maximum(low[last] - high[first], 0.0)
        highs[probe] = high[last] - low[first]
    return lows, highs
