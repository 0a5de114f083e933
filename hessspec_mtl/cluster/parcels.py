"""What travels between the process of a study and a worker: files, by where they go in a run.

Paths are relative to the folder of one training run (`SeedWork.folder`), for which the worker has a
folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hessspec_mtl.curvature.subject import (
    IDENTITY_FILE,
    epoch_folder,
    hutchinson_name,
    result_names,
)
from hessspec_mtl.curvature.tracking import TABLE, state_files
from hessspec_mtl.files.timing import note_seconds, unit_seconds
from hessspec_mtl.files.versions import Machine
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.units import Unit
from hessspec_mtl.training.checkpoints import Checkpoints
from hessspec_mtl.training.identity import RUN_FILE
from hessspec_mtl.training.predictions import predictions_file

CURVES = ("history.csv", "seconds.csv")

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Made:
    """What a worker made of a unit, and how.

    Attributes:
        files: what appears in the run's folder.
        machine: on which it was made.
        seconds: it took, where the files do not say it themselves.
    """

    files: Files = field(repr=False)
    machine: Machine
    seconds: float | None = None


def inputs(work: SeedWork, unit: Unit, start: int) -> dict[str, bytes]:
    """The files that `unit` builds on; a training goes on from the state after `start`, if any."""
    training = work.folder_of(unit.task)
    if unit.kind == "training":
        if start < 0:
            return {}
        begun = [training / RUN_FILE, *_state(training, start)]
        return _packed(work, [*begun, *_tracking(work, unit, newest=2)])
    paths = [*_state(training, unit.epoch)]
    identity = _result_folder(work, unit) / IDENTITY_FILE
    if unit.kind != "predictions" and identity.exists():
        paths.append(identity)
    return _packed(work, paths)


def outputs(work: SeedWork, unit: Unit) -> dict[str, bytes]:
    """The files that `unit` has left in the folder of `work`."""
    training = work.folder_of(unit.task)
    if unit.kind == "training":
        curves = (training / name for name in CURVES)
        kept = [*_state(training, unit.epoch), *curves, *_tracking(work, unit, newest=1)]
        return _packed(work, kept)
    if unit.kind == "predictions":
        return _packed(work, [predictions_file(training, unit.epoch)])
    return _packed(work, [_result_folder(work, unit) / IDENTITY_FILE, result_file(work, unit)])


def seconds(work: SeedWork, unit: Unit) -> float | None:
    """What `unit` took, where `outputs` do not tell."""
    if unit.kind in ("training", "predictions"):
        return None
    file = result_file(work, unit)
    return unit_seconds(file.parent).get(file.stem)


def unpack(folder: Path, files: Files) -> None:
    """Write `files` below `folder`."""
    for name, content in files.items():
        write_whole(folder / name, content)


def accept(work: SeedWork, unit: Unit, made: Made) -> None:
    """Put what was made where a unit done by this process would have put it.

    Raises:
        CheckpointError, OSError: if it cannot be written.
    """
    files = dict(made.files)
    if unit.kind == "training":
        _accept_state(work, unit, files)
        return
    if unit.kind != "predictions":
        folder = _result_folder(work, unit)
        # Before the result: a unit that is there has its time.
        if made.seconds is not None:
            note_seconds(folder, result_file(work, unit).stem, made.seconds)
    unpack(work.folder, files)


def _accept_state(work: SeedWork, unit: Unit, files: dict[str, bytes]) -> None:
    training = work.folder_of(unit.task)
    checkpoints = Checkpoints(training / "checkpoints")
    newest = max(checkpoints.epochs(), default=-1)
    curves = {name: files.pop(_name(work, training / name)) for name in CURVES}
    here = _name(work, work.tracking) + "/"
    tracked = {name: files.pop(name) for name in list(files) if name.startswith(here)}
    prefix = _name(work, checkpoints.path(unit.epoch)) + "/"
    if unit.epoch >= newest:  # what goes on from a state is there before it
        for old in state_files(work.tracking)[:-1]:
            old.unlink()
        unpack(work.folder, tracked)
    checkpoints.adopt(unit.epoch, {name.removeprefix(prefix): data for name, data in files.items()})
    if unit.epoch >= newest:  # else a state of the past was made again
        unpack(training, curves)


def result_file(work: SeedWork, unit: Unit) -> Path:
    """Where a result of the curvature is."""
    folder = _result_folder(work, unit)
    if unit.kind == "hutchinson":
        return folder / (hutchinson_name(work.measured) or "")
    return folder / result_names(work.measured_of(unit.task))[unit.kind]  # type: ignore[index]


def _result_folder(work: SeedWork, unit: Unit) -> Path:
    return epoch_folder(work.curvature_of(unit.task), unit.epoch)


def _state(training: Path, epoch: int) -> Iterator[Path]:
    folder = Checkpoints(training / "checkpoints").path(epoch)
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _tracking(work: SeedWork, unit: Unit, *, newest: int) -> list[Path]:
    """What was followed along a training, and the `newest` of what it goes on from."""
    if unit.task is not None or work.tracked is None:
        return []
    table = work.tracking / TABLE
    return [*state_files(work.tracking)[-newest:], *([table] if table.exists() else [])]


def _packed(work: SeedWork, paths: list[Path]) -> dict[str, bytes]:
    return {_name(work, path): path.read_bytes() for path in paths}


def _name(work: SeedWork, path: Path) -> str:
    return path.relative_to(work.folder).as_posix()
