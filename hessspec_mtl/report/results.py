"""What a run of the command brought, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hessspec._base.printing import counted
from hessspec_mtl.baselines.forest import NUM_TREES, SEEDS
from hessspec_mtl.datasets.paper import is_users_dataset
from hessspec_mtl.study.records import Study, final_error, median_error

if TYPE_CHECKING:
    from hessspec_mtl.curvature.appendix_e import AppendixE
    from hessspec_mtl.datasets.base import MultitaskDataset
    from hessspec_mtl.study.delta_m import Decision


@dataclass(frozen=True)
class FullDataset:
    """A data set before subsampling, for Tables 1 to 3, and its feature counts."""

    dataset: MultitaskDataset
    node_features: int
    edge_features: int


@dataclass(frozen=True)
class Results:
    """All that one run of the command brought, ready to be shown.

    Attributes:
        title: heading of the report.
        studies: one a data set.
        full: the data sets before subsampling, in the order of `studies`.
        appendix: the experiment of appendix E, if it was run.
        preset: its name.
        command: what a reader types to get this again.
        settings: the effective configuration, nested.
        versions: package -> version.
        device: what it ran on, in words.
        seconds: wall-clock seconds of the whole run.
        finished: date and time of its end, as text.
        weightings: finished studies of weightings of the tasks, with these networks and data.
        other_files: file name relative to the report -> what it holds, e.g. the ids of the splits.
    """

    title: str
    studies: Sequence[Study]
    full: Sequence[FullDataset]
    appendix: AppendixE | None = None
    preset: str = ""
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0
    finished: str = ""
    weightings: Sequence[Decision] = ()
    other_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_own_data(self) -> bool:
        """Whether all of it is about data of one's own: the paper has nothing to say of them."""
        return all(is_users_dataset(study.dataset) for study in self.studies)


def has_comparisons(studies: Sequence[Study]) -> bool:
    """Whether the tasks' gradients or eigenvectors were compared anywhere."""
    return any(
        point.gradients is not None or point.eigenspaces is not None
        for study in studies
        for run in study.runs
        for point in run.curvature
    )


def test_errors(studies: Sequence[Study]) -> pd.DataFrame:
    """Final test error of every task beside that of predicting the training median.

    Columns: dataset, task, label, mae and mae_epoch_sd (mean and standard deviation over the last
    epochs, averaged over seeds), mae_seed_sd (empty for one seed), median_mae, forest_mae (mean of
    random forests on the same split; empty where there are none), better (whether mae is below
    median_mae for every seed), clearly (whether by more than mae_epoch_sd).
    """
    rows = []
    for study in studies:
        for index, task in enumerate(study.tasks):
            finals = np.array(
                [final_error(run.history, "test", task.name) for run in study.runs], np.float64
            )
            baselines = np.array(
                [median_error(study.dataset, run.split)[index] for run in study.runs]
            )
            rows.append(
                {
                    "dataset": study.name,
                    "task": task.name,
                    "label": task.label,
                    "mae": finals[:, 0].mean(),
                    "mae_epoch_sd": finals[:, 1].mean(),
                    "mae_seed_sd": finals[:, 0].std(ddof=1) if len(finals) > 1 else np.nan,
                    "median_mae": baselines.mean(),
                    "forest_mae": _forest_error(study, task.name),
                    "better": bool((finals[:, 0] < baselines).all()),
                    "clearly": bool((finals.sum(axis=1) < baselines).all()),
                }
            )
    return pd.DataFrame(rows)


def _forest_error(study: Study, task: str) -> float:
    """Mean test error of the random forests of one property; NaN where there are none."""
    if isinstance(study.forest, str):
        return float("nan")
    return float(study.forest.loc[study.forest["task"] == task, "mae"].mean())


def forest_notes(studies: Sequence[Study]) -> list[str]:
    """What the random forests are, how much they vary and cost, or why there are none."""
    notes = list(dict.fromkeys(s.forest for s in studies if isinstance(s.forest, str) and s.forest))
    for study in studies:
        table = study.forest
        if isinstance(table, str):
            continue
        spread = float(table.groupby("task")["mae"].std(ddof=1).max())
        seconds = float(table["seconds"].iloc[0])
        took = "" if np.isnan(seconds) else counted(max(round(seconds), 1), "second")
        cost = f"; {took} of one core in all" if took else ""
        inputs = (
            "counts of fragments (Morgan, radius 2)"
            if study.dataset.domain == "molecules"
            else "statistics of the elements of the composition, nothing of the positions"
        )
        notes.append(
            f"Random forest of {study.name}: {NUM_TREES} trees for each property, seeds "
            f"{', '.join(map(str, SEEDS))} (between which its error varies by {spread:.3f} at "
            f"most), grown for squared errors on the same training examples, from {inputs}{cost}."
        )
    return notes
