"""Claim: on a real network the error of a trace is as large as stated, and its intervals hold.

    python -m benchmarks.accuracy_network [--pieces 1] [--seeds 10] [--states initial trained]
    python -m benchmarks.accuracy_network --pieces 0 --page docs/studies/network_traces.md

The network of `--preset compare` (P = 73,120 shared parameters) on 16 molecules of QM8 in four
batches, the traces of four tasks from one call of `hessspec.trace` a seed, at the initial
parameters and after some epochs of training. Each piece adds the next seeds of each state to
`benchmarks/results/accuracy_network.csv` with the revision at which they were drawn, so a run may
be stopped and gone on with. Where the draws of `trace` have changed begin the file anew;
`accuracy_network.before.csv` has the seeds of the draws before, which stand below on the page.
Training that rounds otherwise ends at another network, to which no seeds of the former are added:
`accuracy_network.truth.csv` has the truth of each network there are seeds of.

The truth is a run of its own that shares no code with what it judges but the forms: a basis from a
few steps of subspace iteration, and 2,048 samples beside it, by signs of NumPy for each batch.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import hessspec
from benchmarks.machine import revision
from benchmarks.problems import cache_folder, is_shared
from hessspec import Batches, HessianOperator

GRAPHS, BATCH = 16, 4
EXAMPLES, EPOCHS = 640, 12
BUDGET = 96
STATES = ("initial", "trained")
TRUTH_RANK, TRUTH_STEPS, TRUTH_SAMPLES = 64, 3, 2048
RESULTS = Path(__file__).parent / "results" / "accuracy_network.csv"
BEFORE = RESULTS.with_suffix(".before.csv")
TRUTHS = RESULTS.with_suffix(".truth.csv")
DRAWN_BEFORE = (
    "a12ad0f and 6351097, before common probes were random signs and groups chosen by all tasks"
)
NUMBERS = ("value", "stated", "low", "high")


Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class Case:
    """The Hessians of all tasks at one state: as a whole, and of each batch alone."""

    whole: HessianOperator
    batches: tuple[HessianOperator, ...]


@cache
def _examples() -> Any:
    from hessspec_mtl.datasets.qm8 import load_qm8

    dataset = load_qm8(download=False, num_examples=EXAMPLES, progress=False)
    return dataset.encode(dataset.split(0))


def _network() -> Any:
    from hessspec_mtl.network.model import NetworkConfig

    encoded = _examples()
    tasks = tuple(task.name for task in encoded.tasks)
    return NetworkConfig(
        encoded.node_features, encoded.edge_features, tasks, num_steps=3, width=16, head_width=32
    )


def _parameters(state: str) -> Any:
    """Of the state; those after training are kept in the `cache_folder`."""
    from hessspec_mtl.network.model import init_params
    from hessspec_mtl.training.config import TrainConfig
    from hessspec_mtl.training.train import load_params, train

    if state == "initial":
        return init_params(jax.random.key(0), _network())
    config = TrainConfig(num_epochs=EPOCHS, batch_size=16, learning_rate=2e-3, decay_start=EPOCHS)
    folder = cache_folder() / f"network-{EXAMPLES}-{EPOCHS}"
    train(config, _network(), _examples(), folder, progress=False)
    return load_params(folder, EPOCHS)


@cache
def case(state: str) -> Case:
    """The operators at `state`."""
    from hessspec_mtl.curvature.follow import hessian_indices
    from hessspec_mtl.graphs import balanced_batches
    from hessspec_mtl.network.tasks import partial_losses

    examples = _examples().train
    chosen = hessian_indices(len(examples), GRAPHS, 0)
    graphs = [examples.graphs[i] for i in chosen]
    batches = jax.device_put(balanced_batches(graphs, examples.targets[chosen], BATCH))
    params = jax.device_put(_parameters(state))
    losses = partial_losses(_network())

    def operator(some: list[Any]) -> HessianOperator:
        sizes = [batch.num_graphs for batch in some]
        return HessianOperator(losses, params, data=Batches(some, sizes=sizes), where=is_shared)

    return Case(operator(batches), tuple(operator([batch]) for batch in batches))


def point(state: str) -> str:
    """Tells the network of a state from others: a hash of its parameters."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(_parameters(state)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:12]


def find_truth(state: str) -> None:
    """Add the traces of a state to the file of truths, unless they are there."""
    here = point(state)
    if any(row["point"] == here for row in read(TRUTHS)):
        return
    traces, errors = _long_run(case(state))
    for task, trace, error in zip(_network().tasks, traces, errors, strict=True):
        add_row(TRUTHS, {"point": here, "task": task, "trace": trace, "error": error})


