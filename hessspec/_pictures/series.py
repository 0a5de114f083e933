"""Pictures of what was followed over steps, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hessspec._pictures.frame import axes_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series:
    """A quantity at steps, with a band around it if its error is known.

    Attributes:
        steps, values: points of the line.
        low, high: ends of the band; None for no band.
        label: entry in the legend, if there is one.
        colour: number of a colour; series of one colour belong together.
        is_first: whether it is the first of its colour, drawn strongest.
    """

    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None
    high: Float[np.ndarray, " n"] | None
    label: str | None
    colour: int
    is_first: bool


def draw_series(
    series: Sequence[Series], ax: Axes | None, ylabel: str, threshold: float | None
) -> Axes:
    """Lines with bands over steps, and a dashed line at `threshold`."""
    axes: Any = axes_for(ax)
    for one in series:
        colour = f"C{one.colour % 10}"
        alpha = 1.0 if one.is_first else 0.5
        axes.plot(one.steps, one.values, color=colour, alpha=alpha, label=one.label, linewidth=1.2)
        if one.low is not None and one.high is not None:
            axes.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
    if threshold is not None:
        axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    if any(one.label for one in series):
        axes.legend()
    return axes
