"""The Gauss rule of a start without its part along known eigenvectors, from what is at hand.

Let C = Q Uᵀ hold the components of orthonormal eigenvectors U along the Krylov basis Q of a
start q. H maps the complement of U to itself, so

    (I - UᵀU) span{q, Hq, ..., Hᵐ⁻¹q} = span{q̃, Hq̃, ..., Hᵐ⁻¹q̃},      q̃ = (I - UᵀU) q:

the deflated start's own Krylov space is spanned by the rows of Q̃ = Q - C U, whose Gram matrix is
I - C Cᵀ and on which H is T - C Θ Cᵀ. Rayleigh and Ritz in this space is Lanczos from q̃, without
a product.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hessspec._base.later import linalg
from hessspec._spectrum.atoms import Eigenvectors
from hessspec._spectrum.quadrature import ritz_pairs

# A direction of the space that is closer to U than this many times U's own error is an error of
# U, stretched to unit length. The start has next to nothing of it.
_CLOSENESS = 3.0


class DeflatedRule(NamedTuple):
    """Nodes, weights (they sum to the mass of q̃) and residuals, as `GaussRule` has them."""

    nodes: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    residuals: Float[np.ndarray, " n"]


class Deflated:
    """T of the deflated start, of which the rules of all sizes are read.

    Args:
        alpha, beta: Lanczos coefficients of q; the last beta is the norm of the remainder.
        known: eigenvectors to remove.
        probe: whose coefficients these are.
        eps: rounding unit of the inner products.
        floor: error of a Ritz value by rounding, in the units of H.
    """

    def __init__(
        self,
        alpha: Float[np.ndarray, " n"],
        beta: Float[np.ndarray, " n"],
        known: Eigenvectors,
        probe: int,
        eps: float,
        floor: float,
    ) -> None:
        n = alpha.size
        # Errors of the atoms' quadratic forms: rounding, and to second order those of vectors.
        self.wrong = floor + known.error * known.radii
        tridiagonal = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        c = known.components[probe, :n]
        # H Uᵀ = UᵀΘ but for U's error. Where T gives Q H Uᵀ = T C directly, which is in all rows
        # but the last, it is taken: the quadratic form of q̃ is then exact, whatever that error.
        image = tridiagonal @ c
        image[-1] = c[-1] * known.values
        squares, basis = np.linalg.eigh(np.eye(n) - c @ c.T)
        closest = max((_CLOSENESS * known.error) ** 2, 100 * eps * n**0.5)
        kept = squares > closest
        beside, short = basis[:, ~kept], np.sqrt(np.maximum(squares[~kept], closest / 9))
        basis, lengths = basis[:, kept], np.sqrt(squares[kept])
        self.size = lengths.size
        if self.size == 0:
            return
        coordinates = basis / lengths
        crossed = image @ c.T
        compressed = tridiagonal - crossed - crossed.T + (c * known.values) @ c.T
        matrix = coordinates.T @ compressed @ coordinates
        start = lengths * basis[0]
        self.mass = float(start @ start)
        # Householder reflections that keep the first coordinate make the rest tridiagonal.
        bordered = np.block([[np.zeros((1, 1)), start[None]], [start[:, None], matrix]])
        turned, turn = linalg.hessenberg(bordered, calc_q=True)
        couplings = np.diagonal(turned, -1)
        signs = np.cumprod(np.where(couplings < 0, -1.0, 1.0))
        turn = coordinates @ turn[1:, 1:] * signs
        self.alpha = np.diagonal(turned)[1:].copy()
        self.beta = np.append(np.abs(couplings[1:]), beta[-1] * np.linalg.norm(turn[-1]))
        self.shares = c.T @ turn
        # What H leads from the space back into the span of U, rᵀy for r = Hu - θu: all of r along
        # the basis but its last component is known, and that is bounded by what is left of |r|.
        along = image - c * known.values
        unknown = np.sqrt(np.maximum(known.radii**2 - np.sum(along**2, axis=0), 0.0))
        self.leak = np.vstack([along.T @ turn, np.linalg.norm(unknown) * turn[-1:]])
        # And into the directions that were left out, as far as it is more than rounding.
        lost = beside.T @ compressed @ turn
        lost = np.where(np.abs(lost) > 4 * floor, lost, 0.0) / short[:, None]
        self.leak = np.vstack([self.leak, lost])

    def rule(self, size: int) -> DeflatedRule:
        """The Gauss rule with `size` nodes, at most `self.size`.

        A vector that is close to U has been stretched, and rounding with it. The start has as
        little of it as it was short, but its node may be off by more than others.
        """
        pairs = ritz_pairs(self.alpha[:size], self.beta[:size])
        leak = np.linalg.norm(self.leak[:, :size] @ pairs.vectors, axis=0)
        shares = np.abs(self.shares[:, :size] @ pairs.vectors)
        stretched = (np.sqrt(self.wrong) @ shares) ** 2
        residuals = np.hypot(pairs.residuals, leak) + stretched
        return DeflatedRule(pairs.values, self.mass * pairs.weights, residuals)
