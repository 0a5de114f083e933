"""Implicit deflation: eigenvectors that some probes have found are exact atoms for the others.

A random start gives an eigenvalue of multiplicity r the weight |Π q|², a Beta(r/2, (P - r)/2)
variable with mean r/P. For a few outliers that carry the spectrum this randomness is the whole
error of the plain rule. An eigenvector that is known needs no estimate: let U hold c orthonormal
eigenvectors, and let the start q be uniform on the sphere and independent of U. Then q without
its part in U, brought to length 1 again, is uniform on the sphere of the complement, which H
maps to itself, and

    (1/P) Σ f(λᵢ) = (1/P) Σ_{u in U} f(λᵤ) + (P - c)/P · E q̃ᵀf(H)q̃      for every f,

whatever the multiplicities, and however U was chosen, as long as the choice did not look at q.
So row p of a density takes for U what the *other* probes have found (as XTrace leaves one out),
and `hessspec._spectrum.deflation` gives the rule of q̃ from the Lanczos coefficients of q and the
inner products of the bases: no product is spent.

Why not all that the probes have found together? An eigenvalue converges in a probe whose start
happens to have much of it. If that probe's own vector made it an atom, it would lose its weight
where it is too large and keep it where it is too small, and the bulk would come out too low.

A single probe has no other. Its own vectors then are the atoms, and the choice must look at its
start as little as it can. The residual of a Ritz vector of weight w is, for a converged one,
c / √w, where c depends on the rest of the start alone (the product of all β over the derivative
of T's characteristic polynomial, which has nearly no part of that vector). So an eigenvalue
is chosen by c √P, the residual that it would have with the mean weight 1/P; see `assumed`.

No multiplicity has to be known for this. One vector of an eigenspace is one atom; what the start
has in the rest of the eigenspace stays where it was, with its own weight. Several probes find
several vectors: projections of n random starts span min(n, r) dimensions of the eigenspace.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hessspec._base.later import special
from hessspec._spectrum.quadrature import RitzPairs

# Rounding of a product and of T, in units of eps |H|: products of real networks in float32 were
# measured to be symmetric to 3 to 8 units.
ROUNDING_UNITS = 8.0
# A Ritz vector counts as converged if its angle to the eigenspace is at most this: the mass that
# leaks from other eigenvectors into the atom is then at most τ² = 0.16 % of theirs.
MAX_ANGLE = 0.04
# One probe alone: the angle is at most half of that for a start of the mean weight 1/P, whatever
# the weight is. The limit on the angle itself leaves out what has less than 1/15 of the mean
# component, one in twenty.
ALONE_SHARE = 0.5
MAX_ANGLE_ALONE = 0.3
# One probe has no other; its weights can only contradict multiplicity 1, at this level.
CONTRADICTION_LEVEL = 1e-5
# Ritz vectors that are taken for dependent would look so by chance, being independent, at most
# this often.
CHANCE_LEVEL = 1e-3


@dataclass(frozen=True)
class Cluster:
    """Ritz values of one probe that rounding cannot tell apart: one eigenvalue, or copies of it."""

    probe: int
    members: tuple[int, ...]
    low: float
    high: float
    angle: float  # bound on the sine of the angle to the eigenspace

    @property
    def radius(self) -> float:
        """An eigenvalue lies within this of every member."""
        return (self.high - self.low) / 2


def product_error(
    pairs: Sequence[RitzPairs], eps: float, asymmetry: float = 0.0, parts: float = 0.0
) -> float:
    """The size below which an eigenvalue cannot be told from 0: the error of a product.

    `parts` is the length of the products that those with H are sums of, if they are.
    """
    norm = max(parts, *(float(np.max(np.abs(p.values))) for p in pairs))
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
        if len(groups) == 1:
            # No gap: one eigenvalue if all of the space is exhausted, unresolved ones if not.
            angle = 0.0 if half <= 2 * ROUNDING_UNITS * floor else np.inf
        else:
            angle = half / gap if gap > 0 else np.inf
        found.append(Cluster(probe, tuple(group), lows[number], highs[number], angle))
    return found


@dataclass(frozen=True)
class Eigenvectors:
    """Orthonormal eigenvectors as seen from the Krylov bases.

    Attributes:
        values: their eigenvalues, ascending.
        radii: how far off each value may be.
        error: largest angle to the true eigenspaces.
        components: their components along the basis vectors of every probe.
    """

    values: Float[np.ndarray, " a"]
    radii: Float[np.ndarray, " a"]
    error: float
    components: Float[np.ndarray, "k m a"]

    @classmethod
    def none(cls, num_probes: int, num_steps: int) -> "Eigenvectors":
        """No eigenvector at all."""
        return cls(np.zeros(0), np.zeros(0), 0.0, np.zeros((num_probes, num_steps, 0)))

    def restricted(self, chosen: np.ndarray) -> "Eigenvectors":
        """Some of them only."""
        return Eigenvectors(
            self.values[chosen], self.radii[chosen], self.error, self.components[..., chosen]
        )


class Candidates:
    """The converged Ritz vectors of all probes and their inner products, taken once.

    Args:
        pairs: the Ritz pairs of each probe.
        gram: inner products of all basis vectors (`KrylovRun.basis_gram`).
        eps: rounding unit of the products' dtype.
        floor: error of a Ritz value by rounding, in the units of H.
        max_angle: largest angle to the eigenspace of a converged Ritz vector; for a single probe
            see `assumed`.
    """

    def __init__(
        self,
        pairs: Sequence[RitzPairs],
        gram: Float[np.ndarray, "k m k m"],
        eps: float,
        floor: float,
        max_angle: float = MAX_ANGLE,
    ) -> None:
        self.pairs, self.eps, self.floor = pairs, eps, floor
        k, m = gram.shape[:2]
        self.typical_angle = ALONE_SHARE * max_angle
        self.max_angle = max_angle if k > 1 else max(max_angle, MAX_ANGLE_ALONE)
        self.shape = k, m
        # Inner products of bases are rounded, so no angle is known to be smaller.
        self.least_angle = (eps * m) ** 0.5
        every = [clusters(p, floor, probe) for probe, p in enumerate(pairs)]
        self.all_converged = all(c.angle <= self.max_angle for found in every for c in found)
        self.converged = [c for found in every for c in found if c.angle <= self.max_angle]
        where = [(c.probe, i) for c in self.converged for i in c.members]
        self.column = {place: number for number, place in enumerate(where)}
        vectors = np.zeros((k, m, len(where)))
        for (probe, i), number in self.column.items():
            vectors[probe, : pairs[probe].values.size, number] = pairs[probe].vectors[:, i]
        flat = vectors.reshape(k * m, -1)
        along = gram.reshape(k * m, k * m) @ flat
        self.inner = flat.T @ along
        self.along, self.vectors = along.reshape(k, m, -1), vectors

    def found_without(self, probe: int) -> Eigenvectors:
        """The eigenvectors that the probes other than `probe` have found."""
        return self._eigenvectors([c for c in self.converged if c.probe != probe])

    def found_by(self, chosen: list[Cluster]) -> Eigenvectors:
        """The eigenvectors of these clusters."""
        return self._eigenvectors(chosen)

    def _eigenvectors(self, chosen: list[Cluster]) -> Eigenvectors:
        count = self.inner.shape[0]
        parts = [self._of_one_value(group) for group in same_value(chosen)]
        if not any(values.size for values, _, _, _ in parts):
            return Eigenvectors.none(*self.shape)
        values, radii, errors, mixes = zip(*parts, strict=True)
        mix = np.concatenate([m for m in mixes if m.size], axis=1).reshape(count, -1)
        # Vectors of different values are orthogonal but for their errors: make them so, moving
        # each as little as possible (Löwdin).
        sizes, basis = np.linalg.eigh(mix.T @ self.inner @ mix)
        if sizes[0] < 0.5:
            return Eigenvectors.none(*self.shape)
        mix = mix @ (basis / np.sqrt(sizes)) @ basis.T
        values = np.concatenate(values)
        found = Eigenvectors(values, np.concatenate(radii), max(errors), self.along @ mix)
        return found.restricted(np.argsort(values, kind="stable"))

    def _of_one_value(
        self, group: list[Cluster]
    ) -> tuple[np.ndarray, np.ndarray, float, Float[np.ndarray, "n a"]]:
        """Orthonormal eigenvectors in the span of a group's Ritz vectors.

        Vector i is known to an angle tᵢ. A unit vector Σ (eᵢ/tᵢ) vᵢ / √g with Σ eᵢ² = 1 is then
        known to (Σ eᵢ²)^(1/2) / √g = 1/√g, where the eigenvectors e and eigenvalues g are those
        of the Gram matrix of the vᵢ/tᵢ. Directions that are mere differences of vectors of one
        eigenvector, errors that is, have g of order 1 and are left out.
        """
        columns = self._columns(group)
        angles = self._angles(group, self.least_angle)
        radii = np.array([c.radius for c in group for _ in c.members])
        theta = np.array([self.pairs[c.probe].values[i] for c in group for i in c.members])
        block = self.inner[np.ix_(columns, columns)]
        g, e = np.linalg.eigh(block / np.outer(angles, angles))
        # A little below, so that a vector at the limit passes whatever the rounding of g.
        kept = g >= 0.9 / max(self.max_angle, self.least_angle) ** 2
        g, e = g[kept], e[:, kept]
        mix = e / angles[:, None] / np.sqrt(g)
        # Rayleigh and Ritz, where a group holds values that other probes tell apart. For an
        # eigenvector vᵢ, vᵢᵀHvⱼ = θᵢ vᵢᵀvⱼ; of two vectors the better one counts.
        trust = 1.0 / angles**2
        both = trust[:, None] + trust[None]
        product = block * (trust * theta)[:, None] / both
        values, turn = np.linalg.eigh(mix.T @ (product + product.T) @ mix)
        values = np.clip(values, theta.min(), theta.max())
        whole = np.zeros((self.inner.shape[0], values.size))
        whole[columns] = mix @ turn
        radius = np.sqrt((e**2 * radii[:, None] ** 2).sum(axis=0)).max(initial=0.0)
        error = float((1.0 / np.sqrt(g)).max(initial=0.0))
        return values, np.full(values.size, radius), error, whole

    def _columns(self, group: list[Cluster]) -> list[int]:
        return [self.column[c.probe, i] for c in group for i in c.members]

    def _angles(self, group: list[Cluster], least: float) -> Float[np.ndarray, " n"]:
        return np.array([max(c.angle, least) for c in group for _ in c.members])

    def spectrum(
        self,
        dim: int,
        lengths: Callable[[Float[np.ndarray, "d k m"]], Float[np.ndarray, " d"]],
    ) -> tuple[np.ndarray, np.ndarray, float] | None:
        """All eigenvalues, their multiplicities and how far off a value may be, if proved; or None.

        Projections of n starts span min(n, r) dimensions. So if the Ritz vectors of a value are
        dependent, their rank is its multiplicity. If that is known for all values but one, the
        last multiplicity follows, for they sum to P. `lengths` gives those of combinations of
        the basis vectors, taken on the vectors themselves (`KrylovRun.combined_lengths`): inner
        products, which are rounded, show no length below eps^(1/2).
        """
        settled = all(np.all(p.residuals <= ROUNDING_UNITS * self.floor) for p in self.pairs)
        # A chain of Ritz values, each within rounding of the next, is no eigenvalue but a bulk.
        radius = max((c.radius for c in self.converged), default=np.inf)
        settled &= radius <= 2 * ROUNDING_UNITS * self.floor
        if not settled or not self.all_converged or len(self.pairs) == 1:
            return None
        values, ranks, known = [], [], []
        for group in same_value(self.converged):
            found, _, _, _ = self._of_one_value(group)
            if found.size == 0 or len({c.probe for c in group}) < len(self.pairs):
                return None
            values.append(float(found.mean()))
            ranks.append(found.size)
            known.append(self._dependent(group, found.size, lengths))
        multiples, known = np.array(ranks), np.array(known)
        left = dim - int(multiples[known].sum())
        if known.sum() < known.size - 1 or left < int(multiples[~known].sum()):
            return None
        if known.all() and left != 0:
            return None
        return np.array(values), np.where(known, multiples, left), radius

    def _dependent(
        self,
        group: list[Cluster],
        rank: int,
        lengths: Callable[[Float[np.ndarray, "d k m"]], Float[np.ndarray, " d"]],
    ) -> bool:
        """Whether the n Ritz vectors of a value span `rank` dimensions of its eigenspace only.

        Vector i is off the eigenspace by tᵢ at most. If their projections to it are dependent, a
        combination Σ (eᵢ/tᵢ) vᵢ with Σ eᵢ² = 1 is made of errors alone, so that its length is at
        most Σ |eᵢ| <= √n. Vectors that are merely close to dependent are longer, unless they are
        as close as their errors; how often does that happen?

        Let the d = n - rank combinations be so short. With s = √n max t, the matrix of the vᵢ then
        has d singular values of at most s, and some `rank` of the vectors span a space from which
        the other d are away by at most s (1 + d rank)^(1/2) (those of the largest volume do). If
        the multiplicity were more than the rank, each of these would be uniform in an eigenspace
        of r > rank dimensions; its component along one normal, of density at most (r/2π)^(1/2),
        is within ±a with probability at most 2a (r/2π)^(1/2), the largest of these bounds being
        that for r = rank + 1. They are independent, and there are (n over d) choices.
        """
        least = ROUNDING_UNITS * self.eps * self.shape[1] ** 0.5
        columns, angles = self._columns(group), self._angles(group, least)
        n = len(columns)
        if rank >= n:
            return False
        away = n**0.5 * angles.max() * (1 + (n - rank) * rank) ** 0.5
        chance = special.comb(n, rank) * (2 * away * ((rank + 1) / (2 * np.pi)) ** 0.5) ** (
            n - rank
        )
        if chance > CHANCE_LEVEL:
            return False
        block = self.inner[np.ix_(columns, columns)] / np.outer(angles, angles)
        short = np.linalg.eigh(block)[1][:, : n - rank] / angles[:, None]
        mixes = self.vectors[:, :, columns] @ short
        return bool(np.all(lengths(np.moveaxis(mixes, -1, 0)) <= n**0.5))


def same_value(converged: list[Cluster]) -> list[list[Cluster]]:
    """Clusters of all probes joined where their intervals overlap."""
    groups: list[list[Cluster]] = []
    reach = -np.inf
    for cluster in sorted(converged, key=lambda c: c.low):
        if cluster.low > reach:
            groups.append([])
        groups[-1].append(cluster)
        reach = max(reach, cluster.high)
    return groups


def assumed(found: Candidates, dim: int) -> list[Cluster]:
    """One probe: the clusters that are taken for simple eigenvalues.

    They are those whose angle would be small, here and in their neighbours' intervals, had every
    Ritz vector the mean weight 1/P: an eigenvalue is then not an atom because its start happens
    to have much of it, which would leave too little in the bulk.

    P times the weight of an eigenvalue of multiplicity r is close to chi-squared with r degrees
    of freedom. Each value is tested alone, then all of them jointly from the largest down: many
    multiple eigenvalues are seen at once, a single double one is not.
    """
    pairs = found.pairs[0]
    weights = pairs.weights
    typical = pairs._replace(residuals=pairs.residuals * np.sqrt(dim * weights))
    clear = {
        cluster.members
        for cluster in clusters(typical, found.floor, 0)
        if cluster.angle <= found.typical_angle
    }
    magnitude = np.abs(pairs.values)
    chosen = [c for c in found.converged if c.members in clear]
    ranked = sorted(chosen, key=lambda c: -max(magnitude[list(c.members)]))
    level = CONTRADICTION_LEVEL / max(2 * len(ranked), 1)

    def contradicted(mass: float, count: int) -> bool:
        # The exact law of the share of `count` of `dim` directions.
        if count >= dim:
            return count > dim
        return bool(special.betaincc(count / 2, (dim - count) / 2, mass) < level)

    kept = []
    for cluster in ranked:
        # Copies show that the eigenvalue is multiple, not how often.
        if len(cluster.members) == 1 and not contradicted(float(weights[cluster.members[0]]), 1):
            kept.append(cluster)
    mass = 0.0
    for count, cluster in enumerate(kept, start=1):
        mass += float(weights[cluster.members[0]])
        if contradicted(mass, count):
            return []
    return kept
