"""Stage 2 of the study of weightings: five of them, and each task alone, with twenty seeds.

Which five is read off the table of stage 1 (`screening`) by a rule that was fixed before
(`docs/weighting.md`). A run is a unit of work, kept as in stage 1: rows of a CSV file. What is
trained lies where `hessspec_mtl.reproduce` looks for it,

    <out>/weighting-<name>/<set>/seed-<s>/training/            a network for all tasks
    <out>/weighting-equal/<set>/seed-<s>/single/<task>/        each task alone,

with the states of the epochs that the preset "compare" analyses. Those of the first seeds stay,
so that their curvature is taken without training again (`KEPT_SEEDS`); the others are removed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.files.whole import sole_use, write_whole
from hessspec_mtl.study.pipeline import seed_works
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.records import final_error
from hessspec_mtl.study.screening import (
    best_rates,
    candidates,
    label_of,
    screen_summary,
    units,
)
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.stages import StageError

SEEDS = tuple(range(20))
ALONE = "alone"
# A process does so many seeds of everything before it goes on: what is cut short is balanced, and
# programs, of which a process keeps a few, compile once for so many runs.
_BLOCK = 10
# `compare` takes the curvature of so many seeds, and so does stage 3.
KEPT_SEEDS = 10

PUBLISHED = (
    *("random", "uncertainty", "average", "famo", "gradnorm", "ntk", "pcgrad", "imtl-g"),
    *("aligned", "mgda", "cagrad", "nash"),
)
BY_CURVATURE = ("gauss-newton", "frobenius", "sharpness", "preconditioned")

COLUMNS = [
    *("weighting", "task_weights", "learning_rate", "seed"),
    *("task", "mae", "train_mae", "seconds"),
]


@dataclass(frozen=True)
class Method:
    """A weighting of stage 2, with the rate that stage 1 chose; or each task alone (`ALONE`).

    Attributes:
        role: why it is among them, in words.
        weighting: its name, as training knows it.
        task_weights: of "fixed".
        learning_rate: as chosen.
    """

    role: str
    weighting: str
    task_weights: tuple[float, ...]
    learning_rate: float

    @property
    def weights(self) -> str:
        """Its weights as tables have them."""
        return label_of(self.weighting, self.task_weights)[1]


def methods(screened: pd.DataFrame) -> tuple[Method, ...]:
    """The five weightings and, last, each task alone, by the rule that was fixed before.

    "Best" is the least mean Delta_m of stage 1 over its seeds, at the rate chosen there. Tasks
    alone are trained as with equal weights, at the rate of these.

    Raises:
        StageError: if stage 1 is not complete.
    """
    num_tasks = screened["task"].nunique()
    left = units(num_tasks, screened) if len(screened) else ()
    if left or not len(screened):
        missing = f"{len(left)} runs of its present step" if left else "all of its runs"
        raise StageError(
            f"stage 2 takes its weightings from stage 1, which lacks {missing}; run "
            "`python -m hessspec_mtl.weigh` for this set to its end first."
        )
    summary = screen_summary(screened)
    exact = {label_of(*one): one for one in candidates(num_tasks)}
    rates = best_rates(screened)

    def best(role: str, *names: str) -> Method:
        # Sorted, best first; a run that diverged has an infinite mean.
        row = summary[summary["weighting"].isin(names)].iloc[0]
        label = row["weighting"], row["task_weights"]
        return Method(role, *exact[label], rates[label])

    equal = best("equal weights", "equal")
    return (
        equal,
        best("best fixed", "fixed"),
        best("best published", *PUBLISHED),
        best("best by curvature", *BY_CURVATURE),
        best("1 / √(tr G)", "gauss-newton-root"),
        replace(equal, role="one network a task", weighting=ALONE),
    )


@dataclass(frozen=True)
class Run:
    """One training run: of a method, with a seed; of one task where each is trained alone."""

    method: Method
    seed: int
    task: str | None = None

    @property
    def key(self) -> tuple[str, str, float, int]:
        """As its rows begin."""
        method = self.method
        return method.weighting, method.weights, method.learning_rate, self.seed

    def __str__(self) -> str:
        of = f"{self.task} alone" if self.task else self.method.weighting
        return f"{of}, seed {self.seed}"

    @property
    def stays(self) -> bool:
        """Whether its states are needed later."""
        return self.seed < KEPT_SEEDS


def runs(chosen: Sequence[Method], tasks: Sequence[str], table: pd.DataFrame) -> tuple[Run, ...]:
    """What is missing in `table`, in the order in which it is done.

    Raises:
        ValueError: if the table holds runs of other weightings or rates than those chosen.
    """
    every = [
        Run(method, seed, task)
        for start in range(0, len(SEEDS), _BLOCK)
        for method in chosen
        for task in (tasks if method.weighting == ALONE else (None,))
        for seed in SEEDS[start : start + _BLOCK]
    ]
    there = set(zip(*(table[name] for name in [*COLUMNS[:4], "task"]), strict=True))
    if strange := {row[:3] for row in there} - {run.key[:3] for run in every}:
        raise ValueError(
            f"the table of stage 2 holds runs of {sorted(strange)}, which stage 1 has not chosen; "
            "put back the table of stage 1 that it was begun with, or choose another `--out`."
        )
    return tuple(run for run in every if (*run.key, run.task or tasks[0]) not in there)


def decide(
    config: StudyConfig,
    dataset: MultitaskDataset,
    screened: pd.DataFrame,
    out: Path,
    name: str,
    *,
    most: int | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Do what is missing of stage 2, at most so many runs; returns its table.

    Args:
        config: of the preset whose networks these are; its seeds, learning rate and weighting are
            those of each run.
        dataset: the examples to use, already reduced to `config.num_examples`.
        screened: the finished table of stage 1.
        out: folder of all runs.
        name: of the data set, in names of files and folders.

    Raises:
        ValueError: if `most` is negative, or a folder or the table holds something else.
        StageError: if stage 1 is not complete.
        FolderInUseError: if another process adds to the same table.
    """
    if most is not None and most < 0:
        raise ValueError(f"`most` (--most) must be at least 0, got {most}.")
    chosen = methods(screened)
    path = decided_path(out, name)
    (base,) = seed_works(replace(config, seeds=(0,)), dataset, out, progress=progress)
    with sole_use(path.parent / "units" / path.stem):
        table = read_decided(path)
        for run in runs(chosen, base.network.tasks, table)[:most]:
            rows = _done(run, base, out, name)
            table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
            write_whole(path, table.to_csv(index=False, float_format="%.9g"))
            say(f"{run}: MAE {rows['mae'].mean():.4f}, {rows['seconds'].iloc[0]:.0f} s")
    return table


