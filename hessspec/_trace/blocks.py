"""The record of the traces of blocks: a mapping from names, printed and drawn as one."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from hessspec._base.arguments import did_you_mean
from hessspec._base.origin import about
from hessspec._base.printing import (
    Facts,
    Printed,
    counted,
    interval,
    listed,
    shortened,
    with_error,
)
from hessspec._base.records import load_record, save_record
from hessspec._base.tasks import task_labels
from hessspec._pictures.frame import small_figure
from hessspec._pictures.intervals import Estimates, draw_estimates
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.saved import parts_of, restored

_KIND = "BlockTraces"
_MOST_TASKS = 4  # of which a line tells the traces


@dataclass(frozen=True, repr=False, eq=False)
class BlockTraces(Printed, Mapping[Hashable, TraceEstimate]):
    """The traces of blocks of parameters, Σ H_ii over each, by the names of the blocks.

    A mapping that cannot be changed: `traces["head"]`, `traces.items()`, `dict(traces)`. Blocks
    share basis and samples and add up to the trace of the whole. In the units of H,
    loss / parameter².

    Attributes:
        estimates: the trace of each block, of all tasks; `dim` is the size of the block.
        names: of the blocks, in the order of their first leaves.
    """

    estimates: tuple[TraceEstimate, ...]
    names: tuple[Hashable, ...] = field(metadata={"static": True})

    def __getitem__(self, name: Hashable) -> TraceEstimate:
        if name not in self.names:
            known = ", ".join(map(repr, self.names[:8])) + (", ..." if len(self) > 8 else "")
            near = did_you_mean(name, self.names)
            raise KeyError(f"there is no block {name!r}{near}; there are {known}")
        return self.estimates[self.names.index(name)]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_tasks(self) -> int | None:
        """Number of tasks T, or None for a scalar loss."""
        return self.estimates[0].num_tasks

    @property
    def dim(self) -> int:
        """P, the parameters of all blocks together."""
        return sum(one.dim for one in self.estimates)

    def difference(self, first: Hashable, second: Hashable) -> TraceEstimate:
        """The trace of one block less that of another, with an error of its own.

        Blocks see the same probes, so what they share cancels sample by sample. Of all tasks,
        where the loss has several. `dim` counts the parameters of both.

        Raises:
            KeyError: if there is no such block.
        """
        a, b = self[first], self[second]
        if a.systematic is None or b.systematic is None:
            systematic = None
        else:
            systematic = np.asarray(a.systematic) + np.asarray(b.systematic)
        return replace(
            a,
            dim=a.dim + b.dim,
            samples=np.asarray(a.samples) - np.asarray(b.samples),
            exact=np.asarray(a.exact) - np.asarray(b.exact),
            systematic=systematic,
            by_group=None,
            exact_by_group=None,
            group_shares=None,
            quantity=f"{a.quantity} - that of {second!r}",
            origin=about(a.origin, f"less block {second!r}"),
        )

    def plot(self, *, ax: Any = None, level: float = 0.95, per_parameter: bool = False) -> Any:
        """Draw the trace of each block with its interval; returns the axes. Needs matplotlib.

        Args:
            ax: axes to draw into; new ones by default.
            level: with which each interval holds.
            per_parameter: divide each by the size of its block: the mean curvature there.

        Raises:
            ImportError: without matplotlib.
            ValueError: unless 0 < level < 1.
        """
        sizes = np.array([one.dim if per_parameter else 1 for one in self.estimates], float)
        rows = [(one.value, *one.confidence_interval(level)) for one in self.estimates]
        columns = (np.stack(column) for column in zip(*rows, strict=True))
        lead = (len(self), self.num_tasks or 1)
        values, low, high = (np.reshape(column, lead).T / sizes for column in columns)
        names = [_in_a_line(name) for name in self.names]
        drawn = [
            Estimates(names, values[t], low[t], high[t], label)
            for t, label in enumerate(task_labels(None, self.num_tasks))
        ]
        each = " / its parameters" if per_parameter else ""
        return draw_estimates(drawn, ax, f"tr H of each block{each}, {level:.0%} interval")

    def __float__(self) -> float:
        task = ".task(t)" if self.num_tasks is not None else ""
        raise TypeError(
            f"this {_KIND} holds the traces of {counted(len(self), 'block')} and is no single "
            f"float; choose one with `float(traces[{self.names[0]!r}]{task})`, or leave out `by` "
            "for the trace of the whole."
        )

    def _facts(self) -> Facts:
        first, several = self.estimates[0], self.num_tasks is not None
        rows = []
        for name, one in self.items():
            found = listed(_few(map(with_error, *_flat(one.value, one.standard_error))), several)
            held = listed(_few(map(interval, *_flat(*one.confidence_interval()))), several)
            size = counted(one.dim, "parameter")
            rows.append((_in_a_line(name), f"tr H = {found}, 95 % {held}, {size}"))
        tasks = f", {self.num_tasks} tasks" if several else ""
        title = f"{_KIND} of {counted(len(self), 'block')}, P = {self.dim:,}{tasks}"
        told = [("intervals", first.reliability_words()), ("method", first.method_words())]
        return Facts(title, [*shortened(rows, 10), *told])

    def _draw_small(self) -> Any:
        return small_figure(lambda ax: self.plot(ax=ax))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle).

        Raises:
            TypeError: if a name is neither text nor a whole number, which is all a file can hold.
        """
        for name in self.names:
            if not isinstance(name, str | int):
                raise TypeError(
                    f"blocks that are saved must be named by text or whole numbers, got {name!r}; "
                    "let `by` return such names, or save the estimates one by one."
                )
        arrays, found = {}, []
        for number, one in enumerate(self.estimates):
            own, meta = parts_of(one, f"{number}.")
            arrays |= own
            found.append(meta)
        save_record(path, _KIND, arrays, {"names": list(self.names), "estimates": found})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BlockTraces":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        estimates = (
            restored(TraceEstimate, arrays, f"{number}.", one)
            for number, one in enumerate(meta["estimates"])
        )
        return cls(tuple(estimates), tuple(meta["names"]))


def _in_a_line(name: Hashable) -> str:
    """The name of a block as it is printed; one of nothing but space in quotes."""
    return " ".join(str(name).split()) or repr(name)


def _few(texts: Iterable[str]) -> list[str]:
    """The texts of tasks as far as a line has room for them."""
    told = list(texts)
    if len(told) <= _MOST_TASKS:
        return told
    return [*told[: _MOST_TASKS - 1], f"... {len(told) - _MOST_TASKS + 1} more"]


def _flat(*columns: Any) -> list[np.ndarray]:
    return [np.ravel(column) for column in columns]


jax.tree_util.register_dataclass(BlockTraces, ["estimates"], ["names"])
