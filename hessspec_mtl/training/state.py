"""A run after an epoch: its state on disk, and its record of errors and times as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.later import Later
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.network.model import Params

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")  # half a second, and only tables need it

SPLITS = ("train", "test")
METRICS = ("mse", "mae")


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A run after an epoch: what the next epoch needs, and the record of all epochs so far.

    Attributes:
        history: errors by epoch, split, metric and task, NaN where nothing was evaluated.
        seconds: wall-clock time of each epoch, NaN where it is not known.
        weights: of each task, means over the epoch, NaN for epoch 0; None where all are 1.
    """

    params: Params
    opt_state: Any
    history: Float[np.ndarray, "epochs splits metrics tasks"]
    seconds: Float[np.ndarray, " epochs"]
    weights: Float[np.ndarray, "epochs tasks"] | None = None

    def packed(self) -> dict[str, Any]:
        """A dict for disk. The optimizer's leaves are joined by dtype into vectors: hundreds of
        small files cost more than their contents."""
        leaves = jax.device_get([_numbers(leaf) for leaf in jax.tree.leaves(self.opt_state)])
        dtypes = sorted({leaf.dtype.name for leaf in leaves})
        joined = {
            dtype: np.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype.name == dtype])
            for dtype in dtypes
        }
        return {
            "params": jax.device_get(self.params),
            "opt_state": joined,
            "history": self.history,
            "seconds": self.seconds,
            **({} if self.weights is None else {"weights": self.weights}),
        }


def _numbers(leaf: Array) -> Array:
    """The leaf itself, or the numbers of a key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def unpacked(packed: dict[str, Any], params_like: Params, opt_state_like: Any) -> TrainingState:
    """The inverse of `TrainingState.packed`."""
    joined = packed["opt_state"]
    offsets = dict.fromkeys(joined, 0)

    def next_leaf(like: Array) -> Array:
        held = _numbers(like)
        dtype, start = held.dtype.name, offsets[held.dtype.name]
        offsets[dtype] = start + held.size
        found = jnp.asarray(joined[dtype][start : start + held.size].reshape(held.shape))
        return found if held is like else jax.random.wrap_key_data(found)

    params = jax.tree.map(lambda like, leaf: jnp.asarray(leaf), params_like, packed["params"])
    history = packed["history"]
    unknown = np.full(len(history), np.nan)
    opt_state = jax.tree.map(next_leaf, opt_state_like)
    seconds, weights = packed.get("seconds", unknown), packed.get("weights")
    return TrainingState(params, opt_state, history, seconds, weights)


def extended(
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


def write_curves(folder: Path, state: TrainingState, tasks: Sequence[str]) -> None:
    """`history.csv`, `seconds.csv` and, where tasks are weighted, `weights.csv`: what the
    checkpoint holds, as text."""
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
    if state.weights is not None:
        rows = [
            (epoch, task, float(state.weights[epoch, t]))
            for epoch in range(1, len(state.weights))
            for t, task in enumerate(tasks)
        ]
        weights = pd.DataFrame(rows, columns=["epoch", "task", "weight"])
        write_whole(folder / "weights.csv", weights.to_csv(index=False))


def load_weights(directory: str | os.PathLike[str]) -> pd.DataFrame | None:
    """Weights by epoch: columns epoch, task, weight, the mean over the epoch's graphs of the
    weights of their steps. None where all are 1, as in a run that does not weigh its tasks."""
    path = Path(directory) / "weights.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.astype({"epoch": int, "weight": float})


def load_history(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Errors by epoch: columns epoch, split ("train", "test"), task, mse, mae (standardised).

    Epochs whose test split was not evaluated have no rows of it.
    """
    # Through strings: pandas' own parser of numbers is off by a bit in some versions.
    # A task may be called "NA".
    table = pd.read_csv(Path(directory) / "history.csv", dtype=str, keep_default_na=False)
    return table.astype({"epoch": int, "mse": float, "mae": float})


def training_seconds(directory: str | os.PathLike[str]) -> float:
    """Wall-clock seconds that the epochs of the run took, each counted once.

    They are saved with the epochs, so that no interruption loses them, and an epoch that was
    interrupted counts as often as it was finished. Epochs of unknown time count 0.
    """
    path = Path(directory) / "seconds.csv"
    return float(pd.read_csv(path)["seconds"].sum()) if path.exists() else 0.0
