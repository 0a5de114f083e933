"""Whether a loss of shape (T,) has one value for each example, where T losses of all were meant."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from traceback import walk_stack
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from hessspec._operators.over_data import DataOperator

# Batches that hold one entry for each of so many tasks are real (data sets side by side, a loss of
# each), and cannot be told from examples. More tasks than the 16 columns of QM8 are rare.
MANY_TASKS = 16

EACH_EXAMPLE = "if it has a value for each example, return their mean: `losses.mean()`"


def check_alike(shapes: Sequence[Any]) -> None:
    """Raise ValueError unless the losses of all batches have one shape.

    Losses that are no array, but a tree, are for the caller to refuse.
    """
    found = [shape.shape for shape in shapes if isinstance(shape, jax.ShapeDtypeStruct)]
    if len(set(found)) > 1:
        first = found[0]
        other = next(shape for shape in found if shape != first)
        raise ValueError(
            f"`loss_fn` must return the same shape for every batch, got {first} and {other} of "
            f"two batches; {EACH_EXAMPLE}."
        )


def warn_of_examples(
    operator: DataOperator, losses: Callable[[DataOperator], Float[Array, " T"]]
) -> None:
    """Warn if turning the examples of every batch round by one turns the losses round as well.

    The mean of all examples would stay as it is. Cost: two evaluations of the losses, only where
    there are more than 16 of them, as many as examples.
    """
    if operator.num_tasks is None or not operator.takes_batch:
        return
    if operator.streamed is not None:
        operator = operator._view(next(operator.streamed.groups()))
    count = operator.num_losses or 0
    if count <= MANY_TASKS or not all(_has_as_many(c.group.arrays, count) for c in operator.chunks):
        return
    turned = eqx.tree_at(
        lambda o: [chunk.group.arrays for chunk in o.chunks],
        operator,
        [
            jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), chunk.group.arrays)
            for chunk in operator.chunks
        ],
    )
    here, there = (np.asarray(losses(one), float) for one in (operator, turned))
    if not np.isfinite([here, there]).all():
        return
    within = 1e3 * np.finfo(operator.dtype).eps * np.abs(here).max()
    if np.all(np.abs(there - np.roll(here, 1)) <= within) and np.ptp(here) > within:
        warnings.warn(
            f"the loss returned shape ({count},), one value for each of the {count} examples of a "
            "batch, so each example is taken for a task with a Hessian of its own; for the Hessian "
            "of the whole return their mean (`losses.mean()`). If a Hessian of each example is "
            "meant, this can be ignored.",
            UserWarning,
            stacklevel=_level_outside(),
        )


def _level_outside() -> int:
    """The `stacklevel` of the line that called this package, as seen from the caller."""
    frames = walk_stack(sys._getframe(1))
    ours = (frame.f_globals.get("__name__", "").split(".")[0] == "hessspec" for frame, _ in frames)
    return max(level for level, own in enumerate(ours, start=2) if own)


def _has_as_many(arrays: Any, count: int) -> bool:
    """Whether all leaves, batches stacked in front, have `count` entries in each batch."""
    leaves = jax.tree.leaves(arrays)
    return len(leaves) > 0 and all(leaf.shape[1:2] == (count,) for leaf in leaves)
