"""A long run on disk, so that one that was killed goes on from the last state written.

A state is what changes as the run goes on: numbers, small arrays, and long rows. Rows of a basis,
which only grows, have names of their own and are written once: however often such a run is kept,
that takes as many bytes as the basis has. All else is written anew with each state, and what the
state before had is removed once the new one is there.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hessspec._base.pieces import read_rows, remove_rows, write_rows
from hessspec._base.progress import Counted, ProgressBar
from hessspec._base.records import load_record, save_record

# Of the time of a run, at most one part in so many goes into writing.
_PARTS_OF_TIME = 20
_KIND = "RunState"
_DONE = "came_out"


Keep = Callable[[], None]  # what a run calls where its state is whole: it may be written now


def never() -> None:
    """Keeps nothing."""


@dataclass(frozen=True)
class Long:
    """Long rows in a state, made or read when they are asked for.

    Attributes:
        rows: makes them.
        name: of rows that never change: what was written under it, beside the same parts of a
            state, is not written again. "" for rows that may have changed.
    """

    rows: Callable[[], Float[Array, "k width"]]
    name: str = ""


class Resumable:
    """Changes in place as a run goes on, and can go on from a state.

    Attributes:
        changing: the names of what changes: numbers, arrays of the host, lists and tuples of such,
            and other `Resumable` parts. Long rows are left to the class itself.
    """

    changing: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """All that changes, by name."""
        values = {name: getattr(self, name) for name in self.changing}
        return {n: v.state() if isinstance(v, Resumable) else v for n, v in values.items()}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` returned, in this process or another."""
        for name in self.changing:
            own = getattr(self, name)
            if isinstance(own, Resumable):
                own.resume(state[name])
            else:
                setattr(self, name, state[name])


class KeptRun:
    """The files of one run in a folder. Not a record: what they hold changes.

    Attributes:
        folder: theirs alone, and the same for all processes.
        dim: P.
        dtype: of long rows.
        mesh: the devices that the rows lie on.
    """

    def __init__(self, folder: Path, dim: int, dtype: np.dtype, mesh: Mesh | None) -> None:
        self.folder, self.dim, self.dtype, self.mesh = folder, dim, np.dtype(dtype), mesh
        self.number, self.held = 0, frozenset[str]()  # states written, and the rows of the last
        self.took, self.ended = 0.0, -np.inf

    @property
    def is_due(self) -> bool:
        """Whether a state is to be written now. Of several processes the first one's clock says."""
        due = time.monotonic() - self.ended >= (_PARTS_OF_TIME - 1) * self.took
        if jax.process_count() > 1:
            return bool(multihost_utils.broadcast_one_to_all(np.int32(due)))
        return due

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write a state if it is time to."""
        if self.is_due:
            self.write(state())

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the one before.

        Raises:
            OSError: if it cannot be written, as on a full disk; the one before is there still.
        """
        begin = time.monotonic()
        self.number += 1
        parts = _Parts(self.number)
        described = parts.of(state, "run", "run")
        with written("rows", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, rows in parts.rows.items():
                if name not in self.held:
                    write_rows(self.folder, name, rows(), self.dim)
        with written("state", self.folder):
            if jax.process_index() == 0:
                about = {"number": self.number, "rows": sorted(parts.rows), "state": described}
                save_record(self._file, _KIND, parts.arrays, about)
                for name in self.held - parts.rows.keys():
                    remove_rows(self.folder, name)
        self.held = frozenset(parts.rows)
        self.ended = time.monotonic()
        self.took = self.ended - begin

    def read(self) -> dict[str, Any] | None:
        """The state kept last, its long rows still on disk; None if there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        exists = self._file.exists()
        arrays: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {"rows": []}
        if exists:
            arrays, about = load_record(self._file, _KIND)
        together("read")
        if jax.process_index() == 0:  # rows that were being written
            for path in [*self.folder.glob("*-*.npy"), *self.folder.glob("*.part")]:
                if path.name.split(".")[0] not in about["rows"] or path.suffix == ".part":
                    path.unlink(missing_ok=True)
        together("begin")
        if not exists:
            return None
        self.number, self.held = about["number"], frozenset(about["rows"])
        return self._read(about["state"], arrays)

    def finish(self, state: dict[str, Any]) -> None:
        """Keep what came out in place of the run."""
        self.write({_DONE: state})

    def finished(self) -> dict[str, Any] | None:
        """What `finish` was given; None if the run is not over."""
        state = self.read()
        return None if state is None else state.get(_DONE)

    def remove(self) -> None:
        """Remove the files: the run is over, and what it was made for is kept elsewhere."""
        together("over")
        if jax.process_index() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _file(self) -> Path:
        return self.folder / "state.npz"

    def _read(self, described: Any, arrays: dict[str, np.ndarray]) -> Any:
        if not isinstance(described, dict):
            return described
        ((kind, held),) = described.items()
        if kind == "array":
            return arrays[held]
        if kind == "rows":
            return Long(lambda: read_rows(self.folder, held, self.mesh, self.dim, self.dtype), held)
        if kind == "parts":
            return {name: self._read(part, arrays) for name, part in held.items()}
        each = [self._read(part, arrays) for part in held]
        return tuple(each) if kind == "tuple" else each


def resumed(run: Resumable, kept: KeptRun | None, bar: ProgressBar) -> tuple[ProgressBar, Keep]:
    """`run` where it was kept, if it was; the bar that it is to tell, and what keeps it."""
    if kept is None:
        return bar, never
    counted = Counted(bar)
    state = kept.read()
    if state is not None:
        counted.update(state["done"])
        run.resume(state["run"])
    return counted, lambda: kept.keep(lambda: {"done": counted.done, "run": run.state()})


@dataclass(frozen=True)
class _Parts:
    """A state taken apart: its arrays, its long rows, and how they belong together, for JSON."""

    number: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, Callable[[], Float[Array, "k width"]]] = field(default_factory=dict)

    def of(self, value: Any, within: str, name: str) -> Any:
        """What a part of a state is.

        `within` is the name of the innermost parts that have names, in which `Long.name` counts.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Long):
            place = f"{within}-{value.name}" if value.name else f"{name}-{self.number:06d}"
            self.rows[place] = value.rows
            return {"rows": place}
        if isinstance(value, dict):
            return {"parts": {key: self.of(value[key], name, f"{name}_{key}") for key in value}}
        if isinstance(value, list | tuple):
            each = [self.of(part, within, f"{name}_{i}") for i, part in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": each}
        self.arrays[name] = np.asarray(value)
        return {"array": name}


def together(what: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"hessspec checkpoint: {what}")


@contextmanager
def written(what: str, folder: Path) -> Iterator[None]:
    """Inside, this process writes; then it waits for the others, and fails if one of them does.

    Raises:
        OSError: if writing failed, here or in another process.
    """
    failed = None
    try:
        yield
    except OSError as error:
        failed = error
    elsewhere = False
    if jax.process_count() > 1:
        flags = multihost_utils.process_allgather(np.int32(failed is not None))
        elsewhere = bool(np.any(flags))
    if failed is None and not elsewhere:
        return
    told = failed or "in another process, which says why"
    error = (OSError if failed is None else type(failed))(
        f"`checkpoint` must name a folder that can be written to, but the {what} cannot be written "
        f"in {folder} ({told}). The state before, if there was one, is kept: make room, or the "
        "folder writable, and call again with the same arguments."
    )
    error.errno = getattr(failed, "errno", None)
    raise error from failed
