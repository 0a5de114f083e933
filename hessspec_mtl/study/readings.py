"""Variants of the study: what the paper leaves open, and what its recipe may cost.

Each is the preset "compare" with something changed, in a folder of its own, and leaves rows in a
CSV file. `READINGS` are plausible readings of the paper's text: claims 4 to 7 and 11 are judged
under each. `RECIPES` ask why two of QM8's targets are hardly predicted better than by their median:
one thing of the recipe is changed at a time, and errors are compared.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hessspec_mtl.datasets.base import EncodedDataset, MultitaskDataset
from hessspec_mtl.files.whole import sole_use, write_whole
from hessspec_mtl.study.pipeline import begin_study, seed_works
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.records import Study, final_error, median_error
from hessspec_mtl.study.seeds import read_seed
from hessspec_mtl.study.tables import Table
from hessspec_mtl.training.train import train

CLAIMS = (4, 5, 6, 7, 11)
OURS = "ours"
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"  # verdicts, as `claims` words them
CLIPPED = 0.01  # of the training targets at either end, in the variant without outliers


@dataclass(frozen=True)
class Variant:
    """What is changed of the preset, and why.

    Attributes:
        name: of its folder and rows.
        words: what it is.
        network, train: fields that are changed.
        num_examples: how many, where that is changed; 0 takes all.
        clip: whether training targets are clipped at their outer `CLIPPED` quantiles.
    """

    name: str
    words: str
    network: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    num_examples: int | None = None
    clip: bool = False

    def of(self, config: StudyConfig, seeds: Sequence[int]) -> StudyConfig:
        """The study that it makes of a preset's: without single tasks and comparisons of tasks."""
        count = config.num_examples if self.num_examples is None else self.num_examples or None
        return replace(
            config,
            seeds=tuple(seeds),
            single_task=False,
            num_examples=count,
            network=replace(config.network, **self.network),
            train=replace(config.train, **self.train),
            curvature=replace(config.curvature, num_eigenpairs=0, gradient_groups=0),
        )


READINGS = (
    Variant(OURS, "as everywhere here"),
    Variant("glorot", "initial matrices by Glorot, uniform", {"initializer": "glorot_uniform"}),
    Variant("torch", "initial matrices as PyTorch has them", {"initializer": "torch_uniform"}),
    Variant("skip-hidden", "the skip starts at the first hidden layer", {"skip": "hidden"}),
    Variant("raw", "raw features go on to the next step", {"carried": "raw"}),
    Variant("sum", "the loss is a sum over examples", train={"reduction": "sum"}),
    Variant("linear-heads", "heads are affine", {"head_layers": 0}),
    Variant("deep-heads", "heads have two hidden layers", {"head_layers": 2}),
)

RECIPES = (
    Variant(OURS, "the recipe: squared errors, 0.002, 40 epochs, batches of 16"),
    Variant("absolute", "absolute errors are minimised", train={"loss": "absolute"}),
    Variant("clipped", "training targets clipped at their outer 1 % on either side", clip=True),
    Variant("slower", "a learning rate of 0.0005", train={"learning_rate": 5e-4}),
    Variant("faster", "a learning rate of 0.004", train={"learning_rate": 4e-3}),
    Variant(
        "longer",
        "160 epochs, the rate falling to the same share",
        train={"num_epochs": 160, "decay_rate": 0.962**0.25},
    ),
    Variant("small-batches", "batches of 4", train={"batch_size": 4}),
    Variant("large-batches", "batches of 64", train={"batch_size": 64}),
    Variant("linear-heads", "affine read-outs", {"head_layers": 0}),
    Variant("deep-heads", "read-outs with two hidden layers", {"head_layers": 2}),
    Variant("wider", "width 32 in place of 16", {"width": 32, "head_width": 64}),
    Variant("more", "8,000 molecules in place of 2,000", num_examples=8000),
)


