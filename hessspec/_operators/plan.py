"""How much memory a product needs, and what is given up when there is too little."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from hessspec._base.arguments import whole_number
from hessspec._base.memory import require_memory
from hessspec._base.printing import counted
from hessspec._operators.modes import USUAL, Modes
from hessspec._operators.traces import inner_traces

BLOCK_ROWS = 16  # rows multiplied together; measured best for products in blocks

# Bytes alive in a compiled product, in bytes of the arrays that the linearised gradient keeps.
# Measured on fully connected, convolutional and elementwise losses: kept 0.5 to 1.25, recomputed
# 0.1 to 0.9 (docs/performance.md).
KEPT, RECOMPUTED = 1.25, 0.9
# What each further vector of a vectorised pass adds, by the same measure: 0.4 to 0.9.
ABREAST = 0.9
# The linearised gradient keeps at most this many arrays for each one in the loss.
_ARRAYS_FOR_ONE = 4.0


@dataclass(frozen=True)
class Demand:
    """What products of one operator need, in bytes of each device.

    Attributes:
        vector: one long vector, as estimators keep it.
        tasks: T.
        linearised: the arrays that a linearised gradient keeps for one batch, whole: how they lie
            is the compiler's choice.
        tree: one vector as a tree of parameters, which lies as those do. On a mesh that is no
            share of it where they are on every device.
    """

    vector: int
    tasks: int
    linearised: float
    tree: int

    def of(self, rows: int, rematerialize: bool, abreast: int = 1) -> int:
        """Bytes of one block: vectors in and out, those of the rows in work, the arrays kept."""
        kept = KEPT if rows > 1 and not rematerialize else RECOMPUTED
        more = ABREAST * (min(rows, abreast) - 1)
        return self._vectors(rows, abreast) + int((kept + more) * self.linearised)

    def of_kept(self, rows: int, kept: float, largest: float, abreast: int = 1) -> int:
        """The same where all batches are linearised already: `kept` bytes, `largest` of one."""
        more = ABREAST * (min(rows, abreast) - 1)
        return self._vectors(rows, abreast) + int(kept + (RECOMPUTED + more) * largest)

    def _vectors(self, rows: int, abreast: int) -> int:
        # In; out, added over batches, and once more where tasks are brought to the front, or where
        # several vectorised passes follow one another. Each row under way is in work.
        copies = (self.tasks > 1) + (1 < abreast < rows)
        in_work = 2 + self.tasks + (1 + self.tasks) * (min(rows, abreast) - 1)
        return rows * (1 + self.tasks * (1 + copies)) * self.vector + in_work * self.tree

    def plan(
        self,
        budget: int,
        block_rows: int | None = None,
        rematerialize: bool | None = None,
        modes: Modes = USUAL,
        abreast: int | None = None,
        vectorised: bool = False,
    ) -> ProductPlan:
        """The first that fits of: full blocks, smaller ones, and both again rematerialised.

        Then as many of their rows go abreast as fit, if they are to be `vectorised`; else one. What
        is given is not changed.

        Raises:
            TypeError: if `block_rows` or `abreast` is no whole number.
            ValueError: if it is below 1.
            MemoryError: if nothing fits, with the ways out.
        """
        if block_rows is not None:
            block_rows = whole_number("block_rows", block_rows)
        least = 1 if abreast is None else whole_number("abreast", abreast)
        sizes = [BLOCK_ROWS, 8, 4, 2] if block_rows is None else [block_rows]
        ways = [False, True] if rematerialize is None else [rematerialize]
        choices = [(rows, again) for again in ways for rows in sizes]
        if block_rows is None:
            choices.append((1, ways[-1]))
        for rows, again in choices:
            if self.of(rows, again, least) <= budget:
                most = rows if abreast is None and vectorised else least
                plan = ProductPlan(rows, again, self, budget, modes=modes, abreast=most)
                return plan.narrowed(plan.bytes_abreast, budget) or plan
        given = {"block_rows": block_rows, "rematerialize": rematerialize, "abreast": abreast}
        own = " and ".join(f"`{name}`" for name, value in given.items() if value is not None)
        require_memory(
            min(self.of(rows, again, least) for rows, again in choices),
            budget,
            f"a block of {counted(choices[-1][0], 'product')} with the Hessian",
            "raise `memory_budget`, split the data into smaller `Batches`, or let `where` choose "
            f"fewer parameters{f', or leave {own} to be chosen' if own else ''}",
        )
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class ProductPlan:
    """How an operator computes a block of products within its budget.

    Attributes:
        block_rows: vectors that estimators multiply together.
        rematerialize: whether the gradient is linearised anew for each vector (about 8/5 of the
            time) because what a shared linearisation keeps does not fit.
        demand: what products need, estimated.
        memory_budget: what was allowed, in bytes.
        kept: whether the gradient stays linearised between blocks, for a whole run.
        modes: by which orders of forward and reverse mode the loss is differentiated.
        narrow: a dtype narrower than theirs in which the loss computes with parameters, or "".
        abreast: vectors of a block that go through the loss together, in one vectorised pass.
    """

    block_rows: int
    rematerialize: bool
    demand: Demand
    memory_budget: int
    kept: bool = False
    modes: Modes = USUAL
    narrow: str = ""
    abreast: int = 1

    def __str__(self) -> str:
        if self.modes.products is None:
            return str(self.modes)
        often = "for each block of vectors"
        if self.kept:
            often = "once"
        elif self.rematerialize or self.block_rows == 1:
            often = "for each vector"
        order = f"{self.modes}, " if str(self.modes) else ""
        size = f"blocks of at most {self.block_rows}"
        if self.abreast > 1:
            size += f", {min(self.abreast, self.block_rows)} of them abreast"
        return f"{order}{size}, the gradient linearised {often}"

    def product_bytes(self, rows: int | None = None) -> int:
        """Estimate of what one compiled block of products needs: its vectors, not the data."""
        count = self.block_rows if rows is None else rows
        return self.demand.of(count, self.rematerialize, self.abreast)

    def bytes_abreast(self, abreast: int) -> int:
        """What a full block would need with so many of its vectors abreast."""
        return self.demand.of(self.block_rows, self.rematerialize, abreast)

    def narrowed(self, needed: Callable[[int], int], budget: int) -> ProductPlan | None:
        """This plan with as many vectors abreast as fit, or half, ...; None if not even one does.

        `needed(abreast)` is in bytes.
        """
        abreast = self.abreast
        while abreast > 1 and needed(abreast) > budget:
            abreast //= 2
        return replace(self, abreast=abreast) if needed(abreast) <= budget else None


def nbytes(tree: Any) -> float:
    """Bytes of all arrays in a tree, or of those that its shapes describe."""
    sizes = (
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )
    return float(sum(sizes))


def intermediate_bytes(trace: Any) -> float:
    """Bytes of all arrays that a traced function computes, those in loops once for each turn."""
    total = 0.0
    for equation in trace.eqns:
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += sum(turns * intermediate_bytes(body) for body in inner_traces(equation))
        total += sum(
            math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
            for variable in equation.outvars
            if hasattr(variable.aval, "dtype")
        )
    return total


def linearised_bound(trace: Any) -> float:
    """An upper bound of what the linearised gradient keeps, without differentiating anything."""
    return _ARRAYS_FOR_ONE * intermediate_bytes(trace)
