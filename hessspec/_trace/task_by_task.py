"""A few products with the Hessians of all tasks, by the programs of one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.space import VectorSpace
from hessspec._operators.algebra import AbstractOperator


class TaskByTask:
    """H_t v of all tasks, one task after the other.

    A program for the products of all tasks at once shares their forward pass, and takes as long to
    compile as that of one task with its linearised gradient. Those are what a density of the tasks
    or a basis of their trace runs too: two rows are multiplied by what is compiled already.

    Args:
        operator: with a task axis.
        room: bytes for what the products of a task have in common.
    """

    def __init__(self, operator: AbstractOperator, room: int) -> None:
        assert operator.num_tasks is not None
        self.operator, self.num_tasks, self.room = operator, operator.num_tasks, room

    @property
    def space(self) -> VectorSpace:
        """That of the operator."""
        return self.operator.space

    @property
    def dtype(self) -> np.dtype:
        """That of the vectors."""
        return self.operator.dtype

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "T k dim"], Float[Array, "T k"] | None]:
        """As `AbstractOperator.measured_rows`."""
        tasks = map(self.operator.task, range(self.num_tasks))
        found = [one.linearised(len(block), self.room).measured_rows(block) for one in tasks]
        lengths = [length for _, length in found if length is not None]
        rows = jnp.stack([row for row, _ in found])
        return rows, jnp.stack(lengths) if lengths else None
