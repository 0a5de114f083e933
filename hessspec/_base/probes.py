"""Random probe vectors: probe i depends on the key and on i alone.

So chunks, the order of work and the number of probes change no probe, and more of them can be
added to a finished estimate.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from hessspec._base.arguments import check_key, whole_number

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

    one = jnp.ones((), dtype)

    def signs(probe_key: PRNGKeyArray) -> Float[Array, " dim"]:
        # 32 signs from each random word: drawing words is what takes the time.
        words = jax.random.bits(probe_key, (math.ceil(dim / 32),), jnp.uint32)
        bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
        return jnp.where(bits.reshape(-1)[:dim] == 1, one, -one)

    return _rows(signs, key, indices, dim)


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

    def normals(probe_key: PRNGKeyArray) -> Float[Array, " dim"]:
        return jax.random.normal(probe_key, (dim,), dtype)

    return _rows(normals, key, indices, dim)


def _rows(
    draw: Callable[[PRNGKeyArray], Array], key: PRNGKeyArray, indices: Int[Array, " k"], dim: int
) -> Float[Array, "k dim"]:
    key = check_key(key)
    whole_number("dim", dim)
    if indices.ndim != 1:
        raise ValueError(f"`indices` must be a list such as `jnp.arange(k)`, got {indices.shape}")
    # One row at a time: the bits of all rows at once would need twice the memory of the block.
    return jax.lax.map(lambda index: draw(jax.random.fold_in(key, index)), indices)
