"""The folder of a long run: which question it is of, what of it is over, and the run itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import jax
from jaxtyping import PRNGKeyArray

from hessspec._base.arguments import shown
from hessspec._base.kept import KeptRun, together
from hessspec._base.origin import Origin
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.fingerprint import identity

_VERSION = 2
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


class Checkpoint:
    """The folder of one question: its words, what came out for some tasks, the run of the present.

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
        OSError: if nothing can be written there.
    """

    def __init__(
        self,
        folder: Folder,
        verb: str,
        key: PRNGKeyArray,
        operator: AbstractOperator,
        settings: dict[str, Any],
    ) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"`checkpoint` must be the path of a folder, got {shown(folder)}.")
        self.folder, self.verb = Path(folder), verb
        origin = Origin.of(key, "", operator.dtype)
        question = {
            "version of these files": _VERSION,
            "verb": verb,
            "number of parameters": operator.dim,
            "number of tasks": operator.num_tasks or 1,
            "dtype": origin.dtype,
            **settings,
            "key": origin.keys[0],
            **identity(operator),
        }
        self._agree(question)

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

    def _agree(self, question: dict[str, Any]) -> None:
        """Begin with the question, or find that it is the one that was begun with."""
        path, failed = self.folder / "question.json", None
        if jax.process_index() == 0:
            try:
                _begin(path, question)
            except OSError as error:
                failed = error
        together("question")
        if failed is not None:
            raise type(failed)(
                f"`checkpoint` must name a folder that can be made and written to, got "
                f"{self.folder} ({failed})."
            ) from failed
        if not path.exists():
            raise ValueError(
                f"`checkpoint` must name a folder of its own, but {self.folder} holds other files; "
                "name one that is empty or not yet there."
            )
        begun = _read(path)
        for name, mine in question.items():
            if begun.get(name) != mine:
                known = f": {begun.get(name, 'none')}, now {mine}"
                told = "" if len(str(mine)) >= 32 else known
                raise ValueError(
                    f"`checkpoint` must hold the run that is to go on, but {self.folder} holds one "
                    f"with another {name}{told}; call with that, or name another folder."
                )


def _begin(path: Path, question: dict[str, Any]) -> None:
    """Write the question, into a folder that holds nothing else."""
    hidden = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if any(entry.name != hidden.name for entry in path.parent.iterdir()):
        return
    hidden.write_text(json.dumps(question, indent=1))
    hidden.replace(path)


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
