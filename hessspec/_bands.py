"""Intervals for eigenvalue counts: what T leaves open, and what the random start leaves open.

Two facts, both exact. (1) Of the measure μ that a start sees, T fixes the first 2m moments, and
all measures with these moments have μ(-∞, x] between two values given by the quadrature rule
with a node at x (Chebyshev, Markov, Stieltjes). (2) If k of P eigenvalues lie at or below x, a
Gaussian start gives them a share μ(-∞, x] that is Beta(k/2, (P - k)/2). Inverting the second on
the ends of the first gives an interval for k, even from a single probe.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from hessspec._quadrature import RitzPairs, ritz_pairs

# Distance from a node, relative to the operator, at which the rule with a node at x is no longer
# evaluated: its entry 1 / (θ - x) would cost the digits of the rest.
_NODE_GUARD = 1e-7
_GRID_BLOCK = 256


def mass_bounds(
    alpha: Float[np.ndarray, " m"],
    beta: Float[np.ndarray, " m"],
    x: Float[np.ndarray, " g"],
    blur: float = 0.0,
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Bounds on μ(-∞, x] of every measure with these Lanczos coefficients.

    Extend T by the row (β_m, α̂) with α̂ = x + β_m² Σ sᵢₘ² / (θᵢ - x), so that x becomes an
    eigenvalue; the rule of the extended T matches the moments up to degree 2m, and the mass that
    it puts below x, and up to x, are the bounds.

    Args:
        alpha, beta: valid Lanczos coefficients, beta[-1] the norm of the remainder.
        x: points at which to bound, any order.
        blur: positions are uncertain by this much, in the units of H: the lower bound is taken
            at x - blur and the upper at x + blur.
    """
    pairs = ritz_pairs(alpha, beta)
    norm = float(np.max(np.abs(pairs.values)))
    guard = max(_NODE_GUARD * norm, np.finfo(float).tiny)
    low_x = _clear_of(pairs.values, x - blur, -guard)
    high_x = _clear_of(pairs.values, x + blur, guard)
    ends = np.isinf(x)
    if beta[-1] <= np.finfo(float).eps * norm:
        cumulative = np.concatenate([[0.0], np.cumsum(pairs.weights)])
        low = cumulative[np.searchsorted(pairs.values, x - blur, side="right")]
        high = cumulative[np.searchsorted(pairs.values, x + blur, side="right")]
    else:
        low = _extended_mass(alpha, beta, pairs, np.where(ends, 0.0, low_x), below=True)
        high = _extended_mass(alpha, beta, pairs, np.where(ends, 0.0, high_x), below=False)
    low, high = (np.where(ends, np.where(x > 0, 1.0, 0.0), side) for side in (low, high))
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _clear_of(nodes: np.ndarray, x: np.ndarray, step: float) -> np.ndarray:
    """x, moved to `step` beyond any node closer than that, in the direction of `step`."""
    x = np.where(np.isinf(x), 0.0, x)
    for _ in range(nodes.size):
        nearest = nodes[np.argmin(np.abs(nodes[None] - x[:, None]), axis=1)]
        close = np.abs(nearest - x) < abs(step) * (1 - 1e-9)
        if not close.any():
            break
        x = np.where(close, nearest + step, x)
    return x


def _extended_mass(
    alpha: np.ndarray, beta: np.ndarray, pairs: RitzPairs, x: np.ndarray, *, below: bool
) -> np.ndarray:
    """Mass below x (or up to x) of the rule with a node at x."""
    m = alpha.size
    last = pairs.vectors[-1] ** 2
    corner = x + beta[-1] ** 2 * (last[None] / (pairs.values[None] - x[:, None])).sum(axis=1)
    # The nodes of the extended rule interlace those of T: as many of them lie below x as of T.
    index = np.searchsorted(pairs.values, x, side="left")
    mass = np.empty(x.size)
    tridiagonal = np.diag(np.append(alpha, 0.0)) + np.diag(beta, 1) + np.diag(beta, -1)
    for begin in range(0, x.size, _GRID_BLOCK):
        part = slice(begin, begin + _GRID_BLOCK)
        matrices = np.repeat(tridiagonal[None], corner[part].size, axis=0)
        matrices[:, m, m] = corner[part]
        _, vectors = np.linalg.eigh(matrices)
        cumulative = np.cumsum(vectors[:, 0, :] ** 2, axis=1)
        cumulative = np.concatenate([np.zeros((len(matrices), 1)), cumulative], axis=1)
        mass[part] = cumulative[np.arange(len(matrices)), index[part] + (0 if below else 1)]
    return mass


def count_interval(
    low_mass: Float[np.ndarray, " g"],
    high_mass: Float[np.ndarray, " g"],
    dim: int,
    num_probes: int,
    level: float,
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Ends of an interval for k, given bounds on the mean share of k of `dim` directions.

    The shares of n independent Gaussian starts, weighted by the starts' squared lengths, average
    to a Beta(nk/2, n(dim - k)/2) variable; weighted equally their mean varies slightly less. The
    interval holds every k for which neither tail beyond what was seen is below (1 - level)/2.
    """
    tail = (1.0 - level) / 2

    def share_at_most(mass: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Pr[share <= mass] if k eigenvalues take part; k = 0 and k = dim have no spread."""
        inner = np.clip(k, 1, max(dim - 1, 1))
        law = special.betainc(num_probes * inner / 2, num_probes * (dim - inner) / 2, mass)
        if dim == 1:
            law = np.zeros_like(mass)
        return np.where(k <= 0, 1.0, np.where(k >= dim, np.where(mass >= 1.0, 1.0, 0.0), law))

    # Pr[share <= mass] falls with k: the largest k with Pr[share <= high] > tail, and the
    # smallest with Pr[share >= low] > tail.
    upper = _last_true(lambda k: share_at_most(high_mass, k) > tail, dim, high_mass.shape)
    too_small = _last_true(
        lambda k: _complement(low_mass, k, dim, share_at_most) <= tail, dim, low_mass.shape, -1
    )
    return np.minimum(too_small + 1, upper), upper


def _complement(mass, k, dim, share_at_most):
    """Pr[share >= mass] for k eigenvalues."""
    at_least = 1.0 - share_at_most(mass, k)
    return np.where(mass <= 0.0, 1.0, np.where(k >= dim, 1.0, np.where(k <= 0, 0.0, at_least)))


def _last_true(holds, dim: int, shape: tuple[int, ...], first: int = 0) -> np.ndarray:
    """The largest k in [first, dim] up to which `holds(k)` is true, by bisection."""
    low, high = np.full(shape, float(first)), np.full(shape, float(dim))
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
