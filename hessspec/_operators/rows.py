"""Blocks of flat vectors, one a row: their shape, and how long products with them are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hessspec._base.meshes import automatic, off_explicit_axes

if TYPE_CHECKING:
    from hessspec._operators.algebra import AbstractOperator


@off_explicit_axes
def applied(
    program: Callable[[AbstractOperator, Array], Array], linear: AbstractOperator, block: Array
) -> Array:
    """`program(linear, block)`, of a block on any kind of axes."""
    return program(linear, automatic(block))


def block_of(linear: AbstractOperator, block: Array) -> Array:
    """The block in the dtype of the operator.

    Raises:
        ValueError: unless it has a flat vector in each row.
    """
    if block.ndim != 2 or block.shape[1] != linear.dim:
        raise ValueError(
            f"`block` must have shape (k, {linear.dim}), one flat vector in each row, got "
            f"{block.shape}; for trees use `matvec`, `matmat` and `quadratic_forms`."
        )
    return block.astype(linear.dtype)


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
