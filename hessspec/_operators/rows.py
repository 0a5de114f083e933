"""Blocks of flat vectors, one a row: their shape, and how long products with them are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

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


@eqx.filter_jit
def compiled_rows(linear: AbstractOperator, block: Array, mesh: Mesh | None = None) -> Array:
    with rows_over(mesh):
        return linear._products(block_of(linear, block, mesh))


@eqx.filter_jit
def compiled_forms(linear: AbstractOperator, block: Array, mesh: Mesh | None = None) -> Array:
    with rows_over(mesh):
        return linear._quadratic(block_of(linear, block, mesh))


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
    with rows_over(mesh_of_rows(operator, rows)):
        return operator.space.unflatten_block(rows)


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
