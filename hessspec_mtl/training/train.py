"""Training: a configuration and a data set in, a folder of checkpoints and a history out.

The folder holds `config.json` (what was trained on what), `history.csv`, `seconds.csv` (the time
of each epoch) and `checkpoints/`. The state after every epoch is saved, or every so many seconds
where an epoch takes less (`TrainConfig.checkpoint_seconds`). So a run that was stopped at any
moment goes on from there and ends with the same numbers, bit for bit on the same machine: the order
of the examples is a function of seed and epoch alone. `epochs` says how an epoch is computed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import jax
import numpy as np
from jaxtyping import Float

from hessspec._base.arguments import did_you_mean
from hessspec._base.progress import ProgressBar, progress_bar
from hessspec_mtl.graphs import GraphBatch, MultiGraph, balanced_batches, with_any_target
from hessspec_mtl.network.model import NetworkConfig, Params, init_params
from hessspec_mtl.network.ways import for_device
from hessspec_mtl.training.along import Along, stops
from hessspec_mtl.training.checkpoints import Checkpoints
from hessspec_mtl.training.config import MATMUL_PRECISIONS, TrainConfig
from hessspec_mtl.training.epochs import Epochs, HostEpochs, ResidentEpochs, ignored
from hessspec_mtl.training.evaluation import Split
from hessspec_mtl.training.identity import claim, describe
from hessspec_mtl.training.programs import Optimization, finite_leaves, programs
from hessspec_mtl.training.state import (
    SPLITS,
    TrainingState,
    extended,
    load_history,
    unpacked,
    write_curves,
)
from hessspec_mtl.training.weighted import seeded
from hessspec_mtl.training.weightings import MEASURES

if TYPE_CHECKING:
    import pandas as pd

_MEASURED = 19  # the stream that chooses the graphs on which curvature is measured


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
    until: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train, or go on training, in `directory`; returns the history (see `load_history`).

    With `until`, no further than to the state after that epoch; a later call goes on from there
    and ends with the same numbers. `Training` does the same and keeps its data at hand in between.

    Minimises the sum over tasks of the mean squared standardised error, all weights 1 or those of
    `TrainConfig.weighting`, which are in `weights.csv` then (`load_weights`). A network
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
    return Training(config, network, encoded, directory).to(until, progress=progress)


class Training:
    """A run in its folder, taken as far as is asked: to the state after one epoch, then another.

    What `train` does, for a caller who does something else between two epochs. Data, programs and
    the state stay at hand from one call of `to` to the next.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: NetworkConfig,
        encoded: EncodedExamples,
        directory: str | os.PathLike[str],
        *,
        keep_first: bool = True,
        along: Along | None = None,
    ) -> None:
        """Claims `directory` for this run, and looks at what is there of it.

        Args:
            keep_first: whether the state after epoch 0 stays, as `TrainConfig.keep_epochs` has it.
            along: looks at the parameters while they are trained, at each step once: epochs that
                are trained again, since a state of the past is missing, it does not see.

        Raises:
            ValueError, CheckpointError: as `train`.
        """
        self._config, self._network, self._folder = config, network, Path(directory)
        self._kept = {*config.keep_epochs, *((0,) if keep_first else ())}
        splits = splits_of(encoded, network)
        train = splits["train"]
        self._checkpoints = _claimed(config, network, splits, self._folder)

        optimization = Optimization.of(config, len(train[0]))
        self._steps = optimization.steps_per_epoch
        self._weights_key, order_key = jax.random.split(jax.random.key(config.seed))
        compiled = programs(network, optimization)
        self._init = compiled.init
        kind = HostEpochs if jax.default_backend() == "cpu" else ResidentEpochs
        self._epochs: Epochs = kind(
            compiled,
            splits,
            config.batch_size,
            order_key,
            config.learning_rate,
            measured=_measured(config, *train),
        )
        on_cpu, seconds = jax.default_backend() == "cpu", config.checkpoint_seconds
        self._interval = (0.0 if on_cpu else 20.0) if seconds is None else seconds
        self._precision = MATMUL_PRECISIONS[config.matmul_precision]
        self._sound, self._along = self._checkpoints.sound_epochs(), along
        self._last: tuple[int, TrainingState] | None = None
        if self._sound:
            write_curves(self._folder, self._restored(max(self._sound)), network.tasks)
        if along is not None:
            along.resume(self._steps * max(self._sound) if self._sound else -1)

    @property
    def newest(self) -> int:
        """The last epoch whose state is there; -1 if none is."""
        return max(self._sound, default=-1)

    def to(self, until: int | None = None, *, progress: bool | None = None) -> pd.DataFrame:
        """Train to the state after epoch `until`, by default the last; returns the history so far.

        That state, and those of `keep_epochs` up to it, are then in the folder. Nothing is done
        where they are there already, nor where the run is past `until` and does not keep it.

        Raises:
            ValueError: if `until` is not an epoch of the run.
            CheckpointError, FloatingPointError: as `train`.
        """
        num_epochs, kept = self._config.num_epochs, self._kept
        if until is not None and not 0 <= until <= num_epochs:
            raise ValueError(
                f"`until` must lie in [0, {num_epochs}], the epochs of this run, got {until}."
            )
        newest, goal = max(self._sound, default=-1), num_epochs if until is None else until
        wanted = {epoch for epoch in kept if epoch <= goal}
        if until is None or newest < goal:
            wanted.add(goal)
        legs = _legs(self._sound, wanted, newest)
        num_steps = self._steps * sum(last - max(first, 0) for first, last in legs)
        saved = start = time.perf_counter()
        with progress_bar(num_steps, "training", enabled=progress, unit="step") as bar:
            for first, last in legs:
                state = self._before_training() if first < 0 else self._after(first)
                along = self._along if last > newest else None
                if along is not None:
                    along.resume(self._steps * first if first >= 0 else -1)
                    if first < 0:
                        along.look(0, state.params)
                for now in range(first + 1, last + 1):
                    state = self._epoch(now, state, bar, along) if now > 0 else state
                    # With the writing of the epoch before: nothing is left out but that of the
                    # last.
                    end = time.perf_counter()
                    state = replace(state, seconds=np.append(state.seconds, end - start))
                    start = end
                    self._last = now, state
                    if now in wanted or end - saved >= self._interval:
                        self._save(now, state, {now - 1, now, *kept, num_epochs}, newest)
                        saved = end
        self._checkpoints.prune({*kept, num_epochs})
        there = self._checkpoints.epochs()
        self._sound = [epoch for epoch in self._sound if epoch in there]
        return load_history(self._folder)

    def after(self, epoch: int) -> TrainingState:
        """The state after `epoch`, which was kept.

        Raises:
            CheckpointError: if it was not, or cannot be read.
        """
        return self._restored(epoch)

    def _save(self, epoch: int, state: TrainingState, keep: Collection[int], newest: int) -> None:
        if self._along is not None and epoch >= newest:
            self._along.save(self._steps * epoch)
        self._checkpoints.save(epoch, state.packed())
        self._checkpoints.prune(keep)
        if epoch >= newest:
            write_curves(self._folder, state, self._network.tasks)
        self._sound = [*self._sound, epoch]

    def _before_training(self) -> TrainingState:
        params = init_params(self._weights_key, self._network)
        with jax.default_matmul_precision(self._precision):
            train, test = (self._epochs.errors(params, split) for split in SPLITS)
        history = extended(None, train, test, self._network.tasks)
        opt_state = seeded(self._init(params), self._config.seed)
        weights = None
        if self._config.weighting != "equal":
            weights = np.full((1, len(self._network.tasks)), np.nan)
        return TrainingState(params, opt_state, history, np.zeros(0), weights)

    def _epoch(
        self, epoch: int, state: TrainingState, bar: ProgressBar, along: Along | None
    ) -> TrainingState:
        """The state after `epoch` from that before it, whose arrays are used up."""
        evaluated = epoch == self._config.num_epochs or epoch % self._config.evaluate_every == 0
        before, last, look = (epoch - 1) * self._steps, epoch * self._steps, ignored
        within: list[int] = []
        if along is not None:
            within = [step - before for step in stops(along.every, before, last)]
            look = partial(_looked, along, before)
        start = state.params, state.opt_state, bar
        with jax.default_matmul_precision(self._precision):
            params, opt_state, train = self._epochs.epoch(epoch, *start, within, look)
            test = self._epochs.errors(params, "test") if evaluated else None
        history = extended(state.history, train[:2], test, self._network.tasks)
        _require_finite(params, epoch)
        weights = state.weights
        if weights is not None:
            weights = np.concatenate([weights, train[2:]])
        return TrainingState(params, opt_state, history, state.seconds, weights)

    def _after(self, epoch: int) -> TrainingState:
        """The state after `epoch`: at hand, or from its checkpoint."""
        (at_hand, state), self._last = self._last or (None, None), None
        return state if state is not None and at_hand == epoch else self._restored(epoch)

    def _restored(self, epoch: int) -> TrainingState:
        params = init_params(self._weights_key, self._network)
        packed = self._checkpoints.restore(epoch)
        return unpacked(packed, params, self._init(params))