def decided_path(out: Path, name: str) -> Path:
    """Where the rows of stage 2 are."""
    return out / "weighting" / f"stage2_{name}.csv"


def work_of(run: Run, base: SeedWork, out: Path, name: str) -> SeedWork:
    """The run as one of a study in the folder where the command would look for it."""
    method, alone = run.method, run.method.weighting == ALONE
    train = replace(
        base.config.train,
        learning_rate=method.learning_rate,
        weighting="equal" if alone else method.weighting,
        task_weights=() if alone else method.task_weights,
    )
    return replace(
        base,
        config=replace(
            base.config,
            train=train,
            single_task=alone,
            keep_states="analysed" if run.stays else "last",
        ),
        seed=run.seed,
        folder=out / f"weighting-{train.weighting}" / name / f"seed-{run.seed}",
    )


def _done(run: Run, base: SeedWork, out: Path, name: str) -> pd.DataFrame:
    """Train, and return a row a task: errors at the end, infinite if it diverged."""
    work = work_of(run, base, out, name)
    tasks = base.network.tasks if run.task is None else (run.task,)
    folder, start = work.folder_of(run.task), time.process_time()
    diverged = False
    try:
        history = work.training_of(run.task).to(None, progress=base.progress)
        errors = [
            [final_error(history, split, task)[0] for split in ("test", "train")] for task in tasks
        ]
    except FloatingPointError:
        errors, diverged = [[np.inf, np.inf]] * len(tasks), True
    seconds = round(time.process_time() - start, 1)
    if diverged or not run.stays:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [(*run.key, task, *both, seconds) for task, both in zip(tasks, errors, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def read_decided(path: Path) -> pd.DataFrame:
    """The rows of stage 2 that are there."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a task may be called "NA"
    numbers = dict.fromkeys(("learning_rate", "mae", "train_mae", "seconds"), float)
    return table.astype({**numbers, "seed": int})
