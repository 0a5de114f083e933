"""Which units of studies are to be done by others, and which of them waits for which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from hessspec_mtl.study.pipeline import StudyWork
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.stages import Stage
from hessspec_mtl.study.units import Unit, units

# A training is sent in stretches of at most such a share, and of five epochs at least.
_SHARES = 8


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


def left(studies: Sequence[StudyWork], stages: Collection[Stage]) -> list[Item]:
    """What is to be done of all `studies`; each study goes by the name of its folder.

    Raises:
        Exception: as `items`.
    """
    works = [work for study in studies for work in study.seeds]
    return [item for work in works for item in items(work.folder.parent.name, work, stages)]
