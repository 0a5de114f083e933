"""A tiny study by the command, and clusters of real schedulers and workers on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hessspec_mtl import encode
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.study.pipeline import StudyWork, begin_study
from hessspec_mtl.study.presets import DATA_SEED, NetworkSizes, StudyConfig
from hessspec_mtl.training.config import TrainConfig

# Every kind of unit; three analysed epochs (0, 1, 4), and each of four tasks alone.
STUDY = StudyConfig(
    num_examples=23,
    single_task=True,
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=4, batch_size=16),
    curvature=CurvatureConfig(
        num_epochs=3,
        num_graphs=6,
        batch_size=6,
        trace_matvecs=12,
        num_probes=2,
        num_steps=5,
        hutchinson_samples=8,
        num_eigenpairs=2,
        eigenpairs_tol=0.3,
        gradient_groups=2,
    ),
)
OPTIONS = (
    *("--sets", "molecules", "--num-examples", "23", "--single-task", "--progress", "False"),
    *("--network.num-steps", "1", "--network.width", "4", "--network.head-width", "4"),
    *("--num-epochs", "4", "--train.batch-size", "16", "--num-graphs", "6"),
    *("--curvature.num-epochs", "3", "--curvature.batch-size", "6"),
    *("--curvature.trace-matvecs", "12", "--curvature.num-probes", "2"),
    *("--curvature.num-steps", "5", "--curvature.hutchinson-samples", "8"),
    *("--curvature.num-eigenpairs", "2", "--curvature.eigenpairs-tol", "0.3"),
    *("--curvature.gradient-groups", "2", "--stages", "train,curvature"),
)


@pytest.fixture(scope="module")
def molecules() -> MultitaskDataset:
    return load_molecules(progress=False).subset(23, DATA_SEED)


@pytest.fixture
def study(molecules, tmp_path) -> StudyWork:
    """The study, begun in a folder of its own; nothing is trained."""
    folder = tmp_path / "molecules"
    return begin_study(STUDY, molecules, folder, progress=False, say=lambda _: None)


class Site:
    """A folder where commands, schedulers and workers are started, and their programs are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        assert encode.main(["--sets", "molecules", "--to", str(root), "--no-progress"]) == 0
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "JAX_ENABLE_X64": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(root / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def command(self, name: str, *more: str) -> list[str]:
        words = [sys.executable, "-m", "hessspec_mtl.reproduce", *OPTIONS, "--name", name, *more]
        return [*words, "--out", str(self.root), "--encoded-dir", str(self.root)]

    def run(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """The command to its end: its status and what it said."""
        return subprocess.run(
            self.command(name, *more),
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=1500,
        )

    def results(self, name: str) -> dict[str, bytes]:
        """Every file of a run that is to be the same, however it was done."""
        folder = self.root / name / "molecules"
        files = [path for path in folder.rglob("*") if path.suffix in (".npz", ".csv", ".txt")]
        files = [path for path in files if "checkpoints" not in path.parts]
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in files
            if path.name != "seconds.csv"
        }

    @contextmanager
    def process(self, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A process of a folder and a session of its own, which ends with the block."""
        folder = self.root / f"process-{time.monotonic_ns()}"
        folder.mkdir()
        with (folder / "log").open("w") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", *words],
                env={**self.environment, **variables},
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)

    def scheduler(self, port: int):
        address = ("--host", "127.0.0.1", "--port", str(port))
        address += ("--dashboard-address", "127.0.0.1:0")
        return self.process("distributed.cli.dask_scheduler", *address)

    def worker(self, address: str, *more: str, **variables: str):
        threads = ("--nthreads", "1", "--nworkers", "1", "--no-dashboard", "--host", "127.0.0.1")
        words = ("distributed.cli.dask_worker", address, *threads, "--local-directory", ".")
        return self.process(*words, *more, **variables)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def here(site) -> dict[str, bytes]:
    """What the study leaves when one process does it, unit after unit."""
    done = site.run("here", "--workers", "0")
    assert done.returncode == 0, done.stderr
    return site.results("here")
