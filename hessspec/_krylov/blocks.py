"""Blocks of long vectors, one in each row: probes, Gram matrices, orthonormal bases.

The long sums run on the device in the operator's dtype and full matrix-multiplication precision;
what is small (k by k) comes to the host in float64.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.meshes import cut_along, mesh_of, width_on
from hessspec._base.probes import gaussian, gaussian_on
from hessspec._krylov.lanczos import power_of_two
from hessspec._krylov.tiles import Layout, inner_products, split


def spherical(
    key: PRNGKeyArray,
    start: int,
    count: int,
    dim: int,
    dtype: np.dtype,
    mesh: Mesh | None = None,
    room: int = 0,
) -> Float[Array, "rows width"]:
    """Probes start, ..., start + count - 1, uniform on the sphere of radius √dim: E[v vᵀ] = I.

    No basis is preferred, and no length varies: where H is a multiple of the identity, vᵀHv
    is its trace without error. On a mesh they are cut over its devices and filled up with zeros.
    With `room` for more, rows of zeros follow: one program then draws any number of them.
    """
    if mesh is None:
        return _drawn(key, start, count, max(room, count), dim, jnp.dtype(dtype))
    indices = np.arange(start, start + count)
    rows = _on_sphere(gaussian_on(key, indices, dim, jnp.dtype(dtype), mesh), dim)
    return jnp.pad(rows, ((0, max(room - count, 0)), (0, 0)))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _drawn(
    key: PRNGKeyArray, start: int, count: int, room: int, dim: int, dtype: np.dtype
) -> Float[Array, "room dim"]:
    def enter(number: Array, rows: Array) -> Array:
        row = gaussian(key, (start + number)[None], dim, dtype)
        return jax.lax.dynamic_update_slice_in_dim(rows, _on_sphere(row, dim), number, axis=0)

    return jax.lax.fori_loop(0, count, enter, jnp.zeros((room, dim), dtype))


@partial(jax.jit, static_argnums=1)
def _on_sphere(rows: Float[Array, "k width"], dim: int) -> Float[Array, "k width"]:
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows * (dim**0.5 / lengths)


def gram(left: Float[Array, "k dim"], right: Float[Array, "l dim"]) -> Float[np.ndarray, "k l"]:
    """Inner products of the rows of two blocks, on the host."""
    return np.asarray(_gram(left, right, mesh_of(right)), np.float64)


@partial(jax.jit, static_argnums=2)
def _gram(
    left: Float[Array, "k dim"], right: Float[Array, "l dim"], mesh: Mesh | None
) -> Float[Array, "k l"]:
    return inner_products("kp,lp->kl", left, right, mesh)


def row_forms(left: Float[Array, "*T k dim"], right: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
    """Inner products of corresponding rows."""
    return _row_forms(left, right, mesh_of(right))


@partial(jax.jit, static_argnums=2)
def _row_forms(
    left: Float[Array, "*T k dim"], right: Float[Array, "k dim"], mesh: Mesh | None
) -> Float[Array, "*T k"]:
    return inner_products("...kp,kp->...k", left, right, mesh)


@jax.jit
def combine(
    coefficients: Float[Array, "r k"], rows: Float[Array, "k dim"]
) -> Float[Array, "r dim"]:
    """The rows Σ_k c_rk · row_k."""
    return jnp.einsum("rk,kp->rp", coefficients, rows, precision="highest")


def without(basis: Float[Array, "r dim"], rows: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
    """`rows` less their parts along the orthonormal `basis`; twice, since once leaves rounding."""
    return _without(basis, rows, Layout.of_blocks(basis.shape[1], basis.dtype, mesh_of(basis)))


@partial(jax.jit, static_argnums=2)
def _without(
    basis: Float[Array, "r dim"], rows: Float[Array, "k dim"], layout: Layout
) -> Float[Array, "k dim"]:
    within = layout.tiled(basis)
    return split(layout, within, split(layout, within, rows)[0])[0]


def unit_scale(rows: Float[Array, "k dim"]) -> float:
    """A power of two near the longest row: dividing by it changes no digit, and nothing overflows
    or vanishes when the rows are squared afterwards."""
    return float(np.asarray(_power_of_two(rows)).max()) if rows.shape[0] else 1.0


_power_of_two = jax.jit(power_of_two)


class Measured(NamedTuple):
    """Products with a block of rows, divided by a power of two, and their inner products.

    Attributes:
        products: of each row, over `scale`.
        scale: the power of two.
        forms: inner products of the rows (first axis) with their products, over `scale`.
        squares: squared lengths of the products, over `scale` squared.
        row_squares: squared lengths of the rows.
    """

    products: Float[Array, "k dim"]
    scale: Float[Array, ""]
    forms: Float[Array, "k k"]
    squares: Float[Array, " k"]
    row_squares: Float[Array, " k"]


def measured(
    products: Float[Array, "k dim"], rows: Float[Array, "k dim"], scale: float = 0.0
) -> Measured:
    """Products with `rows`, measured in one program; 0 asks for a scale as `unit_scale` has it."""
    return _measured(products, rows, np.asarray(scale, products.dtype), mesh_of(products))


@partial(jax.jit, static_argnums=3)
def _measured(products: Array, rows: Array, scale: Array, mesh: Mesh | None) -> Measured:
    scale = jnp.where(scale > 0, scale, jnp.max(power_of_two(products)))
    products = products / scale
    forms = inner_products("kp,lp->kl", rows, products, mesh)
    squares = inner_products("kp,kp->k", products, products, mesh)
    return Measured(products, scale, forms, squares, inner_products("kp,kp->k", rows, rows, mesh))


def orthonormal_rows(
    rows: Float[Array, "k dim"],
) -> tuple[Float[Array, "k dim"], Float[np.ndarray, "k k"]]:
    """Householder QR of the rows as columns: `rows[i] = Σ_j R[j, i] basis[j]`.

    Householder and not Cholesky: sketches of a spectrum with outliers have condition numbers near
    1 / eps, where a Gram matrix has lost its small eigenvalues. On a mesh each device factorises
    its share, and their triangular factors are put together and factorised once more: nothing but
    those, k by k, leaves a device. Rows so short that a share could have fewer entries than there
    are rows, what they are filled up with left aside, are put together themselves.
    """
    mesh = mesh_of(rows)
    if mesh is not None:
        share, rest = divmod(rows.shape[1], mesh.size)
        filled = width_on(mesh, 1)  # at most so many entries, and only at the end
        if rest or share < rows.shape[0] + filled:
            mesh = None
    basis, factor = _qr(rows, mesh)
    return basis, np.asarray(factor, np.float64)


@partial(jax.jit, static_argnums=1)
def _qr(
    rows: Float[Array, "k dim"], mesh: Mesh | None
) -> tuple[Float[Array, "k dim"], Float[Array, "k k"]]:
    if mesh is None:
        columns, factor = jnp.linalg.qr(rows.T)
        return columns.T, factor
    k, dim = rows.shape
    on_devices = cut_along(mesh, 0)
    shares = rows.reshape(k, mesh.size, -1).transpose(1, 2, 0)
    shares = jax.lax.with_sharding_constraint(shares, on_devices)
    own, factors = jnp.linalg.qr(shares)
    turns, factor = jnp.linalg.qr(factors.reshape(mesh.size * k, k))
    turns = jax.lax.with_sharding_constraint(turns.reshape(mesh.size, k, k), on_devices)
    basis = jnp.einsum("dpk,dkl->ldp", own, turns, precision="highest").reshape(k, dim)
    return jax.lax.with_sharding_constraint(basis, cut_along(mesh, 1)), factor


def rescaled(rows: Float[Array, "k dim"], length: float) -> Float[Array, "k dim"]:
    """Each row at this length; rows of zeros stay."""
    return _rescaled(rows, np.asarray(length, rows.dtype))


@jax.jit
def _rescaled(rows: Float[Array, "k dim"], length: Float[Array, ""]) -> Float[Array, "k dim"]:
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows * jnp.where(lengths > 0, length / jnp.where(lengths > 0, lengths, 1), 0)
