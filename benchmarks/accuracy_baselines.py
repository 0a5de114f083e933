"""Claim: on the split of every preset, random forests without any graph do better than the median.

    python -m benchmarks.accuracy_baselines [--presets compare small gpu] [--sets qm8 mp]
        [--data-dir DATA]

The examples and the split are those that the command takes for a preset (the same for all seeds),
the forests those that stand in its reports (`hessspec_mtl.baselines`): what a network is held
against, without training one. Rows go to `benchmarks/results/accuracy_baselines.csv`, preset by
preset; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.claims import RESULTS
from benchmarks.machine import revision
from hessspec_mtl.baselines.forest import forest_errors
from hessspec_mtl.datasets.base import MultitaskDataset, Split, over_examples
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.presets import DATA_SEED, PRESETS, DatasetName
from hessspec_mtl.study.records import median_error

ROWS = RESULTS / "accuracy_baselines.csv"


@dataclass(frozen=True, eq=False)
class Problem:
    """Examples of a preset and how they are split, as the command does it."""

    preset: str
    dataset: MultitaskDataset
    split: Split

    @property
    def deviations(self) -> np.ndarray:
        """Of the training targets (ddof = 1), raw units: what errors are told in."""
        targets = np.asarray(self.dataset.targets, np.float64)[self.split.train]
        return over_examples(partial(np.std, ddof=1), targets)

    @property
    def head(self) -> dict[str, object]:
        """What every row about it begins with."""
        sizes = {"train": len(self.split.train), "test": len(self.split.test)}
        return {"preset": self.preset, "dataset": self.dataset.name, **sizes}


def problem(preset: str, name: DatasetName, data: Path | None = None) -> Problem:
    """The examples and the split of a preset's data set `name`."""
    config = PRESETS[preset].studies[name]
    dataset = named(name, config.num_examples, data_dir=data, progress=False)[1]
    return Problem(preset, dataset, dataset.split(DATA_SEED, config.test_fraction))


def rows(given: Problem) -> pd.DataFrame:
    """Of each task: test MAE of the training median, of the training mean and of the forests.

    All in `Problem.deviations`, the last in raw units too. `heaviest` is the share of the training
    targets' variance that is in the twentieth of them farthest from the mean: near 1 a few examples
    rule a squared error, and the median is far better than the mean.
    """
    with tempfile.TemporaryDirectory() as folder:
        forests = forest_errors(given.dataset, given.split, Path(folder) / "forest.csv")
    forest = forests.groupby("task")["mae"].mean()
    tasks, deviations = given.dataset.tasks, given.deviations
    errors = np.array([forest[task.name] for task in tasks])
    return pd.DataFrame(
        {
            **given.head,
            "task": [task.name for task in tasks],
            "unit": [task.unit for task in tasks],
            "deviation": deviations,
            "heaviest": _heaviest(given),
            "median_mae": median_error(given.dataset, given.split),
            "mean_mae": _mean_error(given),
            "forest_mae": errors,
            "forest_mae_raw": errors * deviations,
            "revision": revision(),
        }
    )


def _mean_error(given: Problem) -> np.ndarray:
    """Test MAE of whoever says the mean of the training targets."""
    targets = np.asarray(given.dataset.targets, np.float64)
    means = over_examples(np.mean, targets[given.split.train])
    deviations = np.abs(targets[given.split.test] - means[None, :])
    return over_examples(np.mean, deviations) / given.deviations


def _heaviest(given: Problem) -> np.ndarray:
    """Of the training targets' variance, what its largest twentieth of squares adds up to."""

    def share(column: np.ndarray) -> float:
        squares = np.sort((column - column.mean()) ** 2)[::-1]
        return float(squares[: round(len(squares) / 20)].sum() / squares.sum())

    targets = np.asarray(given.dataset.targets, np.float64)[given.split.train]
    return np.array([share(column[~np.isnan(column)]) for column in targets.T])


def main(argv: Sequence[str] | None = None) -> int:
    """Make the rows that are missing and say the verdict of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy_baselines")
    parser.add_argument("--presets", nargs="+", default=["compare", "small", "gpu"])
    parser.add_argument("--sets", nargs="+", default=["qm8", "mp"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=ROWS)
    options = parser.parse_args(argv)
    table = read_rows(options.output)
    for preset in options.presets:
        for name in options.sets:
            given = problem(preset, name, options.data_dir)
            if _is_there(table, given):
                continue
            table = pd.concat([table, rows(given)], ignore_index=True)
            write_whole(options.output, table.to_csv(index=False, float_format="%.6g").encode())
    print(table.to_string(index=False, float_format="{:.3f}".format))
    better = table["forest_mae"] < table["median_mae"]
    print(f"The forests are better than the median for {better.sum()} of {len(table)} tasks.")
    return 0


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of an earlier run; none where there was none."""
    return pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()


def _is_there(table: pd.DataFrame, given: Problem) -> bool:
    if table.empty:
        return False
    same = (table["preset"] == given.preset) & (table["dataset"] == given.dataset.name)
    return bool(same.any())


if __name__ == "__main__":
    sys.exit(main())
