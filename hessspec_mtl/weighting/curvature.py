"""Weights from curvature that cannot change its sign, measured now and then with an error.

A trace of H_t may be negative, and is along training; then 1 / tr H_t is no weight. These cannot:
tr G_t of the Gauss-Newton part, |H_t|_F, the largest eigenvalue, that of D H_t D for the diagonal
by which Adam scales its steps. Whichever is measured, log κ_t is followed by a Kalman filter:

    between measurements    v_t grows by `drift`
    a measurement of relative error ε    gain = v / (v + ε²),
                                         m ← m + gain (log κ - m),  v ← (1 - gain) v

So where an interval is narrow the new number is taken, and where it is wide the old one stays. The
first one has nothing but the prior to lean on, that all tasks are alike: the mean of log κ over the
tasks, each counted by its precision, with the variance `spread`². With an infinite error nothing is
learnt and the weights stay equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessspec_mtl.weighting.losses import require_positive
from hessspec_mtl.weighting.transformation import Weighed, Weighting, unit_mean


class LogCurvature(NamedTuple):
    """What is believed of log κ_t: mean and variance by task, and whether there is anything yet."""

    mean: Float[Array, " T"]
    variance: Float[Array, " T"]
    begun: Bool[Array, ""]


def inverse_curvature(*, power: float = 1.0, drift: float = 0.1, spread: float = 2.0) -> Weighting:
    """w_t ∝ κ_t^(-power) with mean 1, of curvatures κ_t > 0 that `told_curvature` is told of.

    With `power` 1 the weighted losses have equal curvatures, and scaling a loss, which scales its
    κ too, changes no weighted loss but for a factor common to all. With ½ and κ = tr G_t it is the
    rule of inverse roots of neural tangent kernels' traces: for squared losses, |J_t|^(-1).

    Args:
        power: how strongly curvature counts.
        drift: variance that log κ gains from one measurement to the next.
        spread: standard deviation of log κ between tasks before anything is known.

    Raises:
        ValueError: if a number is not positive.

    Source: derived here. The power ½ of a trace is the n = 1 case of Qin et al. (2025), arXiv
    2510.18258, as in `jianke0604/NTKMTL`, with the examples' kernels in place of their mean's.
    """
    for name, value in (("power", power), ("drift", drift), ("spread", spread)):
        require_positive(name, value)

    def start(num_tasks: int) -> LogCurvature:
        zeros = jnp.zeros(num_tasks, float)
        return LogCurvature(zeros, zeros + spread**2, jnp.zeros((), bool))

    def weigh(losses: Array, gramian: Any, state: LogCurvature) -> Weighed:
        del gramian
        # Around their mean, since only ratios matter and κ itself may overflow.
        logs = -power * (state.mean - state.mean.mean())
        return unit_mean(jnp.exp(logs)).astype(losses.dtype), state

    def measured(curvature: Array, error: Array, state: LogCurvature) -> LogCurvature:
        dtype = state.mean.dtype
        logs, noise = jnp.log(curvature).astype(dtype), jnp.square(error).astype(dtype)
        known = jnp.isfinite(noise)
        precision = jnp.where(known, 1 / (spread**2 + jnp.where(known, noise, 1)), 0)
        total = precision.sum()
        common = jnp.sum(precision * logs) / jnp.where(total > 0, total, 1)
        mean = jnp.where(state.begun, state.mean, common)
        variance = state.variance + jnp.where(state.begun, drift, 0.0).astype(dtype)
        gain = jnp.where(known, variance / (variance + jnp.where(known, noise, 1)), 0)
        new = LogCurvature(mean + gain * (logs - mean), (1 - gain) * variance, known.any())
        return new._replace(begun=state.begun | new.begun)

    return Weighting(
        "inverse curvature",
        start,
        weigh,
        measured=measured,
        needs_curvature=True,
        weighs_heads=True,
    )
