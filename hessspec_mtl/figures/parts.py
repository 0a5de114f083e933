"""Figure 16: what of every task's trace is the losses' curvature, and what the network's own."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hessspec_mtl.datasets.base import Task
from hessspec_mtl.figures.axes import epoch_axis, epoch_ticks, symlog
from hessspec_mtl.figures.curvature import draw_points, guides, limits, trace_table
from hessspec_mtl.figures.style import (
    INK,
    MUTED,
    Plot,
    TaskStyle,
    house_style,
    new_figure,
    task_style,
)
from hessspec_mtl.study.records import Study

_COLUMNS = 4  # panels side by side
_LABELS = ("tr G, the losses'", "rest, the network's own (coloured)", "tr H, their sum")


def parts_table(studies: Sequence[Study]) -> pd.DataFrame:
    """The rows of Figure 4 of which tr G is known: one for each data set, seed, epoch and task.

    Columns besides those of Figure 4: gauss_newton (tr G), network_curvature (tr H - tr G) and the
    ends of the latter's 95 % interval.
    """
    data = trace_table(studies)
    if "gauss_newton" not in data:
        return data.iloc[:0]
    return data.dropna(subset=["gauss_newton"]).reset_index(drop=True)


def parts_figure(studies: Sequence[Study], *, name: str = "figure16") -> Plot | None:
    """Figure 16: tr H = tr G + rest along training, a panel for each task of each data set.

    The panels of a data set share a symmetric logarithmic axis. None if tr G was not taken.
    """
    data = parts_table(studies)
    shown = [study for study in studies if (data["dataset"] == study.name).any()]
    if not shown:
        return None
    heights = [-(-len(study.tasks) // _COLUMNS) for study in shown]
    with house_style():
        figure = new_figure(0.6 + 1.95 * sum(heights))
        rows = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, study, height in zip(rows, shown, heights, strict=True):
            axes = part.subplots(
                height, min(_COLUMNS, len(study.tasks)), squeeze=False, sharey=True, sharex=True
            )
            mine = data[data["dataset"] == study.name]
            for panel in axes.ravel()[len(study.tasks) :]:
                panel.set_visible(False)
            for index, (panel, task) in enumerate(zip(axes.ravel(), study.tasks, strict=False)):
                _draw(panel, mine, task, task_style(index))
                panel.set_title(f"{study.name}: {task.label}", fontsize=8)
            _finish(axes.ravel()[: len(study.tasks)], mine)
            for panel in axes[:, 0]:
                panel.set_ylabel("loss / parameter²")
        rows[-1].supxlabel("epoch (those analysed)", fontsize=8.5)
        drawn = zip(*rows[0].axes[0].get_legend_handles_labels(), strict=True)
        handles = {label: handle for handle, label in drawn}
        order = [handles[label] for label in _LABELS]
        figure.legend(order, _LABELS, loc="outside upper center", ncols=3)
    several = any(len(study.runs) > 1 for study in shown)
    bars = "95 % intervals of the probe error of tr H, which is that of the rest: tr G has none"
    seeds = f"points are the seeds with {bars}" if several else f"bars are {bars}"
    return Plot(
        name=name,
        title="What of every task's trace is the losses' curvature, and what the network's own",
        caption=(
            "tr H = tr G + rest. The Gauss-Newton matrix G is the curvature of the loss as a "
            "function of the predictions, which is all there would be if the network were linear "
            "in its parameters (grey squares). The rest is the network's own: its predictions' "
            "second derivatives, weighted by how far these are off (coloured). Their sum is dotted "
            f"in black. {'Lines are means over seeds, ' if several else 'The '}{seeds}. Symmetric "
            "logarithmic axes, linear between the grey dashed lines."
        ),
        figure=figure,
        data=data,
    )


def _draw(panel: Axes, data: pd.DataFrame, task: Task, style: TaskStyle) -> None:
    """One task: tr G, the rest with its intervals, and their sum."""
    rows = data[data["task"] == task.name]
    place = epoch_axis(np.sort(data["epoch"].unique()).astype(float))
    means = rows.groupby("epoch")[["trace", "gauss_newton", "network_curvature"]].mean()
    where = place(means.index.to_numpy(float))
    panel.plot(
        where, means["gauss_newton"], color=MUTED, marker="s", markersize=3, label=_LABELS[0]
    )
    panel.plot(where, means["network_curvature"], color=style.color)
    rest = _as_trace(rows, "network_curvature")
    for seed in sorted(rest["seed"].unique()):
        first = seed == rest["seed"].min()
        draw_points(
            panel,
            rest[rest["seed"] == seed],
            place,
            0.0,
            color=style.color,
            marker=style.marker,
            markersize=3.2,
            linestyle="none",
            elinewidth=0.8,
            capsize=1.5,
            label=_LABELS[1] if first else None,
        )
    panel.plot(where, means["trace"], color=INK, linewidth=0.9, linestyle=":", label=_LABELS[2])


def _as_trace(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows with a part of the trace and its interval in place of the whole."""
    low, high = (rows.get(f"{part}_{end}", rows[part]) for end in ("low_95", "high_95"))
    return rows.assign(trace=rows[part], low_95=low, high_95=high)


def _finish(panels: Sequence[Axes], data: pd.DataFrame) -> None:
    """The axes that all panels of a data set share."""
    epochs = np.sort(data["epoch"].unique()).astype(float)
    place = epoch_axis(epochs)
    parts = [data, *(_as_trace(data, part) for part in ("gauss_newton", "network_curvature"))]
    threshold = limits(panels[0], pd.concat(parts, ignore_index=True))
    for panel in panels:
        symlog(panel, "y", threshold)
        guides(panel, threshold)
        panel.set_xticks(*epoch_ticks(epochs, place))
