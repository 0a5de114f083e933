"""Gauss quadrature from Lanczos coefficients, on the host in float64."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from hessspec._base.later import linalg
from hessspec._base.printing import Printed


@dataclass(frozen=True, repr=False)
class GaussRule(Printed):
    """Nodes and weights with Σ wᵢ p(θᵢ) = q'p(H)q for every polynomial of degree 2m - 1.

    Slots past the valid steps repeat the last node with weight and residual 0.

    Attributes:
        nodes: Ritz values θᵢ, ascending, in the units of H.
        weights: wᵢ, squares of the first components of T's eigenvectors; they sum to 1.
        residuals: |H y - θ y| of the Ritz vectors y: an eigenvalue lies within it of the node.
    """

    nodes: Float[np.ndarray, "*batch m"]
    weights: Float[np.ndarray, "*batch m"]
    residuals: Float[np.ndarray, "*batch m"]


class RitzPairs(NamedTuple):
    """Eigenpairs of one T: `vectors[:, i]` holds yᵢ's coefficients in the Krylov basis."""

    values: Float[np.ndarray, " n"]
    vectors: Float[np.ndarray, "n n"]
    residuals: Float[np.ndarray, " n"]

    @property
    def weights(self) -> Float[np.ndarray, " n"]:
        """Squared components of the start along the Ritz vectors."""
        return self.vectors[0] ** 2


def gauss_quadrature(
    alpha: Float[Array | np.ndarray, "*batch m"],
    beta: Float[Array | np.ndarray, "*batch m"],
    num_valid_steps: Int[Array | np.ndarray, "*batch"] | int | None = None,
) -> GaussRule:
    """The Gauss rule of the measure Σ (q'uᵢ)² δ(λ - λᵢ) that a start q sees, from its T.

    T is the Jacobi matrix of that measure's orthogonal polynomials; its eigenvalues are the
    nodes and the squared first components of its unit eigenvectors the weights. The last
    components give the residuals: H Qᵀs = θ Qᵀs + β_m s_m q_{m+1}.

    Args:
        alpha, beta: as `lanczos` returns them; beta[m - 1] is the norm of the remainder.
        num_valid_steps: n <= m, the rows of T that count; all of them if None.

    Raises:
        ValueError: if shapes differ, a count is outside [1, m], or a coefficient is not finite.

    Cost: no product; m² flops on the host for each T.

    Source: Golub and Welsch (1969) as restated in the introduction of [li2024quadrature]; the
    residuals are the last row of H Qᵀ = Qᵀ T + r eᵀ times s.
    """
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    if alpha.shape != beta.shape or alpha.ndim == 0:
        raise ValueError(
            "`alpha` and `beta` must have the same shape (*batch, m), got "
            f"{alpha.shape} and {beta.shape}"
        )
    _check_finite(alpha, beta)
    *batch, m = alpha.shape
    valid = np.broadcast_to(m if num_valid_steps is None else np.asarray(num_valid_steps), batch)
    if np.any(valid < 1) or np.any(valid > m):
        raise ValueError(f"`num_valid_steps` must lie in [1, {m}], got {valid.tolist()}")
    nodes, weights, residuals = (np.zeros((*batch, m)) for _ in range(3))
    for index in np.ndindex(*batch):
        n = int(valid[index])
        pairs = ritz_pairs(alpha[index][:n], beta[index][:n])
        nodes[index][:n], nodes[index][n:] = pairs.values, pairs.values[-1]
        weights[index][:n] = pairs.weights
        residuals[index][:n] = pairs.residuals
    return GaussRule(nodes, weights, residuals)


def ritz_pairs(alpha: Float[np.ndarray, " n"], beta: Float[np.ndarray, " n"]) -> RitzPairs:
    """Eigenpairs of the tridiagonal T, ascending, with the residual of each Ritz vector."""
    _check_finite(alpha, beta)
    # QL iteration: slower than the default by a little, but its eigenvectors are orthonormal to
    # rounding even where eigenvalues cluster, and the rule needs all of them.
    values, vectors = linalg.eigh_tridiagonal(alpha, beta[:-1], lapack_driver="stev")
    return RitzPairs(values, vectors, np.abs(beta[-1] * vectors[-1]))


def _check_finite(
    alpha: Float[np.ndarray, "*batch m"], beta: Float[np.ndarray, "*batch m"]
) -> None:
    if not (np.all(np.isfinite(alpha)) and np.all(np.isfinite(beta))):
        raise ValueError(
            "`alpha` and `beta` must be finite: a start or a product with the operator was not, "
            "or overflowed"
        )
