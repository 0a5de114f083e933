"""Weightings of the tasks tried on validation data: `python -m hessspec_mtl.weigh`.

The first stage of the study that `docs/weighting.md` describes: every weighting on the reduced
network of the preset "weighting", with a learning rate of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import jax
import tyro

from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.presets import DATA_SEED, PRESETS
from hessspec_mtl.study.screening import screen, screen_summary, units, validation_dataset


@dataclass(frozen=True)
class Options:
    """Train with every weighting and compare errors on validation data.

    Attributes:
        dataset: of the preset "weighting": qm8 or mp.
        data_dir: folder with the data; by default the variable HESSSPEC_DATA, then a cache.
        out: folder of all runs; rows go to `weighting/screen_<dataset>.csv` in it.
        most: stop after so many runs, to go on another time; by default all that are missing.
        progress: progress bars; by default shown in a terminal only.
    """

    dataset: Literal["qm8", "mp"] = "qm8"
    data_dir: Path | None = None
    out: Path = Path("runs")
    most: int | None = None
    progress: bool | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing of the screening and print its table; returns the exit status."""
    options = tyro.cli(
        Options,
        args=list(sys.argv[1:] if argv is None else argv),
        prog="python -m hessspec_mtl.weigh",
        description=(Options.__doc__ or "").split("Attributes:")[0],
    )
    try:
        _screen(options)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on.", file=sys.stderr)
        return 130
    except Exception as error:  # told in one line, as `hessspec_mtl.reproduce` does
        print(f"\nStopped: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _screen(options: Options) -> None:
    config = PRESETS["weighting"].studies[options.dataset]
    _, dataset = named(
        options.dataset, config.num_examples, data_dir=options.data_dir, progress=options.progress
    )
    encoded = validation_dataset(dataset, config.test_fraction, DATA_SEED)
    tasks = tuple(task.name for task in encoded.tasks)
    network = NetworkConfig(
        encoded.node_features, encoded.edge_features, tasks, **asdict(config.network)
    )
    path = options.out / "weighting" / f"screen_{options.dataset}.csv"
    with jax.default_matmul_precision("highest"):
        table = screen(
            encoded, network, config.train, path, most=options.most, progress=options.progress
        )
    if left := units(len(tasks), table):
        print(f"{len(left)} runs are left of this step; the same command goes on. {path}")
    else:
        print(screen_summary(table).round(3).to_string(index=False))


if __name__ == "__main__":
    raise SystemExit(main())
