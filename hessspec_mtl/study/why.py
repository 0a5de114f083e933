"""Why a weighting helps or harms: curvature along training, and whether it predicts who suffers.

Stage 3 of the study of weightings (`docs/weighting.md`). At some epochs of the runs of stage 2, of
each task: curvatures that cannot change their sign (`training.measuring`), the length of its
gradient, and the least cosine between that and another task's. Then correlations of these with what
the task lost in the end against its own network.

A state is a unit of work: a row a task in a CSV file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.files.whole import sole_use, write_whole
from hessspec_mtl.graphs import balanced_batches
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.network.tasks import is_shared, partial_losses
from hessspec_mtl.network.ways import for_device
from hessspec_mtl.study.decision import Method, Run, work_of
from hessspec_mtl.study.delta_m import Decision
from hessspec_mtl.study.pipeline import seed_works
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.tables import Table, slug
from hessspec_mtl.training.measuring import measuring
from hessspec_mtl.weighting import gramian, task_gradients

SEEDS = tuple(range(10))
EPOCHS = (1, 3, 6, 16, 40)  # of those whose states stay
CURVATURES = ("gauss-newton", "frobenius", "sharpness", "preconditioned")
QUANTITIES = (*CURVATURES, "gradient", "conflict")
# Named beforehand: a tenth of training and more is done, and more than half of it is to come.
PRIMARY_EPOCH = 6
PRIMARY = ("sharpness", "preconditioned")
WITHIN, BEYOND = "which task of a network", "beyond what is usual of the task"
DRAWS = 10_000
LEVEL = 0.95

_KEY = 20  # a stream of its own
_HEAD = ["weighting", "task_weights", "learning_rate", "seed", "epoch"]
COLUMNS = [*_HEAD, "task", *QUANTITIES, *(f"{name}_error" for name in CURVATURES), "seconds"]


def measure(
    config: StudyConfig,
    dataset: MultitaskDataset,
    decision: Decision,
    out: Path,
    name: str,
    *,
    most: int | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Measure what is missing, at most so many states; returns the table of all.

    Runs that diverged have no states and no rows. A state that is not there is trained again.

    Args:
        config, dataset: as `decision.decide`.
        decision: the finished stage 2.
        out, name: folder of all runs, and the set's name in it.

    Raises:
        ValueError: if `most` is negative.
        FolderInUseError: if another process adds to the same table.
    """
    if most is not None and most < 0:
        raise ValueError(f"`most` (--most) must be at least 0, got {most}.")
    path = measured_path(out, name)
    (base,) = seed_works(replace(config, seeds=(0,)), dataset, out, progress=progress)
    with sole_use(path.parent / "units" / path.stem):
        table = read_measured(path)
        for method, seed, epoch in states(decision, table)[:most]:
            work = work_of(Run(method, seed), base, out, name)
            work = replace(work, config=replace(work.config, keep_states="analysed"))
            rows = _measured(work, method, epoch)
            table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
            write_whole(path, table.to_csv(index=False, float_format="%.6g"))
            say(f"{method.weighting}, seed {seed}, epoch {epoch}: {rows['seconds'].iloc[0]:.0f} s")
    return table


def states(decision: Decision, table: pd.DataFrame) -> list[tuple[Method, int, int]]:
    """What is still to be measured: weighting, seed and epoch."""
    there = set(zip(table["weighting"], table["seed"], table["epoch"], strict=True))
    return [
        (method, seed, epoch)
        for method in decision.methods
        for seed in SEEDS
        if np.isfinite(decision.delta_m(method.weighting)[seed])
        for epoch in EPOCHS
        if (method.weighting, seed, epoch) not in there
    ]


def measured_path(out: Path, name: str) -> Path:
    """Where the rows are."""
    return out / "weighting" / f"stage3_{name}.csv"


