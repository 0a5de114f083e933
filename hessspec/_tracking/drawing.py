"""What is drawn of a tracker: columns of its table as plain series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hessspec._base.arguments import did_you_mean
from hessspec._base.tasks import task_labels
from hessspec._pictures.landscapes import Drawn, draw_lines, draw_planes
from hessspec._pictures.series import Series, draw_series
from hessspec._tracking.steps import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ERRORS = {"values": ("residuals", 1.0), "trace": ("trace_error", 2.0)}
_NAMES = {
    "values": "eigenvalue",
    "gradient_share": "share of the gradient",
    "rotation": "rotation (radians)",
    "num_matvecs": "products",
}


def draw_column(
    table: dict[str, Column],
    name: str,
    ax: Axes | None,
    threshold: float | None,
    label: str | None,
) -> Axes:
    """The column `name` over the steps: tasks in colours, further eigenvalues fainter."""
    if name not in table or name in ("step", "trace_samples"):
        known = [column for column in table if column not in ("step", "trace_samples")]
        raise ValueError(
            f"`name` must be a column of the table ({', '.join(known)}), got {name!r}"
            f"{did_you_mean(name, known)}"
        )
    steps, column = table["step"], np.asarray(table[name], float)
    errors = None
    if name in _ERRORS:
        source, units = _ERRORS[name]
        errors = units * np.asarray(table[source], float)
    num_tasks = table["loss"].shape[1] if table["loss"].ndim > 1 else None
    has_tasks = num_tasks is not None and column.ndim > 1
    ranks = column.shape[-1] if name in ("values", "residuals", "converged") else 1
    shape = (len(steps), column.shape[1] if has_tasks else 1, ranks)
    values = column.reshape(shape)
    bands = None if errors is None else errors.reshape(shape)
    series = []
    for task in range(shape[1]):
        suffix = f" {task}" if has_tasks else ""
        text = f"{label or 'task'}{suffix}" if label or has_tasks else None
        for rank in range(ranks):
            line = values[:, task, rank]
            band = None if bands is None else bands[:, task, rank]
            series.append(
                Series(
                    steps=steps,
                    values=line,
                    low=None if band is None else line - band,
                    high=None if band is None else line + band,
                    label=text if rank == 0 else None,
                    colour=task,
                    is_first=rank == 0,
                )
            )
    return draw_series(series, ax, _NAMES.get(name, name), threshold)


def draw_landscape(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], ax: Any, label: str | None
) -> Any:
    """Coordinates, losses and quadratic model of each task: curves in one picture, or planes."""
    names = task_labels(label, len(parts) if len(parts) > 1 else None)
    drawn = [Drawn(*part, label=name) for part, name in zip(parts, names, strict=True)]
    return draw_lines(drawn, ax) if parts[0][0].shape[0] == 1 else draw_planes(drawn, ax)
