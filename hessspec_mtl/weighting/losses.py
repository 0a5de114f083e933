"""Weights from the losses alone: one pass back, whatever the number of tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hessspec_mtl.weighting.logits import Learnt, learn, learnt
from hessspec_mtl.weighting.transformation import Weighed, Weighting, unit_mean

# What is added to a loss before its logarithm is taken, as FAMO's authors do.
_LEAST = 1e-8


def _floats(num_tasks: int, value: float) -> Float[Array, " T"]:
    return jnp.full(num_tasks, value, float)


def uncertainty(*, rate: float = 2e-3) -> Weighting:
    """w_t = exp(-s_t) of a learnt log variance s_t, which lowers ½ Σ_t (exp(-s_t) L_t + s_t).

    Where the losses stay, s_t = log L_t: a task counts by the inverse of its own loss, and scaling
    a loss changes nothing in the end. The paper learns s_t with the network; here by Adam of its
    own rate, at the same step.

    Args:
        rate: of Adam, for s_t, which starts at 0.

    Raises:
        ValueError: if `rate` is not positive.

    Source: Kendall, Gal and Cipolla (2018), as `lorenmt/mtan` (`im2im_pred/utils.py`: L / (2 e^s)
    + s / 2) and `yaringal/multi-task-learning-example` have it; ½ is left out of the weights. The
    paper's text was not at hand.
    """
    require_positive("rate", rate)

    def weigh(losses: Array, gramian: Any, state: Learnt) -> Weighed:
        del gramian
        weights = jnp.exp(-state.values).astype(losses.dtype)
        # A loss of 0 is that of a batch without the task's target: it says nothing of its size.
        gradient = jnp.where(losses == 0, 0, 0.5 * (1 - weights * losses))
        return weights, learn(state, gradient.astype(state.values.dtype), rate)

    return Weighting(
        "uncertainty weighting", lambda n: learnt(_floats(n, 0.0)), weigh, weighs_heads=True
    )


class Windows(NamedTuple):
    """Sums of the losses over the window that is filled, the means of the two before, counts."""

    running: Float[Array, " T"]
    last: Float[Array, " T"]
    before: Float[Array, " T"]
    steps: Int[Array, ""]
    windows: Int[Array, ""]


def dynamic_weight_average(window: int, *, temperature: float = 2.0) -> Weighting:
    """w_t = T softmax(r_t / temperature), r_t = L_t(e - 1) / L_t(e - 2), means over two epochs.

    A loss that falls more slowly than others weighs more. During the first two windows all weights
    are 1. Multiplying a loss by a constant changes nothing. A task that was without a target in one
    of the two windows (a mean of 0) has r_t = 1.

    Args:
        window: steps of an epoch, over which losses are averaged.
        temperature: the larger, the more equal are the weights.

    Raises:
        ValueError: if `window` is below 1 or `temperature` not positive.

    Source: Liu, Johns and Davison (2019), as in `lorenmt/mtan`, the authors' own, whose
    `im2im_pred/utils.py` (`multi_task_trainer`) was read.
    """
    if window < 1:
        raise ValueError(f"`window` must be at least 1, got {window}.")
    require_positive("temperature", temperature)

    def start(num_tasks: int) -> Windows:
        running, last, before = (_floats(num_tasks, value) for value in (0.0, 1.0, 1.0))
        steps, windows = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return Windows(running, last, before, steps, windows)

    def weigh(losses: Array, gramian: Any, state: Windows) -> Weighed:
        del gramian
        # A window without a task's target has the mean 0, to which nothing compares.
        both = (state.last > 0) & (state.before > 0)
        ratios = jnp.where(both, state.last / jnp.where(both, state.before, 1), 1)
        ratios = jnp.minimum(ratios, jnp.finfo(ratios.dtype).max)
        weights = losses.size * jax.nn.softmax(ratios / temperature)
        weights = jnp.where(state.windows < 2, jnp.ones_like(weights), weights)
        running = state.running + losses.astype(state.running.dtype)
        is_full = state.steps + 1 == window
        new = Windows(
            running=jnp.where(is_full, jnp.zeros_like(running), running),
            last=jnp.where(is_full, running / window, state.last),
            before=jnp.where(is_full, state.last, state.before),
            steps=jnp.where(is_full, 0, state.steps + 1).astype(jnp.int32),
            windows=state.windows + is_full.astype(jnp.int32),
        )
        return weights.astype(losses.dtype), new

    return Weighting("dynamic weight average", start, weigh, weighs_heads=True)


def famo(*, rate: float = 0.025, decay: float = 0.01) -> Weighting:
    """w_t ∝ z_t / L_t with z = softmax(ξ): descent on the logarithms of the losses, balanced.

    d is the gradient of Σ z_t log L_t over Σ z_t / L_t, so that Σ_t w_t = T. After the step
    the losses are looked at again, on the same data: ξ descends along J'(log L_before -
    log L_after), J the Jacobian of the softmax, by Adam. So a task that fell less than others
    gains; if all fall by the same share nothing changes, and the sum of this gradient is always 0.
    Multiplying a loss by a constant changes the direction by a factor alone. Losses are not to be
    negative; one that is exactly 0, of a batch without the task's target, is left out of both.

    Args:
        rate: of Adam for ξ, which starts at 0.
        decay: weight decay of ξ, added to its gradient.

    Raises:
        ValueError: if `rate` is not positive or `decay` negative.

    Source: Liu et al. (2023), arXiv 2306.03792, by the authors' code `Cranial-XIX/FAMO`, `famo.py`,
    whose defaults these are; its clipping of gradients is left to the optimiser.
    """
    require_positive("rate", rate)
    if decay < 0:
        raise ValueError(f"`decay` must be at least 0, got {decay}.")

    def weigh(losses: Array, gramian: Any, state: Learnt) -> Weighed:
        del gramian
        counted = losses != 0
        shares = shares_of(state.values, counted).astype(losses.dtype)
        return unit_mean(shares / (losses + _LEAST), counted), state

    def seen(before: Array, after: Array, state: Learnt) -> Learnt:
        return learn(state, famo_gradient(before, after, state.values), rate, decay)

    return Weighting(
        "FAMO",
        lambda n: learnt(_floats(n, 0.0)),
        weigh,
        seen,
        looks_again=True,
        weighs_heads=True,
    )


def famo_gradient(
    before: Float[Array, " T"], after: Float[Array, " T"], logits: Float[Array, " T"]
) -> Float[Array, " T"]:
    """J'(log L_before - log L_after) for z = softmax(ξ): z_t (δ_t - Σ_u z_u δ_u)."""
    fall = jnp.log(before + _LEAST) - jnp.log(after + _LEAST)
    fall, shares = fall.astype(logits.dtype), shares_of(logits, before != 0)
    return shares * (fall - jnp.sum(shares * fall))


def shares_of(logits: Float[Array, " T"], counted: Bool[Array, " T"]) -> Float[Array, " T"]:
    """The softmax over the tasks that count, 0 for the others."""
    return jnp.where(
        counted, jax.nn.softmax(jnp.where(counted | ~counted.any(), logits, -jnp.inf)), 0
    )


def require_positive(name: str, value: float) -> None:
    """Raise unless `value` is positive and finite."""
    if not (value > 0 and value < float("inf")):
        raise ValueError(f"`{name}` must be positive and finite, got {value}.")
