"""What a worker holds and does; a study without workers imports none of this."""

from __future__ import annotations

import platform
import shutil
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from distributed import Worker, WorkerPlugin
from tqdm import tqdm

from hessspec_mtl.cluster.parcels import Files, Made, outputs, seconds, unpack
from hessspec_mtl.datasets.encoded import read_encoded
from hessspec_mtl.files.threads import keep_to_one_thread
from hessspec_mtl.files.versions import PACKAGES, this_machine, versions
from hessspec_mtl.network.ways import full_precision
from hessspec_mtl.study.pipeline import seed_works
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.units import Bench, Unit

# What a number may depend on, beside the work itself.
_DECISIVE = ("jax", "jaxlib", "numpy", "scipy", "optax")


@dataclass(frozen=True)
class Described:
    """A study as it is told to workers.

    Attributes:
        name: by which units say that they are of it.
        config: what it does.
        folder: where it is for the one who asks, to be named in messages.
        data: its data set, in the form of `datasets.encoded`.
    """

    name: str
    config: StudyConfig
    folder: Path
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Order:
    """A unit that is to be done.

    Attributes:
        run: who wants it; several commands may use one cluster.
        study: of which it is.
        start: the epoch whose state a training goes on from; -1 for the beginning.
        files: what it builds on (`parcels.inputs`).
        terms: what must be the same for the results to be (`terms`).
    """

    run: str
    study: str
    unit: Unit
    start: int
    files: Files = field(repr=False)
    terms: Mapping[str, Any] = field(repr=False)


def terms() -> dict[str, Any]:
    """What this process computes with: the precision by default, and versions."""
    return {"JAX_ENABLE_X64": bool(jax.config.read("jax_enable_x64")), **versions(_DECISIVE)}


class Place:
    """Where a worker does the units of one study, in folders of its own below `root`."""

    def __init__(self, described: Described, root: Path) -> None:
        self._described, self._root, self._bench = described, root, Bench()

    def do(self, order: Order) -> Made:
        """What came of `order`.

        Raises:
            Exception: as `Bench.do`, with the folders of the one who asked.
        """
        try:
            return self._do(order)
        except Exception as error:
            told = self._retold(error)
            if told is error:  # its own cause, it would have Dask look for the first for ever
                raise
            raise told from error

    def _do(self, order: Order) -> Made:
        unit = order.unit
        (work,) = (seed for seed in self._seeds if seed.seed == unit.seed)
        if unit.kind == "training":
            training = work.folder_of(unit.task)
            # At hand still, if this process trained the stretch before.
            if self._bench.newest(training) != order.start:
                self._bench.forget(training)
                _emptied(training)
                if unit.task is None:
                    _emptied(work.tracking)
                unpack(work.folder, order.files)
        else:
            # Apart, so that nothing there is taken for a state of a training.
            work = replace(work, folder=self._aside / work.folder.name)
            _emptied(work.folder)
            unpack(work.folder, order.files)
        with full_precision():
            self._bench.do(work, unit)
        return Made(outputs(work, unit), this_machine(PACKAGES), seconds(work, unit))

    @property
    def _aside(self) -> Path:
        return self._root / "states"

    @cached_property
    def _seeds(self) -> tuple[SeedWork, ...]:
        path = self._root / "data.npz"
        _emptied(self._root).mkdir(parents=True)
        path.write_bytes(self._described.data)
        # Which states of a training stay is up to the one who asks for them.
        config = self._described.config
        train = replace(config.train, keep_epochs=(), checkpoint_seconds=float("inf"))
        config = replace(config, train=train, keep_states="last")
        return seed_works(config, read_encoded(path), self._root, progress=False)

    def _retold(self, error: Exception) -> Exception:
        """`error` as it would have been here; one of this machine's own disk says whose it is."""
        if isinstance(error, OSError) or isinstance(error.__cause__, OSError):
            return RuntimeError(f"on the machine of a worker, {platform.node()}: {error}")
        text, there = str(error), str(self._described.folder)
        for folder in (self._aside, self._root):
            text = text.replace(str(folder), there)
        if text == str(error):
            return error
        try:
            return type(error)(text)
        except TypeError:
            return RuntimeError(text)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


class Studies(WorkerPlugin):
    """Brings studies to every worker, those included that come or come back later."""

    def __init__(self, run: str, studies: Sequence[Described], *, ours: bool) -> None:
        self.name, self._studies, self._ours = run, studies, ours

    def setup(self, worker: Worker) -> None:
        root = Path(worker.local_directory) / self.name
        _PLACES[self.name] = {
            study.name: Place(study, root / f"study-{number}")
            for number, study in enumerate(self._studies)
        }
        if self._ours:
            # A program that another worker is just writing is compiled here too, without a word.
            warnings.filterwarnings(
                "ignore", "Error (reading|writing) persistent compilation cache"
            )
        # Its lock between processes would outlive a worker that is killed.
        tqdm.set_lock(threading.RLock())
        if self._ours and threading.current_thread() is threading.main_thread():
            # Ctrl-C in a terminal is for all its processes; that of the command ends the others.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: Worker) -> None:
        _PLACES.pop(self.name, None)
        _emptied(Path(worker.local_directory) / self.name)


_PLACES: dict[str, dict[str, Place]] = {}
_ONE_AT_A_TIME = threading.Lock()


def done(order: Order) -> Made:
    """Does `order` in this process, a worker that has its study.

    Raises:
        RuntimeError: if this process would not get the numbers that another one gets.
    """
    with _ONE_AT_A_TIME:
        keep_to_one_thread()
        other = {name: value for name, value in terms().items() if order.terms[name] != value}
        if other:
            wanted = {name: order.terms[name] for name in other}
            raise RuntimeError(
                f"a worker has {other}, the command that asks it has {wanted}: their numbers would "
                "not be the same. Start the workers in the same environment."
            )
        return _PLACES[order.run][order.study].do(order)
