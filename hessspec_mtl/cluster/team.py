"""Studies done by Dask's workers: who they are, which unit comes when, and what ends it."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.utils import silence_logging_cmgr

from hessspec._base.memory import host_memory
from hessspec._base.progress import is_watched, progress_bar
from hessspec_mtl.cluster import parcels
from hessspec_mtl.cluster.plan import Item, left
from hessspec_mtl.cluster.workers import Described, Order, Studies, done, terms
from hessspec_mtl.datasets.encoded import write_encoded
from hessspec_mtl.files.threads import ONE_THREAD, usable_cores
from hessspec_mtl.study.folder import note_machine
from hessspec_mtl.study.pipeline import StudyWork
from hessspec_mtl.study.stages import Stage
from hessspec_mtl.study.units import Unit, finish
from hessspec_mtl.training.checkpoints import Checkpoints

_LOST = (
    "the scheduler is gone, and with it what the workers were doing. Start it again, then say the "
    "same."
)

_FEWEST_SENT, _SENT_A_WORKER = 16, 4

# A process takes some seconds to start and half a gigabyte with what it imports and compiles.
_UNITS_OF_A_WORKER = 4
_BYTES_OF_A_WORKER = 2 * 2**30


class ClusterError(RuntimeError):
    """A cluster that cannot be had or is lost; the message says what to do."""


@contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """`count` processes of this machine, with one thread each; they end with the block."""
    # One unit at a time in each worker, and the next from the common queue: by priority.
    one_each = {"distributed.scheduler.worker-saturation": 1.0}
    with tempfile.TemporaryDirectory(prefix="hessspec-") as folder, dask.config.set(one_each):
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
    todo = left(studies, stages)
    if todo:
        count = workers or worth_starting(len(todo))
        team = local_workers(count) if scheduler is None else workers_at(scheduler)
        # What a user needs to know of the engine's troubles is told in sentences.
        with silence_logging_cmgr(logging.CRITICAL), team as client:
            carry_out(client, studies, todo, ours=scheduler is None, progress=progress, say=say)
    for study in studies:
        for work in study.seeds:
            finish(work)


def carry_out(
    client: Client,
    studies: Sequence[StudyWork],
    todo: Sequence[Item],
    *,
    ours: bool,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Have all of `todo` done by the workers of `client`, and put what they make in its place.

    Args:
        ours: whether the workers are this process's own, and end with it.

    Raises:
        ClusterError, Exception: as `run_studies`.
    """
    told = [_described(study) for study in studies]
    _Run(client, todo, told, ours=ours, progress=progress, say=say).to_the_end()


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


def _priority(unit: Unit) -> int:
    """What others wait for comes first, then what takes longest."""
    return {"training": 2, "hutchinson": 1}.get(unit.kind, 0)


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
        link = f"; Dask's dashboard: {self._client.dashboard_link}" if find_spec("bokeh") else ""
        workers = self._num_workers() or "no workers yet: it begins when there are"
        self._say(f"{self._total} units of work, workers: {workers}{link}")
        try:
            self._client.register_plugin(self._plugin)
            # States of large networks are what Dask takes for a mistake.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
                self._loop()
        finally:
            self._end()

    def _num_workers(self) -> int:
        threads: Any = self._client.nthreads()
        return len(threads)

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
                queue.update(self._ready_there())

    def _ready_there(self) -> list[Future]:
        try:
            return self._ready()
        except Exception as error:
            if self._client.status == "running":
                raise
            raise ClusterError(_LOST) from error

    def _ready(self) -> list[Future]:
        """Send off units whose state is there, but no more than keeps the workers busy: each is
        held by the scheduler with what it builds on."""
        room = max(_FEWEST_SENT, _SENT_A_WORKER * self._num_workers()) - len(self._under_way)
        behind = {(i.study, i.unit) for i in (*self._waiting, *self._under_way.values())}
        ready = [i for i in self._waiting if (i.study, i.after) not in behind]
        ready = sorted(ready, key=lambda i: -_priority(i.unit))[: max(0, room)]
        self._waiting = [i for i in self._waiting if i not in ready]
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
            priority=_priority(unit),
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
            raise ClusterError(_LOST) from error
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
