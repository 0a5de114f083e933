"""Weightings tried against each other on validation data: what is run, and what came of it.

The examples are those of a study's training split alone, split once more; the test split is not
touched. The runs are of two steps. On one seed that nothing else uses, every weighting is trained
at each learning rate of a small grid; at its best rate it is then trained with other seeds.

A run is a unit of work: its rows are added to a CSV file when it is done, and a unit whose rows are
there is not done again, on whatever machine.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.files.whole import sole_use, write_whole
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.study.records import final_error
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.train import EncodedExamples, train
from hessspec_mtl.training.weightings import WEIGHTINGS

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
RATE_SEED = 1000
SEEDS = (1001, 1002)
VALIDATION_SEED = 1
VALIDATION_FRACTION = 0.2
FACTOR = 3.0  # of one task's weight, in the candidates for fixed weights

_KEYS = ["weighting", "task_weights", "learning_rate", "seed"]
COLUMNS = [*_KEYS, "task", "mae", "seconds"]


@dataclass(frozen=True)
class Unit:
    """One training run: a weighting ("fixed" with its weights), a learning rate, a seed."""

    weighting: str
    task_weights: tuple[float, ...]
    learning_rate: float
    seed: int

    @property
    def key(self) -> tuple[str, str, float, int]:
        """As its rows begin."""
        weights = " ".join(f"{weight:g}" for weight in self.task_weights)
        return self.weighting, weights, self.learning_rate, self.seed

    @property
    def name(self) -> str:
        """Of its folder."""
        return "_".join(str(part).replace(" ", "-") for part in self.key)


def validation_dataset(dataset: MultitaskDataset, test_fraction: float, seed: int) -> Any:
    """The training examples of a study's split, split once more and encoded: test is validation."""
    of_study = dataset.split(seed, test_fraction)
    inner = dataset.take(of_study.train)
    return inner.encode(inner.split(VALIDATION_SEED, VALIDATION_FRACTION))


def candidates(num_tasks: int) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """All weightings, with for "fixed" each task three times up and three times down."""
    found: list[tuple[str, tuple[float, ...]]] = []
    for name in WEIGHTINGS:
        if name != "fixed":
            found.append((name, ()))
            continue
        for factor in (FACTOR, 1 / FACTOR) if num_tasks > 1 else ():
            for t in range(num_tasks):
                found.append((name, tuple(factor if u == t else 1.0 for u in range(num_tasks))))
    return tuple(found)


def units(num_tasks: int, table: pd.DataFrame) -> tuple[Unit, ...]:
    """What is to be run next: all rates on one seed, then the other seeds at the best ones.

    Runs of one weighting follow each other, since they share their compiled programs.
    """
    every = candidates(num_tasks)
    first = tuple(Unit(*one, rate, RATE_SEED) for one in every for rate in RATES)
    if missing := _without(first, table):
        return missing
    rates = best_rates(table)
    second = (Unit(*one, rates[label_of(*one)], seed) for one in every for seed in SEEDS)
    return _without(tuple(second), table)


