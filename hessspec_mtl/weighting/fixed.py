"""Weights that no task has a say in: equal, fixed beforehand, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from hessspec_mtl.weighting.transformation import State, Weighed, Weighting


def equal() -> Weighting:
    """w_t = 1: the sum of the losses."""

    def weigh(losses: Array, gramian: Any, state: State) -> Weighed:
        del gramian
        return jnp.ones_like(losses), state

    return Weighting("equal weighting", lambda num_tasks: (), weigh, weighs_heads=True)


def fixed(weights: Sequence[float]) -> Weighting:
    """The same weights at every step, as tuned on validation data, say.

    Raises:
        ValueError: if they are not finite, one is negative, or all are 0; from `init`, if there are
            not as many as tasks.
    """
    given = np.array(weights, np.float64)
    if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise ValueError(
            "`weights` must be finite numbers, none negative and not all 0, one a task; got "
            f"{list(weights)}."
        )

    def start(num_tasks: int) -> State:
        if num_tasks != given.size:
            raise ValueError(
                f"`weights` must be one a task, got {given.size} for {num_tasks} tasks."
            )
        return ()

    def weigh(losses: Array, gramian: Any, state: State) -> Weighed:
        del gramian
        return jnp.asarray(given, losses.dtype), state

    return Weighting("fixed weighting", start, weigh, weighs_heads=True)


class Draws(NamedTuple):
    """A key, and how many steps have drawn from it."""

    key: PRNGKeyArray
    steps: Int[Array, ""]


def draws(key: PRNGKeyArray) -> Draws:
    """The state of a method that draws anew at each step."""
    return Draws(key, jnp.zeros((), jnp.int32))


def next_draw(state: Draws) -> tuple[PRNGKeyArray, Draws]:
    """The key of this step, and the state of the next."""
    return jax.random.fold_in(state.key, state.steps), state._replace(steps=state.steps + 1)


def random_weights(key: PRNGKeyArray) -> Weighting:
    """T softmax(z) with z drawn anew from a normal distribution at each step.

    Source: Lin et al. (2021), arXiv 2111.10603, as AvivNavon/nash-mtl has it
    (`methods/weight_methods.py`, RLW), times T; the paper's text was not at hand.
    """

    def weigh(losses: Array, gramian: Any, state: Draws) -> Weighed:
        del gramian
        now, state = next_draw(state)
        drawn = jax.random.normal(now, losses.shape, losses.dtype)
        return losses.size * jax.nn.softmax(drawn), state

    return Weighting("random weighting", lambda num_tasks: draws(key), weigh, weighs_heads=True)
