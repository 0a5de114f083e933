"""Operators made from a function that multiplies: any symmetric linear map of trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import whole_number
from hessspec._base.selection import choose
from hessspec._base.space import VectorSpace, leaf_path
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.lift import LiftedFunction, lift


class FunctionOperator(AbstractOperator):
    """Any symmetric linear map, given as `matvec(tree) -> tree` on trees like `like`.

    Args:
        matvec: traceable by JAX; for several maps of the same vectors, a leading axis of
            `num_tasks` on every leaf of its result.
        like: a tree of float arrays (or `jax.ShapeDtypeStruct`s): what vectors look like.
        num_tasks: number of maps, or None for one.

    Raises:
        TypeError: if a leaf of `like` is no array, or `matvec` cannot be called with one tree.
        ValueError: if `like` holds no float array, or `matvec` returns other shapes.

    Symmetry is the caller's promise; the estimators check it where that costs no product.
    """

    function: LiftedFunction
    space: VectorSpace = eqx.field(static=True)
    num_tasks: int | None = eqx.field(static=True)

    def __init__(
        self, matvec: Callable[[PyTree], PyTree], like: PyTree, *, num_tasks: int | None = None
    ) -> None:
        num_tasks = None if num_tasks is None else whole_number("num_tasks", num_tasks)
        chosen, _ = choose(_zeros(like), None, name="like")
        self.space = VectorSpace.of(chosen)
        self.num_tasks = num_tasks
        self.function, shapes = lift(matvec, chosen, call="matvec(vector)")
        lead = () if num_tasks is None else (num_tasks,)
        expected = jax.tree.map(lambda leaf: (*lead, *leaf.shape), chosen)
        found = jax.tree.map(lambda leaf: tuple(leaf.shape), shapes)
        if expected != found:
            raise ValueError(
                f"`matvec` must return a tree with leaves of shapes {expected}, got {found}"
            )

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        lead = 0 if self.num_tasks is None else 1

        def product(v: Float[Array, " dim"]) -> Array:
            tree = self.function(self.space.unflatten(v))
            return self.space.flatten_block(tree) if lead else self.space.flatten(tree)

        return jnp.moveaxis(jax.lax.map(product, block), 0, lead)


def _zeros(like: PyTree) -> PyTree:
    """A tree of arrays from arrays or what describes them."""

    def zeros(path: tuple[Any, ...], leaf: Any) -> Array:
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        raise TypeError(
            "`like` must be a tree of float arrays or `jax.ShapeDtypeStruct`s, got "
            f"{type(leaf).__name__} at `{leaf_path(path)}`; a number is `jnp.asarray(1.0)`."
        )

    return jax.tree.map_with_path(zeros, like)
