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
from jaxtyping import Array, Float, Int, PRNGKeyArray

from hessspec._progress import ProgressBar, progress_bar
from hessspec_mtl.checkpoints import Checkpoints
from hessspec_mtl.files import write_whole
from hessspec_mtl.graphs import (
    GraphBatch,
    MultiGraph,
    Padding,
    balanced_batches,
    batch_graphs,
    padding_for,
)
from hessspec_mtl.model import NetworkConfig, Params, init_params, predict
from hessspec_mtl.tasks import standardised_errors
from hessspec_mtl.train_identity import claim, describe

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": optax.adamw,
    "adam": optax.adam,
    "sgd": optax.sgd,
}
SPLITS = ("train", "test")
METRICS = ("mse", "mae")
EVALUATION_BATCH = 64


class Named(Protocol):
    """A task of a data set."""

    @property
    def name(self) -> str: ...


class Examples(Protocol):
    """Graphs with standardised targets, one row a graph and one column a task of the data set."""

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


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's (appendix B) where it states them.

    Attributes:
        num_epochs: passes over the training examples.
        batch_size: graphs in a step; the last batch of an epoch takes what is left. The paper does
            not state it.
        learning_rate: constant through epoch `decay_start`.
        decay_start: the last epoch of constant learning rate; None means `num_epochs // 2`.
        decay_rate: factor on the learning rate in each later epoch.
        warmup_steps: steps over which the learning rate first rises in proportion; 0 for none, as
            the paper mentions none. Crystals need some, see `train`.
        optimizer: one of `OPTIMIZERS`, with optax's defaults for all else (adamw has weight decay
            1e-4, sgd has no momentum).
        seed: of initial weights and of the order of examples.
        evaluate_every: epochs between evaluations of the test split; the first and the last epoch
            are always evaluated.
        keep_epochs: epochs whose checkpoints stay, beside 0, the last and the two newest; 0 is the
            state before training. One that is missing or damaged is made again, by training from
            the nearest earlier one.
    """

    num_epochs: int = 512
    batch_size: int = 32
    learning_rate: float = 1e-3
    decay_start: int | None = None
    decay_rate: float = 0.997
    warmup_steps: int = 0
    optimizer: str = "adamw"
    seed: int = 0
    evaluate_every: int = 1
    keep_epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.warmup_steps < 0:
            raise ValueError(f"`warmup_steps` must be at least 0, got {self.warmup_steps}.")
        for name in ("learning_rate", "decay_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"`optimizer` must be one of {sorted(OPTIMIZERS)}, got {self.optimizer!r}."
            )
        if not all(0 <= epoch <= self.num_epochs for epoch in self.keep_epochs):
            raise ValueError(
                f"`keep_epochs` must lie in [0, {self.num_epochs}], got {self.keep_epochs}."
            )

    @property
    def last_constant_epoch(self) -> int:
        """`decay_start`, with its default filled in."""
        return self.num_epochs // 2 if self.decay_start is None else self.decay_start

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of the steps of `epoch`, counted from 1, once warmed up."""
        return self.learning_rate * self.decay_rate ** max(0, epoch - self.last_constant_epoch)


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
    whose `tasks` are some of the data set's is trained on those alone.

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
    graphs, targets = _columns(encoded, encoded.train, network.tasks)
    test_graphs, test_targets = _columns(encoded, encoded.test, network.tasks)
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

    def before_training() -> _State:
        params = init_params(weights_key, network)
        batches = balanced_batches(graphs, targets, EVALUATION_BATCH)
        errors = _means([evaluate(params, batch) for batch in batches], len(graphs))
        history = _extended(None, errors, test_errors(params), network.tasks)
        return _State(params, optimizer.init(params), history, np.zeros(0))

    def after(epoch: int, state: _State, bar: ProgressBar) -> _State:
        params, opt_state, sums = state.params, state.opt_state, []
        for members in epoch_batches(order_key, epoch, len(graphs), config.batch_size):
            batch = _batch([graphs[i] for i in members], targets[members], paddings)
            params, opt_state, batch_sums = step(params, opt_state, batch)
            sums.append(batch_sums)
            bar.update(1)
        evaluated = epoch == config.num_epochs or epoch % config.evaluate_every == 0
        errors = test_errors(params) if evaluated else None
        history = _extended(state.history, _means(sums, len(graphs)), errors, network.tasks)
        _require_finite(params, epoch)
        return _State(params, opt_state, history, state.seconds)

    def restored(epoch: int) -> _State:
        params = init_params(weights_key, network)
        return _unpacked(checkpoints.restore(epoch), params, optimizer.init(params))

    wanted = {0, config.num_epochs, *config.keep_epochs}
    sound = checkpoints.sound_epochs()
    newest = max(sound, default=-1)
    if sound:
        _write_curves(folder, restored(newest), network.tasks)
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
                    _write_curves(folder, state, network.tasks)
                position = epoch
    checkpoints.prune(wanted)
    return load_history(folder)