def truth(here: str, task: str) -> tuple[float, float]:
    """A trace of the network that `point` tells, and its error."""
    (row,) = (r for r in read(TRUTHS) if (r["point"], r["task"]) == (here, task))
    return float(row["trace"]), float(row["error"])


def _long_run(problem: Case) -> tuple[np.ndarray, np.ndarray]:
    """tr H = tr QHQᵀ + Σ_b w_b E v_bᵀH_b v_b, v_b signs brought to the complement of Q."""
    rng = np.random.default_rng(20261127)
    whole, dim, count = problem.whole, problem.whole.dim, len(problem.batches)
    sample = np.asarray(whole.forms(jnp.asarray(rng.choice([-1.0, 1.0], (16, dim)), whole.dtype)))
    one = whole.weighted(jnp.asarray(1.0 / sample.std(axis=-1)))
    basis = rng.normal(size=(TRUTH_RANK, dim))
    for _ in range(TRUTH_STEPS):
        basis = np.linalg.qr(basis.T)[0].T
        blocks = np.split(basis, TRUTH_RANK // 8)
        basis = np.concatenate([one.rows(jnp.asarray(block, one.dtype)) for block in blocks])
    basis = np.ascontiguousarray(np.linalg.qr(basis.T.astype(np.float64))[0].T, np.float32)
    exact = sum(_forms(whole, block).sum(axis=-1) for block in np.split(basis, TRUTH_RANK // 8))
    samples = []
    for _ in range(TRUTH_SAMPLES // 8):
        bits = np.unpackbits(rng.integers(0, 256, (8 * count, -(-dim // 8)), np.uint8), axis=1)
        signs = 2 * bits[:, :dim].astype(np.float32) - 1
        signs -= (signs @ basis.T) @ basis
        found = map(_forms, problem.batches, np.split(signs, count))
        samples.append(sum(found) / count)
    drawn = np.concatenate(samples, axis=-1)
    return exact + drawn.mean(axis=-1), drawn.std(axis=-1, ddof=1) / TRUTH_SAMPLES**0.5


def _forms(operator: HessianOperator, rows: np.ndarray) -> np.ndarray:
    return np.asarray(operator.forms(jnp.asarray(rows, operator.dtype)), np.float64)


def estimate(state: str, seed: int) -> hessspec.TraceEstimate:
    """What `hessspec.trace` says."""
    key = jax.random.fold_in(jax.random.key(13), seed)
    return hessspec.trace(case(state).whole, key=key, num_matvecs=BUDGET, progress=False)


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a file, which begins with the names of its columns."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        told = {name: f"{v:.7g}" if isinstance(v, float) else v for name, v in row.items()}
        writer.writerow(told)


def add_seeds(state: str, count: int) -> None:
    """The next `count` seeds of a state, each written as soon as it is there."""
    here, commit = point(state), revision()
    held = [row for row in read() if row["state"] == state]
    if {row["point"] for row in held} - {here}:
        sys.exit(
            f"The seeds of {state!r} in {RESULTS} were drawn at another network than "
            f"this revision's ({here}). Go on at their revision, {held[-1]['revision']}, or begin "
            "anew: move them to a file of their own."
        )
    find_truth(state)
    for seed in range(len(held), len(held) + count):
        found = estimate(state, seed)
        numbers = np.stack([found.value, found.standard_error, *found.confidence_interval()])
        row = {"state": state, "point": here, "seed": seed, "samples": found.num_samples}
        row |= {"rank": 0 if found.choice is None else found.choice.rank, "probes": found.probes}
        for task, own in zip(_network().tasks, numbers.T, strict=True):
            row |= {f"{name} {task}": float(v) for name, v in zip(NUMBERS, own, strict=True)}
        add_row(RESULTS, {**row, "revision": commit})


def read(path: Path | None = None) -> list[Row]:
    """All rows of a file, of that of the present draws by default."""
    path = path or RESULTS
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Verdict:
    """What the seeds of one state say of one task, with 95 % intervals."""

    seeds: int
    ratio: float
    ratio_within: tuple[float, float]
    coverage: float
    coverage_within: tuple[float, float]
    mean_error: float  # of the seeds' mean, in its own standard errors


def judged(rows: list[Row], task: str, trace: float, error: float) -> Verdict:
    """The true error over the stated one, and how often the interval held the truth.

    The truth's own variance is taken off the mean square. The ratio's interval is that of 2,000
    bootstrap samples of the seeds, the coverage's that of Clopper and Pearson.
    """
    value, stated, low, high = (
        np.array([float(row[f"{number} {task}"]) for row in rows]) for number in NUMBERS
    )
    squares, own = (value - trace) ** 2 - error**2, stated**2
    ratio = float(np.sqrt(np.mean(squares) / np.mean(own)))
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(rows), size=(2000, len(rows)))
    again = np.maximum(squares[chosen].mean(axis=1), 0.0) / own[chosen].mean(axis=1)
    ends = np.quantile(np.sqrt(again), [0.025, 0.975])
    held = int(np.sum((low <= trace) & (trace <= high)))
    within = stats.binomtest(held, len(rows)).proportion_ci(0.95, "exact")
    spread = np.hypot(value.std(ddof=1) / len(rows) ** 0.5, error)
    return Verdict(
        len(rows),
        ratio,
        (float(ends[0]), float(ends[1])),
        held / len(rows),
        (within.low, within.high),
        float((value.mean() - trace) / spread),
    )


def table(rows: list[Row]) -> list[str]:
    """A line for each state and task."""
    lines = [
        "| state | task | trace | stated, rms | seeds | true / stated error | 95 % intervals held |"
        " mean of seeds - truth, in its errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for state in STATES:
        own = [row for row in rows if row["state"] == state]
        if len(own) < 2:
            continue
        for task in _network().tasks:
            trace, error = truth(own[0]["point"], task)
            v = judged(own, task, trace, error)
            stated = np.sqrt(np.mean([float(row[f"stated {task}"]) ** 2 for row in own]))
            low, high = v.ratio_within
            least, most = v.coverage_within
            lines.append(
                f"| {state} | {task} | {trace:.4g} ± {error:.2g} | {stated:.3g} | {v.seeds} | "
                f"{v.ratio:.2f} ({low:.2f} to {high:.2f}) | "
                f"{v.coverage:.1%} ({least:.1%} to {most:.1%}) | {v.mean_error:+.1f} |"
            )
    return lines


def drawn(rows: list[Row]) -> str:
    """A table, and what was chosen in its seeds."""
    told = []
    for state in STATES:
        mine = [row for row in rows if row["state"] == state]
        if not mine:
            continue
        samples = np.mean([int(row["samples"]) for row in mine])
        own = np.mean(["own" in row["probes"] for row in mine])
        ranks = [int(row["rank"]) for row in mine if "rank" in row]
        beside = f" beside {np.mean(ranks):.0f} directions" if ranks else ""
        told.append(
            f"{state}: {samples:.0f} samples{beside} on average, own probes for groups of batches "
            f"in {own:.0%} of the seeds."
        )
    return "\n".join(table(rows)) + "\n\n" + " ".join(told) + "\n"


def page() -> str:
    """The study."""
    rows, before = read(), read(BEFORE)
    revisions = ", ".join(sorted({row["revision"] for row in rows}))
    text = (
        "# The stated error of a trace on a real network\n\n"
        "Written by `python -m benchmarks.accuracy_network --pieces 0 --page "
        "docs/studies/network_traces.md` "
        f"with jax {jax.__version__}, {case('initial').whole.dtype}. The network of `--preset "
        f"compare`, P = {case('initial').whole.dim:,} shared parameters, four tasks of QM8, "
        f"{GRAPHS} molecules in batches of {BATCH}; initial parameters, and after {EPOCHS} "
        f"epochs on {len(_examples().train)} molecules. Each seed is one call of "
        f"`hessspec.trace` with `num_matvecs={BUDGET}`. The truth: a basis of {TRUTH_RANK} vectors "
        f"by subspace iteration and {TRUTH_SAMPLES:,} samples beside it, each batch with signs of "
        "its own, drawn by "
        "NumPy; its own variance is taken off. In brackets 95 % intervals (bootstrap over seeds; "
        "Clopper and Pearson).\n\n"
    )
    sections = []
    if rows:
        sections.append(f"## Drawn at revision {revisions}\n\n{drawn(rows)}")
    if before:
        sections.append(f"## Drawn at revisions {DRAWN_BEFORE}\n\n{drawn(before)}")
    return text + "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pieces", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10, help="of each state in a piece")
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=STATES)
    parser.add_argument("--page", type=Path, default=None)
    options = parser.parse_args()
    for _ in range(options.pieces):
        for state in options.states:
            add_seeds(state, options.seeds)
        print("\n".join(table(read())), flush=True)
    if options.page:
        options.page.write_text(page())


if __name__ == "__main__":
    main()
