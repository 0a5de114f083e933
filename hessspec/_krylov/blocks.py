"""Blocks of long vectors, one in each row: probes, Gram matrices, orthonormal bases.

The long sums run on the device in the operator's dtype and full matrix-multiplication precision;
what is small (k by k) comes to the host in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.probes import gaussian
from hessspec._krylov.lanczos import power_of_two
from hessspec._krylov.tiles import Layout, inner_products, split


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
    layout = Layout.of_blocks(basis.shape[1], basis.dtype)
    within = layout.tiled(basis)
    return split(layout, within, split(layout, within, rows)[0])[0]


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
