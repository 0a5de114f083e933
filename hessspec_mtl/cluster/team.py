"""Studies done by Dask's workers: who they are, which unit comes when, and what ends it."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import dask.config
import numpy as np
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed

from hessspec._base.memory import host_memory
from hessspec._base.progress import is_watched, progress_bar
from hessspec_mtl.cluster import parcels
from hessspec_mtl.cluster.workers import Described, Order, Studies, done, terms
from hessspec_mtl.datasets.encoded import write_encoded
from hessspec_mtl.files.threads import ONE_THREAD, usable_cores
from hessspec_mtl.study.folder import note_machine
from hessspec_mtl.study.pipeline import StudyWork
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.stages import Stage
from hessspec_mtl.study.units import Unit, finish, units
from hessspec_mtl.training.checkpoints import Checkpoints

# Of what can be done, what others wait for comes first, then what takes longest.
_PRIORITY = {"training": 2, "hutchinson": 1}

# A training is sent in stretches of at most such a share, and of five epochs at least.
_SHARES = 8

# A process takes some seconds to start and half a gigabyte with what it imports and compiles.
_UNITS_OF_A_WORKER = 4
_BYTES_OF_A_WORKER = 2 * 2**30


class ClusterError(RuntimeError):
    """A cluster that cannot be had or is lost; the message says what to do."""


@dataclass(frozen=True)
class Item:
    """A unit of one of the studies, and the one that it waits for."""

    study: str
    work: SeedWork = field(repr=False, compare=False)
    unit: Unit
    after: Unit | None = field(compare=False)
    start: int = field(default=-1, compare=False)


def items(study: str, work: SeedWork, stages: Collection[Stage]) -> list[Item]:
    """What is to be done of a training run, in an order in which it can be done.

    Raises:
        ValueError, CheckpointError: if a folder of its training holds another run.
        StageError: as `units`.
    """
    networks = (None, *work.alone)
    sound = {task: work.sound_states(task) for task in networks} if "train" in stages else None
    coming: dict[str | None, dict[int, Unit]] = {task: {} for task in networks}
    found = []
    for unit in units(work, stages, sound):
        made = coming[unit.task]
        if unit.kind != "training":
            found.append(Item(study, work, unit, made.get(unit.epoch)))
        elif sound is not None and unit.epoch not in sound[unit.task]:
            there = (*sound[unit.task], *made)
            start = max((epoch for epoch in there if epoch < unit.epoch), default=-1)
            for epoch in _stops(start, unit.epoch, work.settings.num_epochs):
                stretch = replace(unit, epoch=epoch)
                found.append(Item(study, work, stretch, made.get(start), start))
                made[epoch] = stretch
                start = epoch
    return found


def _stops(start: int, goal: int, num_epochs: int) -> range:
    """The states on the way from one to another, so that no death costs more than a share."""
    longest = max(5, -(-num_epochs // _SHARES))
    pieces = -(-(goal - start) // longest)
    length = -(-(goal - start) // pieces)
    return range(goal - (pieces - 1) * length, goal + 1, length)


@contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """`count` processes of this machine, with one thread each; they end with the block."""
    quiet = {
        # One unit at a time in each worker, and the next from the common queue: by priority.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.admin.low-level-log-length": 100,
    }
    with tempfile.TemporaryDirectory(prefix="hessspec-") as folder, dask.config.set(quiet):
        environment = {**ONE_THREAD, **_shared_programs(Path(folder) / "programs")}
        environment = {name: os.environ.get(name, value) for name, value in environment.items()}
        with (
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                memory_limit=0,
                local_directory=folder,
                env=environment,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _shared_programs(folder: Path) -> dict[str, str]:
    """Where what one worker has compiled is found by the others."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


@contextmanager
def workers_at(address: str) -> Iterator[Client]:
    """The workers of a cluster that others have started; they stay.

    Raises:
        ClusterError: if no scheduler answers there.
    """
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}); start one (`dask scheduler`), or "
            "give its address with `--scheduler tcp://HOST:PORT`."
        ) from error
    with client:
        yield client