def sound_states(
    config: TrainConfig,
    network: NetworkConfig,
    encoded: EncodedExamples,
    directory: str | os.PathLike[str],
) -> list[int]:
    """Epochs whose state is in `directory` and can be read, once it is claimed for this run.

    For whoever has the training done elsewhere, and puts its states there (`Checkpoints.adopt`).

    Raises:
        ValueError, CheckpointError: as `train`.
    """
    checkpoints = _claimed(config, network, splits_of(encoded, network), Path(directory))
    return checkpoints.sound_epochs()


def _looked(along: Along, before: int, step: int, params: Params) -> None:
    """A look after `step` steps of an epoch, `before` of the run being earlier."""
    along.look(before + step, params)


def load_params(directory: str | os.PathLike[str], epoch: int) -> Params:
    """The parameters after `epoch`, as NumPy arrays.

    Raises:
        CheckpointError: if that epoch was not kept or cannot be read.
    """
    return Checkpoints(Path(directory) / "checkpoints").restore(epoch)["params"]


def saved_epochs(directory: str | os.PathLike[str]) -> list[int]:
    """Epochs whose parameters `load_params` can give."""
    return Checkpoints(Path(directory) / "checkpoints").epochs()


def splits_of(encoded: EncodedExamples, network: NetworkConfig) -> dict[str, Split]:
    """Of each split the graphs that have a target of `network`, and these targets in its order.

    Raises:
        ValueError: for a task that `encoded` lacks, or of which a split has no example.
    """
    return {split: _columns(encoded, split, network.tasks) for split in SPLITS}


