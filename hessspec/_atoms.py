"""Implicit deflation: converged Ritz values become atoms of exact weight, at no product.

A random start q gives an eigenvalue of multiplicity r the weight |Π q|², a Beta(r/2, (P - r)/2)
variable with mean r/P. For a few outliers that carry the spectrum this randomness is the whole
error of the plain rule. A Ritz pair that has converged needs no estimate: its weight is r/P as
soon as r is known, and the rest of the rule then describes the rest of the spectrum.

What proves r: the Krylov space of one start holds one vector of the eigenspace, the start's
projection on it. Projections of n random starts span min(n, r) dimensions. So if the converged
Ritz vectors of one value, over all probes, span fewer dimensions than they are, that rank is r;
if they are independent, r is at least their number and the plain weight stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from hessspec._quadrature import RitzPairs

# Rounding of a product and of T, in units of eps |H|: products of real networks in float32 were
# measured to be symmetric to 3 to 8 units.
ROUNDING_UNITS = 8.0
# A Ritz vector counts as converged if its angle to the eigenspace is at most this. Two such
# vectors of a double eigenvalue, whose true angle is uniform, look parallel with probability
# (2/π) 2 τ: 5 % here, and far less for higher multiplicities; the mass that leaks from other
# eigenvectors is at most τ² = 0.16 % of theirs.
MAX_ANGLE = 0.04
# One probe proves nothing; its weights can only contradict multiplicity 1, at this level.
CONTRADICTION_LEVEL = 1e-5


@dataclass(frozen=True)
class Cluster:
    """Ritz values of one probe that rounding cannot tell apart: one eigenvalue, or copies of it."""

    probe: int
    members: tuple[int, ...]
    low: float
    high: float
    angle: float  # bound on the sine of the angle to the eigenspace


def product_error(pairs: Sequence[RitzPairs], eps: float, asymmetry: float = 0.0) -> float:
    """The size below which an eigenvalue cannot be told from 0: the error of a product."""
    norm = max(float(np.max(np.abs(p.values))) for p in pairs)
    return max(ROUNDING_UNITS * eps, asymmetry) * norm


def clusters(pairs: RitzPairs, floor: float, probe: int) -> list[Cluster]:
    """The Ritz values of a probe, joined where their error intervals overlap.

    The interval of θ is θ ± max(residual, floor). A cluster's angle is bounded by its radius over
    the gap to the next cluster's interval (Davis and Kahan's sin θ theorem, with the gap read off
    the Ritz values).
    """
    radius = np.maximum(pairs.residuals, floor)
    low, high = pairs.values - radius, pairs.values + radius
    order = np.argsort(low)
    groups: list[list[int]] = []
    reach = -np.inf
    for i in order:
        if low[i] > reach:
            groups.append([])
        groups[-1].append(int(i))
        reach = max(reach, high[i])
    lows = [min(low[g]) for g in groups]
    highs = [max(high[g]) for g in groups]
    found = []
    for number, group in enumerate(groups):
        below = lows[number] - highs[number - 1] if number else np.inf
        above = lows[number + 1] - highs[number] if number + 1 < len(groups) else np.inf
        gap = min(below, above)
        half = (highs[number] - lows[number]) / 2
        angle = half / gap if gap > 0 else np.inf
        found.append(Cluster(probe, tuple(group), lows[number], highs[number], angle))
    return found


def multiplicities(
    pairs: Sequence[RitzPairs],
    gram: Callable[[Float[np.ndarray, "k m c"]], Float[np.ndarray, "k c k c"]] | None,
    dim: int,
    eps: float,
    floor: float,
    max_angle: float = MAX_ANGLE,
) -> list[Int[np.ndarray, " n"]]:
    """Multiplicity of the eigenvalue at each Ritz value of each probe; 0 where not settled.

    Copies of one value within a probe share a multiplicity: it stands on the heaviest of them,
    and the others carry -1.

    Args:
        pairs: the Ritz pairs of each probe.
        gram: inner products of the Ritz vectors with given coefficients (`KrylovRun.ritz_gram`).
        dim: P.
        eps: rounding unit of the products' dtype.
        floor: error of a Ritz value by rounding, in the units of H.
        max_angle: largest angle to the eigenspace of a converged Ritz vector.
    """
    settled = [np.zeros(p.values.size, int) for p in pairs]
    converged = [
        cluster
        for probe, p in enumerate(pairs)
        for cluster in clusters(p, floor, probe)
        if cluster.angle <= max_angle
    ]
    if not converged:
        return settled
    if len(pairs) == 1:
        found = _assumed(converged, pairs[0], dim)
    elif gram is None:
        return settled
    else:
        found = _proved(converged, pairs, gram, eps)
    for cluster, multiplicity in found:
        weights = pairs[cluster.probe].weights
        heaviest = max(cluster.members, key=lambda i: weights[i])
        settled[cluster.probe][list(cluster.members)] = -1
        settled[cluster.probe][heaviest] = multiplicity
    return settled


def _proved(
    converged: list[Cluster],
    pairs: Sequence[RitzPairs],
    gram: Callable[[Float[np.ndarray, "k m c"]], Float[np.ndarray, "k c k c"]],
    eps: float,
) -> list[tuple[Cluster, int]]:
    """Clusters of one value whose Ritz vectors are dependent, with their rank."""
    columns: list[list[int]] = [[] for _ in pairs]
    for cluster in converged:
        columns[cluster.probe].extend(cluster.members)
    count = max(len(c) for c in columns)
    steps = max(p.values.size for p in pairs)
    vectors = np.zeros((len(pairs), steps, count))
    for probe, chosen in enumerate(columns):
        n = pairs[probe].values.size
        vectors[probe, :n, : len(chosen)] = pairs[probe].vectors[:, chosen]
    inner = gram(vectors)
    found = []
    for group in _same_value(converged):
        where = [(c.probe, columns[c.probe].index(i)) for c in group for i in c.members]
        probes = {c.probe for c in group}
        # Every row of the result has the same atoms; a value that converged in some probes only
        # keeps its plain weight, as does one whose clusters overlap through a third.
        if len(group) != len(pairs) or len(probes) != len(pairs):
            continue
        p, c = (np.array(axis) for axis in zip(*where, strict=True))
        block = inner[p[:, None], c[:, None], p[None], c[None]]
        # Beyond the r-th, the squared singular values of vectors at angles tᵢ to an r-dimensional
        # space sum to at most Σ tᵢ²; the Gram matrix itself is rounded.
        allowed = sum(len(cl.members) * cl.angle**2 for cl in group) + eps * steps
        rank = int(np.sum(np.linalg.eigvalsh(block) > allowed))
        if rank < len(where):
            found.extend((cluster, rank) for cluster in group)
    return found


def _same_value(converged: list[Cluster]) -> list[list[Cluster]]:
    """Clusters of all probes joined where their intervals overlap."""
    groups: list[list[Cluster]] = []
    reach = -np.inf
    for cluster in sorted(converged, key=lambda c: c.low):
        if cluster.low > reach:
            groups.append([])
        groups[-1].append(cluster)
        reach = max(reach, cluster.high)
    return groups


def _assumed(converged: list[Cluster], pairs: RitzPairs, dim: int) -> list[tuple[Cluster, int]]:
    """One probe: multiplicity 1 (or the number of copies) unless the weights contradict it.

    P times the weight of an eigenvalue of multiplicity r is close to chi-squared with r degrees
    of freedom. Each value is tested alone, then all of them jointly from the largest down: many
    multiple eigenvalues are seen at once, a single double one is not.
    """
    weights = pairs.weights
    magnitude = np.abs(pairs.values)
    ranked = sorted(converged, key=lambda c: -max(magnitude[list(c.members)]))
    level = CONTRADICTION_LEVEL / (2 * len(ranked))

    def contradicted(mass: float, count: int) -> bool:
        # The exact law of the share of `count` of `dim` directions.
        if count >= dim:
            return count > dim
        return bool(stats.beta.sf(mass, count / 2, (dim - count) / 2) < level)

    kept = []
    for cluster in ranked:
        copies = len(cluster.members)
        # Copies show that the eigenvalue is multiple, not how often.
        if copies == 1 and not contradicted(float(weights[cluster.members[0]]), 1):
            kept.append((cluster, copies))
    mass, count = 0.0, 0
    for cluster, copies in kept:
        mass += float(weights[list(cluster.members)].sum())
        count += copies
        if contradicted(mass, count):
            return []
    return kept
