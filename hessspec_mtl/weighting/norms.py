"""Weights from the lengths of the gradients: GradNorm's learnt ones, and their inverse lengths."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessspec_mtl.weighting.logits import Learnt, learn, learnt
from hessspec_mtl.weighting.losses import require_positive
from hessspec_mtl.weighting.transformation import (
    State,
    Weighed,
    Weighting,
    has_gradient,
    unit_mean,
)

# No weight falls below this: steps of a learnt weight have a size of their own and may overshoot 0.
_LEAST_WEIGHT = 1e-3


class Started(NamedTuple):
    """The learnt weights, the losses of the first step, and whether that has been."""

    learnt: Learnt
    initial: Float[Array, " T"]
    begun: Bool[Array, ""]


def gradnorm(*, alpha: float = 1.5, rate: float = 0.025) -> Weighting:
    """Weights learnt so that the weighted gradients have lengths that suit each task's progress.

    With ℓ_t = L_t / L_t(0) and r_t = ℓ_t / mean ℓ, the weights lower Σ_t | w_t|g_t| - c_t |, where
    c_t = mean(w|g|) r_t^α is held fixed; then they are scaled to sum to T. So a task behind the
    others is to have the longer gradient. The lengths are over all shared parameters (the paper
    takes the last shared layer), and no weight falls below 1e-3.

    Args:
        alpha: how strongly progress counts; 0 makes the weighted gradients equally long.
        rate: of Adam for the weights.

    Raises:
        ValueError: if `alpha` is negative or `rate` not positive.

    Source: Chen et al. (2018), arXiv 1711.02257, as two public implementations have it that were
    read: `SamsungLabs/MTL` (`code/optim/gradnorm/balancer.py`) and TorchJD
    (`aggregation/gradnorm_wrapper.py`, whose α this is). The paper's text was not at hand.
    """
    if not alpha >= 0:
        raise ValueError(f"`alpha` must be at least 0, got {alpha}.")
    require_positive("rate", rate)

    def start(num_tasks: int) -> Started:
        weights, initial = jnp.ones(num_tasks, float), jnp.ones(num_tasks, float)
        return Started(learnt(weights), initial, jnp.zeros((), bool))

    def weigh(losses: Array, gramian: Array, state: Started) -> Weighed:
        counted = has_gradient(gramian)
        initial = jnp.where(state.begun, state.initial, losses.astype(state.initial.dtype))
        weights = state.learnt.values.astype(losses.dtype)
        lengths = jnp.sqrt(jnp.diagonal(gramian))
        targets = gradnorm_targets(
            weights * lengths, losses, initial.astype(losses.dtype), counted, alpha
        )
        gradient = jnp.where(counted, lengths * jnp.sign(weights * lengths - targets), 0)
        new = learn(state.learnt, gradient.astype(state.learnt.values.dtype), rate)
        values = unit_mean(jnp.maximum(new.values, _LEAST_WEIGHT))
        return weights, Started(new._replace(values=values), initial, jnp.ones((), bool))

    return Weighting("GradNorm", start, weigh, needs_gramian=True)


def gradnorm_targets(
    lengths: Float[Array, " T"],
    losses: Float[Array, " T"],
    initial: Float[Array, " T"],
    counted: Bool[Array, " T"],
    alpha: float,
) -> Float[Array, " T"]:
    """mean(w|g|) r_t^α, the lengths that the weighted gradients should have; means over counted."""
    number = jnp.maximum(counted.sum(), 1).astype(losses.dtype)
    mean = jnp.where(counted, lengths, 0).sum() / number
    progress = losses / jnp.maximum(initial, jnp.finfo(losses.dtype).tiny)
    return mean * unit_mean(progress, counted) ** alpha


def inverse_gradient_norm(*, exponent: float = 0.5) -> Weighting:
    """w_t ∝ (Σ_u |g_u|² / |g_t|²)^exponent, with mean 1: NTKMTL with one example a task.

    With the batch's mean loss as the one output of a task, its neural tangent kernel is the number
    |g_t|². With `exponent` ½ all weighted gradients have one length, and d does not depend on the
    scales of the losses but for a factor.

    Args:
        exponent: ½ in the paper's code.

    Raises:
        ValueError: if `exponent` is not positive.

    Source: Qin et al. (2025), arXiv 2510.18258, by the authors' code `jianke0604/NTKMTL`,
    `methods/weight_methods.py`, `NTKMTL.ntkgrad`; weights are scaled to a mean of 1 here.
    """
    require_positive("exponent", exponent)

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        del losses
        counted, squares = has_gradient(gramian), jnp.diagonal(gramian)
        # The sum that all share falls out with the mean.
        inverse = jnp.where(counted, squares, 1) ** -exponent
        return unit_mean(inverse, counted), state

    return Weighting("NTKMTL", _nothing, weigh, needs_gramian=True)


def _nothing(num_tasks: int) -> Any:
    del num_tasks
    return ()
