"""The axis of tasks: what a loss of shape (T,) adds in front of every array of a record."""

from typing import Any, Self

import jax

from hessspec._base.arguments import whole_number
from hessspec._base.printing import counted


class TaskAxis:
    """A record, a tree of arrays, that has an axis of tasks in front if the loss had one."""

    def _lead(self) -> tuple[int, ...]:
        """The shape of that axis: (T,), or () for a scalar loss."""
        raise NotImplementedError

    @property
    def num_tasks(self) -> int | None:
        """Number of tasks T, or None for a scalar loss."""
        lead = self._lead()
        return lead[0] if lead else None

    def task(self, index: int) -> Self:
        """The record of one task, without task axis; products are counted in the whole record.

        Raises:
            ValueError: if there is no task axis.
            TypeError: if `index` is no whole number.
            IndexError: if there is no such task.
        """
        if self.num_tasks is None:
            name = type(self).__name__
            raise ValueError(f"this {name} has no task axis: the loss was a scalar")
        return self._task(task_number(index, self.num_tasks))

    def _task(self, index: int) -> Self:
        return jax.tree.map(lambda leaf: leaf[index], self)


def task_labels(label: str | None, num_tasks: int | None) -> list[str | None]:
    """Entries of a legend: `label` for a scalar loss, else one a task, "task 0" without a label."""
    if num_tasks is None:
        return [label]
    return [f"{label or 'task'} {t}" for t in range(num_tasks)]


def task_words(record: Any) -> str:
    """How many tasks a record is of: `a scalar loss`, `3 tasks`."""
    return "a scalar loss" if record.num_tasks is None else counted(record.num_tasks, "task")


def task_number(index: Any, count: int) -> int:
    """`index` as the number of one of `count` tasks, from the end if negative.

    Raises:
        TypeError: if it is no whole number.
        IndexError: if there is no such task.
    """
    index = whole_number("index", index, least=None)
    if not -count <= index < count:
        raise IndexError(f"`index` must name one of {count} tasks, got {index}")
    return index
