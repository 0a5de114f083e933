"""A Krylov run on disk, so that one that was killed goes on from its last step written.

A basis only grows, so each of its rows is written once: however often a run is kept, that takes as
many bytes as the basis has. What else there is to know is small, and is replaced as a whole after
the rows that it speaks of are there.
"""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hessspec._base.pieces import read_rows, remove_rows, write_rows
from hessspec._base.records import load_record, save_record
from hessspec._krylov.basis import LockstepBases
from hessspec._krylov.lanczos import Recurrence

# Of the time of a run, at most one part in so many goes into writing.
_PARTS_OF_TIME = 20
_KIND = "KrylovState"


class State(NamedTuple):
    """What a run knows after some steps, its bases aside.

    Attributes:
        done: steps taken.
        previous, rows: the last basis vector of each probe, and the next one.
        found: the recurrence.
        scale: s of each probe.
        parts: largest length of the parts of products so far; None where H is no sum.
        outcomes: for each of the last steps, which probes were alive and which finite.
    """

    done: int
    previous: Float[Array, "k width"]
    rows: Float[Array, "k width"]
    found: Recurrence
    scale: Float[Array, " k"]
    parts: Float[Array, " k"] | None = None
    outcomes: tuple[tuple[Array, Array], ...] = ()


class KeptRun:
    """The files of one run in a folder. Not a record: what they hold changes.

    Attributes:
        folder: theirs alone, and the same for all processes.
        dim: P.
        mesh: the devices that the rows lie on.
    """

    def __init__(self, folder: Path, dim: int, mesh: Mesh | None) -> None:
        self.folder, self.dim, self.mesh = folder, dim, mesh
        self.written = 0  # rows, the next ones of the last state among them
        self.took, self.ended = 0.0, -np.inf
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_due(self) -> bool:
        """Whether a step is to be written now.

        Clocks of several processes differ, and these must agree: they write all steps.
        """
        if jax.process_count() > 1:
            return True
        return time.monotonic() - self.ended >= (_PARTS_OF_TIME - 1) * self.took

    def write(self, state: State, bases: LockstepBases | None) -> None:
        """Keep a state, once the device is done with it; without bases its two rows alone."""
        jax.block_until_ready(state)
        begin = time.monotonic()
        older = (
            [] if bases is None else [(i, bases.row(i)) for i in range(self.written, state.done)]
        )
        last = [(state.done - 1, state.previous)] if bases is None else []
        for number, rows in [*older, *last, (state.done, state.rows)]:
            if number >= self.written:
                write_rows(self.folder, _name(number), rows, self.dim)
        self.written = state.done + 1
        together("rows")
        if jax.process_index() == 0:
            arrays = {name: np.asarray(leaf) for name, leaf in state.found._asdict().items()}
            flags = {
                f"outcome{i}": np.stack([np.asarray(flag) for flag in pair])
                for i, pair in enumerate(state.outcomes)
            }
            parts = {} if state.parts is None else {"parts": np.asarray(state.parts)}
            scale = {"scale": np.asarray(state.scale)}
            save_record(
                self._file, _KIND, {**arrays, **flags, **parts, **scale}, {"done": state.done}
            )
            if bases is None:
                for number in range(max(state.done - 3, 0), state.done - 1):
                    remove_rows(self.folder, _name(number))
        self.ended = time.monotonic()
        self.took = self.ended - begin

    def read(self, dtype: np.dtype, bases: LockstepBases | None) -> State | None:
        """The state kept last, its rows put into `bases`; None if there is none."""
        if not self._file.exists():
            return None
        arrays, meta = load_record(self._file, _KIND)
        done = meta["done"]
        outcomes = (arrays[f"outcome{i}"] for i in range(sum("outcome" in name for name in arrays)))
        together("read")
        if jax.process_index() == 0:  # steps that were being written
            for path in self.folder.glob(f"{_ANY}.*"):
                if path.name.split(".")[0] > _name(done):
                    path.unlink()
        together("begin")
        self.written = done + 1
        previous, rows = self._rows(done - 1, dtype), self._rows(done, dtype)
        if bases is not None:
            for number in range(done - 1):
                bases.append(self._rows(number, dtype))
            bases.append(previous)
        return State(
            done=done,
            previous=previous,
            rows=rows,
            found=Recurrence(*(jnp.asarray(arrays[name]) for name in Recurrence._fields)),
            scale=jnp.asarray(arrays["scale"]),
            parts=jnp.asarray(arrays["parts"]) if "parts" in arrays else None,
            outcomes=tuple((jnp.asarray(pair[0]), jnp.asarray(pair[1])) for pair in outcomes),
        )

    def remove(self) -> None:
        """Remove the files: the run is over, and what it was made for is kept elsewhere."""
        together("over")
        if jax.process_index() == 0:
            remove_rows(self.folder, _ANY)
            self._file.unlink(missing_ok=True)
            self.folder.rmdir()

    @property
    def _file(self) -> Path:
        return self.folder / "state.npz"

    def _rows(self, number: int, dtype: np.dtype) -> Float[Array, "k width"]:
        return read_rows(self.folder, _name(number), self.mesh, self.dim, dtype)


_ANY = "row*"


def _name(number: int) -> str:
    return f"row{number:06d}"


def together(what: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"hessspec checkpoint: {what}")
