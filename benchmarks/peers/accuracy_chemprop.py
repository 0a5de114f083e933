"""Claim: from the training molecules of a preset a usual network, chemprop 2 as it comes, predicts
all four targets of QM8 better than their median.

    python -m benchmarks.peers.accuracy_chemprop [--preset compare] [--seeds 0 1 2] [--epochs 50]
        [--data-dir DATA]

chemprop gets the molecules that the command gives to this package's network, as SMILES, and is
tested on the same ones. All else is what `chemprop train` does unless told otherwise: its features
of atoms and bonds, its network (messages along bonds, width 300, three steps), squared errors of
standardised targets, 50 epochs, and in the end the weights of least validation loss. It must have
molecules to validate on: a tenth of the training molecules, so that it learns from nine tenths.
Its environment: `python -m benchmarks.peers.install`.

Test errors go to `benchmarks/results/peers.accuracy_chemprop.csv`, in standard deviations (ddof =
1) of all training targets, like those of our reports, and in the targets' units. Rows are added
run by run; a run that is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.accuracy_baselines import Problem, problem, read_rows
from benchmarks.claims import RESULTS
from benchmarks.peers.fleet import PeerError
from benchmarks.peers.install import interpreter
from hessspec_mtl.datasets.base import group_split
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.presets import DATA_SEED
from hessspec_mtl.study.records import median_error

ROWS = RESULTS / "peers.accuracy_chemprop.csv"
VALIDATED = 0.1  # of the training molecules; the command's own default is a ninth
ENVIRONMENT = "chemprop"


def molecules(given: Problem) -> pd.DataFrame:
    """The table that chemprop reads: SMILES, targets in their units, and the side of the split.

    Copies of one molecule are on one side of validation too.
    """
    train, test = np.asarray(given.split.train), np.asarray(given.split.test)
    inner = group_split(given.dataset.groups[train], DATA_SEED, VALIDATED)
    side = np.full(len(given.dataset), "", dtype=object)
    side[test], side[train[inner.train]], side[train[inner.test]] = "test", "train", "val"
    names = [task.name for task in given.dataset.tasks]
    table = pd.DataFrame(np.asarray(given.dataset.targets, np.float64), columns=names)
    table.insert(0, "smiles", list(given.dataset.structures))
    return table.assign(split=side)


def words(data: Path, out: Path, tasks: Sequence[str], seed: int, epochs: int) -> list[str]:
    """The command line of one run: chemprop's defaults but for what is named."""
    return [
        *(str(interpreter(ENVIRONMENT).with_name("chemprop")), "train"),
        *("--data-path", str(data), "--smiles-columns", "smiles"),
        *("--target-columns", *tasks, "--splits-column", "split"),
        *("--epochs", str(epochs), "--pytorch-seed", str(seed), "--data-seed", str(seed)),
        *("--accelerator", "cpu", "--remove-checkpoints", "--output-dir", str(out)),
    ]


def predictions(
    table: pd.DataFrame, tasks: Sequence[str], seed: int, epochs: int
) -> tuple[np.ndarray, float]:
    """What it predicts for the test molecules, in their order, and its processor seconds.

    Raises:
        PeerError: if it is not installed or fails; the message is its last line.
    """
    if not interpreter(ENVIRONMENT).exists():
        raise PeerError("its environment is missing: python -m benchmarks.peers.install makes it")
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name) / "molecules.csv", Path(name) / "out"
        table.to_csv(data, index=False)
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        before = _children_seconds()
        done = subprocess.run(
            words(data, out, tasks, seed, epochs), env=settings, capture_output=True, text=True
        )
        if done.returncode:
            raise PeerError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
        found = pd.read_csv(out / "model_0" / "test_predictions.csv")
        seconds = _children_seconds() - before
    wanted = table.loc[table["split"] == "test", "smiles"].tolist()
    if found["smiles"].tolist() != wanted:
        raise PeerError("its predictions are not of the test molecules in their order")
    return found[list(tasks)].to_numpy(np.float64), seconds


def errors(given: Problem, predicted: np.ndarray) -> np.ndarray:
    """Test MAE of each task in `Problem.deviations`."""
    truth = np.asarray(given.dataset.targets, np.float64)[np.asarray(given.split.test)]
    return np.abs(predicted - truth).mean(axis=0) / given.deviations


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs that are missing and say the verdict of all of this preset."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.accuracy_chemprop")
    parser.add_argument("--preset", default="compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=ROWS)
    options = parser.parse_args(argv)
    given = problem(options.preset, "qm8", options.data_dir)
    table, tasks = molecules(given), [task.name for task in given.dataset.tasks]
    for seed in options.seeds:
        kept = read_rows(options.output)
        if _is_there(kept, options.preset, seed, options.epochs):
            continue
        try:
            predicted, seconds = predictions(table, tasks, seed, options.epochs)
        except PeerError as error:
            print(f"chemprop did not run: {error}", file=sys.stderr)
            return 1
        new = _rows(given, table, predicted, seed, options.epochs, seconds)
        kept = pd.concat([kept, new], ignore_index=True)
        write_whole(options.output, kept.to_csv(index=False, float_format="%.6g").encode())
        print(new[["task", "seed", "test_mae", "median_mae", "seconds"]].to_string(index=False))
    print(verdict(read_rows(options.output), options.preset, options.epochs))
    return 0


def verdict(table: pd.DataFrame, preset: str, epochs: int) -> str:
    """The claim, held against all runs of one preset."""
    mine = table[(table["preset"] == preset) & (table["epochs"] == epochs)]
    shares = (mine["test_mae"] / mine["median_mae"]).groupby(mine["task"], sort=False)
    told = ", ".join(f"{task} {share.mean():.2f}" for task, share in shares)
    met = "met" if (shares.max() < 1).all() else "falls short"
    return f"{preset}, test MAE as a share of the median's: {told}. The claim: {met}."


def _rows(
    given: Problem,
    table: pd.DataFrame,
    predicted: np.ndarray,
    seed: int,
    epochs: int,
    seconds: float,
) -> pd.DataFrame:
    sides = table["split"].value_counts()
    tasks = given.dataset.tasks
    scaled, deviations = errors(given, predicted), given.deviations
    return pd.DataFrame(
        {
            "preset": given.preset,
            "dataset": given.dataset.name,
            "learnt_from": int(sides["train"]),
            "validated_on": int(sides["val"]),
            "test": int(sides["test"]),
            "seed": seed,
            "epochs": epochs,
            "task": [task.name for task in tasks],
            "unit": [task.unit for task in tasks],
            "test_mae": scaled,
            "test_mae_raw": scaled * deviations,
            "median_mae": median_error(given.dataset, given.split),
            "seconds": round(seconds, 1),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            **_versions(),
        }
    )


def _versions() -> dict[str, str]:
    """Of chemprop and PyTorch, as their environment has them."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({n: m.version(n) for n in ('chemprop', 'torch')}))"
    )
    python = str(interpreter(ENVIRONMENT))
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _is_there(table: pd.DataFrame, preset: str, seed: int, epochs: int) -> bool:
    if table.empty:
        return False
    same = (table["preset"] == preset) & (table["seed"] == seed) & (table["epochs"] == epochs)
    return bool(same.any())


def _children_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
