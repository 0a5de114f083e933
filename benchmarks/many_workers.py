"""What it costs that a study is done by many workers, and what it gains.

    python -m benchmarks.many_workers               scheduling: 200 units that do nothing, 8 workers
    python -m benchmarks.many_workers --quick       and the preset `quick` with 1 and 2 workers

Prints rows of a table in Markdown. The second takes a quarter of an hour on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distributed import Worker, WorkerPlugin

from hessspec_mtl.cluster import workers
from hessspec_mtl.cluster.parcels import CURVES, Made, result_file
from hessspec_mtl.cluster.plan import left
from hessspec_mtl.cluster.team import carry_out, local_workers
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.curvature.subject import IDENTITY_FILE
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.files.versions import Machine
from hessspec_mtl.study.pipeline import begin_study
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import predictions_file

WORKERS, UNITS = 8, 200
# Three states, three traces and densities, one table of predictions: ten units of each seed.
STUDY = StudyConfig(
    num_examples=24,
    seeds=tuple(range(UNITS // 10)),
    train=TrainConfig(num_epochs=4),
    curvature=CurvatureConfig(num_epochs=3, num_graphs=6),
)


class Idle(WorkerPlugin):
    """Lets workers return files of a kilobyte where they would have computed."""

    name = "idle"

    def setup(self, worker: Worker) -> None:
        workers.Place._do = _nothing  # type: ignore[method-assign]


def _nothing(place: workers.Place, order: workers.Order) -> Made:
    unit = order.unit
    work = next(seed for seed in place._seeds if seed.seed == unit.seed)
    training = work.folder_of(unit.task)
    if unit.kind == "training":
        paths = [training / "checkpoints" / f"epoch_{unit.epoch:06d}" / name for name in "abcd"]
        paths += [training / name for name in CURVES]
    elif unit.kind == "predictions":
        paths = [predictions_file(training, unit.epoch)]
    else:
        paths = [result_file(work, unit), result_file(work, unit).with_name(IDENTITY_FILE)]
    files = {path.relative_to(work.folder).as_posix(): bytes(1024) for path in paths}
    return Made(files, Machine("idle", {}), 0.0)


def _silent(text: str) -> None:
    del text


def scheduling() -> str:
    """Seconds from the first unit sent to the last one put in its place, all workers there."""
    dataset = load_molecules(progress=False).subset(24, 0)
    with tempfile.TemporaryDirectory() as folder, local_workers(WORKERS) as client:
        study = begin_study(STUDY, dataset, Path(folder) / "m", progress=False, say=_silent)
        todo = left([study], ("train", "curvature"))
        assert len(todo) == UNITS, len(todo)
        client.register_plugin(Idle())
        times: list[tuple[float, float]] = []
        for _ in range(2):  # the first meets workers that have imported nothing
            before = time.perf_counter(), time.process_time()
            carry_out(client, [study], todo, ours=True, progress=False, say=_silent)
            times.append((time.perf_counter() - before[0], time.process_time() - before[1]))
        found = len(list(Path(folder).rglob("*.npz")))
        assert found == 6 * len(STUDY.seeds), found
    wall, own = times[-1]
    return (
        f"| {UNITS} units that do nothing, {WORKERS} workers | {wall:.1f} s, "
        f"{1e3 * wall / UNITS:.0f} ms a unit | {own:.1f} s of the command |"
    )


def quick(count: int) -> str:
    """The preset `quick`, with its report, by `count` workers."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hessspec_mtl.reproduce", "--workers", str(count)]
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return f"| preset `quick`, {count} workers | {wall / 60:.1f} min | {cpu / 60:.1f} min |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_workers")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | wall clock | processor |\n|---|---|---|", flush=True)
    print(scheduling(), flush=True)
    for count in (1, 2) if options.quick else ():
        print(quick(count), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
