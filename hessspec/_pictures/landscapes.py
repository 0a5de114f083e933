"""Pictures of a loss along a line, and over a plane, with a model beside it, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from hessspec._pictures.frame import axes_for, panels_for

_LEVELS = 12


@dataclass(frozen=True)
class Drawn:
    """Values on a grid and those of a model at the same points.

    Attributes:
        coordinates: places along each axis of the grid, one or two.
        values, model: on the grid.
        label: entry in the legend or title, if there is one.
    """

    coordinates: Float[np.ndarray, "d n"]
    values: Float[np.ndarray, "..."]
    model: Float[np.ndarray, "..."]
    label: str | None


def draw_lines(drawn: Sequence[Drawn], ax: Any) -> Any:
    """Curves of the values, dashed ones of the model, cut off where the values end."""
    axes = axes_for(ax)
    for one in drawn:
        (line,) = axes.plot(one.coordinates[0], one.values, label=one.label, linewidth=1.2)
        colour = line.get_color()
        axes.plot(one.coordinates[0], one.model, "--", color=colour, linewidth=0.9)
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in drawn])
    if finite.size:
        margin = 0.05 * (np.ptp(finite) or 1.0)
        axes.set_ylim(finite.min() - 2 * margin, finite.max() + margin)
    axes.set_xlabel("coordinate along the direction")
    axes.set_ylabel("loss (dashed: quadratic model)")
    if any(one.label for one in drawn):
        axes.legend()
    return axes


def draw_planes(drawn: Sequence[Drawn], ax: Any) -> Any:
    """Contours of the values, and dashed ones of the model at the same levels."""
    panels = panels_for(ax, [one.label for one in drawn])
    for panel, one in zip(panels, drawn, strict=True):
        first, second = one.coordinates
        levels = np.linspace(np.nanmin(one.values), np.nanmax(one.values), _LEVELS + 2)[1:-1]
        if levels[0] < levels[-1]:
            lines = panel.contour(first, second, one.values.T, levels=levels, linewidths=1.0)
            panel.clabel(lines, fontsize="x-small", fmt="%.3g")  # up or down is not seen otherwise
            panel.contour(
                first, second, one.model.T, levels=levels, linewidths=0.8, linestyles="dashed"
            )
        panel.plot([0], [0], "k+")
        panel.set_xlabel("along the first direction")
        panel.set_ylabel("along the second")
    return panels[0] if len(panels) == 1 else panels
