"""Random probe vectors: probe i depends on the key and on i alone.

So chunks, the order of work and the number of probes change no probe, and more of them can be
added to a finished estimate.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from hessspec._base.arguments import check_key, whole_number
from hessspec._base.meshes import over_devices, width_on

# The stream of the probes of a trace. Directions that are given to it may come from any other verb
# or sampler with the same key: those draw from the key itself, and no index is as large as this.
TRACE_STREAM = 0x74726163


@partial(jax.jit, static_argnums=(2, 3))
def rademacher(
    key: PRNGKeyArray, indices: Int[Array, " k"], dim: int, dtype: jnp.dtype
) -> Float[Array, "k {dim}"]:
    """Probes of independent signs, E[v vᵀ] = I: row i is drawn with `fold_in(key, indices[i])`.

    With them vᵀHv has variance 2 (‖H‖²_F - Σ H_ii²): a diagonal H costs none. Cost: no product.

    Args:
        key: one random key.
        indices: which probes; the same index gives the same row, whatever stands beside it.
        dim: P, the entries of a row.
        dtype: of the rows, a float type. Both are static under `jit`.

    Raises:
        TypeError: if `key` is no key, `dim` no whole number or `dtype` no type that JAX can draw
            signs of.
        ValueError: if `dim` is below 1 or `indices` not one-dimensional.

    Source: derived here; v_i² = 1 and independence give both statements.
    """
    return _rows(_signs, key, indices, dim, dtype)


@partial(jax.jit, static_argnums=(2, 3))
def gaussian(
    key: PRNGKeyArray, indices: Int[Array, " k"], dim: int, dtype: jnp.dtype
) -> Float[Array, "k {dim}"]:
    """Standard normal probes, E[v vᵀ] = I: row i is drawn with `fold_in(key, indices[i])`.

    Their direction is uniform on the sphere, so the squared components along any r of `dim`
    orthonormal directions sum to a Beta(r/2, (dim - r)/2) share of the squared length.
    Cost: no product.

    Args:
        key, indices, dim, dtype: as for `rademacher`.

    Raises:
        TypeError: if `key` is no key, `dim` no whole number or `dtype` no float type.
        ValueError: if `dim` is below 1 or `indices` not one-dimensional.

    Source: derived here; r and dim - r squared normals are independent chi-squared variables.
    """
    return _rows(_normals, key, indices, dim, dtype)


@partial(jax.jit, static_argnums=(2, 3, 4))
def rademacher_on(
    key: PRNGKeyArray, indices: Int[Array, " k"], dim: int, dtype: jnp.dtype, mesh: Mesh | None
) -> Float[Array, "k width"]:
    """The rows of `rademacher`, cut over the devices of a mesh and filled up with zeros."""
    return _rows(_signs, key, indices, dim, dtype, mesh)


@partial(jax.jit, static_argnums=(2, 3, 4))
def gaussian_on(
    key: PRNGKeyArray, indices: Int[Array, " k"], dim: int, dtype: jnp.dtype, mesh: Mesh | None
) -> Float[Array, "k width"]:
    """The rows of `gaussian`, cut over the devices of a mesh and filled up with zeros."""
    return _rows(_normals, key, indices, dim, dtype, mesh)


def _signs(key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Float[Array, " dim"]:
    # 32 signs from each random word: drawing words is what takes the time.
    words = jax.random.bits(key, (math.ceil(dim / 32),), jnp.uint32)
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    one = jnp.ones((), dtype)
    return jnp.where(bits.reshape(-1)[:dim] == 1, one, -one)


def _normals(key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Float[Array, " dim"]:
    return jax.random.normal(key, (dim,), dtype)


def _rows(
    draw: Callable[[PRNGKeyArray, int, jnp.dtype], Array],
    key: PRNGKeyArray,
    indices: Int[Array, " k"],
    dim: int,
    dtype: jnp.dtype,
    mesh: Mesh | None = None,
) -> Float[Array, "k width"]:
    key = check_key(key)
    whole_number("dim", dim)
    if indices.ndim != 1:
        raise ValueError(f"`indices` must be a list such as `jnp.arange(k)`, got {indices.shape}")
    wide = width_on(mesh, dim) if _counts(key) else dim

    def row(index: Int[Array, ""]) -> Float[Array, " width"]:
        entries = draw(jax.random.fold_in(key, index), wide, dtype)
        if wide > dim:
            entries = jnp.where(jnp.arange(wide) < dim, entries, jnp.zeros((), dtype))
        return over_devices(mesh, entries)

    # One row at a time: the bits of all rows at once would need twice the memory of the block.
    return jax.lax.map(row, indices)


def _counts(key: PRNGKeyArray) -> bool:
    """Whether random bits depend on the key and their own place alone, not on how many there are.

    Each device then draws its share of a vector, and what a longer one begins with is the same.
    """
    config: Any = jax.config
    return bool(config.jax_threefry_partitionable) and "fry" in str(jax.random.key_impl(key))
