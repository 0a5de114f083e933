"""The folder of a long run: which question it is of, what of it is over, and the run itself."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray

from hessspec._base.arguments import shown
from hessspec._base.kept import KeptRun, written
from hessspec._base.locks import LockedError, locked
from hessspec._base.origin import Origin
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.fingerprint import identity

_VERSION = 6
_VERSION_NAME = "version of these files"
_QUESTION = "question.json"
Folder = str | os.PathLike[str]


class _Record(Protocol):
    def save(self, path: Folder) -> None: ...
    @classmethod
    def load(cls, path: Folder) -> Self: ...


class _LongRecord(Protocol):
    def state(self) -> dict[str, Any]: ...
    @classmethod
    def read(cls, state: dict[str, Any]) -> Self: ...


Record = TypeVar("Record", bound=_Record)
LongRecord = TypeVar("LongRecord", bound=_LongRecord)


@contextmanager
def checkpoint_in(
    folder: Folder,
    verb: str,
    key: PRNGKeyArray,
    operator: AbstractOperator,
    settings: dict[str, Any],
) -> Iterator["Checkpoint"]:
    """The folder of one question, which no other run gets while this lasts.

    Args:
        folder: made if it is not there; of several processes all must see it.
        verb: that asks.
        key: of the question.
        operator: whole.
        settings: those that decide about numbers, by name.

    Raises:
        TypeError: if `folder` is no path.
        ValueError: if the folder holds another question, naming what is different, or files of
            other origin.
        RuntimeError: if another run works in it.
        OSError: if nothing can be written there.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"`checkpoint` must be the path of a folder, got {shown(folder)}.")
    place = Path(folder)
    origin = Origin.of(key, "", operator.dtype)
    question = {
        _VERSION_NAME: _VERSION,
        "verb": verb,
        "number of parameters": operator.dim,
        "number of tasks": operator.num_tasks or 1,
        "dtype": origin.dtype,
        **settings,
        "key": origin.keys[0],
        **identity(operator),
    }
    with ExitStack() as held:
        failed = None
        if jax.process_index() == 0:
            try:
                _begin(place, question, held)
            except (OSError, RuntimeError, ValueError) as error:
                failed = error
        _raise_in_all(failed, place)
        _agree(place, question)
        yield Checkpoint(place, verb)


class Checkpoint:
    """The folder of one question: what came out for some tasks, and the run of the present."""

    def __init__(self, folder: Path, verb: str) -> None:
        self.folder, self.verb = folder, verb

    def of_task(
        self,
        number: int,
        operator: AbstractOperator,
        compute: Callable[[KeptRun], Record],
        kind: type[Record],
    ) -> Record:
        """The record of a task: as it was saved, or computed by a run that is kept on its way."""
        path = self.folder / f"{self.verb}{number}.npz"
        run = self.run(f"run{number}", operator)
        if path.exists():
            run.remove()
            return kind.load(path)
        found = compute(run)
        with written("result", self.folder):
            if jax.process_index() == 0:
                found.save(path)
        run.remove()
        return found

    def of_run(
        self,
        name: str,
        operator: AbstractOperator,
        compute: Callable[[KeptRun], LongRecord],
        kind: type[LongRecord],
    ) -> LongRecord:
        """What a run ends with that has long rows: as it was left on disk, or computed."""
        kept = self.run(name, operator)
        known = kept.finished()
        if known is not None:
            return kind.read(known)
        operator.validate()
        found = compute(kept)
        kept.finish(found.state())
        return found

    def run(self, name: str, operator: AbstractOperator) -> KeptRun:
        """A run in a folder of this name, within that of the question."""
        return KeptRun(self.folder / name, operator.dim, operator.dtype, operator.mesh)


def _begin(folder: Path, question: dict[str, Any], held: ExitStack) -> None:
    """Take the folder, and write the question if there is none yet.

    Raises:
        ValueError, RuntimeError, OSError: as `checkpoint_in`.
    """
    path, hidden, lock = folder / _QUESTION, folder / "question.part", folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begun = path.exists()
        ours = {hidden.name, lock.name}
        if not begun and any(entry.name not in ours for entry in folder.iterdir()):
            raise ValueError(
                f"`checkpoint` must name a folder of its own, but {folder} holds other files; name "
                "one that is empty or not yet there."
            )
        try:
            held.enter_context(locked(lock))
        except LockedError as error:
            raise RuntimeError(
                f"`checkpoint` must name a folder that no other run works in, but process "
                f"{error.holder} works in {folder}; wait until it has ended, or name another "
                "folder."
            ) from error
        except OSError as error:
            may_not = isinstance(error, PermissionError) or error.errno == errno.EROFS
            if not (begun and may_not):
                raise
            return  # what is over can be read where nothing may be written
        if not path.exists():
            hidden.write_text(json.dumps(question, indent=1))
            hidden.replace(path)
    except OSError as error:
        raise type(error)(
            f"`checkpoint` must name a folder that can be made and written to, got {folder} "
            f"({error})."
        ) from error


def _raise_in_all(failed: Exception | None, folder: Path) -> None:
    """What the first process has met ends all of them, and none waits for it."""
    elsewhere = False
    if jax.process_count() > 1:
        flag = np.int32(failed is not None)
        elsewhere = bool(multihost_utils.broadcast_one_to_all(flag))
    if failed is not None:
        raise failed
    if elsewhere:
        raise RuntimeError(
            f"`checkpoint` cannot be used: the first process cannot take {folder}, and says why."
        )


def _agree(folder: Path, question: dict[str, Any]) -> None:
    """Find that the question is the one that was begun with."""
    begun = _read(folder / _QUESTION)
    for name, mine in question.items():
        if begun.get(name) != mine:
            known = f": {begun.get(name, 'none')}, now {mine}"
            told = "" if len(str(mine)) >= 32 else known
            way = (
                "go on with the hessspec that began it"
                if name == _VERSION_NAME
                else "call with that"
            )
            raise ValueError(
                f"`checkpoint` must hold the run that is to go on, but {folder} holds one with "
                f"another {name}{told}; {way}, or name another folder."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        begun = json.loads(path.read_text())
        if isinstance(begun, dict):
            return begun
    except ValueError:
        pass
    raise ValueError(
        f"`checkpoint` must hold a question that can be read, but {path} is damaged or not of this "
        "package; name another folder."
    )
