"""The compiled programs of training: a step, an epoch, and errors without a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from hessspec_mtl.graphs import GraphBatch, Padding
from hessspec_mtl.network.model import NetworkConfig, Params, predict
from hessspec_mtl.training.batches import epoch_members
from hessspec_mtl.training.config import LOSSES, OPTIMIZERS, TrainConfig
from hessspec_mtl.training.evaluation import error_sums, evaluation
from hessspec_mtl.training.resident import ResidentGraphs
from hessspec_mtl.training.weighted import weighted_step
from hessspec_mtl.training.weightings import Choice


@dataclass(frozen=True)
class Optimization:
    """What the programs of training depend on, beside the learning rate, which they are told.

    Trainings of equal ones share their compiled programs, whatever their rates and seeds are.
    """

    optimizer: str
    last_constant_epoch: int
    decay_rate: float
    warmup_steps: int
    batch_size: int
    steps_per_epoch: int
    weighting: str = "equal"
    task_weights: tuple[float, ...] = ()
    measure_every: int = 1
    loss: str = "squared"
    reduction: str = "mean"

    @classmethod
    def of(cls, config: TrainConfig, num_examples: int) -> Optimization:
        return cls(
            config.optimizer,
            config.last_constant_epoch,
            config.decay_rate,
            config.warmup_steps,
            config.batch_size,
            -(-num_examples // config.batch_size),
            config.weighting,
            config.task_weights,
            config.measure_every,
            config.loss,
            config.reduction,
        )

    @property
    def choice(self) -> Choice:
        """What the weighting of the tasks is made from."""
        return Choice(self.weighting, self.task_weights, self.steps_per_epoch, self.measure_every)

    def schedule(self, learning_rate: Float[Array, ""], count: Int[Array, ""]) -> Array:
        """The rate after `count` steps: that of `TrainConfig.learning_rate_at`, and warm-up."""
        epoch = count // self.steps_per_epoch + 1
        decays = jnp.maximum(0, epoch - self.last_constant_epoch).astype(jnp.float32)
        rate = learning_rate * jnp.float32(self.decay_rate) ** decays
        if self.warmup_steps == 0:
            return rate
        return rate * jnp.minimum(1.0, (count + 1) / self.warmup_steps).astype(jnp.float32)


@dataclass(frozen=True)
class Programs:
    """What runs on the device. A state that goes in is used up; `rate` is `learning_rate`'s.

    Sums are over the graphs of a batch, of squared and absolute errors by task, weighted where
    targets are missing.

    Attributes:
        init: (params) -> the state of the optimizer, and of the weights where tasks are weighted.
        step: (params, opt_state, batch, measured, rate) -> (params, opt_state, sums).
        evaluation: (params, batch) -> (predictions of each graph, sums).
        epoch: (params, opt_state, graphs, key, epoch, padding, measured, rate) -> (params,
            opt_state, sums of each batch); all its steps are one program, in which the host has no
            part.
        stretch: (the same, first, last) -> the same of the steps after `first` up to `last` of the
            epoch; sums of the others are 0. The bounds are arguments, so that one program serves
            stretches of any length.
        all_sums: (params, graphs, members of each batch, padding) -> sums of each batch.
    """

    init: Callable[[Params], Any]
    step: Callable[..., Any]
    evaluation: Callable[..., Any]
    epoch: Callable[..., Any]
    stretch: Callable[..., Any]
    all_sums: Callable[..., Any]


# Linux grants a process 65,530 maps of memory, and a compiled training takes thousands of them: one
# that goes through dozens of weightings would end in LLVM's "Cannot allocate memory". A study needs
# as many as its tasks and one more.
_KEPT = 8


@lru_cache(maxsize=_KEPT)
def programs(network: NetworkConfig, optimization: Optimization) -> Programs:
    """The programs that train `network`; they compile when they are first called.

    Those of the last few calls are kept and given again.
    """
    which = LOSSES.index(optimization.loss)

    def sums_of(params: Params, batch: GraphBatch) -> Float[Array, "metrics tasks"]:
        return error_sums(predict(params, batch, network), batch)

    def losses(params: Params, batch: GraphBatch) -> tuple[Float[Array, " tasks"], Array]:
        sums = sums_of(params, batch)
        of_tasks = sums[which]
        return of_tasks / batch.mask.sum() if optimization.reduction == "mean" else of_tasks, sums

    def objective(params: Params, batch: GraphBatch) -> tuple[Float[Array, ""], Array]:
        sums = sums_of(params, batch)
        total = sums[which].sum()  # summed first: runs that were begun so go on to the same digits
        return total / batch.mask.sum() if optimization.reduction == "mean" else total, sums

    def stepping(rate: Float[Array, ""]) -> tuple[Callable[[Params], Any], Callable[..., Any]]:
        """How a state begins, and a step at the learning rate `rate`."""
        optimizer = OPTIMIZERS[optimization.optimizer](partial(optimization.schedule, rate))
        if optimization.weighting != "equal":
            return weighted_step(network, optimization.choice, optimizer, losses)

        def plain_step(
            params: Params, opt_state: Any, batch: GraphBatch, measured: GraphBatch | None
        ) -> tuple[Params, Any, Array]:
            del measured
            gradient, sums = jax.grad(objective, has_aux=True)(params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            updated: Any = optax.apply_updates(params, updates)
            return updated, opt_state, sums

        return optimizer.init, plain_step

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Params,
        opt_state: Any,
        batch: GraphBatch,
        measured: GraphBatch | None,
        rate: Float[Array, ""],
    ) -> tuple[Params, Any, Array]:
        return stepping(rate)[1](params, opt_state, batch, measured)

    @partial(jax.jit, donate_argnums=(0, 1), static_argnames="padding")
    def epoch(
        params: Params,
        opt_state: Any,
        graphs: ResidentGraphs,
        key: PRNGKeyArray,
        epoch: Int[Array, ""],
        padding: Padding,
        measured: GraphBatch | None,
        rate: Float[Array, ""],
    ) -> tuple[Params, Any, Float[Array, "batches metrics tasks"]]:
        step = stepping(rate)[1]

        def advanced(
            state: tuple[Params, Any], members: Int[Array, " batch"]
        ) -> tuple[tuple[Params, Any], Array]:
            params, opt_state, sums = step(*state, graphs.batch(members, padding), measured)
            return (params, opt_state), sums

        members = epoch_members(key, epoch, len(graphs.targets), optimization.batch_size)
        (params, opt_state), sums = jax.lax.scan(advanced, (params, opt_state), members)
        return params, opt_state, sums

    @partial(jax.jit, donate_argnums=(0, 1), static_argnames="padding")
    def stretch(
        params: Params,
        opt_state: Any,
        graphs: ResidentGraphs,
        key: PRNGKeyArray,
        epoch: Int[Array, ""],
        padding: Padding,
        measured: GraphBatch | None,
        rate: Float[Array, ""],
        first: Int[Array, ""],
        last: Int[Array, ""],
    ) -> tuple[Params, Any, Float[Array, "batches metrics tasks"]]:
        members = epoch_members(key, epoch, len(graphs.targets), optimization.batch_size)
        step = stepping(rate)[1]

        def advanced(number: Int[Array, ""], state: tuple[Params, Any, Array]) -> Any:
            params, opt_state, sums = state
            batch = graphs.batch(members[number], padding)
            params, opt_state, found = step(params, opt_state, batch, measured)
            return params, opt_state, sums.at[number].set(found)

        rows = 2 if optimization.weighting == "equal" else 3  # with the weights
        sums = jnp.zeros((len(members), rows, len(network.tasks)), jnp.float32)
        return jax.lax.fori_loop(first, last, advanced, (params, opt_state, sums))

    @partial(jax.jit, static_argnames="padding")
    def all_sums(
        params: Params,
        graphs: ResidentGraphs,
        members: Int[Array, "batches batch"],
        padding: Padding,
    ) -> Float[Array, "batches metrics tasks"]:
        return jax.lax.map(lambda few: sums_of(params, graphs.batch(few, padding)), members)

    init, _ = stepping(jnp.zeros(()))  # no state begins with a rate
    return Programs(init, step, evaluation(network), epoch, stretch, all_sums)


@jax.jit
def finite_leaves(params: Params) -> list[Bool[Array, ""]]:
    """Which leaves hold nothing but finite numbers, in the order of `jax.tree.leaves`."""
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
