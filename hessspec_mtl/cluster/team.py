"""Studies done by Dask's workers: who they are, which unit comes when, and what ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.config
import numpy as np
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.comm.core import connect
from distributed.utils import silence_logging_cmgr

from hessspec._base.memory import host_memory
from hessspec._base.progress import is_watched, progress_bar
from hessspec_mtl.cluster import parcels
from hessspec_mtl.cluster.errands import Errand, of_report
from hessspec_mtl.cluster.plan import LONGEST_FIRST, Item, in_order, is_pressing, left, programs
from hessspec_mtl.cluster.workers import Described, Order, Studies, done, terms
from hessspec_mtl.datasets.encoded import write_encoded
from hessspec_mtl.files.environment import environment_kept
from hessspec_mtl.files.threads import ONE_THREAD, usable_cores
from hessspec_mtl.study.folder import note_machine
from hessspec_mtl.study.pipeline import StudyWork
from hessspec_mtl.study.stages import Stage
from hessspec_mtl.study.units import Unit, finish
from hessspec_mtl.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from hessspec_mtl.curvature.appendix_e import AppendixE

_LOST = (
    "the scheduler is gone, and with it what the workers were doing. Start it again, then say the "
    "same."
)

_SET_BY_DASK = ("PYTHONHASHSEED", "__DASK_PARENT_PID")  # beside what it is told to

_PATIENCE = 20  # seconds for a scheduler to answer

_FEWEST_SENT, _SENT_A_WORKER = 16, 4

# A process takes some seconds to start and half a gigabyte with what it imports and compiles.
_UNITS_OF_A_WORKER = 4
_BYTES_OF_A_WORKER = 2 * 2**30
_LEAST_OF_A_WORKER = 2**29


class ClusterError(RuntimeError):
    """A cluster that cannot be had or is lost; the message says what to do."""


@contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """`count` processes of this machine, with one thread each; they end with the block."""
    with tempfile.TemporaryDirectory(prefix="hessspec-") as folder:
        spawned = _environment(Path(folder) / "programs")
        settings = {
            # One unit at a time in each worker, and the next from the common queue: by priority.
            "distributed.scheduler.worker-saturation": 1.0,
            # Before the process begins (`env` of a cluster comes later): JAX reads where programs
            # are kept when it is imported, and what a worker is started with imports it.
            **{f"distributed.nanny.pre-spawn-environ.{name}": v for name, v in spawned.items()},
        }
        with (
            # Dask sets them where workers are started from, again for each that it starts anew.
            environment_kept([*spawned, *_SET_BY_DASK]),
            dask.config.set(settings),
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                memory_limit=0,
                local_directory=folder,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _environment(programs: Path) -> dict[str, str | None]:
    """Of workers of this machine; what one of them has compiled, others find in `programs`."""
    ours = {
        **ONE_THREAD,
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    found = {name: os.environ.get(name, value) for name, value in ours.items()}
    # By default Dask has freed memory given back at once: each product then asks the kernel for its
    # pages anew, 900 of them where it is 70 with the usual threshold.
    return {**found, "MALLOC_TRIM_THRESHOLD_": None}


@contextmanager
def workers_at(address: str) -> Iterator[Client]:
    """The workers of a cluster that others have started; they stay.

    Raises:
        ClusterError: if no scheduler answers there.
    """
    try:
        _greet(address)
        client = Client(address, timeout=_PATIENCE)
    except (OSError, ValueError, TypeError) as error:  # the last of an address with TLS
        raise ClusterError(
            f"no Dask scheduler answers at {address!r} ({error}); start one (`dask scheduler`), or "
            "give its address with `--scheduler tcp://HOST:PORT`."
        ) from error
    with client:
        yield client


def _greet(address: str) -> None:
    """Wait for an answer, but not for ever: a client of Dask would, where something listens that
    is no scheduler, as its dashboard does.

    Raises:
        OSError, ValueError, TypeError: if none comes.
    """

    async def greeted() -> None:
        try:
            comm = await asyncio.wait_for(connect(address, timeout=_PATIENCE), _PATIENCE)
        except TimeoutError as error:
            raise OSError(
                "something listens there that is none; its dashboard has another port"
            ) from error
        comm.abort()

    with ThreadPoolExecutor(1) as apart:  # a notebook has a loop of its own in this thread
        apart.submit(asyncio.run, greeted()).result()


def run_studies(
    studies: Sequence[StudyWork],
    stages: Collection[Stage],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> AppendixE | None:
    """Do what `stages` ask for of all `studies` and is not done, by workers.

    Where a report is asked for too, workers of this machine do what of it takes longest on the way:
    the random forests, and appendix E, which is returned.

    Args:
        workers: so many processes of this machine; None for as many as it has cores, memory and
            work for.
        scheduler: the address of a cluster's scheduler, whose workers do it instead.

    Raises:
        ValueError: for more workers than this machine has memory for.
        ClusterError: if the cluster cannot be had or is lost, or a unit ends every worker that
            does it.
        Exception: what a unit raised, as if it had been done here.
    """
    require_room_for(workers or 0)
    found: list[AppendixE] = []
    todo = left(studies, stages)
    if todo:
        ours = scheduler is None
        errands = of_report(studies, found.append) if ours and "report" in stages else []
        count = workers or worth_starting(len(todo))
        team = workers_at(scheduler) if scheduler is not None else local_workers(count)
        # What a user needs to know of the engine's troubles is told in sentences.
        with silence_logging_cmgr(logging.CRITICAL), team as client:
            carry_out(client, studies, todo, errands, ours=ours, progress=progress, say=say)
    for study in studies:
        for work in study.seeds:
            finish(work)
    return found[0] if found else None


def carry_out(
    client: Client,
    studies: Sequence[StudyWork],
    todo: Sequence[Item],
    errands: Sequence[Errand] = (),
    *,
    ours: bool,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Have all of `todo` done by the workers of `client`, and put what they make in its place.

    `errands` are done on the way, by a worker that would otherwise do what another is compiling, or
    whose study is ahead of others.

    Args:
        ours: whether the workers are this process's own, and end with it.

    Raises:
        ClusterError, Exception: as `run_studies`.
    """
    told = [_described(study) for study in studies]
    run = _Run(client, todo, errands, told, ours=ours, progress=progress, say=say)
    run.to_the_end()


