"""Pictures of counted bins: boxes with the intervals of their counts, stems for single values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hessspec._pictures.frame import add_legend, on_the_rim, panels_for
from hessspec._pictures.scales import Scale

_INK = "0.15"


@dataclass(frozen=True)
class Boxes:
    """Bins side by side and single values beside them, in one panel.

    Attributes:
        edges: of the bins, rising.
        counts, low, high: what each bin holds beside the stems, and an interval for it.
        zero: the number of the bin about 0 that is not looked into, -1 if there is none.
        said: what is written at that bin.
        stems, heights: single values; how often each is there.
        label: entry in the legend or title of the panel.
    """

    edges: Float[np.ndarray, " bins+1"]
    counts: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    zero: int
    said: str
    stems: Float[np.ndarray, " n"]
    heights: Int[np.ndarray, " n"]
    label: str | None


def draw_boxes(drawn: Sequence[Boxes], ax: Any, scale: Scale, level: float) -> list[Any]:
    """A panel for each; heights are numbers, linear below 1, then decades. Returns the axes."""
    panels = panels_for(ax, [boxes.label for boxes in drawn])
    threshold = min((linear_part(boxes) for boxes in drawn), default=1.0)
    for panel, boxes in zip(panels, drawn, strict=True):
        _draw(panel, boxes, level, with_label=len(drawn) == 1)
    reach = np.concatenate([boxes.edges for boxes in drawn])
    for panel in panels:
        _set_scales(panel, scale, threshold, reach)
        panel.set_xlabel("eigenvalue of the Hessian")
        panel.set_ylabel("number of eigenvalues")
    add_legend(panels)
    on_the_rim(panels)
    return panels


def linear_part(boxes: Boxes) -> float:
    """Half-width of the linear part of a symmetric logarithmic axis: what the bin about 0 hides."""
    edges = np.abs(boxes.edges[boxes.edges != 0])
    if boxes.zero >= 0:
        ends = np.abs(boxes.edges[boxes.zero : boxes.zero + 2])
        edges = ends[ends > 0]
    if edges.size == 0:
        return 1.0
    return float(10.0 ** np.floor(np.log10(edges.min()) + 1e-9))


def _draw(panel: Any, boxes: Boxes, level: float, with_label: bool) -> None:
    colour = panel._get_lines.get_next_color()
    title = boxes.label if with_label and boxes.label else "eigenvalues in each bin"
    panel.stairs(boxes.counts, boxes.edges, fill=True, color=colour, alpha=0.18, linewidth=0)
    panel.stairs(boxes.counts, boxes.edges, color=colour, linewidth=1.3, label=title)
    wide = boxes.high > boxes.low
    panel.bar(
        boxes.edges[:-1][wide],
        (boxes.high - boxes.low)[wide],
        np.diff(boxes.edges)[wide],
        boxes.low[wide],
        align="edge",
        color=colour,
        alpha=0.35,
        linewidth=0,
        label=f"{level:.0%} interval of each number",
    )
    if boxes.zero >= 0 and boxes.high[boxes.zero] > 0:
        _say(panel, boxes, colour)
    if boxes.stems.size:
        panel.vlines(boxes.stems, 0, boxes.heights, color=_INK, linewidth=0.7)
        known = "eigenvalues known one by one"
        panel.plot(boxes.stems, boxes.heights, "o", color=_INK, markersize=2.5, label=known)


def _say(panel: Any, boxes: Boxes, colour: Any) -> None:
    """Hatch the bin about 0, into which the run does not look, and write its number above it."""
    low, high = boxes.edges[boxes.zero : boxes.zero + 2]
    count = boxes.counts[boxes.zero]
    look = {"fill": False, "hatch": "////", "edgecolor": colour, "linewidth": 0}
    panel.bar(low, count, high - low, align="edge", **look)
    panel.annotate(
        boxes.said,
        xy=(0.0 if low < 0 < high else 0.5 * (low + high), max(boxes.high[boxes.zero], 1.0)),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize="x-small",
        linespacing=1.1,
    )


def _set_scales(panel: Any, scale: Scale, threshold: float, reach: np.ndarray) -> None:
    from hessspec._pictures.ticks import symlog_axis

    if scale == "symlog":
        symlog_axis(panel, "x", threshold)
    else:
        panel.set_xscale(scale)
    shown = reach[reach > 0] if scale == "log" else reach
    if shown.size and shown.max() > shown.min():
        panel.set_xlim(shown.min(), shown.max())
    symlog_axis(panel, "y", 1.0, linscale=0.4)
    top = max(panel.dataLim.ymax, 1.0)
    # Two lines of small print stand above the bars: a fifth of the panel, whatever decades it has.
    panel.set_ylim(0, top * max(4.0, (10 * top) ** 0.25))
