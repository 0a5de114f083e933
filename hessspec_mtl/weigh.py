"""Weightings of the tasks against each other: `python -m hessspec_mtl.weigh`.

The study that `docs/weighting.md` describes, with the reduced network of the preset "weighting".
Stage 1 tries every weighting on validation data, with a learning rate of its own; stage 2 trains
five of them and each task alone with twenty seeds; stage 3 measures the curvature along these runs.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before NumPy is imported: with other numbers of threads sums end in other digits.
    from hessspec_mtl.files.threads import keep_to_one_thread

    keep_to_one_thread()

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.network.ways import full_precision
from hessspec_mtl.study.decision import decide, methods, runs
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.options import command_line, ended
from hessspec_mtl.study.presets import DATA_SEED, PRESETS, StudyConfig
from hessspec_mtl.study.screening import (
    read_screen,
    screen,
    screen_summary,
    units,
    validation_dataset,
)


@dataclass(frozen=True)
class Options:
    """Train with several weightings of the tasks and compare their errors.

    Attributes:
        stage: 1 tries every weighting on validation data; 2 trains those that it chose, and each
            task alone, with twenty seeds; 3 measures the curvature along ten of these.
        dataset: of the preset "weighting": qm8 or mp.
        data_dir: folder with the data; by default the variable HESSSPEC_DATA, then a cache.
        encoded_dir: folder with encoded data sets, which are read at once.
        out: folder of all runs; rows go to `weighting/screen_<dataset>.csv`,
            `stage2_<dataset>.csv` and `stage3_<dataset>.csv` in it.
        most: stop after so many runs (states, in stage 3), to go on another time; by default all
            that are missing.
        progress: progress bars; by default shown in a terminal only.
    """

    stage: Literal[1, 2, 3] = 1
    dataset: Literal["qm8", "mp"] = "qm8"
    data_dir: Path | None = None
    encoded_dir: Path | None = None
    out: Path = Path("runs")
    most: int | None = None
    progress: bool | None = None

    @property
    def screened(self) -> Path:
        """The table of stage 1."""
        return self.out / "weighting" / f"screen_{self.dataset}.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing of a stage and print its table; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = command_line(Options, arguments, "python -m hessspec_mtl.weigh")

    def work() -> None:
        with full_precision():
            {1: _screen, 2: _decide, 3: _explain}[options.stage](options)

    return ended(work, "The same command goes on.")


def _screen(options: Options) -> None:
    config, dataset = _study(options)
    encoded = validation_dataset(dataset, config.test_fraction, DATA_SEED)
    tasks = tuple(task.name for task in encoded.tasks)
    network = NetworkConfig(
        encoded.node_features, encoded.edge_features, tasks, **asdict(config.network)
    )
    path, most = options.screened, options.most
    table = screen(encoded, network, config.train, path, most=most, progress=options.progress)
    if left := units(len(tasks), table):
        print(f"{len(left)} runs are left of this step; the same command goes on. {path}")
    else:
        summary = screen_summary(table)
        summary["learning_rate"] = summary["learning_rate"].map("{:g}".format)  # 0.0005 is no 0
        print(summary.round(3).to_string(index=False))


def _decide(options: Options) -> None:
    screened = read_screen(options.screened)
    chosen = methods(screened)  # refused before the data are read
    config, dataset = _study(options)
    table = decide(
        config,
        dataset,
        screened,
        options.out,
        options.dataset,
        most=options.most,
        progress=options.progress,
    )
    if left := runs(chosen, [task.name for task in dataset.tasks], table):
        print(f"{len(left)} runs are left; the same command goes on.")
        return
    _write_decision(options)


def _write_decision(options: Options) -> None:
    """The table of this set, and the figure of all sets that are finished."""
    # Imported late: plotting needs seconds to load, training needs it not.
    from hessspec_mtl.figures import delta_m_figure, write_plot
    from hessspec_mtl.study.delta_m import decision_table, decisions
    from hessspec_mtl.study.tables import write_table

    folder = options.out / "weighting"
    for decision in decisions(options.out, [options.dataset]):
        table = decision_table(decision)
        write_table(table, folder)
        print(table.to_markdown())
    plot = delta_m_figure(decisions(options.out, list(PRESETS["weighting"].studies)))
    if plot is not None:
        print(f"Figure: {write_plot(plot, folder).png}")


def _explain(options: Options) -> None:
    from hessspec_mtl.study.delta_m import decisions
    from hessspec_mtl.study.stages import StageError
    from hessspec_mtl.study.tables import write_table
    from hessspec_mtl.study.why import (
        best_and_worst,
        correlation_table,
        measure,
        predictors,
        states,
    )

    if not (found := decisions(options.out, [options.dataset])):
        raise StageError(
            "stage 3 looks at the runs of stage 2, which is not complete; run "
            "`python -m hessspec_mtl.weigh --stage 2` for this set to its end first."
        )
    config, dataset = _study(options)
    table = measure(
        config,
        dataset,
        found[0],
        options.out,
        options.dataset,
        most=options.most,
        progress=options.progress,
    )
    if left := states(found[0], table):
        print(f"{len(left)} states are left; the same command goes on.")
        return
    made = correlation_table(found[0], table)
    write_table(made, options.out / "weighting")
    print(made.to_markdown())
    print("\n".join(predictors(made.data)))
    print("Best and worst: " + ", ".join(best_and_worst(found[0])))


def _study(options: Options) -> tuple[StudyConfig, MultitaskDataset]:
    """What the preset says, with the epochs whose states `compare` asks for; and the data."""
    # The two presets have the same network, data and training.
    config = PRESETS["weighting" if options.stage == 1 else "compare"].studies[options.dataset]
    _, dataset = named(
        options.dataset,
        config.num_examples,
        data_dir=options.data_dir,
        encoded_dir=options.encoded_dir,
        progress=options.progress,
    )
    return config, dataset


if __name__ == "__main__":
    raise SystemExit(main())