def best_rates(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """By weighting and its weights: the rate of the least mean logarithm of the tasks' errors."""
    tried = table[table["seed"] == RATE_SEED]
    logs = tried.assign(log=np.log(tried["mae"]))
    means = logs.groupby(["weighting", "task_weights", "learning_rate"])["log"].mean()
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for key, value in means.items():
        name, weights, rate = key  # type: ignore[misc]
        held = best.get((name, weights), (np.inf, np.nan))
        if value < held[0] or np.isnan(held[1]):
            best[name, weights] = value, rate
    return {key: rate for key, (_, rate) in best.items()}


def run_unit(
    unit: Unit,
    encoded: EncodedExamples,
    network: NetworkConfig,
    config: TrainConfig,
    folder: Path,
    *,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train, and return a row a task: the validation error at the end, infinite if it diverged.

    Its checkpoints are removed once it is done; a run that was stopped goes on from them.
    """
    home = folder / unit.name
    settings = replace(
        config,
        seed=unit.seed,
        learning_rate=unit.learning_rate,
        weighting=unit.weighting,
        task_weights=unit.task_weights,
    )
    start = time.process_time()
    try:
        history = train(settings, network, encoded, home, progress=progress)
        errors = [final_error(history, "test", task)[0] for task in network.tasks]
    except FloatingPointError:
        errors = [np.inf] * len(network.tasks)
    seconds = round(time.process_time() - start, 1)
    shutil.rmtree(home, ignore_errors=True)
    rows = [
        (*unit.key, task, error, seconds) for task, error in zip(network.tasks, errors, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def screen(
    encoded: EncodedExamples,
    network: NetworkConfig,
    config: TrainConfig,
    path: Path,
    *,
    most: int | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Do what is missing in the CSV file `path`, at most so many units; returns its table.

    Raises:
        ValueError: if `most` is negative.
        FolderInUseError: if another process adds to the same file.
    """
    if most is not None and most < 0:
        raise ValueError(f"`most` (--most) must be at least 0, got {most}.")
    folder = path.parent / "units" / path.stem  # of this set: names of units do not say which
    with sole_use(folder):
        table, done = read_screen(path), 0
        while todo := units(len(network.tasks), table):
            for unit in todo:
                if done == most:
                    return table
                rows = run_unit(unit, encoded, network, config, folder, progress=progress)
                table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
                write_whole(path, table.to_csv(index=False, float_format="%.9g"))
                done += 1
                say(f"{unit.name}: MAE {rows['mae'].mean():.4f}, {rows['seconds'].iloc[0]:.0f} s")
        return table


def read_screen(path: Path) -> pd.DataFrame:
    """The rows that are there."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a task may be called "NA"
    kinds = {"learning_rate": float, "seed": int, "mae": float, "seconds": float}
    return table.astype(kinds)


def screen_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a weighting, best first: its rate, Delta_m against equal weights, seconds of a run.

    Delta_m of a seed is the mean over tasks of (error - error of equal weights) / the latter, in
    per cent, equal weights at their own best rate; mean and range over the seeds.
    """
    rates, rows = best_rates(table), []
    base = _at(table, ("equal", ""), rates[label_of("equal", ())])
    for label, rate in rates.items():
        mine = _at(table, label, rate)
        both = mine.join(base.add_suffix("_equal"), how="inner")
        both = both[both.index.get_level_values("seed").isin(SEEDS)]
        if both.empty:
            continue
        relative = (both["mae"] / both["mae_equal"] - 1) * 100
        each = relative.groupby(level="seed").mean()
        seconds = float(mine["seconds"].mean())
        rows.append((*label, rate, each.mean(), each.min(), each.max(), len(each), seconds))
    names = ["weighting", "task_weights", "learning_rate", "delta_m", "least", "most", "seeds"]
    found = pd.DataFrame(rows, columns=[*names, "seconds"])
    return found.sort_values("delta_m", ignore_index=True)


def _at(table: pd.DataFrame, label: tuple[str, str], rate: float) -> pd.DataFrame:
    """The runs of one weighting at one rate, by seed and task."""
    chosen = (
        (table["weighting"] == label[0])
        & (table["task_weights"] == label[1])
        & np.isclose(table["learning_rate"], rate, rtol=1e-9)
    )
    return table[chosen].set_index(["seed", "task"])[["mae", "seconds"]]


def label_of(weighting: str, task_weights: tuple[float, ...]) -> tuple[str, str]:
    """A weighting and its weights as tables have them."""
    return Unit(weighting, task_weights, 0.0, 0).key[:2]


def _without(wanted: Sequence[Unit], table: pd.DataFrame) -> tuple[Unit, ...]:
    """Those of `wanted` that have no rows."""
    there = set(zip(*(table[name] for name in _KEYS), strict=True)) if len(table) else set()
    return tuple(unit for unit in wanted if unit.key not in there)