def run_studies(
    studies: Sequence[StudyWork],
    stages: Collection[Stage],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Do what `stages` ask for of all `studies` and is not done, by workers.

    Args:
        workers: so many processes of this machine; None for as many as it has cores, memory and
            work for.
        scheduler: the address of a cluster's scheduler, whose workers do it instead.

    Raises:
        ClusterError: if the cluster cannot be had or is lost, or a unit ends every worker that
            does it.
        Exception: what a unit raised, as if it had been done here.
    """
    todo = [
        item
        for study in studies
        for work in study.seeds
        for item in items(work.folder.parent.name, work, stages)
    ]
    if todo:
        told = [_described(study) for study in studies]
        count = workers or worth_starting(len(todo))
        team = local_workers(count) if scheduler is None else workers_at(scheduler)
        with team as client:
            run = _Run(client, todo, told, ours=scheduler is None, progress=progress, say=say)
            run.to_the_end()
    for study in studies:
        for work in study.seeds:
            finish(work)


def worth_starting(units: int) -> int:
    """How many processes of this machine to start for so many units of work."""
    by_memory = host_memory() // _BYTES_OF_A_WORKER
    return max(1, min(usable_cores(), by_memory, units // _UNITS_OF_A_WORKER))


def _described(study: StudyWork) -> Described:
    folder = study.seeds[0].folder.parent
    with tempfile.TemporaryDirectory() as place:
        # Which crystals are one in another cell has been asked, and takes a while.
        dataset = replace(study.dataset, twins=np.zeros((0, 2), np.int64))
        data = write_encoded(dataset, Path(place) / "data.npz").read_bytes()
    return Described(folder.name, study.config, folder, data)


class _Run:
    """Units on their way to workers, and files on their way back."""

    def __init__(
        self,
        client: Client,
        todo: Sequence[Item],
        studies: Sequence[Described],
        *,
        ours: bool,
        progress: bool | None,
        say: Callable[[str], None],
    ) -> None:
        self._client, self._waiting, self._say = client, list(todo), say
        self._plugin = Studies(f"hessspec-{uuid.uuid4().hex[:12]}", studies, ours=ours)
        self._progress, self._total = progress, len(todo)
        self._under_way: dict[Future, Item] = {}
        self._terms = terms()

    def to_the_end(self) -> None:
        client = self._client
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        link = f"; Dask's dashboard: {client.dashboard_link}" if find_spec("bokeh") else ""
        self._say(f"{self._total} units of work, {workers} workers{link}")
        client.register_plugin(self._plugin)
        try:
            self._loop()
        finally:
            self._end()

    def _loop(self) -> None:
        told = self._progress is False or (self._progress is None and not is_watched())
        with progress_bar(self._total, "study", enabled=self._progress, unit="unit") as bar:
            queue = as_completed(self._ready())
            for future in queue:
                item = self._take(future)
                bar.update(1)
                if told:
                    left = len(self._waiting) + len(self._under_way)
                    item.work.tell(f"{item.unit}; {self._total - left} of {self._total}")
                queue.update(self._ready())

    def _ready(self) -> list[Future]:
        """Send off all units whose state is there."""
        behind = {(i.study, i.unit) for i in (*self._waiting, *self._under_way.values())}
        ready = [i for i in self._waiting if (i.study, i.after) not in behind]
        self._waiting = [i for i in self._waiting if (i.study, i.after) in behind]
        sent = {self._sent(item): item for item in ready}
        self._under_way |= sent
        return list(sent)

    def _sent(self, item: Item) -> Future:
        unit = item.unit
        files = parcels.inputs(item.work, unit, item.start)
        order = Order(self._plugin.name, item.study, unit, item.start, files, self._terms)
        return self._client.submit(
            done,
            order,
            # One name for all: of many equal tasks Dask keeps a common queue.
            key=("unit", self._plugin.name, item.study, unit.seed, str(unit)),
            priority=_PRIORITY.get(unit.kind, 0),
            pure=False,
        )

    def _take(self, future: Future) -> Item:
        """What has come of a unit, put in its place."""
        item = self._under_way.pop(future)
        try:
            made = future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"{item.unit} ({item.study}, seed {item.unit.seed}) ended every worker that did "
                "it; most often memory is short. Give workers more of it, or take fewer of them."
            ) from error
        except CancelledError as error:
            raise ClusterError(
                "the scheduler is gone, and with it what the workers were doing. Start it again, "
                "then say the same."
            ) from error
        parcels.accept(item.work, item.unit, made)
        note_machine(item.work.folder.parent, made.machine)
        self._prune(item)
        future.release()
        return item

    def _prune(self, item: Item) -> None:
        """Drop the states that nobody waits for."""
        work, task = item.work, item.unit.task
        left = (*self._waiting, *self._under_way.values())
        mine = [i for i in left if i.work is work and i.unit.task == task]
        needed = {epoch for i in mine for epoch in (i.unit.epoch, i.start)}
        keep = {*needed, *work.kept_states, work.last}
        Checkpoints(work.folder_of(task) / "checkpoints").prune(keep)

    def _end(self) -> None:
        """Keep what has been finished meanwhile, and leave the cluster as it was found."""
        for future in [f for f in self._under_way if f.status == "finished"]:
            self._take(future)
        if self._client.status == "running":
            self._client.cancel(list(self._under_way))
            self._client.unregister_worker_plugin(self._plugin.name)
