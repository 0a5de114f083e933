"""Training: a configuration and a data set in, a folder of checkpoints and a history out.

The folder holds `config.json` (what was trained on what), `history.csv`, `seconds.csv` (the time
of each epoch) and `checkpoints/`. The state after every epoch is saved, so a run that was stopped
at any moment goes on from its last finished epoch and ends with the same numbers, bit for bit on
the same machine: the order of the examples is a function of seed and epoch alone.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float

from hessspec._base.progress import ProgressBar, progress_bar
from hessspec_mtl.graphs import (
    GraphBatch,
    MultiGraph,
    balanced_batches,
    target_weights,
    with_any_target,
)
from hessspec_mtl.network.model import NetworkConfig, Params, init_params, predict
from hessspec_mtl.network.tasks import standardised_errors, weighted_sums
from hessspec_mtl.training.batches import epoch_batches, padded_batch, padding_ladder
from hessspec_mtl.training.checkpoints import Checkpoints
from hessspec_mtl.training.config import OPTIMIZERS, TrainConfig
from hessspec_mtl.training.identity import claim, describe
from hessspec_mtl.training.state import (
    SPLITS,
    TrainingState,
    extended,
    load_history,
    unpacked,
    write_curves,
)

EVALUATION_BATCH = 64


class Named(Protocol):
    """A task of a data set."""

    @property
    def name(self) -> str: ...


class Examples(Protocol):
    """Graphs with standardised targets, one row a graph and one column a task of the data set.

    NaN stands where a graph has no such target.
    """

    @property
    def graphs(self) -> Sequence[MultiGraph]: ...
    @property
    def targets(self) -> Float[np.ndarray, "examples tasks"]: ...


class EncodedExamples(Protocol):
    """What training needs of a data set: its two splits and the names of its tasks."""

    @property
    def train(self) -> Examples: ...
    @property
    def test(self) -> Examples: ...
    @property
    def tasks(self) -> Sequence[Named]: ...


def train(
    config: TrainConfig,
    network: NetworkConfig,
    encoded: EncodedExamples,
    directory: str | os.PathLike[str],
    *,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train, or go on training, in `directory`; returns the history (see `load_history`).

    Minimises the sum over tasks of the mean squared standardised error, all weights 1. A network
    whose `tasks` are some of the data set's is trained on those alone, with the examples that have
    at least one of them.

    Where targets are missing, that of a task is the mean over the n_t of N examples that have its
    target, the L_t whose Hessian is studied. A batch of B examples stands for it by

        (1/B) Σ_t (N/n_t) Σ_i m_it e_it²,    m_it = 1 where example i has target t, else 0,

    whose mean over random batches is Σ_t L_t for any n_t. The mean over those of the batch that
    have the target would not be: it is 0/0 in a batch without any, and passing over such batches
    would weigh a task down by their share, so that a rare target would count less than one.

    The errors of split "train" are means over the batches of an epoch, each taken just before the
    step that used it: they cost nothing, and lag the parameters by half an epoch on average. Those
    of "test" are of the parameters after the epoch. At epoch 0 both are of the initial parameters.

    Sums over hundreds of edges make Adam's first steps large: at 1e-3 they map all crystals to one
    point, from which the paper's network does not come back (training error of the mean for 100
    epochs, seen with 320 and 700 crystals and with output layers scaled by 1/3 to 1/30).
    `warmup_steps` of 60 or more, or a third of the learning rate, and it learns at once.

    Cost of an epoch: one gradient a training example and one forward pass a test example.

    Raises:
        ValueError: if `directory` holds a run of another configuration or other data; the message
            names the field.
        CheckpointError: if `directory` cannot be written, or none of its checkpoints can be read.
        FloatingPointError: if an error of the network is not finite; names epoch and task.
    """
    folder = Path(directory)
    graphs, targets = _columns(encoded, "train", network.tasks)
    test_graphs, test_targets = _columns(encoded, "test", network.tasks)
    weights = target_weights(targets)
    splits = (graphs, targets), (test_graphs, test_targets)
    claim(folder, config, describe(config, network, dict(zip(SPLITS, splits, strict=True))))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.sweep()

    steps = -(-len(graphs) // config.batch_size)
    optimizer, step, evaluate = _programs(network, _Optimization.of(config, steps))
    test_batches = balanced_batches(test_graphs, test_targets, EVALUATION_BATCH)
    paddings = padding_ladder(graphs, config.batch_size)
    weights_key, order_key = jax.random.split(jax.random.key(config.seed))

    def test_errors(params: Params) -> Float[np.ndarray, "metrics tasks"]:
        return _means([evaluate(params, batch) for batch in test_batches], len(test_graphs))

    def before_training() -> TrainingState:
        params = init_params(weights_key, network)
        batches = balanced_batches(graphs, targets, EVALUATION_BATCH)
        errors = _means([evaluate(params, batch) for batch in batches], len(graphs))
        history = extended(None, errors, test_errors(params), network.tasks)
        return TrainingState(params, optimizer.init(params), history, np.zeros(0))

    def after(epoch: int, state: TrainingState, bar: ProgressBar) -> TrainingState:
        params, opt_state, sums = state.params, state.opt_state, []
        for members in epoch_batches(order_key, epoch, len(graphs), config.batch_size):
            batch = padded_batch([graphs[i] for i in members], targets[members], paddings, weights)
            params, opt_state, batch_sums = step(params, opt_state, batch)
            sums.append(batch_sums)
            bar.update(1)
        evaluated = epoch == config.num_epochs or epoch % config.evaluate_every == 0
        errors = test_errors(params) if evaluated else None
        history = extended(state.history, _means(sums, len(graphs)), errors, network.tasks)
        _require_finite(params, epoch)
        return TrainingState(params, opt_state, history, state.seconds)

    def restored(epoch: int) -> TrainingState:
        params = init_params(weights_key, network)
        return unpacked(checkpoints.restore(epoch), params, optimizer.init(params))

    wanted = {0, config.num_epochs, *config.keep_epochs}
    sound = checkpoints.sound_epochs()
    newest = max(sound, default=-1)
    if sound:
        write_curves(folder, restored(newest), network.tasks)
    legs = _legs(sound, wanted, newest)
    num_steps = steps * sum(last - max(first, 0) for first, last in legs)
    state, position, start = None, -1, time.perf_counter()
    with progress_bar(num_steps, "training", enabled=progress, unit="step") as bar:
        for first, last in legs:
            if state is None or position != first:
                state = before_training() if first < 0 else restored(first)
            for epoch in range(first + 1, last + 1):
                state = after(epoch, state, bar) if epoch > 0 else state
                # With the writing of the epoch before: nothing is left out but that of the last.
                now = time.perf_counter()
                state = replace(state, seconds=np.append(state.seconds, now - start))
                start = now
                checkpoints.save(epoch, state.packed())
                checkpoints.prune({epoch - 1, epoch, *wanted})
                if epoch >= newest:
                    write_curves(folder, state, network.tasks)
                position = epoch
    checkpoints.prune(wanted)
    return load_history(folder)


def load_params(directory: str | os.PathLike[str], epoch: int) -> Params:
    """The parameters after `epoch`, as NumPy arrays.

    Raises:
        CheckpointError: if that epoch was not kept or cannot be read.
    """
    return Checkpoints(Path(directory) / "checkpoints").restore(epoch)["params"]


def saved_epochs(directory: str | os.PathLike[str]) -> list[int]:
    """Epochs whose parameters `load_params` can give."""
    return Checkpoints(Path(directory) / "checkpoints").epochs()


def _legs(sound: Collection[int], wanted: Collection[int], newest: int) -> list[tuple[int, int]]:
    """Which stretches of epochs to train so that all `wanted` states are there.

    A leg (a, b) starts from the state after epoch a and ends with that after b; a = -1 stands for
    nothing at all. Legs that repeat epochs of the past are announced in a warning.
    """
    have, legs = set(sound), []
    for last in sorted(set(wanted) - have):
        first = max((epoch for epoch in have if epoch < last), default=-1)
        if last < newest:
            warnings.warn(
                f"the state after epoch {last} is not at hand; epochs {max(first, 0)} to {last} "
                "are trained again.",
                stacklevel=3,
            )
        legs.append((first, last))
        have.add(last)
    return legs


@dataclass(frozen=True)
class _Optimization:
    """What a training step depends on; equal ones share a compiled program."""

    optimizer: str
    learning_rate: float
    last_constant_epoch: int
    decay_rate: float
    warmup_steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> _Optimization:
        return cls(
            config.optimizer,
            config.learning_rate,
            config.last_constant_epoch,
            config.decay_rate,
            config.warmup_steps,
            steps_per_epoch,
        )

    def schedule(self, count: Array) -> Array:
        """The learning rate after `count` steps: `TrainConfig.learning_rate_at`, and warm-up."""
        epoch = count // self.steps_per_epoch + 1
        decays = jnp.maximum(0, epoch - self.last_constant_epoch).astype(jnp.float32)
        rate = self.learning_rate * jnp.float32(self.decay_rate) ** decays
        if self.warmup_steps == 0:
            return rate
        return rate * jnp.minimum(1.0, (count + 1) / self.warmup_steps).astype(jnp.float32)


@cache
def _programs(
    network: NetworkConfig, optimization: _Optimization
) -> tuple[optax.GradientTransformation, Callable[..., Any], Callable[..., Any]]:
    """The optimizer, the compiled training step and the compiled evaluation of a batch.

    Both programs give sums over the batch's graphs of squared and absolute errors by task, weighted
    where targets are missing.
    """
    optimizer = OPTIMIZERS[optimization.optimizer](optimization.schedule)

    def error_sums(params: Params, batch: GraphBatch) -> Float[Array, "metrics tasks"]:
        errors = standardised_errors(predict(params, batch, network), batch)
        return jnp.stack([weighted_sums(e, batch) for e in (jnp.square(errors), jnp.abs(errors))])

    def objective(params: Params, batch: GraphBatch) -> tuple[Float[Array, ""], Array]:
        sums = error_sums(params, batch)
        return sums[0].sum() / batch.mask.sum(), sums

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: GraphBatch) -> tuple[Params, Any, Array]:
        gradient, sums = jax.grad(objective, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        updated: Any = optax.apply_updates(params, updates)
        return updated, opt_state, sums

    return optimizer, step, jax.jit(error_sums)


def _means(sums: Sequence[Array], count: int) -> Float[np.ndarray, "metrics tasks"]:
    """Sums over batches, added in float64, as means over the examples that have the target."""
    return np.sum(np.asarray(jax.device_get(list(sums)), np.float64), axis=0) / count


def _require_finite(params: Params, epoch: int) -> None:
    """The last step of an epoch shows in no error of that epoch's training split."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise FloatingPointError(
                f"the parameters {name} are not finite after epoch {epoch}; that epoch is not "
                "saved. Lower `learning_rate`."
            )


def _columns(
    encoded: EncodedExamples, split: str, tasks: Sequence[str]
) -> tuple[Sequence[MultiGraph], np.ndarray]:
    """Graphs that have any of `tasks`, and the targets of these in their order."""
    names = [task.name for task in encoded.tasks]
    missing = [task for task in tasks if task not in names]
    if missing:
        raise ValueError(f"`network.tasks` must be among the data set's {names}, got {missing}.")
    examples: Examples = getattr(encoded, split)
    targets = examples.targets[:, [names.index(task) for task in tasks]]
    unknown = [t for t, column in zip(tasks, targets.T, strict=True) if np.isnan(column).all()]
    if unknown:
        raise ValueError(
            f"`encoded.{split}` must have an example of every target, got none of {unknown}; "
            "leave these out of `network.tasks`, or split the data otherwise."
        )
    kept = with_any_target(targets)
    return [examples.graphs[i] for i in kept], targets[kept]
