"""What `--track-every` costs beside training: processor seconds of both, in one run.

    python -m benchmarks.tracking_share --sets qm8 --data-dir DATA [--every 250] [--graphs 64]

The reduced network of the preset `compare` trains as the command trains it, with its evaluations
and checkpoints, and is looked at every so many steps: work and looks take turns, so that a machine
that is busy slows both. A look is compared with the training between it and the next one; the
first few, in which both compile, are left out. One thread: `taskset -c 0` keeps it to one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np

from hessspec_mtl.curvature.follow import hessian_indices
from hessspec_mtl.curvature.tracking import TaskTracker, load_tracking
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.presets import DATA_SEED, PRESETS, DatasetName
from hessspec_mtl.study.seeds import take
from hessspec_mtl.training.train import Training

COMPILING = 2  # looks that are left out


class Timed(TaskTracker):
    """Notes the processor's clock at the beginning and at the end of each look and each saving."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]
        self.clock: list[tuple[float, float]] = []
        self.saving: list[float] = []

    def look(self, step: int, params: Params) -> None:
        start = time.process_time()
        super().look(step, params)
        self.clock.append((start, time.process_time()))
        self.saving.append(0.0)

    def save(self, step: int) -> None:
        start = time.process_time()
        super().save(step)
        self.saving[-1] += time.process_time() - start


def measure(
    name: DatasetName, data: Path | None, folder: Path, every: int, graphs: int, epochs: int
) -> str:
    """The share in words, with what it is made of."""
    config = PRESETS["compare"].studies[name]
    _, dataset = named(name, config.num_examples, data_dir=data, progress=False)
    encoded = dataset.encode(dataset.split(DATA_SEED, config.test_fraction))
    tasks = tuple(task.name for task in encoded.tasks)
    sizes = asdict(config.network)
    network = NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)
    examples = take(encoded.train, hessian_indices(len(encoded.train), graphs, DATA_SEED))
    along = Timed(
        network,
        examples,
        folder / "tracking",
        every=every,
        num_probes=config.curvature.track_probes,
        seed=0,
    )
    settings = replace(config.train, num_epochs=epochs, decay_start=config.train.num_epochs // 2)
    training = Training(settings, network, encoded, folder / "training", along=along)
    training.to(progress=False)
    starts, ends = np.array(along.clock).T
    saving = np.array(along.saving[:-1])
    looks, between = (ends - starts)[:-1] + saving, starts[1:] - ends[:-1] - saving
    looks, between = looks[COMPILING:], between[COMPILING:]
    table = load_tracking(folder / "tracking")
    assert table is not None
    table = table[table["step"] > 0]
    products = table.groupby("step")["products"].sum().to_numpy()[COMPILING - 1 : -1]
    residual = np.median(table["residual"] / np.abs(table["sharpness"]))
    share = looks.sum() / between.sum()
    return (
        f"{name}, {len(tasks)} tasks, every {every} steps on {graphs} graphs: a look takes "
        f"{np.median(looks):.3f} s (median of {len(looks)}; {np.median(products):.0f} products and "
        f"{along.num_probes} forms), the training from one to the next {np.median(between):.3f} s; "
        f"all of them {100 * share:.1f} % of it\n"
        f"looks: {' '.join(f'{seconds:.2f}' for seconds in looks)}\n"
        f"between: {' '.join(f'{seconds:.2f}' for seconds in between)}\n"
        f"products: {' '.join(map(str, products))}\n"
        f"residual over eigenvalue: {residual:.3f} in the median"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["qm8"], choices=["qm8", "mp"])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--graphs", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=28)
    options = parser.parse_args(argv)
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            numbers = (options.every, options.graphs, options.epochs)
            print(measure(name, options.data_dir, Path(folder), *numbers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