def _claimed(
    config: TrainConfig, network: NetworkConfig, splits: dict[str, Split], folder: Path
) -> Checkpoints:
    """The checkpoints in `folder`, which is this run's, without what was left half-written."""
    claim(folder, config, describe(config, network, splits))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.sweep()
    return checkpoints


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


def _measured(
    config: TrainConfig, graphs: Sequence[MultiGraph], targets: np.ndarray
) -> GraphBatch | None:
    """The graphs on which a weighting measures curvature: a random subset, one for all seeds."""
    if config.weighting not in MEASURES:
        return None
    count = min(config.measure_graphs, len(graphs))
    chosen = np.random.default_rng(_MEASURED).choice(len(graphs), count, replace=False)
    batches = balanced_batches([graphs[i] for i in chosen], targets[chosen], count)
    return jax.device_put(for_device(batches)[0])


def _require_finite(params: Params, epoch: int) -> None:
    """The last step of an epoch shows in no error of that epoch's training split."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for path, finite in zip(paths, jax.device_get(finite_leaves(params)), strict=True):
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise FloatingPointError(
                f"the parameters {name} are not finite after epoch {epoch}; that epoch is not "
                "saved. Lower `learning_rate`."
            )


def _columns(encoded: EncodedExamples, split: str, tasks: Sequence[str]) -> Split:
    """Graphs that have any of `tasks`, and the targets of these in their order."""
    names = [task.name for task in encoded.tasks]
    missing = [task for task in tasks if task not in names]
    if missing:
        raise ValueError(
            f"`network.tasks` must be among the data set's {names}, got {missing}"
            f"{did_you_mean(missing[0], names)}."
        )
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
