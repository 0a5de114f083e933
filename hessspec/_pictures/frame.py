"""Where pictures are drawn: axes given or new, panels side by side, figures for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (3.6, 2.7)  # inches
_SMALL = (4.6, 2.6)


def axes_for(ax: Axes | None) -> Any:
    """The axes given, or those of a new figure.

    Raises:
        ImportError: without matplotlib.
    """
    pyplot = _pyplot()
    return pyplot.subplots(layout="constrained")[1] if ax is None else ax


def panels_for(ax: Any, titles: Sequence[str | None]) -> list[Any]:
    """One axes for each title: those given, or panels of a new figure with common scales.

    Raises:
        ImportError: without matplotlib.
        ValueError: if another number of axes is given.
    """
    pyplot = _pyplot()
    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != len(titles):
            raise ValueError(
                f"`ax` must be one axes for each of {len(titles)} spectra, got {len(given)}; pass "
                f"`pyplot.subplots({len(titles)})[1]`, or leave it out for new ones."
            )
        return given
    if len(titles) == 1:
        return [axes_for(None)]
    columns = min(len(titles), 2 if len(titles) in (2, 4) else 3)
    lines = -(-len(titles) // columns)
    size = (_PANEL[0] * columns, _PANEL[1] * lines)
    figure = pyplot.figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(axes.flat)
    for spare in panels[len(titles) :]:
        spare.remove()
    for place, (panel, title) in enumerate(zip(panels, titles, strict=False)):
        panel.set_title(title or "", fontsize="medium")
        # The last panel of its column has the labels of the axis, whatever lies below it.
        panel.tick_params(labelbottom=place + columns >= len(titles))
    return panels[: len(titles)]


def on_the_rim(panels: Sequence[Any]) -> None:
    """Leave the axis labels of panels that lie side by side where no other panel comes between."""
    if len(panels) > 1 and panels[0].get_subplotspec() is not None:
        for panel in panels:
            spec = panel.get_subplotspec()
            panel.yaxis.label.set_visible(spec is None or spec.is_first_col())
            panel.xaxis.label.set_visible(bool(panel.xaxis.get_tick_params().get("labelbottom", 1)))


def add_legend(panels: Sequence[Any]) -> None:
    """One legend: in a single panel, below several of one figure."""
    first = panels[0]
    if len(panels) == 1:
        first.legend(fontsize="x-small", loc="upper right", frameon=False)
        return
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place = "outside lower center" if first.figure.get_layout_engine() else "lower center"
    first.figure.legend(
        handles.values(), handles.keys(), loc=place, ncols=3, fontsize="x-small", frameon=False
    )


def small_figure(draw: Callable[[Any], Any], panels: int = 1) -> Figure:
    """A figure for a page, known to no window, on which `draw` has drawn.

    Raises:
        ImportError: without matplotlib.
    """
    _pyplot()
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    lines = -(-panels // columns)
    width = _SMALL[0] if panels == 1 else 2.7 * columns
    figure = Figure(figsize=(width, _SMALL[1] * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for spare in list(axes.flat)[panels:]:
        spare.remove()
    draw(axes.flat[0] if panels == 1 else list(axes.flat)[:panels])
    return figure


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it with `pip install hessspec[plot]`."
        ) from error
    return pyplot
