"""What it costs that a study is done by many workers, and what it gains.

    python -m benchmarks.many_workers               scheduling: 200 units that do nothing, 8 workers
    python -m benchmarks.many_workers --quick 2     and the preset `quick` with 2 workers
    python -m benchmarks.many_workers --quick 1 2   with 1 and with 2: a quarter of an hour on two
                                                    quiet cores
    python -m benchmarks.many_workers --render      the table of docs/cluster.md alone

Each measurement takes the place of the last one of its kind in benchmarks/results/many_workers.csv,
of which the table of the page is made.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from distributed import Worker, WorkerPlugin

from hessspec_mtl.cluster import workers
from hessspec_mtl.cluster.parcels import CURVES, Made, result_file
from hessspec_mtl.cluster.plan import left
from hessspec_mtl.cluster.team import carry_out, local_workers
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.curvature.subject import IDENTITY_FILE
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.files.threads import usable_cores
from hessspec_mtl.files.versions import Machine
from hessspec_mtl.study.pipeline import begin_study
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import predictions_file

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "many_workers.csv", ROOT / "docs" / "cluster.md"
HEAD = "| work | workers | wall clock | processor | cores, load before |\n|---|---|---|---|---|\n"

WORKERS, UNITS = 8, 200
# Three states, three traces and densities, one table of predictions: ten units of each seed.
STUDY = StudyConfig(
    num_examples=24,
    seeds=tuple(range(UNITS // 10)),
    train=TrainConfig(num_epochs=4),
    curvature=CurvatureConfig(num_epochs=3, num_graphs=6),
)


@dataclass(frozen=True)
class Measured:
    """What `work` took by so many workers, in seconds, and the machine that did it.

    Attributes:
        processor: of the command's process alone where units do nothing, else of all processes.
        load: of the machine just before, over one minute; 0 where nothing else ran.
    """

    work: str
    workers: int
    wall: float
    processor: float
    cores: int
    load: float

    @property
    def row(self) -> str:
        """As a row of the page's table."""
        took = (self.wall, self.processor)
        minutes = max(took) >= 100
        shown = [f"{t / 60:.1f} min" if minutes else f"{t:.1f} s" for t in took]
        machine = f"{self.cores}, {self.load:.1f}"
        return f"| {self.work} | {self.workers} | {' | '.join(shown)} | {machine} |\n"


def measurements() -> list[Measured]:
    """Those that are kept."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    kinds = {"work": str, "workers": int, "cores": int}
    return [Measured(**{k: kinds.get(k, float)(v) for k, v in row.items()}) for row in rows]


def keep(new: Measured) -> None:
    """Put a measurement in the place of the last one of its kind."""
    held = [old for old in measurements() if (old.work, old.workers) != (new.work, new.workers)]
    held = sorted([*held, new], key=lambda each: (each.work, each.workers))
    with RESULTS.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(
            stream, [item.name for item in fields(Measured)], lineterminator="\n"
        )
        table.writeheader()
        table.writerows(asdict(each) for each in held)


def rendered(page: str) -> str:
    """The page with the table of what is kept."""
    before, after = page.split(HEAD)
    while after.startswith("|"):
        after = after.partition("\n")[2]
    return before + HEAD + "".join(each.row for each in measurements()) + after


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


def scheduling() -> Measured:
    """Seconds from the first unit sent to the last one put in its place, all workers there."""
    dataset, load = load_molecules(progress=False).subset(24, 0), os.getloadavg()[0]
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
    work = f"{UNITS} units that do nothing; processor of the command alone"
    return _measured(work, WORKERS, wall, own, load)


def quick(count: int) -> Measured:
    """The preset `quick`, with its report, by `count` workers."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hessspec_mtl.reproduce", "--workers", str(count)]
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return _measured("preset `quick`, with its report", count, wall, cpu, load)


def _measured(work: str, workers: int, wall: float, cpu: float, load: float) -> Measured:
    return Measured(work, workers, round(wall, 2), round(cpu, 2), usable_cores(), round(load, 1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_workers")
    parser.add_argument("--quick", type=int, nargs="+", default=(), metavar="WORKERS")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if not options.render:
        for measure in (scheduling, *(partial(quick, count) for count in options.quick)):
            found = measure()
            print(found.row, end="", flush=True)
            keep(found)
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