def read_measured(path: Path) -> pd.DataFrame:
    """The rows that are there."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a task may be called "NA"
    numbers = dict.fromkeys([c for c in COLUMNS if c not in _HEAD[:2] and c != "task"], float)
    return table.astype({**numbers, "seed": int, "epoch": int})


def _measured(work: SeedWork, method: Method, epoch: int) -> pd.DataFrame:
    """The quantities of each task after `epoch`, over the graphs of the study's Hessians."""
    start = time.process_time()
    training = work.training_of(None)
    training.to(None, progress=work.progress)  # nothing, where the states are there
    state = training.after(epoch)
    optimizer = getattr(state.opt_state, "optimizer", state.opt_state)
    examples, tasks = work.examples, work.network.tasks
    batches = balanced_batches(examples.graphs, examples.targets, len(examples.graphs))
    (batch,) = jax.device_put(for_device(batches))
    columns: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        for kind, (begin, run) in _programs(work.network).items():
            key = jax.random.fold_in(jax.random.key(work.seed), _KEY)
            at = state.params, optimizer, batch, key
            values, errors, kept = run(*at, begin(state.params))
            if kind in PRIMARY:  # looking for an eigenvalue goes on from what was found
                values, errors, _ = run(*at, kept)
            columns[kind], columns[f"{kind}_error"] = np.asarray(values), np.asarray(errors)
        products = np.asarray(_products(work.network)(state.params, batch), np.float64)
    norms = np.sqrt(np.diagonal(products))
    cosines = products / np.maximum(np.outer(norms, norms), np.finfo(float).tiny)
    columns["gradient"] = norms
    columns["conflict"] = (cosines + 2 * np.eye(len(tasks))).min(axis=1)
    head = (method.weighting, method.weights, method.learning_rate, work.seed, epoch)
    table = pd.DataFrame({**dict(zip(_HEAD, head, strict=True)), "task": list(tasks), **columns})
    return table.assign(seconds=round(time.process_time() - start, 1))[COLUMNS]


@cache
def _programs(network: NetworkConfig) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """How each curvature begins and is measured, compiled once for all states."""
    made = {kind: measuring(kind, network) for kind in CURVATURES}
    return {kind: (one.start, jax.jit(one.measure)) for kind, one in made.items()}


@cache
def _products(network: NetworkConfig) -> Callable[..., Any]:
    """Inner products of the tasks' gradients of the shared parameters."""

    def products(params: Any, batch: Any) -> Any:
        _, gradients = task_gradients(partial_losses(network), params, batch)
        return gramian(gradients, is_shared)

    return jax.jit(products)


Cube = Float[np.ndarray, "seeds methods tasks"]


def correlations(decision: Decision, measured: pd.DataFrame) -> pd.DataFrame:
    """Between each quantity at each epoch and the tasks' losses in the end; with intervals.

    What a task lost is the logarithm of its test error over that of its own network; quantities
    are taken by their logarithms, the cosine as it is. Two questions are asked of the same numbers:

    - `WITHIN`: is it, of the tasks of one network, the one of larger curvature that loses more?
      Both are taken less their means over the tasks of the network. The tasks are the same in all
      networks, so that the answer is about these few.
    - `BEYOND`: does a task lose more in those networks in which its curvature is above what is
      usual of it? Less their means over the networks too.

    Intervals are percentiles over `DRAWS` choices of seeds with replacement, whole seeds at a time;
    those of the questions named beforehand (`PRIMARY` at `PRIMARY_EPOCH`) hold for all of these
    together (Bonferroni).

    Columns: dataset, quantity, epoch, question, r, low, high, level, primary, seeds.
    """
    rows = []
    lost_by = {m.weighting: decision.relative(m.weighting) for m in decision.methods}
    for epoch in EPOCHS:
        for quantity in QUANTITIES:
            x, y = _cubes(decision, measured, lost_by, quantity, epoch)
            for question in (WITHIN, BEYOND):
                primary = quantity in PRIMARY and epoch == PRIMARY_EPOCH
                level = 1 - (1 - LEVEL) / (2 * len(PRIMARY)) if primary else LEVEL
                found = _correlated(x, y, level, beyond=question == BEYOND)
                head = (decision.dataset, quantity, epoch, question)
                rows.append((*head, *found, level, primary, len(x)))
    names = ["dataset", "quantity", "epoch", "question", "r", "low", "high", "level", "primary"]
    return pd.DataFrame(rows, columns=[*names, "seeds"])


