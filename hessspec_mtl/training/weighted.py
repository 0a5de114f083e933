"""A training step in which the tasks' losses are weighted, as one pure function.

The state of the weighting goes where the optimizer's state goes, into the same checkpoints. With
equal weights there is none, and the step is the plain one of `programs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from hessspec_mtl.graphs import GraphBatch
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.network.tasks import is_shared
from hessspec_mtl.training.measuring import Measuring, measuring
from hessspec_mtl.training.weightings import MEASURES, Choice, made
from hessspec_mtl.weighting import combined, gramian

_PROBES = 18  # the stream of the curvature's probes


class WeightedState(NamedTuple):
    """The optimizer's state, the weighting's, that of its measuring, and what that draws from.

    `key` and `steps` are the stream of the probes and the steps taken so far.
    """

    optimizer: Any
    weighting: Any
    measuring: Any
    key: PRNGKeyArray
    steps: Int[Array, ""]


Step = Callable[[Params, WeightedState, GraphBatch, Any], tuple[Params, WeightedState, Array]]


def weighted_step(
    network: NetworkConfig,
    choice: Choice,
    optimizer: optax.GradientTransformation,
    losses_of: Callable[[Params, GraphBatch], tuple[Array, Array]],
) -> tuple[Callable[[Params], WeightedState], Step]:
    """How the state begins, and the step; `losses_of` gives the tasks' losses and sums of errors.

    A step returns sums like `error_sums` with one row more: the weights, times the graphs of the
    batch, so that sums over an epoch are means of the weights over its graphs.

    Methods that read the losses alone cost one pass back, others one a task; the curvature is
    measured before every `measure_every`-th step, the first included.

    Raises:
        ValueError: if the weights of "fixed" are not as many as the tasks.
    """
    method, tasks = made(choice), len(network.tasks)
    if choice.task_weights and len(choice.task_weights) != tasks:
        raise ValueError(
            f"`task_weights` (--train.task-weights) must be one a task, got "
            f"{len(choice.task_weights)} for {tasks}: {', '.join(network.tasks)}."
        )
    curvature = measuring(MEASURES[choice.name], network) if method.needs_curvature else None

    def init(params: Params) -> WeightedState:
        return WeightedState(
            optimizer=optimizer.init(params),
            weighting=method.init(tasks),
            measuring=() if curvature is None else curvature.start(params),
            key=jax.random.key(_PROBES),
            steps=jnp.zeros((), jnp.int32),
        )

    def step(
        params: Params, state: WeightedState, batch: GraphBatch, measured: Any
    ) -> tuple[Params, WeightedState, Array]:
        if curvature is not None:
            state = _measured(method, curvature, choice.measure_every, params, state, measured)
        losses, back, sums = jax.vjp(lambda p: losses_of(p, batch), params, has_aux=True)
        if method.needs_gramian:
            identity = jnp.eye(tasks, dtype=losses.dtype)
            gradients = jax.lax.map(lambda one: back(one)[0], identity)
            products = gramian(gradients, is_shared)
            weights, told = method.update(losses, state.weighting, products)
            where = None if method.weighs_heads else is_shared
            gradient = combined(weights, gradients, where=where)
        else:
            weights, told = method.update(losses, state.weighting)
            (gradient,) = back(weights)
        updates, inner = optimizer.update(gradient, state.optimizer, params)
        updated: Any = optax.apply_updates(params, updates)
        if method.looks_again:
            told = method.after(losses, losses_of(updated, batch)[0], told)
        new = state._replace(optimizer=inner, weighting=told, steps=state.steps + 1)
        with_weights = jnp.concatenate([sums, (weights * batch.mask.sum())[None]])
        return updated, new, with_weights

    return init, step


def _measured(
    method: Any,
    curvature: Measuring,
    every: int,
    params: Params,
    state: WeightedState,
    batch: GraphBatch,
) -> WeightedState:
    """The state after the curvature was measured, if that is due."""

    def now(state: WeightedState) -> WeightedState:
        key = jax.random.fold_in(state.key, state.steps)
        values, errors, kept = curvature.measure(
            params, state.optimizer, batch, key, state.measuring
        )
        told = method.told_curvature(values, errors, state.weighting)
        return state._replace(weighting=told, measuring=kept)

    return jax.lax.cond(state.steps % every == 0, now, lambda state: state, state)


def seeded(state: Any, seed: int) -> Any:
    """`state` with `seed` folded into each of its keys."""

    def leaf_of(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.vmap(lambda key: jax.random.fold_in(key, seed))(leaf.ravel()).reshape(leaf.shape)

    return jax.tree.map(leaf_of, state)
