"""Which units of studies are to be done by others, which waits for which, and which comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from hessspec_mtl.study.pipeline import StudyWork
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.stages import Stage
from hessspec_mtl.study.units import Unit, units

# A training is sent in stretches of at most such a share, and of five epochs at least.
_SHARES = 8

# Of what nothing waits for, the longest first: at the end no worker is busy long after the others.
LONGEST_FIRST = ("density", "hutchinson", "eigenspaces")


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


def in_order(
    ready: Sequence[Item],
    under_way: Collection[Item],
    known: Collection[Hashable],
    last: Item | None = None,
) -> list[Item]:
    """`ready`, and in front what a worker that is free should do first.

    Not what runs programs that another worker is compiling, for then both would: that comes last.
    Units of the study of which `last` was, what the free worker did before, since tracing and
    loading what another study runs takes seconds for each program; where that is not known, of one
    that nobody works at. But training of any study, where at least as many networks could be
    trained further as workers are at it. Of those training, since others wait for it; then what
    runs programs that no worker has compiled yet (`programs`; `known` are those that were run to
    the end); then the longest.
    """
    networks = Counter(item.study for item in ready if item.unit.kind == "training")
    at_it = Counter(item.study for item in under_way)

    def place(item: Item) -> tuple[bool, bool, bool, bool, bool]:
        trains = item.unit.kind == "training"
        lacks_workers = last is not None and networks[item.study] >= at_it[item.study]
        return (
            _is_compiled_now(item, under_way, known),
            _is_of_others(item, under_way, last) and not (trains and lacks_workers),
            not trains,
            programs(item) in known,
            item.unit.kind not in LONGEST_FIRST,
        )

    return sorted(ready, key=place)


def is_pressing(
    item: Item,
    under_way: Collection[Item],
    known: Collection[Hashable],
    last: Item | None = None,
    left: Mapping[str, int] = MappingProxyType({}),
) -> bool:
    """Whether a worker that is free should do `item` before what no unit waits for.

    Others gain by it where they wait for it, or run the programs that it compiles; and all end
    sooner if a study that has more units `left` than another goes on with them. But not where
    another worker compiles its programs, or has traced what its study runs.
    """
    if _is_compiled_now(item, under_way, known) or _is_of_others(item, under_way, last):
        return False
    is_behind = left.get(item.study, 0) > min(left.values(), default=0)
    return is_behind or item.unit.kind == "training" or programs(item) not in known


def programs(item: Item) -> Hashable:
    """What is equal for units that run the same compiled programs: seeds and epochs share them."""
    unit = item.unit
    if unit.kind in ("training", "predictions"):
        return item.study, unit.kind, unit.task, item.start < 0  # no step is taken to epoch 0
    # Of the curvature, networks for single tasks share their programs (`subject`).
    return item.study, unit.kind, unit.task is None


def _is_of_others(item: Item, under_way: Collection[Item], last: Item | None) -> bool:
    """Whether the study of `item` is for other workers than the one that is free."""
    if last is not None:
        return item.study != last.study
    return any(item.study == other.study for other in under_way)


def _is_compiled_now(item: Item, under_way: Collection[Item], known: Collection[Hashable]) -> bool:
    """Whether a unit that is under way compiles some of the programs of `item`."""
    if programs(item) in known:
        return False
    compiling = (_compiled_with(other) for other in under_way if programs(other) not in known)
    return _compiled_with(item) in compiling


def _compiled_with(item: Item) -> Hashable:
    """Units that are new and equal in this compile some of the same programs."""
    if item.unit.kind in ("training", "predictions"):
        return programs(item)
    return item.study, item.unit.task is None  # each kind evaluates the losses and linearises them
