"""A Hessian at one point with its gradient already linearised: for runs of many small blocks."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hessspec._batches import BatchGroup
from hessspec._operators import AbstractOperator
from hessspec._plan import ProductPlan, nbytes
from hessspec._space import VectorSpace


class LinearisedOperator(AbstractOperator):
    """H as the derivatives of the gradients on all batches, with the arrays that these read.

    A group holds the linear maps v ↦ H_b v of the batches of one shape: one function, whose arrays
    have a leading axis of batches. The function is part of the tree's structure, and is the same
    object as long as the program that linearised is the same: a new point, or other weights of
    the tasks, compile nothing.
    """

    maps: tuple[BatchGroup, ...]
    space: VectorSpace = eqx.field(static=True)
    num_tasks: int | None = eqx.field(static=True)
    plan: ProductPlan = eqx.field(static=True)

    @property
    def block_rows(self) -> int:
        return self.plan.block_rows

    def product_bytes(self, rows: int) -> int:
        kept = [nbytes(group.arrays) for group in self.maps]
        one = [size / group.weights.shape[0] for size, group in zip(kept, self.maps, strict=True)]
        return self.plan.demand.of_kept(rows, sum(kept), max(one))

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        def of_batch(linear: Callable[[Array], Array]) -> Float[Array, "*T k dim"]:
            return jnp.moveaxis(jax.lax.map(linear, block), 0, -2)

        return functools.reduce(operator.add, [maps.weighted_sum(of_batch) for maps in self.maps])