def run_readings(
    config: StudyConfig,
    dataset: MultitaskDataset,
    judge: Callable[[Sequence[Study]], Sequence[Any]],
    out: Path,
    name: str,
    *,
    seeds: Sequence[int],
    most: int | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train, measure and judge under each reading that has no rows; returns all rows.

    Args:
        config: of the preset "compare".
        judge: `claims.judge`, which stands above this wing.
        out, name: folder of all runs, and the set's name in it.
        seeds: training runs of each reading.
        most: so many readings at most.

    Raises:
        FolderInUseError: if another process adds to the same table.
    """

    def rows_of(variant: Variant) -> list[dict[str, Any]]:
        folder = out / "readings" / variant.name / name
        start = time.process_time()
        try:
            study = _study(variant.of(config, seeds), dataset, folder, progress, say)
        except FloatingPointError as error:
            return [{"claim": 0, "verdict": f"diverged: {error}", "statistic": ""}]
        seconds = round(time.process_time() - start, 1)
        errors = [
            final_error(run.history, "test", task.name)[0]
            for run in study.runs
            for task in study.tasks
        ]
        head = {"seeds": len(seeds), "test_mae": float(np.mean(errors)), "seconds": seconds}
        found = []
        for judgement in judge([study]):
            if judgement.number not in CLAIMS:
                continue
            for statistic in judgement.statistics:
                low, high = statistic.interval
                found.append(
                    {
                        **head,
                        "claim": judgement.number,
                        "verdict": str(judgement.verdict),
                        "statistic": statistic.name,
                        "value": statistic.value,
                        "low_95": low,
                        "high_95": high,
                        "threshold": statistic.threshold,
                        "holds": {True: "yes", False: "no", None: "open"}[statistic.holds],
                    }
                )
        return found

    return _all_rows(READINGS, rows_of, out / "readings" / f"readings_{name}.csv", most, say)


def run_recipes(
    config: StudyConfig,
    load: Callable[[int | None], MultitaskDataset],
    out: Path,
    name: str,
    *,
    seeds: Sequence[int],
    most: int | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train with each recipe that has no rows; returns all rows, errors beside the median's.

    Args:
        load: the data set with so many examples; None for all.
        others: as `run_readings`.
    """

    def rows_of(variant: Variant) -> list[dict[str, Any]]:
        changed = variant.of(config, seeds)
        dataset = load(changed.num_examples)
        works = seed_works(changed, dataset, out / "recipes" / variant.name / name)
        found = []
        for work in works:
            start = time.process_time()
            encoded = _clipped(work.encoded) if variant.clip else work.encoded
            history = train(work.settings, work.network, encoded, work.training, progress=progress)
            seconds = round(time.process_time() - start, 1)
            shutil.rmtree(work.training, ignore_errors=True)
            medians = median_error(dataset, work.split)
            for task, median in zip(work.network.tasks, medians, strict=True):
                found.append(
                    {
                        "seed": work.seed,
                        "task": task,
                        "test_mae": final_error(history, "test", task)[0],
                        "train_mae": final_error(history, "train", task)[0],
                        "median_mae": float(median),
                        "train_examples": len(encoded.train),
                        "seconds": seconds,
                    }
                )
        return found

    return _all_rows(RECIPES, rows_of, out / "recipes" / f"recipes_{name}.csv", most, say)


def _study(
    config: StudyConfig,
    dataset: MultitaskDataset,
    folder: Path,
    progress: bool | None,
    say: Callable[[str], None],
) -> Study:
    """Its records, without the random forests that a report has beside them."""
    work = begin_study(config, dataset, folder, progress=progress, say=say)
    work.run(("train", "curvature"))
    runs = [read_seed(seed) for seed in work.seeds]
    return Study(work.dataset, runs, runs[0].spectra[0][0].dim)


def _clipped(encoded: EncodedDataset) -> EncodedDataset:
    """Training targets within their outer quantiles; the test set stays as it is."""
    targets = encoded.train.targets
    low, high = np.nanquantile(targets, [CLIPPED, 1 - CLIPPED], axis=0)
    kept = np.clip(targets, low, high).astype(targets.dtype)
    return replace(encoded, train=replace(encoded.train, targets=kept))


def _all_rows(
    variants: Sequence[Variant],
    rows_of: Callable[[Variant], list[dict[str, Any]]],
    path: Path,
    most: int | None,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """Rows of all variants, those that are missing made now, at most so many of them."""
    if most is not None and most < 0:
        raise ValueError(f"`most` (--most) must be at least 0, got {most}.")
    with sole_use(path.parent / "units" / path.stem):
        table = read_rows(path)
        for variant in missing(variants, table)[:most]:
            rows = pd.DataFrame(rows_of(variant))
            rows.insert(0, "variant", variant.name)
            table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
            write_whole(path, table.to_csv(index=False, float_format="%.6g"))
            say(f"{variant.name}: {len(rows)} rows")
    return table


def missing(variants: Sequence[Variant], table: pd.DataFrame) -> list[Variant]:
    """Those without rows."""
    there = set(table["variant"]) if len(table) else set()
    return [variant for variant in variants if variant.name not in there]


def read_rows(path: Path) -> pd.DataFrame:
    """The rows that are there; a task may be called "NA"."""
    if not path.exists():
        return pd.DataFrame(columns=["variant"])
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def readings_table(tables: Mapping[str, pd.DataFrame]) -> Table:
    """Which claims hold under which reading: a row a reading, a column a claim, by data set.

    The last row says which hold, or fail, under every reading that trains, and which hang on a
    choice: reproduced under one and not reproduced under another.
    """

    def row(head: str, said: Callable[[pd.DataFrame, int], str]) -> tuple[str, ...]:
        cells = ("; ".join(f"{name}: {said(t, c)}" for name, t in tables.items()) for c in CLAIMS)
        return (head, *cells)

    rows = [
        row(f"{variant.name}: {variant.words}", partial(_verdict, variant=variant.name))
        for variant in READINGS
    ]
    rows.append(row("whatever one assumes", _whatever))
    data = pd.concat([t.assign(dataset=n) for n, t in tables.items()], ignore_index=True)
    return Table(
        name="readings",
        title="Claims under each reading of what the paper leaves open",
        header=("Reading", *(f"claim {claim}" for claim in CLAIMS)),
        rows=tuple(rows),
        data=data,
        notes=(
            "The reduced network of the preset compare, all tasks together; one thing is changed "
            "at a time. The file readings.csv has every statistic with its interval.",
        ),
    )


def _verdict(table: pd.DataFrame, claim: int, variant: str) -> str:
    mine = table[(table["variant"] == variant) & table["claim"].isin([claim, 0])]
    return str(mine["verdict"].iloc[0]) if len(mine) else "not run"


def _whatever(table: pd.DataFrame, claim: int) -> str:
    """What the verdicts under all readings that train say together."""
    found = set(table.loc[table["claim"] == claim, "verdict"])
    if found >= {REPRODUCED, NOT_REPRODUCED}:
        return "hangs on a choice"  # whatever the others say
    said = {(REPRODUCED,): "holds", (NOT_REPRODUCED,): "fails"}.get(tuple(found), "open")
    left = len(missing(READINGS, table))
    return f"{said} so far, {left} not run" if left else said


def recipes_table(table: pd.DataFrame) -> Table:
    """Test errors as shares of the median's: a row a recipe, a column a task, means over seeds."""
    tasks = list(dict.fromkeys(table["task"]))
    share = table.assign(share=table["test_mae"] / table["median_mae"])
    means = share.groupby(["variant", "task"])["share"].agg(["mean", "std"])
    rows = []
    for variant in RECIPES:
        if variant.name not in set(table["variant"]):
            continue
        found = [means.loc[(variant.name, task)] for task in tasks]
        cells = [f"{one['mean']:.2f} ± {one['std']:.2f}" for one in found]
        rows.append((f"{variant.name}: {variant.words}", *cells))
    return Table(
        name="recipes",
        title="Test MAE as a share of that of predicting the training median",
        header=("Recipe", *tasks),
        rows=tuple(rows),
        data=table,
        notes=(
            "Means over seeds, ± their standard deviation. Each recipe differs from the first in "
            "one thing. These numbers are of the test set and nothing was chosen by them.",
        ),
    )
