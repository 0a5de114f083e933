"""What a finished study leaves behind: the records that tables, figures, claims and report read."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hessspec_mtl.curvature.spectra import TaskSpectrum, task_spectra
from hessspec_mtl.datasets.base import over_examples

if TYPE_CHECKING:
    import pandas as pd

    from hessspec import TraceEstimate
    from hessspec_mtl.curvature.follow import EpochCurvature
    from hessspec_mtl.datasets.base import MultitaskDataset, Split, Task
    from hessspec_mtl.datasets.grouping import Copies


@dataclass(frozen=True)
class SeedRun:
    """One training run (one seed) and the curvature taken along it.

    Attributes:
        seed: seed of the initial weights, of the order of the batches and of the probes.
        split: which examples were trained on and which were held out.
        history: columns epoch, split ("train" or "test"), task, mse, mae, in standardised units.
        curvature: one record for each analysed epoch.
        hessian_ids: the examples over which the Hessian was averaged, the same at every epoch.
        hutchinson: epoch -> plain Hutchinson estimate, where one was made for its own sake.
        single_task: task name -> history of the same network trained, with the same seed and
            split, on that task alone.
        single_curvature: task name -> curvature at the end of that network's training, of its one
            task, on the same graphs.
        predictions: of the test split at the end of training, columns id, task, target and
            predicted, in standardised units; None where they were not kept.
        single_predictions: task name -> the same of that task's own network.
        weights: columns epoch, task and weight, means over each epoch; None where all are 1.
        tracking: sharpness and trace of each task while it trained, columns as in
            `curvature.tracking.load_tracking`; None where they were not followed.
        tracked_graphs: how many graphs those are averaged over, the same at every step.
        seconds: stage -> wall-clock seconds.
        timed: whether all of the work said how long it took; else `seconds` lack some of it.
    """

    seed: int
    split: Split
    history: pd.DataFrame
    curvature: Sequence[EpochCurvature] = ()
    hessian_ids: Sequence[str] = ()
    hutchinson: Mapping[int, TraceEstimate] = field(default_factory=dict)
    single_task: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    single_curvature: Mapping[str, EpochCurvature] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None
    single_predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    weights: pd.DataFrame | None = None
    tracking: pd.DataFrame | None = None
    tracked_graphs: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    timed: bool = True

    @functools.cached_property
    def spectra(self) -> list[list[TaskSpectrum]]:
        """All spectra, by analysed epoch and then by task."""
        return [task_spectra(point.density) for point in self.curvature]


@dataclass(frozen=True)
class Study:
    """One data set and the runs on it.

    Attributes:
        dataset: the data that were used (after subsampling, if any).
        runs: at least one; several runs differ in the seed only.
        num_params: P, the number of shared parameters, the dimension of each Hessian.
        settings: the effective configuration, nested, as written beside the results.
        copies: structures that stand in the data under several names, and across the split; None
            where they were not looked for.
        forest: test errors of random forests on the same split (`baselines.forest`), or why there
            are none, in a sentence.
    """

    dataset: MultitaskDataset
    runs: Sequence[SeedRun]
    num_params: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    copies: Copies | None = None
    forest: pd.DataFrame | str = ""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("`runs` must hold at least one run, got none.")

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(self.dataset.tasks)


def median_error(dataset: MultitaskDataset, split: Split) -> Float[np.ndarray, " T"]:
    """Standardised test MAE of each task for the predictor that always says the training median.

    The median minimises the mean absolute error among constants: a network that does not beat it
    has learnt nothing about that task. Units: standard deviations (ddof = 1) of the training
    targets, as in the history. All over the examples that have the target.
    """
    targets = np.asarray(dataset.targets, dtype=np.float64)
    train, test = targets[np.asarray(split.train)], targets[np.asarray(split.test)]
    deviations = np.abs(test - over_examples(np.median, train)[None, :])
    std = over_examples(functools.partial(np.std, ddof=1), train)
    return over_examples(np.mean, deviations) / std


def error_curve(
    history: pd.DataFrame, split: str, task: str, measure: str = "mae"
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and errors of one task on one split, in order of epoch."""
    rows = history[(history["split"] == split) & (history["task"] == task)].sort_values("epoch")
    return rows["epoch"].to_numpy(), rows[measure].to_numpy(dtype=np.float64)


def final_window(num_epochs: int) -> int:
    """How many last epochs stand for "the end of training": one in twenty, at least 3."""
    return min(num_epochs, max(3, round(0.05 * num_epochs)))


def final_error(
    history: pd.DataFrame, split: str, task: str, measure: str = "mae"
) -> tuple[float, float]:
    """Mean and standard deviation of one task's error over the last epochs (`final_window`).

    The standard deviation is not divided by the root of the number of epochs: it says how much
    the error would have differed had training been stopped an epoch earlier or later. Infinite
    where fewer than two epochs are there.
    """
    _, errors = error_curve(history, split, task, measure)
    if errors.size == 0:
        raise ValueError(f"the history has no {split} errors of task {task!r}")
    window = errors[-final_window(errors.size) :]
    spread = float(window.std(ddof=1)) if window.size > 1 else float("inf")
    return float(window.mean()), spread
