"""What may look at a run while it trains, and changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hessspec_mtl.network.model import Params

Look = Callable[[int, Params], None]
"""Sees the parameters after so many steps. They are used up by the next step."""


class Along(Protocol):
    """Something that looks at the parameters of a run after every so many of its steps.

    What it has seen must be as resumable as the run: it is told when a state is saved, and where a
    run goes on. Steps are counted from the beginning of the run; step 0 is before training.
    """

    @property
    def every(self) -> int:
        """Steps from one look to the next."""
        ...

    def look(self, step: int, params: Params) -> None:
        """See the parameters after `step` steps, which may not be kept."""
        ...

    def save(self, step: int) -> None:
        """Keep what `resume` needs at `step`; the state of the run is saved right afterwards.

        What an earlier call kept must stay until a later one: the process may be killed before that
        state is saved.
        """
        ...

    def resume(self, step: int) -> None:
        """Be as after the last look up to `step`; -1 is before all of them.

        What was seen of later steps is forgotten: they are trained again.
        """
        ...


def stops(every: int, first: int, last: int) -> list[int]:
    """The steps after `first`, up to `last`, that are looked at: multiples of `every`."""
    return list(range(first - first % every + every, last + 1, every))
