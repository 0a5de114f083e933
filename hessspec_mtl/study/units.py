"""The work of a study as a list of units, and the place where units are done.

A unit is what is never done twice: the training of one network from one kept state to the next, its
predictions, one trace, one density, one comparison of gradients or of eigenvectors. It is named by
what it makes (`Unit`), so that it can be told to another process, and it is done when its files are
there. All units but those of training build on one state of one network, and a state builds on the
one before it: no other order is asked for. Here they are done in this process, one after the other;
`hessspec_mtl.cluster` has them done by many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hessspec_mtl.curvature.subject import (
    Kind,
    Subject,
    epoch_folder,
    hutchinson_name,
    result_names,
)
from hessspec_mtl.study.seeds import SeedWork, release, unfinished
from hessspec_mtl.study.stages import Stage, StageError
from hessspec_mtl.training.predictions import predictions, predictions_file
from hessspec_mtl.training.train import Training, saved_epochs

# Trainings that are taken up again and again: of each the data and a state stay at hand.
_AT_HAND = 2


@dataclass(frozen=True)
class Unit:
    """A piece of a study's work, named by what it makes.

    Attributes:
        seed: of the training run.
        kind: "training" makes the state after `epoch`, "predictions" what that state says of the
            test examples, and every other kind a result of its curvature.
        epoch: of the state that is made or looked at; 0 is the one before training.
        task: the one that the network is for; None stands for all of them.
    """

    seed: int
    kind: Literal["training", "predictions"] | Kind
    epoch: int
    task: str | None = None

    def __str__(self) -> str:
        alone = "" if self.task is None else f" on {self.task} alone"
        words = {
            "training": f"training{alone} to",
            "hutchinson": "plain Hutchinson trace after",
        }
        plain = f"{self.kind}{f' of the network{alone}' if alone else ''} after"
        return f"{words.get(self.kind, plain)} epoch {self.epoch}"


States = Mapping[str | None, Collection[int]]
"""Epochs whose states are there, of the network of each task and of that for all (None)."""


def units(work: SeedWork, stages: Collection[Stage], states: States | None = None) -> list[Unit]:
    """What `stages` ask for and is not done, in an order in which it can be done.

    The last state of each network is always among it: whoever takes it up sees whether the folder
    holds the same run, and makes again what was damaged.

    Args:
        states: those that can be built on, where somebody has looked; else all that have a folder.

    Raises:
        StageError: if the curvature is asked for without training, of a state that is not there.
    """
    there = states or {task: saved_epochs(work.folder_of(task)) for task in (None, *work.alone)}
    found = list(_units(work, stages, there))
    if "train" not in stages:
        for unit in found:
            _require_state(work, unit)
    return found


def _units(work: SeedWork, stages: Collection[Stage], states: States) -> Iterator[Unit]:
    measured = list(_results(work)) if "curvature" in stages else []
    if "train" not in stages:
        yield from measured
        return
    for task in (None, *work.alone):
        needed = {unit.epoch for unit in measured if unit.task == task}
        kept = set(work.kept_states) - set(states[task])
        for epoch in sorted({*needed, *kept, work.last}):
            yield Unit(work.seed, "training", epoch, task)
            if task is None:
                yield from (u for u in measured if (u.task, u.epoch) == (task, epoch))
        if not predictions_file(work.folder_of(task), work.last).exists():
            yield Unit(work.seed, "predictions", work.last, task)
    yield from (unit for unit in measured if unit.task is not None)


def _results(work: SeedWork) -> Iterator[Unit]:
    """Results of the curvature that are not there: of the shared network, then of the others."""
    for task in (None, *work.alone):
        epochs = work.epochs if task is None else (work.last,)
        for epoch in epochs:
            names = dict(result_names(work.measured_of(task)))
            if task is None and epoch == work.last and (name := hutchinson_name(work.measured)):
                names["hutchinson"] = name
            folder = epoch_folder(work.curvature_of(task), epoch)
            for kind, name in names.items():
                if not (folder / name).exists():
                    yield Unit(work.seed, kind, epoch, task)


def _require_state(work: SeedWork, unit: Unit) -> None:
    training = work.folder_of(unit.task)
    if unit.epoch not in saved_epochs(training):
        raise StageError(
            f"the curvature after epoch {unit.epoch} needs the state after it, which is not in "
            f"{training}; it has {saved_epochs(training) or 'none'}. Train first, or in the same "
            "command: `--stages train curvature`."
        )


def run_seed(work: SeedWork, stages: Collection[Stage]) -> None:
    """Do what `stages` ask for and is not done, here.

    Raises:
        StageError: as `units`.
    """
    bench, said = Bench(), ""
    for unit in units(work, stages):
        if (text := _words(work, unit, stages)) not in ("", said):
            said = text
            work.tell(text)
        bench.do(work, unit)
    finish(work)


def finish(work: SeedWork) -> None:
    """Drop the states that nothing needs any more, where only the last is to be kept."""
    if work.config.keep_states == "last" and not unfinished(work):
        release(work)


def _words(work: SeedWork, unit: Unit, stages: Collection[Stage]) -> str:
    """What is told before a unit; nothing where it was told with another one."""
    if unit.kind == "hutchinson":
        return f"plain Hutchinson trace after epoch {unit.epoch}"
    if unit.kind == "training":
        return (
            work.training_words(measure="curvature" in stages)
            if unit.task is None
            else f"training on {unit.task} alone"
        )
    if unit.kind == "predictions" or (unit.task is None and "train" in stages):
        return ""
    if unit.task is None:
        return f"curvature after epoch {unit.epoch}"
    return f"curvature of the network trained on {unit.task} alone"


class Bench:
    """Where units are done, one after the other; what the next one may need stays at hand."""

    def __init__(self) -> None:
        self._trainings: OrderedDict[Path, Training] = OrderedDict()
        self._subject: tuple[object, Subject] | None = None

    def do(self, work: SeedWork, unit: Unit) -> None:
        """Do `unit` of `work` in its folder; the state that it builds on must be there.

        Raises:
            ValueError: if the folder holds another run.
            CheckpointError: if a state is missing or cannot be read or written.
            FloatingPointError: if training leaves the finite numbers.
        """
        match unit.kind:
            case "training":
                # To the end in the words of `Training.to`: states that were damaged are made again.
                until = None if unit.epoch == work.last else unit.epoch
                self._training(work, unit.task).to(until, progress=work.progress)
            case "predictions":
                network, folder = work.network_of(unit.task), work.folder_of(unit.task)
                predictions(network, work.encoded, folder, unit.epoch)
            case _:
                self._subject_of(work, unit).result(unit.kind)

    def newest(self, training: Path) -> int | None:
        """The epoch up to which the training in this folder is at hand; None if it is not."""
        held = self._trainings.get(training)
        return None if held is None else held.newest

    def forget(self, training: Path) -> None:
        """Hold nothing more of the training in this folder."""
        self._trainings.pop(training, None)

    def _training(self, work: SeedWork, task: str | None) -> Training:
        folder = work.folder_of(task)
        if folder not in self._trainings:
            self._trainings[folder] = work.training_of(task)
        self._trainings.move_to_end(folder)
        while len(self._trainings) > _AT_HAND:
            self._trainings.popitem(last=False)
        return self._trainings[folder]

    def _subject_of(self, work: SeedWork, unit: Unit) -> Subject:
        """The state that `unit` looks at, with its Hessians if they have been made."""
        place = work.curvature_of(unit.task), unit.epoch
        if self._subject is None or self._subject[0] != place:
            subject = Subject(
                work.measured_of(unit.task),
                work.network_of(unit.task),
                work.examples_of(unit.task),
                unit.epoch,
                work.folder_of(unit.task),
                work.curvature_of(unit.task),
                seed=work.seed,
                progress=work.progress,
            )
            self._subject = place, subject
        return self._subject[1]