def load_history(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Errors by epoch: columns epoch, split ("train", "test"), task, mse, mae (standardised).

    Epochs whose test split was not evaluated have no rows of it.
    """
    # Through strings: pandas' own parser of numbers is off by a bit in some versions.
    table = pd.read_csv(Path(directory) / "history.csv", dtype=str)
    return table.astype({"epoch": int, "mse": float, "mae": float})


def training_seconds(directory: str | os.PathLike[str]) -> float:
    """Wall-clock seconds that the epochs of the run took, each counted once.

    They are saved with the epochs, so that no interruption loses them, and an epoch that was
    interrupted counts as often as it was finished. Epochs of unknown time count 0.
    """
    path = Path(directory) / "seconds.csv"
    return float(pd.read_csv(path)["seconds"].sum()) if path.exists() else 0.0


def load_params(directory: str | os.PathLike[str], epoch: int) -> Params:
    """The parameters after `epoch`, as NumPy arrays.

    Raises:
        CheckpointError: if that epoch was not kept or cannot be read.
    """
    return Checkpoints(Path(directory) / "checkpoints").restore(epoch)["params"]


def saved_epochs(directory: str | os.PathLike[str]) -> list[int]:
    """Epochs whose parameters `load_params` can give."""
    return Checkpoints(Path(directory) / "checkpoints").epochs()


def epoch_batches(
    key: PRNGKeyArray, epoch: int, num_examples: int, batch_size: int
) -> list[Int[np.ndarray, " batch"]]:
    """Which examples make each batch of `epoch`: a random partition, from key and epoch alone."""
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), num_examples))
    return np.array_split(order, range(batch_size, num_examples, batch_size))


def padding_ladder(graphs: Sequence[MultiGraph], batch_size: int) -> tuple[Padding, ...]:
    """A few batch shapes, small to large, of which the last holds every batch of these graphs.

    One shape for all batches must hold the unluckiest one and be mostly empty for the others. The
    sum of `batch_size` sizes drawn at random has mean m and deviation s: the rungs are m + s/2
    (two batches in three fit), m + 2s and the largest possible sum. Rungs that would save less
    than 5 % against the next are left out, since each costs a compilation.
    """
    count = min(batch_size, len(graphs))
    sizes = np.array([(g.num_nodes, g.num_edges) for g in graphs], float)
    # Drawn without replacement: the variance of the sum shrinks to 0 when all are taken.
    spread = np.sqrt(count * (1 - count / len(graphs))) * sizes.std(axis=0)
    ladder = [padding_for(graphs, batch_size)]
    for deviations in (2.0, 0.5):
        n_node, n_edge = np.ceil(count * sizes.mean(axis=0) + deviations * spread).astype(int)
        rung = Padding.holding(int(n_node), int(n_edge), count)
        if rung.n_node + rung.n_edge < 0.95 * (ladder[0].n_node + ladder[0].n_edge):
            ladder.insert(0, rung)
    return tuple(ladder)


def _batch(
    graphs: Sequence[MultiGraph], targets: np.ndarray, ladder: Sequence[Padding]
) -> GraphBatch:
    """The batch in the smallest shape of `ladder` that holds it."""
    real = sum(g.num_nodes for g in graphs), sum(g.num_edges for g in graphs), len(graphs)
    return batch_graphs(graphs, targets, pad_to=next(p for p in ladder if p.holds(*real)))


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

    Both programs give sums over the batch's graphs of squared and absolute errors by task.
    """
    optimizer = OPTIMIZERS[optimization.optimizer](optimization.schedule)

    def error_sums(params: Params, batch: GraphBatch) -> Float[Array, "metrics tasks"]:
        errors = standardised_errors(predict(params, batch, network), batch)
        return jnp.stack([jnp.square(errors).sum(axis=0), jnp.abs(errors).sum(axis=0)])

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
    """Sums over batches, added in float64, as means over examples."""
    return np.sum(np.asarray(jax.device_get(list(sums)), np.float64), axis=0) / count


def _extended(
    history: np.ndarray | None,
    train: Float[np.ndarray, "metrics tasks"],
    test: Float[np.ndarray, "metrics tasks"] | None,
    tasks: Sequence[str],
) -> Float[np.ndarray, "epochs splits metrics tasks"]:
    """`history` with one epoch more, NaN where nothing was evaluated.

    An error that is not finite stops the run here, before the state that caused it is saved.
    """
    epoch = 0 if history is None else len(history)
    for split, errors in zip(SPLITS, (train, test), strict=True):
        for task, mse in zip(tasks, () if errors is None else errors[0], strict=errors is not None):
            if not np.isfinite(mse):
                raise FloatingPointError(
                    f"the {split} error of task {task!r} is {mse} in epoch {epoch}; that epoch is "
                    "not saved. Lower `learning_rate`, or look for targets that are not finite."
                )
    row = np.stack([train, np.full_like(train, np.nan) if test is None else test])[None]
    return row if history is None else np.concatenate([history, row])


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
    encoded: EncodedExamples, examples: Examples, tasks: Sequence[str]
) -> tuple[Sequence[MultiGraph], np.ndarray]:
    """Graphs, and the targets of `tasks` in their order."""
    names = [task.name for task in encoded.tasks]
    missing = [task for task in tasks if task not in names]
    if missing:
        raise ValueError(f"`network.tasks` must be among the data set's {names}, got {missing}.")
    return examples.graphs, examples.targets[:, [names.index(task) for task in tasks]]


