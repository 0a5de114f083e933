"""A Hessian at one point with its gradient already linearised: for runs of many small blocks."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from hessspec._base.checks import check_losses, check_precision
from hessspec._base.meshes import bytes_on_device, rows_are_over
from hessspec._base.space import VectorSpace
from hessspec._operators.batches import BatchGroup
from hessspec._operators.plan import ProductPlan
from hessspec._operators.planned import PlannedOperator
from hessspec._operators.products import map_rows
from hessspec._operators.rows import PAIR, forms_of, in_pairs, out_of_pairs, used_rows


class LinearisedOperator(PlannedOperator):
    """H as the derivatives of the gradients on all batches, with the arrays that these read.

    A group holds the linear maps of trees v ↦ H_b v of the batches of one shape: one function,
    whose arrays have a leading axis of batches. The function is part of the tree's structure, and
    is the same object as long as the program that linearised is the same: a new point, or other
    weights of the tasks, compile nothing.

    Where each leaf starts in a flat vector is an array too. As constants the places would end up
    inside the kernels that read a leaf, and layers that are alike would be compiled one by one: for
    the paper's network that took two thirds longer.

    Where rows are multiplied one after the other, longer blocks go in pairs through the program
    of two rows: a run that has blocks of several sizes compiles one.
    """

    maps: tuple[BatchGroup, ...]
    losses: Float[Array, "*losses"]
    starts: tuple[Int[Array, ""], ...]
    space: VectorSpace = eqx.field(static=True)
    num_tasks: int | None = eqx.field(static=True)
    plan: ProductPlan = eqx.field(static=True)
    takes_one: bool = eqx.field(static=True, default=False)  # for blocks of one row and no other

    @property
    def skips_zeros(self) -> bool:
        return self.plan.abreast == 1 and self.mesh is None

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        count = block.shape[0] if block.ndim == 2 else PAIR
        is_alone = count == PAIR or (count == 1 and self.takes_one)
        if is_alone or not self.skips_zeros:
            return super().rows(block)
        of_two = super().rows
        return out_of_pairs(tuple(map(of_two, in_pairs(block))), block.shape[0])

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return forms_of(self.rows(block), block)  # by the program of products

    def product_bytes(self, rows: int) -> int:
        return self._bytes(rows, self.plan.abreast)

    def fitting(self, rows: int, budget: int) -> ProductPlan | None:
        """The plan with as many of `rows` vectors abreast as the budget allows; None for none."""
        return self.plan.narrowed(lambda abreast: self._bytes(rows, abreast), budget)

    def _bytes(self, rows: int, abreast: int) -> int:
        kept = [bytes_on_device(group.arrays) for group in self.maps]
        one = [size / group.weights.shape[0] for size, group in zip(kept, self.maps, strict=True)]
        return self.plan.demand.of_kept(rows, sum(kept), max(one), abreast)

    def validate(self) -> None:
        check_precision(self.plan.narrow, self.dtype)
        values = np.asarray(self.losses)
        check_losses(values, values, self.dtype)

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        flat = self.space.flatten if self.num_tasks is None else self.space.flatten_block
        used = used_rows(block) if block.shape[0] == PAIR and rows_are_over() is None else None

        def of_batch(linear: Callable[[PyTree], PyTree]) -> Float[Array, "*T k dim"]:
            def product(row: Int[Array, ""]) -> Float[Array, "*T dim"]:
                return flat(linear(self._row_as_tree(block, row)))

            rows = jnp.arange(block.shape[0], dtype=jnp.int32)
            return jnp.moveaxis(map_rows(product, rows, self.plan.abreast, used), 0, -2)

        return functools.reduce(operator.add, [maps.weighted_sum(of_batch) for maps in self.maps])

    def _row_as_tree(self, block: Float[Array, "k dim"], row: Int[Array, ""]) -> PyTree:
        if rows_are_over() is not None:  # places that are no constants would gather the block
            return self.space.widened(jax.lax.dynamic_index_in_dim(block, row, keepdims=False))
        leaves = [
            jnp.reshape(jax.lax.dynamic_slice(block, (row, start), (1, size)), shape)
            for start, size, shape in zip(
                self.starts, self.space.sizes, self.space.shapes, strict=True
            )
        ]
        return jax.tree.unflatten(self.space.treedef, leaves)
