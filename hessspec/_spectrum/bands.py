"""Intervals for eigenvalue counts: what the randomness of the starts leaves open.

If k of P eigenvalues lie at or below x, a Gaussian start gives them a share of its measure that
is Beta(k/2, (P - k)/2), exactly. Inverting this law on the bounds that T puts on the share
(`mass_bounds`) gives an interval for k, even from a single probe.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special


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