@dataclass(frozen=True, eq=False)
class _State:
    """A run after an epoch: what the next epoch needs, and the record of all epochs so far.

    Attributes:
        history: errors by epoch, split, metric and task, NaN where nothing was evaluated.
        seconds: wall-clock time of each epoch, NaN where it is not known.
    """

    params: Params
    opt_state: Any
    history: Float[np.ndarray, "epochs splits metrics tasks"]
    seconds: Float[np.ndarray, " epochs"]

    def packed(self) -> dict[str, Any]:
        """A dict for disk. The optimizer's leaves are joined by dtype into vectors: hundreds of
        small files cost more than their contents."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.opt_state)]
        dtypes = sorted({leaf.dtype.name for leaf in leaves})
        joined = {
            dtype: np.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype.name == dtype])
            for dtype in dtypes
        }
        return {
            "params": self.params,
            "opt_state": joined,
            "history": self.history,
            "seconds": self.seconds,
        }


def _unpacked(packed: dict[str, Any], params_like: Params, opt_state_like: Any) -> _State:
    """The inverse of `_State.packed`."""
    joined = packed["opt_state"]
    offsets = dict.fromkeys(joined, 0)

    def next_leaf(like: Array) -> Array:
        dtype, start = like.dtype.name, offsets[like.dtype.name]
        offsets[dtype] = start + like.size
        return jnp.asarray(joined[dtype][start : start + like.size].reshape(like.shape))

    params = jax.tree.map(lambda like, leaf: jnp.asarray(leaf), params_like, packed["params"])
    history = packed["history"]
    unknown = np.full(len(history), np.nan)
    opt_state = jax.tree.map(next_leaf, opt_state_like)
    return _State(params, opt_state, history, packed.get("seconds", unknown))


def _write_curves(folder: Path, state: _State, tasks: Sequence[str]) -> None:
    """`history.csv` and `seconds.csv`, which say in text what the checkpoint holds."""
    history = state.history
    rows = [
        (epoch, split, task, *map(float, history[epoch, i, :, t]))
        for epoch in range(len(history))
        for i, split in enumerate(SPLITS)
        for t, task in enumerate(tasks)
        if np.isfinite(history[epoch, i, :, t]).all()
    ]
    table = pd.DataFrame(rows, columns=["epoch", "split", "task", *METRICS])
    write_whole(folder / "history.csv", table.to_csv(index=False))
    times = pd.DataFrame({"epoch": range(len(state.seconds)), "seconds": state.seconds})
    write_whole(folder / "seconds.csv", times.to_csv(index=False, float_format="%.3f"))
