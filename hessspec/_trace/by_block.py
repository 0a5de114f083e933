"""The traces of blocks of parameters, from the same samples.

A block is a set of leaves, and its trace Σ H_ii over its entries. With D the projection on them it
is the trace of (D H + H D)/2, whose form is vᵀD H v: the part of vᵀ(Hv) that lies in the block. So
blocks are to the estimators what tasks are: one basis and one set of probes for all, and forms that
add up. Beside a basis Q, with w the probe outside it, Σ_{i in block} [(H QᵀQ)_ii + w_i (Hw)_i] is
an unbiased sample, since E[Hw wᵀ] = H (I - QᵀQ).
"""

from collections.abc import Hashable
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.origin import about
from hessspec._base.probes import rademacher_on
from hessspec._base.signatures import explained
from hessspec._base.space import VectorSpace
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import skips_zeros
from hessspec._operators.symmetry import Symmetry
from hessspec._operators.verbs import By
from hessspec._trace.blocks import BlockTraces
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, guarded

LOOKED = 4  # products of each task that show how symmetric H is, since forms here do not


def blocks_of(by: By, space: VectorSpace) -> dict[Hashable, list[int]]:
    """The leaves of each block, blocks in the order of their first leaf.

    Raises:
        TypeError: if `by` is no function of path and leaf, or returns what no dict can hold.
    """
    if not callable(by):
        raise TypeError(
            f"`by` must be a function of path and leaf, got {type(by).__name__}; for each leaf's "
            "trace pass `by=lambda path, leaf: path`."
        )
    found: dict[Hashable, list[int]] = {}
    for number, (path, shape, dtype) in enumerate(
        zip(space.paths, space.shapes, space.dtypes, strict=True)
    ):
        leaf = jax.ShapeDtypeStruct(shape, dtype)
        with explained(by, (path, leaf), "by(path, leaf)", "let it take both"):
            name = by(path, leaf)
        if not isinstance(name, Hashable):
            raise TypeError(
                f"`by` must return the name of a block, such as a string, got "
                f"{type(name).__name__} at `{path}`"
            )
        found.setdefault(name, []).append(number)
    return found


class Blockwise(AbstractOperator):
    """T tasks and B blocks as T·B tasks: block b of task t is number t·B + b.

    Not for users. It has forms, at a product of each task, and no products of its own.
    """

    inner: AbstractOperator
    blocks: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __init__(self, inner: AbstractOperator, blocks: tuple[tuple[int, ...], ...]) -> None:
        self.inner, self.blocks = inner, blocks

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The space of all blocks."""
        return self.inner.space

    @property
    def num_tasks(self) -> int:  # type: ignore[override]
        """T·B."""
        return (self.inner.num_tasks or 1) * len(self.blocks)

    @property
    def has_products(self) -> bool:
        return False

    @property
    def form_cost(self) -> float:
        return float(self.inner.num_tasks or 1)

    @property
    def tasks_counted(self) -> int:
        return self.inner.num_tasks or 1

    @property
    def block_rows(self) -> int:
        return self.inner.block_rows

    @property
    def skips_zeros(self) -> bool:
        """As for products with the whole."""
        return skips_zeros(self.inner)

    @property
    def product_plan(self) -> str:
        return self.inner.product_plan

    def product_bytes(self, rows: int) -> int:
        return self.inner.product_bytes(rows)

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self.inner.rows(block)  # what is not finite is looked for in these

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "TB k"]:
        rows = self.inner.rows(block)
        whole = rows if self.inner.num_tasks is not None else rows[None]
        return _block_forms(whole, block, self.space.sizes, self.blocks)

    def _weighted(self, weights: Float[Array, " TB"]) -> AbstractOperator:
        # A basis for all blocks of a task holds directions of the task.
        if self.inner.num_tasks is None:
            return self.inner
        return self.inner.weighted(weights.reshape(-1, len(self.blocks)).mean(axis=1))


@partial(jax.jit, static_argnums=(2, 3))
def _block_forms(
    rows: Float[Array, "T k dim"],
    block: Float[Array, "k dim"],
    sizes: tuple[int, ...],
    blocks: tuple[tuple[int, ...], ...],
) -> Float[Array, "TB k"]:
    ends = np.cumsum(sizes)[:-1].tolist()
    pairs = zip(jnp.split(rows, ends, axis=-1), jnp.split(block, ends, axis=-1), strict=True)
    leaves = [jnp.einsum("tkp,kp->tk", a, b, precision="highest") for a, b in pairs]
    sums = jnp.stack([sum(leaves[i] for i in members) for members in blocks], axis=1)
    return sums.reshape(-1, block.shape[0])


def looked_at(operator: AbstractOperator) -> Float[np.ndarray, " T"]:
    """How far rounding may have moved a trace, for each task. Cost: `LOOKED` products of each.

    Raises:
        ValueError: if products are not symmetric.
    """
    tasks = operator.num_tasks
    dim, dtype = operator.dim, jnp.dtype(operator.dtype)
    signs = rademacher_on(jax.random.key(0), jnp.arange(LOOKED), dim, dtype, operator.mesh)
    rows, parts = operator.measured_rows(signs)  # of all tasks, by the program of the samples
    if tasks is None:
        found = [guarded(rows, parts, signs, Symmetry(operator))]
    else:
        of_task = [None] * tasks if parts is None else list(parts)
        found = [
            guarded(rows[t], of_task[t], signs, Symmetry(operator.task(t))) for t in range(tasks)
        ]
    return np.array([SURE * one.asymmetry for one in found])


def by_name(
    found: TraceEstimate,
    sizes: dict[Hashable, int],
    operator: AbstractOperator,
) -> BlockTraces:
    """The estimate of all tasks and blocks as one for each block, of all tasks, with its own P."""
    tasks, count = operator.num_tasks, len(sizes)
    rounding = np.asarray(found.systematic)[::count]  # the same for all blocks of a task
    common = {
        "pair_covariance": None,
        "square": None,
        "num_matvecs": found.num_matvecs + LOOKED * (tasks or 1),
        "matvecs_per_sample": float(tasks or 1),
    }

    def of(number: int, name: Hashable, size: int) -> TraceEstimate:
        chosen = number if tasks is None else slice(number, None, count)
        return replace(
            found,
            dim=size,
            samples=np.asarray(found.samples)[chosen],
            exact=np.asarray(found.exact)[chosen],
            systematic=rounding[0] if tasks is None else rounding,
            quantity=f"tr H of block {name!r}",
            origin=about(found.origin, f"block {name!r}"),
            **common,
        )

    estimates = (of(number, name, size) for number, (name, size) in enumerate(sizes.items()))
    return BlockTraces(tuple(estimates), tuple(sizes))
