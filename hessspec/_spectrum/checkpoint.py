"""A density on disk while it is computed: what belongs to one question, task after task."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from hessspec._base.origin import Origin
from hessspec._krylov.kept import KeptRun, together
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.fingerprint import identity
from hessspec._spectrum.record import SpectralDensity

_VERSION = 1


class Checkpoint:
    """The folder of one density: its question, records of finished tasks, the run of the present.

    Args:
        folder: made if it is not there; of several processes all must see it.
        key: of the density.
        operator: whole.
        settings: those that decide about numbers, by name.

    Raises:
        ValueError: if the folder holds another question, naming what is different, or files of
            other origin.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        key: PRNGKeyArray,
        operator: AbstractOperator,
        settings: dict[str, Any],
    ) -> None:
        self.folder = Path(folder)
        origin = Origin.of(key, "", operator.dtype)
        question = {
            "version of these files": _VERSION,
            "number of parameters": operator.dim,
            "dtype": origin.dtype,
            **settings,
            "key": origin.keys[0],
            **identity(operator),
        }
        self._agree(question)

    def of_task(
        self, number: int, operator: AbstractOperator, compute: Callable[[KeptRun], SpectralDensity]
    ) -> SpectralDensity:
        """The density of a task: as it was kept, or computed by a run that is kept on its way."""
        path = self.folder / f"density{number}.npz"
        run = KeptRun(self.folder / f"run{number}", operator.dim, operator.mesh)
        if path.exists():
            run.remove()
            return SpectralDensity.load(path)
        found = compute(run)
        if jax.process_index() == 0:
            found.save(path)
        run.remove()
        return found

    def _agree(self, question: dict[str, Any]) -> None:
        """Begin with the question, or find that it is the one that was begun with."""
        path = self.folder / "question.json"
        if jax.process_index() == 0 and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not any(self.folder.iterdir()):
                hidden = path.with_suffix(".part")
                hidden.write_text(json.dumps(question, indent=1))
                hidden.replace(path)
        together("question")
        if not path.exists():
            raise ValueError(
                f"`checkpoint` must name a folder of its own, but {self.folder} holds other files; "
                "name one that is empty or not yet there."
            )
        begun = json.loads(path.read_text())
        for name, mine in question.items():
            if begun.get(name) != mine:
                shown = "" if len(str(mine)) >= 32 else f": {begun.get(name)}, now {mine}"
                raise ValueError(
                    f"`checkpoint` must hold the run that is to go on, but {self.folder} holds one "
                    f"with another {name}{shown}; call with that, or name another folder."
                )
