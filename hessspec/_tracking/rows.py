"""Small steps of the tracker: rows of long vectors, and the compressed matrices between them."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessspec._krylov.tiles import inner_products

TrackedEnd = Literal["LA", "SA", "LM"]


def eigen(
    matrix: Float[Array, "n n"], used: Bool[Array, " n"], which: TrackedEnd
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues and columns of the block of used rows, the most wanted first; 0 for the rest."""
    both = used[:, None] & used[None, :]
    # Beyond all others, so that nothing mixes with Ritz values that happen to be 0.
    away = 2 * (1 + jnp.max(jnp.abs(jnp.where(both, matrix, 0)), initial=0))
    matrix = jnp.where(both, matrix, 0) + jnp.diag(jnp.where(used, 0, away).astype(matrix.dtype))
    values, vectors = jnp.linalg.eigh(matrix)
    vectors = jnp.where(used[:, None], vectors, 0)
    inside = jnp.sum(vectors**2, axis=0) > 0.5
    order = jnp.argsort(jnp.where(inside, -preference(values, which), jnp.inf), stable=True)
    return jnp.where(inside, values, 0)[order], jnp.where(inside[None, :], vectors, 0)[:, order]


def preference(values: Float[Array, "*n"], which: TrackedEnd) -> Float[Array, "*n"]:
    if which == "LM":
        return jnp.abs(values)
    return values if which == "LA" else -values


def angle(old: Float[Array, "k dim"], new: Float[Array, "k dim"]) -> Float[Array, ""]:
    """The largest angle between two spaces, by its sine: small angles keep their digits."""
    rest = without(new, old)
    squares = jnp.linalg.eigvalsh(inner_products("ap,bp->ab", rest, rest))
    return jnp.arcsin(jnp.sqrt(jnp.clip(squares[-1], 0, 1)))


def without(basis: Float[Array, "r dim"], rows: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
    """`rows` less their parts along the orthonormal rows of `basis`, in one pass."""
    parts = inner_products("rp,...p->...r", basis, rows)
    return rows - jnp.einsum("...r,rp->...p", parts, basis, precision="highest")


def combined(columns: Float[Array, "c n"], rows: Float[Array, "c dim"]) -> Float[Array, "n dim"]:
    return jnp.einsum("cn,cp->np", columns, rows, precision="highest")


def orthonormal(rows: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
    return jnp.linalg.qr(rows.T)[0].T


def unit(vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1)
