"""Three optimizers on one network: `python -m hessspec_mtl.optimizers`.

The paper asks whether the curvature that it saw belongs to the tasks or to the optimizer. Here the
reduced network of the preset "compare" is trained on all tasks of QM8 with each optimizer, from
the same weights on the same examples, and what came out is put side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import tyro

from hessspec_mtl.claims.ledger import number
from hessspec_mtl.curvature.spectra import TaskSpectrum
from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.qm8 import load_qm8
from hessspec_mtl.study.pipeline import DATA_SEED, run_study
from hessspec_mtl.study.presets import PRESETS, StudyConfig
from hessspec_mtl.study.records import Study, final_error
from hessspec_mtl.study.tables import Table, write_table
from hessspec_mtl.training.config import TrainConfig

OUTLIER = 1.0  # eigenvalues beyond ±1 are counted: a step of 1e-3 along one changes little else

# Adam's step does not depend on the size of the gradient, that of SGD does: the learning rate of
# SGD is the largest of 0.003, 0.01 and 0.03 whose error fell throughout five epochs of training.
# It is warmed up because the Hessian's eigenvalues are largest before the first step.
SETTINGS: Mapping[str, Mapping[str, float]] = {
    "adamw": {},
    "adam": {},
    "sgd": {"learning_rate": 1e-2, "warmup_steps": 200},
}


@dataclass(frozen=True)
class Options:
    """Train one network with three optimizers and compare errors and curvature.

    Attributes:
        data_dir: folder with QM8; by default the variable HESSSPEC_DATA, then a cache.
        out: folder of all runs; results go to `optimizers` in it.
        seed: of weights, order of examples and probes.
        num_examples: molecules, a random subset; default: the preset's.
        num_epochs: of training; default: the preset's.
        progress: progress bars; by default shown in a terminal only.
    """

    data_dir: Path | None = None
    out: Path = Path("runs")
    seed: int = 0
    num_examples: int | None = None
    num_epochs: int | None = None
    progress: bool | None = None


def configured(optimizer: str, options: Options) -> StudyConfig:
    """The study of one optimizer: the preset's, one seed, three epochs analysed."""
    preset = PRESETS["compare"].studies["qm8"]
    train: TrainConfig = replace(preset.train, optimizer=optimizer, **SETTINGS[optimizer])
    if options.num_epochs is not None:
        train = replace(train, num_epochs=options.num_epochs)
    return replace(
        preset,
        num_examples=options.num_examples or preset.num_examples,
        seeds=(options.seed,),
        single_task=False,
        train=train,
        curvature=replace(preset.curvature, num_epochs=3, num_eigenpairs=0, gradient_groups=0),
    )


def compare(options: Options, dataset: MultitaskDataset) -> Table:
    """Train with every optimizer, or read what was trained, and tabulate; writes the table too."""
    folder = options.out / "optimizers"
    studies = {
        name: run_study(
            configured(name, options), dataset, folder / name, progress=options.progress
        )
        for name in SETTINGS
    }
    table = optimizer_table(studies)
    write_table(table, folder)
    return table


def optimizer_table(studies: Mapping[str, Study]) -> Table:
    """Test error, trace and outliers of every task at the end, one row an optimizer and task."""
    records = []
    for name, study in studies.items():
        run = study.runs[0]
        trace = run.curvature[-1].trace
        low, high = (np.asarray(end, np.float64) for end in trace.confidence_interval(0.95))
        for index, task in enumerate(study.tasks):
            mae, spread = final_error(run.history, "test", task.name)
            spectrum = run.spectra[-1][index]
            records.append(
                {
                    "optimizer": name,
                    "learning_rate": study.settings["train"]["learning_rate"],
                    "task": task.name,
                    "label": task.label,
                    "test_mae": mae,
                    "test_mae_epoch_sd": spread,
                    "trace": float(np.asarray(trace.value)[index]),
                    "trace_low_95": float(low[index]),
                    "trace_high_95": float(high[index]),
                    **_ends(spectrum),
                }
            )
    data = pd.DataFrame(records)
    rows = [
        (
            str(row.optimizer),
            str(row.label),
            f"{row.test_mae:.3f} ± {row.test_mae_epoch_sd:.3f}",
            f"{number(row.trace)} [{number(row.trace_low_95)}, {number(row.trace_high_95)}]",
            number(row.smallest),
            number(row.largest),
            number(row.outliers),
        )
        for row in data.itertuples()
    ]
    first = next(iter(studies.values()))
    return Table(
        name="optimizers",
        title=f"Optimizers on {first.name} at the end of training, one seed",
        header=(
            "Optimizer",
            "Property",
            "test MAE (over the last epochs)",
            "trace [95 % of the probe error]",
            "smallest λ",
            "largest λ",
            f"eigenvalues beyond ±{OUTLIER:g}",
        ),
        rows=tuple(rows),
        data=data,
        notes=(
            "Errors in standard deviations of the training targets; traces and eigenvalues in loss "
            "/ parameter², of the Hessian with respect to the shared parameters. The number of "
            "eigenvalues is a mean over probes.",
        ),
    )


def _ends(spectrum: TaskSpectrum) -> dict[str, float]:
    used = spectrum.nodes[spectrum.weights > 0]
    return {
        "smallest": float(used.min()),
        "largest": float(used.max()),
        "outliers": spectrum.dim * spectrum.mass_beyond(OUTLIER),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table; returns the exit status."""
    options = tyro.cli(
        Options,
        args=list(sys.argv[1:] if argv is None else argv),
        prog="python -m hessspec_mtl.optimizers",
        description=(Options.__doc__ or "").split("Attributes:")[0],
    )
    whole = load_qm8(options.data_dir, progress=options.progress)
    count = configured("adamw", options).num_examples or len(whole)
    dataset = whole.subset(min(count, len(whole)), DATA_SEED)
    with jax.default_matmul_precision("highest"):
        table = compare(options, dataset)
    print(table.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
