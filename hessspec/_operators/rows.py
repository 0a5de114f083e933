"""Blocks of flat vectors, one a row: their shape, and how long products with them are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from hessspec._base.memory import platform_of
from hessspec._base.meshes import automatic, off_explicit_axes, rows_over, width_on

if TYPE_CHECKING:
    from hessspec._operators.algebra import AbstractOperator


@off_explicit_axes
def applied(
    program: Callable[[AbstractOperator, Array, Mesh | None], Array],
    linear: AbstractOperator,
    block: Array,
) -> Array:
    """`program(linear, block, mesh)`, of a block on any kind of axes."""
    return program(linear, automatic(block), mesh_of_rows(linear, block))


def mesh_of_rows(linear: AbstractOperator, block: Array) -> Mesh | None:
    """The mesh of the operator, if the rows are cut over its devices and filled up with zeros."""
    mesh = linear.mesh
    return mesh if block.shape[-1] == width_on(mesh, linear.dim) else None


PAIR = 2  # rows of the one program by which linearised operators multiply blocks of any length


@jax.jit
def in_pairs(block: Float[Array, "k dim"]) -> tuple[Float[Array, "2 dim"], ...]:
    """The rows two by two; if one is left, a row of zeros beside it."""
    filled = jnp.pad(block, ((0, block.shape[0] % PAIR), (0, 0)))
    return tuple(jnp.split(filled, filled.shape[0] // PAIR))


@partial(jax.jit, static_argnums=1)
def out_of_pairs(
    pairs: tuple[Float[Array, "*T 2 dim"], ...], count: int
) -> Float[Array, "*T count dim"]:
    """The first `count` rows of all pairs, one pair after the other."""
    return jnp.concatenate(pairs, axis=-2)[..., :count, :]


@jax.jit
def forms_of(rows: Float[Array, "*T k dim"], block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
    """vᵀHv of each row v of `block`, whose product is in `rows`."""
    return jnp.einsum("...kp,kp->...k", rows, block, precision="highest")


def used_rows(block: Float[Array, "k dim"]) -> Int[Array, ""]:
    """How many rows there are without those of zeros at the end."""
    numbers = jnp.arange(1, block.shape[0] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(jnp.any(block != 0, axis=1), numbers, 0))


@eqx.filter_jit
def compiled_rows(linear: AbstractOperator, block: Array, mesh: Mesh | None = None) -> Array:
    with rows_over(mesh):
        return linear._products(block_of(linear, block, mesh))


@eqx.filter_jit
def compiled_forms(
    linear: AbstractOperator, block: Array, mesh: Mesh | None = None, skips: bool = False
) -> Array:
    """`skips`: rows of zeros at the end cost nothing; the forms then have no reverse mode."""
    with rows_over(mesh):
        rows = block_of(linear, block, mesh)
        return linear._quadratic(rows, used_rows(rows) if skips else None)


def block_of(linear: AbstractOperator, block: Array, mesh: Mesh | None = None) -> Array:
    """The block in the dtype of the operator.

    Raises:
        ValueError: unless it has a flat vector in each row.
    """
    if block.ndim != 2 or block.shape[1] != width_on(mesh, linear.dim):
        raise ValueError(
            f"`block` must have shape (k, {linear.dim}), one flat vector in each row, got "
            f"{block.shape}; for trees use `matvec`, `matmat` and `quadratic_forms`."
        )
    return block.astype(linear.dtype)


def flat_vector(operator: AbstractOperator, tree: PyTree) -> Float[Array, " width"]:
    """A tree as a row, cut over the devices of the operator."""
    with rows_over(operator.mesh):
        return operator.space.flatten(tree)


def flat_block(operator: AbstractOperator, block: PyTree) -> Float[Array, "k width"]:
    """A tree with a leading axis as rows."""
    with rows_over(operator.mesh):
        return operator.space.flatten_block(block)


def tree_of_rows(operator: AbstractOperator, rows: Float[Array, "*lead width"]) -> PyTree:
    """Such rows, or whole ones, as a tree with their leading axes."""
    if _is_at_hand(rows):
        return operator.space.unflatten_on_host(np.asarray(rows))
    with rows_over(mesh_of_rows(operator, rows)):
        return operator.space.unflatten_block(rows)


def _is_at_hand(rows: Array) -> bool:
    """Whether NumPy sees them where they are: JAX would compile a program for each leaf."""
    if not isinstance(rows, jax.Array) or isinstance(rows, Tracer):
        return isinstance(rows, np.ndarray)
    return jax.device_count() == 1 and platform_of(rows) == "cpu"


def with_lengths(
    part: AbstractOperator, block: Float[Array, "k dim"]
) -> tuple[Float[Array, "*T k dim"], Float[Array, "*T k"]]:
    rows, lengths = part.measured_rows(block)
    return rows, lengths_of(rows) if lengths is None else lengths


@jax.jit
def lengths_of(rows: Float[Array, "*T k dim"]) -> Float[Array, "*T k"]:
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)  # its square may underflow
    shown = jnp.where(largest > 0, largest, 1)
    return jnp.linalg.norm(rows / shown, axis=-1) * largest[..., 0]