def require_room_for(workers: int) -> None:
    """Refuse so many processes of this machine if they could not even start.

    Raises:
        ValueError: if they could not.
    """
    most = host_memory() // _LEAST_OF_A_WORKER
    if workers > most:
        raise ValueError(
            f"`--workers` must be at most {most} on this machine, got {workers}: each is a process "
            f"of half a gigabyte, and there are {host_memory() / 2**30:.0f} GB. Take as many as it "
            "has cores, or leave it out."
        )


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
    return {"training": 2, **dict.fromkeys(LONGEST_FIRST, 1)}.get(unit.kind, 0)


class _Run:
    """Units on their way to workers, and files on their way back."""

    def __init__(
        self,
        client: Client,
        todo: Sequence[Item],
        errands: Sequence[Errand],
        studies: Sequence[Described],
        *,
        ours: bool,
        progress: bool | None,
        say: Callable[[str], None],
    ) -> None:
        self._client, self._waiting, self._say = client, list(todo), say
        self._names = [study.name for study in studies]
        self._plugin = Studies(f"hessspec-{uuid.uuid4().hex[:12]}", studies, ours=ours)
        self._progress, self._total, self._ours = progress, len(todo) + len(errands), ours
        self._under_way: dict[Future, Item] = {}
        self._errands = list(errands)
        self._on_errands: dict[Future, tuple[Errand, Item | None]] = {}  # what was done before it
        self._known: set[Hashable] = set()  # programs that were run to the end
        self._terms = terms()

    def to_the_end(self) -> None:
        link = f"; Dask's dashboard: {self._client.dashboard_link}" if find_spec("bokeh") else ""
        workers = self._num_workers() or "no workers yet: it begins when there are"
        self._say(f"{self._total} units of work, workers: {workers}{link}")
        try:
            self._bring()
            # States of large networks are what Dask takes for a mistake.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
                self._loop()
        finally:
            self._end()

    def _bring(self) -> None:
        """Give the studies to all workers, those included that come later."""
        try:
            self._client.register_plugin(self._plugin)
        except Exception as error:
            if self._client.status != "running":
                raise ClusterError(_LOST) from error
            raise ClusterError(
                f"a worker of the cluster cannot take the studies ({type(error).__name__}: "
                f"{error}); start the workers in the environment of this command, with the same "
                "hessspec_mtl installed, and with a folder that they can write "
                "(`--local-directory`)."
            ) from error

    def _num_workers(self) -> int:
        threads: Any = self._client.nthreads()
        return len(threads)

    def _loop(self) -> None:
        told = self._progress is False or (self._progress is None and not is_watched())
        with progress_bar(self._total, "study", enabled=self._progress, unit="unit") as bar:
            queue = as_completed(self._ready_there())
            for count, future in enumerate(queue, start=1):
                done, last = self._take(future)
                bar.update(1)
                if told:
                    say = done.work.tell if isinstance(done, Item) else self._say
                    what = done.unit if isinstance(done, Item) else done.words
                    say(f"{what}; {count} of {self._total}")
                queue.update(self._ready_there(last))

    def _ready_there(self, last: Item | None = None) -> list[Future]:
        try:
            return self._ready(last)
        except Exception as error:
            if self._client.status == "running":
                raise
            raise ClusterError(_LOST) from error

    def _ready(self, last: Item | None) -> list[Future]:
        """Send off units whose state is there: those that a worker is free for, where it is near.

        More where it is far, but no more than keeps all busy: each is held by the scheduler with
        what it builds on.
        """
        workers = self._num_workers()
        most = max(1, workers) if self._ours else max(_FEWEST_SENT, _SENT_A_WORKER * workers)
        behind = {(i.study, i.unit) for i in (*self._waiting, *self._under_way.values())}
        ready = [i for i in self._waiting if (i.study, i.after) not in behind]
        sent: list[Future] = []
        while len(self._under_way) + len(self._on_errands) < most and (ready or self._errands):
            under_way = self._under_way.values()
            first = in_order(ready, under_way, self._known, last)[0] if ready else None
            left = self._left_by_study()
            pressing = first and is_pressing(first, under_way, self._known, last, left)
            if self._errands and not pressing:
                future = self._sent_on(self._errands.pop(0), last)
            else:
                assert first is not None
                ready.remove(first)
                self._waiting.remove(first)
                self._under_way[future := self._sent(first)] = first
            sent.append(future)
        return sent

    def _left_by_study(self) -> dict[str, int]:
        """Units that nobody has begun."""
        left = dict.fromkeys(self._names, 0)
        for item in self._waiting:
            left[item.study] += 1
        return left

    def _sent_on(self, errand: Errand, last: Item | None) -> Future:
        key = ("errand", self._plugin.name, errand.words)
        future = self._client.submit(errand.make, key=key, pure=False)
        self._on_errands[future] = errand, last
        return future

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

    def _take(self, future: Future) -> tuple[Item | Errand, Item | None]:
        """A unit or an errand whose result is put in its place, and the worker's last unit."""
        if future in self._on_errands:
            errand, last = self._on_errands.pop(future)
            if future.status == "finished":  # else the report does it
                errand.keep(future.result())
            future.release()
            return errand, last
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
        self._known.add(programs(item))
        self._prune(item)
        future.release()
        # Far workers have a queue of units, and which is free is not known.
        return item, item if self._ours else None

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
        try:
            for future in [*self._under_way, *self._on_errands]:
                if future.status == "finished":
                    self._take(future)
        finally:  # also where the disk is full here
            if self._client.status == "running":
                self._client.cancel([*self._under_way, *self._on_errands])
                self._client.unregister_worker_plugin(self._plugin.name)
