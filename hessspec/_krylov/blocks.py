"""Blocks of long vectors, one in each row: probes, Gram matrices, orthonormal bases.

The long sums run on the device in the operator's dtype and full matrix-multiplication precision;
what is small (k by k) comes to the host in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.probes import gaussian
from hessspec._krylov.lanczos import inner_products, power_of_two
from hessspec._operators.plan import BLOCK_ROWS


def spherical(
    key: PRNGKeyArray, start: int, count: int, dim: int, dtype: np.dtype
) -> Float[Array, "count dim"]:
    """Probes start, ..., start + count - 1, uniform on the sphere of radius √dim: E[v vᵀ] = I.

    No basis is preferred, and no length varies: where H is a multiple of the identity, vᵀHv
    is its trace without error.
    """
    return _on_sphere(gaussian(key, jnp.arange(start, start + count), dim, jnp.dtype(dtype)))


@jax.jit
def _on_sphere(rows: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows * (rows.shape[1] ** 0.5 / lengths)


def gram(left: Float[Array, "k dim"], right: Float[Array, "l dim"]) -> Float[np.ndarray, "k l"]:
    """Inner products of the rows of two blocks, on the host."""
    return np.asarray(_gram(left, right), np.float64)


@jax.jit
def _gram(left: Float[Array, "k dim"], right: Float[Array, "l dim"]) -> Float[Array, "k l"]:
    return inner_products("kp,lp->kl", left, right)


@jax.jit
def row_forms(left: Float[Array, "*T k dim"], right: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
    """Inner products of corresponding rows."""
    return inner_products("...kp,kp->...k", left, right)


@jax.jit
def combine(
    coefficients: Float[Array, "r k"], rows: Float[Array, "k dim"]
) -> Float[Array, "r dim"]:
    """The rows Σ_k c_rk · row_k."""
    return jnp.einsum("rk,kp->rp", coefficients, rows, precision="highest")


@jax.jit
def without(basis: Float[Array, "r dim"], rows: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
    """`rows` less their parts along the orthonormal `basis`; twice, since once leaves rounding."""
    return _split(basis, _split(basis, rows)[0])[0]


def unit_scale(rows: Float[Array, "k dim"]) -> float:
    """A power of two near the longest row: dividing by it changes no digit, and nothing overflows
    or vanishes when the rows are squared afterwards."""
    return float(np.asarray(_power_of_two(rows)).max()) if rows.shape[0] else 1.0


_power_of_two = jax.jit(power_of_two)


def orthonormal_rows(
    rows: Float[Array, "k dim"],
) -> tuple[Float[Array, "k dim"], Float[np.ndarray, "k k"]]:
    """Householder QR of the rows as columns: `rows[i] = Σ_j R[j, i] basis[j]`.

    Householder and not Cholesky: sketches of a spectrum with outliers have condition numbers near
    1 / eps, where a Gram matrix has lost its small eigenvalues.
    """
    basis, factor = _qr(rows)
    return basis, np.asarray(factor, np.float64)


@jax.jit
def _qr(rows: Float[Array, "k dim"]) -> tuple[Float[Array, "k dim"], Float[Array, "k k"]]:
    columns, factor = jnp.linalg.qr(rows.T)
    return columns.T, factor


def rescaled(rows: Float[Array, "k dim"], length: float) -> Float[Array, "k dim"]:
    """Each row at this length; rows of zeros stay."""
    return _rescaled(rows, jnp.asarray(length, rows.dtype))


@jax.jit
def _rescaled(rows: Float[Array, "k dim"], length: Float[Array, ""]) -> Float[Array, "k dim"]:
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows * jnp.where(lengths > 0, length / jnp.where(lengths > 0, lengths, 1), 0)


class GrowingBasis:
    """Orthonormal rows, more of which can be appended. Not a record: it grows in place.

    Stored in chunks of 16 rows, the last filled up with zeros, which change no projection: the
    compiled programs are the same at every size and no chunk is ever copied.
    """

    def __init__(self, dim: int, dtype: np.dtype) -> None:
        self.dim, self.dtype = dim, jnp.dtype(dtype)
        self.chunks: list[Float[Array, "16 dim"]] = []
        self.rank = 0

    def append(self, rows: Float[Array, "k dim"]) -> None:
        """Add rows, orthonormal among themselves and to all there are; k at most 16."""
        free = BLOCK_ROWS * len(self.chunks) - self.rank
        count = rows.shape[0]
        if count > free > 0:
            self.append(rows[:free])
            self.append(rows[free:])
            return
        if free == 0:
            self.chunks.append(jnp.zeros((BLOCK_ROWS, self.dim), self.dtype))
        place = self.rank % BLOCK_ROWS
        self.chunks[-1] = _placed(self.chunks[-1], rows, place)
        self.rank += count

    def split(
        self, rows: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "k dim"], Float[np.ndarray, "rank k"]]:
        """What of `rows` is outside the span, up to a few eps of their lengths, and Q rowsᵀ."""
        parts = [np.zeros((0, rows.shape[0]))]
        for chunk in self.chunks:
            rows, part = _split(chunk, rows)
            parts.append(part)
        whole = [np.asarray(part, np.float64) for part in parts]
        return rows, np.concatenate(whole)[: self.rank]

    def without(self, rows: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        """`rows` less their parts in the span, removed twice: once leaves rounding, which is not
        small beside rows that lie almost within."""
        for _ in range(2):
            for chunk in self.chunks:
                rows, _ = _split(chunk, rows)
        return rows

    def components(self, rows: Float[Array, "k dim"]) -> Float[np.ndarray, "rank k"]:
        """Inner products with the basis, on the host."""
        parts = [_gram(chunk, rows) for chunk in self.chunks]
        whole = [np.asarray(part, np.float64) for part in parts]
        return np.concatenate([np.zeros((0, rows.shape[0])), *whole])[: self.rank]

    def rows(self, first: int, count: int) -> Float[Array, "count dim"]:
        """Rows `first` to `first + count`; those past the last one are zero."""
        chunks = self.chunks[first // BLOCK_ROWS : (first + count - 1) // BLOCK_ROWS + 1]
        whole = chunks[0] if len(chunks) == 1 else jnp.concatenate(chunks)
        place = first % BLOCK_ROWS
        rows = whole[place : place + count]
        return jnp.pad(rows, ((0, count - rows.shape[0]), (0, 0)))


@partial(jax.jit, donate_argnums=0)
def _placed(
    chunk: Float[Array, "16 dim"], rows: Float[Array, "k dim"], place: int
) -> Float[Array, "16 dim"]:
    return jax.lax.dynamic_update_slice(chunk, rows, (place, 0))


@jax.jit
def _split(
    chunk: Float[Array, "r dim"], rows: Float[Array, "k dim"]
) -> tuple[Float[Array, "k dim"], Float[Array, "r k"]]:
    parts = inner_products("rp,kp->rk", chunk, rows)
    return rows - jnp.einsum("rk,rp->kp", parts, chunk, precision="highest"), parts
