"""Adam for a handful of numbers that a weighting learns beside the network.

optax has it too; but a state of optax's Adam inside the state of a training would be found by
whoever looks there for the scale of the network's own steps (`hessspec.adam_scale`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Learnt(NamedTuple):
    """Numbers, the moving means of their gradients and of the squares of these, steps so far."""

    values: Float[Array, " T"]
    first: Float[Array, " T"]
    second: Float[Array, " T"]
    steps: Int[Array, ""]


def learnt(values: Float[Array, " T"]) -> Learnt:
    """The state before any step. No two arrays are one, so that a step may donate it."""
    first, second = jnp.zeros_like(values), jnp.zeros_like(values)
    return Learnt(values, first, second, jnp.zeros((), jnp.int32))


def learn(state: Learnt, gradient: Float[Array, " T"], rate: float, decay: float = 0.0) -> Learnt:
    """One step of Adam (0.9, 0.999, 1e-8), `decay` times the numbers added to their gradient.

    A gradient whose square would overflow counts as the longest whose square does not: with an
    infinite mean of squares the numbers would never move again.
    """
    most = 0.5 * jnp.finfo(gradient.dtype).max ** 0.5
    gradient = jnp.clip(gradient, -most, most)
    gradient = gradient + decay * state.values
    steps = state.steps + 1
    first = 0.9 * state.first + 0.1 * gradient
    second = 0.999 * state.second + 0.001 * gradient**2
    number = steps.astype(gradient.dtype)
    means, squares = first / (1 - 0.9**number), second / (1 - 0.999**number)
    return Learnt(state.values - rate * means / (jnp.sqrt(squares) + 1e-8), first, second, steps)
