"""Killed at any point, the same command goes on, redoes only what it was in, and ends the same.

The command is run by processes that kill themselves with SIGKILL, which nothing can catch, at a
point named beforehand. They are forked from one process that has done nothing but import, since
the imports take longer than the runs; and they share JAX's cache of compiled programs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from hessspec_mtl import reproduce
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.curvature.tracking import load_tracking
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.study import presets
from hessspec_mtl.study.presets import NetworkSizes, Preset, StudyConfig
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.state import training_seconds
from hessspec_mtl.training.train import load_params

# 16 training examples are one step of an epoch; curvature is taken after epochs 0, 1 and 4.
TOY = StudyConfig(
    num_examples=23,
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=4, batch_size=16),
    curvature=CurvatureConfig(
        num_epochs=3, num_graphs=6, batch_size=6, trace_matvecs=12, num_probes=2, num_steps=5
    ),
)
EPOCHS = (0, 1, 4)

# Where to die: at the n-th update of the m-th bar of that name, or just before the n-th renaming of
# a finished temporary file to that name.
# In the order of the work: each of the analysed epochs is measured when it is trained.
IN_THE_TRACE_OF_EPOCH_1 = {"bar": "trace", "opened": 2, "update": 1}
IN_THE_DENSITY_OF_EPOCH_1 = {"bar": "density", "opened": 1, "update": 1}
WRITING_THE_DENSITY_OF_EPOCH_1 = {"rename": "density.npz", "time": 1}
IN_EPOCH_2 = {"bar": "training", "opened": 2, "update": 1}
WRITING_CHECKPOINT_3 = {"rename": "epoch_000003", "time": 1}
WRITING_THE_HISTORY = {"rename": "history.csv", "time": 2}
NOWHERE: dict[str, Any] = {}


def killed_and_resumed(folder: Path, plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the command once for each entry of `plan`; what each run did and left behind."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "JAX_ENABLE_X64": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the work here
    }
    environment = {**os.environ, **settings}
    command = [sys.executable, __file__, str(folder), json.dumps(plan)]
    subprocess.run(command, check=True, env=environment, timeout=900)
    return json.loads((folder / "runs.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """Six deaths of one run, its completion, and (`uninterrupted`) a run that never died."""
    folder = tmp_path_factory.mktemp("killed")
    plan = [
        IN_THE_TRACE_OF_EPOCH_1,
        IN_THE_DENSITY_OF_EPOCH_1,
        WRITING_THE_DENSITY_OF_EPOCH_1,
        IN_EPOCH_2,
        WRITING_CHECKPOINT_3,
        WRITING_THE_HISTORY,
        NOWHERE,
        {"out": "uninterrupted"},
    ]
    return folder, killed_and_resumed(folder, plan)


def seed_folder(folder: Path, out: str) -> Path:
    return folder / out / "quick-molecules" / "molecules" / "seed-0"


def test_every_death_is_a_kill_and_the_last_run_ends(runs):
    *deaths, completed, uninterrupted = [run["status"] for run in runs[1]]
    assert deaths == [-signal.SIGKILL] * 6
    assert (completed, uninterrupted) == (0, 0)


def test_only_the_unit_that_was_interrupted_is_done_again(runs):
    """Steps of training that were asked for, and the traces and densities that were begun."""
    did = [run["bars"] for run in runs[1]]
    assert [bars.pop("training") for bars in did] == [1, 0, 0, 3, 3, 2, 1, 4]
    assert did == [
        {"trace": 2, "density": 1},
        {"trace": 1, "density": 1},
        {"density": 1},
        {"density": 1},
        {},
        {},
        {"trace": 1, "density": 1},
        {"trace": 3, "density": 3},
    ]


def test_what_is_finished_is_never_written_again(runs):
    *lives, _ = [run["files"] for run in runs[1]]
    finished = ("trace.npz", "density.npz", "_METADATA", "_CHECKPOINT_METADATA")
    for before, after in pairwise(lives):
        kept = [name for name in before if Path(name).name in finished and name in after]
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        records = [name for name in before if name.endswith(".npz")]
        assert set(records) <= set(after)
    assert sum(name.endswith(".npz") for name in lives[-1]) == 6


def test_what_was_half_written_lies_apart_and_is_swept_away(runs):
    hidden = [
        sorted({part for name in run["files"] for part in Path(name).parts if part[0] == "."})
        for run in runs[1]
    ]
    hidden = [[name for name in names if name != ".lock"] for names in hidden]
    assert [len(names) for names in hidden] == [0, 0, 1, 0, 1, 1, 0, 0]
    assert hidden[2][0].startswith(".density.npz.")
    assert hidden[4][0].startswith(".writing_000003")
    assert hidden[5][0].startswith(".history.csv.")


def test_the_numbers_are_those_of_a_run_that_was_never_interrupted(runs):
    """Bit for bit: the same programs do the same arithmetic in the same order."""
    folder, _ = runs
    killed, whole = (seed_folder(folder, out) for out in ("killed", "uninterrupted"))
    assert_same_results(killed, whole)
    for path in (killed, whole):
        seconds = pd.read_csv(path / "training" / "seconds.csv").seconds
        assert len(seconds) == 5
        assert (seconds > 0).all()
        assert training_seconds(path / "training") == pytest.approx(seconds.sum())
        for epoch in EPOCHS:
            text = (path / "curvature" / f"epoch_{epoch:06d}" / "seconds.json").read_text()
            assert json.loads(text).keys() == {"trace", "density"}


@pytest.mark.slow
def test_deaths_at_random_times_change_no_number(tmp_path):
    """Thirty deaths after 0.3 to 6 seconds of work, each by the same command, which tracks."""
    delays = np.random.default_rng(0).uniform(0.3, 6.0, 30)
    tracking = {"options": ["--track-every", "1", "--track-graphs", "6"]}
    plan: list[dict[str, Any]] = [{"out": "uninterrupted"} | tracking]
    plan += [{"seconds": float(delay)} | tracking for delay in delays]
    outcomes = killed_and_resumed(tmp_path, [*plan, tracking])
    assert {run["status"] for run in outcomes} <= {0, -signal.SIGKILL}
    assert sum(run["status"] != 0 for run in outcomes) >= 5
    assert outcomes[-1]["status"] == 0
    killed, whole = (seed_folder(tmp_path, out) for out in ("killed", "uninterrupted"))
    assert_same_results(killed, whole)
    ours, theirs = (load_tracking(path / "tracking") for path in (killed, whole))
    assert list(theirs["step"].unique()) == [0, 1, 2, 3, 4]
    rows = [table.drop(columns="look_seconds") for table in (ours, theirs)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def assert_same_results(killed: Path, whole: Path) -> None:
    history = Path("training", "history.csv")
    assert (killed / history).read_bytes() == (whole / history).read_bytes()
    for epoch in EPOCHS:
        params = (load_params(path / "training", epoch) for path in (killed, whole))
        jax.tree.map(np.testing.assert_array_equal, *params)
        for name in ("trace.npz", "density.npz"):
            record = Path("curvature", f"epoch_{epoch:06d}", name)
            with np.load(killed / record) as ours, np.load(whole / record) as theirs:
                assert ours.files == theirs.files
                for field in ours.files:
                    np.testing.assert_array_equal(ours[field], theirs[field])


# ------------------------------------------------------------------ in the processes that die


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(where: Mapping[str, Any], log: int) -> None:
    """Arrange for this process to die at `where`, and log every progress bar that is opened."""
    opened: dict[str, int] = {}

    class Bar:
        def __init__(self, total: int, desc: str, **_: object) -> None:
            os.write(log, f"{desc}\t{total}\n".encode())
            opened[desc] = opened.get(desc, 0) + 1
            here = (where.get("bar"), where.get("opened")) == (desc, opened[desc])
            self.left = where["update"] if here else None

        def update(self, n: int = 1) -> None:
            if self.left is not None:
                self.left -= n
                if self.left <= 0:
                    die()

        def close(self) -> None: ...

    renamings = count(1)
    os_replace = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == where.get("rename") and next(renamings) == where["time"]:
            die()
        os_replace(source, target)

    import tqdm.auto

    tqdm.auto.tqdm = Bar  # type: ignore[assignment,misc]
    os.replace = replace
    if "seconds" in where:
        threading.Timer(where["seconds"], die).start()


def run_in_a_fork(folder: Path, where: Mapping[str, Any]) -> dict[str, Any]:
    """The command in a process of its own: how it ended, its bars, and the files it left."""
    out = where.get("out", "killed")
    log = folder / "bars.log"
    log.write_text("")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            die_at(where, os.open(log, os.O_WRONLY | os.O_APPEND))
            jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            arguments = ["--sets", "molecules", "--out", str(folder / out), "--progress", "False"]
            arguments += ["--workers", "0"]
            os._exit(reproduce.main([*arguments, *where.get("options", ())]))
        os._exit(99)
    _, status, usage = os.wait4(child, 0)
    print(where, round(usage.ru_utime + usage.ru_stime, 1), "CPU-s", flush=True)
    status = os.waitstatus_to_exitcode(status)
    bars: dict[str, int] = {}
    for line in log.read_text().splitlines():
        name, total = line.split("\t")
        if name == "training":
            bars[name] = bars.get(name, 0) + int(total)
        elif name in ("trace", "density"):
            bars[name] = bars.get(name, 0) + 1
    files = {
        str(path.relative_to(folder / out)): path.stat().st_mtime_ns
        for path in (folder / out).rglob("*")
        if path.is_file()
    }
    return {"status": status, "bars": bars, "files": files}


def main(folder: Path, plan: list[dict[str, Any]]) -> None:
    import hessspec_mtl.curvature.appendix_e
    import hessspec_mtl.datasets.computed
    import hessspec_mtl.report

    class Report:
        html = "not drawn"

    # What is drawn anew every time, in seconds, is no unit that could be redone.
    hessspec_mtl.report.write_results = lambda *_: Report
    hessspec_mtl.curvature.appendix_e.appendix_e = lambda: None
    # Read once, by the process that is forked.
    molecules = load_molecules(progress=False)
    hessspec_mtl.datasets.computed.load_molecules = lambda **_: molecules
    presets.PRESETS["quick"] = Preset("toy", {"molecules": TOY})
    outcomes = [run_in_a_fork(folder, where) for where in plan]
    (folder / "runs.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