def _cubes(
    decision: Decision,
    measured: pd.DataFrame,
    lost_by: Mapping[str, pd.DataFrame],
    quantity: str,
    epoch: int,
) -> tuple[Cube, Cube]:
    """The quantity, and what was lost, of the seeds of which all runs came to an end."""
    here = measured[measured["epoch"] == epoch]
    xs, ys = [], []
    for method in decision.methods:
        mine = here[here["weighting"] == method.weighting]
        values = mine.pivot(index="seed", columns="task", values=quantity)
        values = values.reindex(index=list(SEEDS), columns=list(decision.tasks)).to_numpy(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            xs.append(values if quantity == "conflict" else np.log(values))
            lost = lost_by[method.weighting].reindex(list(SEEDS)).to_numpy(float)
            ys.append(np.log1p(lost / 100))
    x, y = np.stack(xs, axis=1), np.stack(ys, axis=1)
    whole = np.isfinite(x).all(axis=(1, 2)) & np.isfinite(y).all(axis=(1, 2))
    return x[whole], y[whole]


def _correlated(x: Cube, y: Cube, level: float, *, beyond: bool) -> tuple[float, float, float]:
    """The correlation and the ends of its interval; unknown with fewer than two seeds."""
    if len(x) < 2:
        return np.nan, -1.0, 1.0
    drawn = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
    times = np.stack([(drawn == seed).sum(axis=1) for seed in range(len(x))], axis=1)
    (value,) = _pooled(x, y, np.ones((1, len(x))), beyond=beyond)
    many = _pooled(x, y, times, beyond=beyond)
    low, high = np.nanquantile(many, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


def _pooled(
    x: Cube, y: Cube, times: Float[np.ndarray, "draws seeds"], *, beyond: bool
) -> Float[np.ndarray, " draws"]:
    """Pearson's correlation of what is left after the means named in `correlations`.

    Each seed is taken so many times; sums over networks are those of its seeds, times that.
    """
    x, y = (values - values.mean(axis=2, keepdims=True) for values in (x, y))
    # Less the means over all seeds, of which those over drawn ones differ little: no digits go.
    x, y = (values - beyond * values.mean(axis=(0, 1)) for values in (x, y))
    networks = times.sum(axis=1) * x.shape[1]

    def added(a: Cube, b: Cube) -> Float[np.ndarray, " draws"]:
        whole = times @ (a * b).sum(axis=(1, 2))
        if not beyond:
            return whole
        sums = (times @ a.sum(axis=1)) * (times @ b.sum(axis=1))  # over networks, of each task
        return whole - sums.sum(axis=1) / networks

    with np.errstate(divide="ignore", invalid="ignore"):
        return added(x, y) / np.sqrt(added(x, x) * added(y, y))


def correlation_table(decision: Decision, measured: pd.DataFrame) -> Table:
    """The correlations as a table: those named beforehand first."""
    data = correlations(decision, measured)
    shown = data.sort_values("primary", ascending=False, kind="stable")
    rows = tuple(_cells(row) for row in shown.to_dict("records"))
    count = len(decision.methods)
    return Table(
        name=f"why_{slug(decision.dataset)}",
        title=f"Does curvature predict which task of {decision.dataset} suffers?",
        header=("Quantity", "after epoch", "question", "correlation", "its interval", "named"),
        rows=rows,
        data=data,
        notes=(
            f"Correlation of a quantity with the logarithm of a task's final test error over that "
            f"of its own network, over {len(decision.tasks)} tasks, {count} weightings and "
            f"{int(data['seeds'].min())} seeds. “{WITHIN}”: less the mean over the network's "
            f"tasks; the tasks are the same in all networks, so that this is about these few. "
            f"“{BEYOND}”: less the mean over networks too. Intervals: choices of seeds with "
            "replacement, 95 %; those named beforehand 95 % together. Of the others one in twenty "
            "excludes 0 by chance. Ten seeds make such intervals somewhat too narrow.",
        ),
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    value, low, high = (f"{row[name]:+.2f}".replace("-", "−") for name in ("r", "low", "high"))
    named = "beforehand" if row["primary"] else ""
    return (row["quantity"], str(row["epoch"]), row["question"], value, f"{low} to {high}", named)


def predictors(data: pd.DataFrame) -> Iterator[str]:
    """In words, which of the questions named beforehand have an answer."""
    for row in data[data["primary"]].to_dict("records"):
        said = "larger" if row["r"] > 0 else "smaller"
        answer = (
            f"goes with {said} errors"
            if row["low"] * row["high"] > 0
            else "predicts nothing that ten seeds could tell"
        )
        yield (
            f"{row['dataset']}, {row['quantity']} after epoch {row['epoch']}, {row['question']}: "
            f"{answer} (r = {row['r']:+.2f}, {row['low']:+.2f} to {row['high']:+.2f})"
        ).replace("-0", "−0")


def best_and_worst(decision: Decision) -> Sequence[str]:
    """The weightings of least and of largest mean Delta_m, those that diverged being worst."""
    means = {m.weighting: float(decision.delta_m(m.weighting).mean()) for m in decision.methods}
    order = sorted(means, key=lambda name: np.inf if np.isnan(means[name]) else means[name])
    return order[0], order[-1]
