"""Figure 4: the trace of every task's Hessian along training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessspec_mtl.curvature.follow import EpochCurvature
from hessspec_mtl.figures.axes import (
    epoch_axis,
    epoch_ticks,
    linear_threshold,
    sideways,
    symlog,
)
from hessspec_mtl.figures.style import (
    BAND,
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
    task_style,
)
from hessspec_mtl.study.records import Study

CONFIDENCE = 0.95


def trace_table(studies: Sequence[Study]) -> pd.DataFrame:
    """All that Figure 4 shows: one row for each data set, seed, analysed epoch and task."""
    rows = []
    for study in studies:
        for run in study.runs:
            for point in run.curvature:
                value = np.asarray(point.trace.value, np.float64)
                error = np.asarray(point.trace.standard_error, np.float64)
                low, high = (
                    np.asarray(end, np.float64)
                    for end in point.trace.confidence_interval(CONFIDENCE)
                )
                parts = _parts(point)
                for index, task in enumerate(study.tasks):
                    rows.append(
                        {
                            "dataset": study.name,
                            "seed": run.seed,
                            "epoch": point.epoch,
                            "task": task.name,
                            "trace": value[index],
                            "probe_standard_error": error[index],
                            "low_95": low[index],
                            "high_95": high[index],
                        }
                        | {column: values[index] for column, values in parts.items()}
                    )
    columns = ["dataset", "seed", "epoch", "task", "trace"]
    return pd.DataFrame(
        rows, columns=[*columns, "probe_standard_error", "low_95", "high_95"] if not rows else None
    )


def _parts(point: EpochCurvature) -> dict[str, np.ndarray]:
    """tr H = tr G + the rest; the rest's error is that of tr H, for of tr G there is rounding."""
    if point.gauss_newton is None:
        return {}
    exact, trace = point.gauss_newton, point.trace
    low, high = map(np.asarray, trace.confidence_interval(CONFIDENCE))
    least, most = map(np.asarray, exact.confidence_interval(CONFIDENCE))
    value = np.asarray(exact.value)
    return {
        "gauss_newton": value,
        "network_curvature": np.asarray(trace.value) - value,
        "network_curvature_low_95": low - most,
        "network_curvature_high_95": high - least,
    }


def trace_figure(studies: Sequence[Study], *, name: str = "figure4") -> Plot:
    """Figure 4: tr H_t over training for every task, with the probe error of each point.

    On symmetric logarithmic axes, since traces take both signs and span orders of magnitude. One
    panel for each data set; with several seeds, one for each data set and task.
    """
    data = trace_table(studies)
    several = any(len(study.runs) > 1 for study in studies)
    with house_style():
        if several:
            figure = _by_task(studies, data)
        else:
            figure = new_figure(0.3 + 2.75 * len(studies))
            axes = figure.subplots(len(studies), 1, squeeze=False)[:, 0]
            for letter, panel, study in zip("abcdefgh", axes, studies, strict=False):
                _draw_traces(panel, study, data[data["dataset"] == study.name])
                if len(studies) > 1:
                    panel_title(panel, letter, study.name)
                else:
                    panel.set_title(study.name)
                panel.set_ylabel("trace of the Hessian\n(loss / parameter²)")
            axes[-1].set_xlabel("epoch (those analysed)")
            figure.align_ylabels()
    bars = (
        "95 % confidence intervals of the probe error, given the graphs that the loss was averaged "
        "over; a dotted line from edge to edge stands for an interval that is not finite"
    )
    seeds = (
        f"Small points are the seeds with {bars}; lines are means over seeds, bands their range. "
        "All panels of a data set share an axis."
        if several
        else f"Bars are {bars}. Points are shifted sideways a little so that bars do not hide each "
        "other."
    )
    return Plot(
        name=name,
        title="Trace of every task's Hessian during training",
        caption=(
            "Trace of the Hessian of each task's loss with respect to the shared parameters, the "
            "sum of its eigenvalues, on a symmetric logarithmic axis (linear between the grey "
            f"dashed lines). {seeds}"
        ),
        figure=figure,
        data=data,
    )


def _by_task(studies: Sequence[Study], data: pd.DataFrame) -> Figure:
    """A row of panels for each data set, one for each task: seeds, their mean and range."""
    figure = new_figure(0.35 + 1.95 * len(studies))
    columns = max(len(study.tasks) for study in studies)
    axes = figure.subplots(len(studies), columns, squeeze=False, sharey="row")
    for line, study in zip(axes, studies, strict=True):
        rows = data[data["dataset"] == study.name]
        epochs = np.sort(rows["epoch"].unique()).astype(float)
        place = epoch_axis(epochs)
        for index, (panel, task) in enumerate(zip(line, study.tasks, strict=False)):
            style, mine = task_style(index), rows[rows["task"] == task.name]
            wide = mine.pivot_table(index="epoch", columns="seed", values="trace")
            where, values = place(wide.index.to_numpy(float)), wide.to_numpy()
            panel.fill_between(
                where,
                values.min(axis=1),
                values.max(axis=1),
                color=style.color,
                alpha=BAND,
                linewidth=0,
            )
            panel.plot(where, values.mean(axis=1), color=style.color, linewidth=1.4)
            offsets = sideways(where, len(wide.columns), step=0.02)
            for seed, offset in zip(wide.columns, offsets, strict=True):
                draw_points(
                    panel,
                    mine[mine["seed"] == seed],
                    place,
                    offset,
                    color=style.color,
                    marker=style.marker,
                    markersize=2.6,
                    linestyle="none",
                    elinewidth=0.8,
                    capsize=1.5,
                )
            panel.set_title(f"{study.name}: {task.label}", fontsize=8)
            panel.set_xticks(*epoch_ticks(epochs, place))
        threshold = limits(line[0], rows)
        for panel in line[: len(study.tasks)]:
            symlog(panel, "y", threshold)
            guides(panel, threshold)
        for panel in line[len(study.tasks) :]:
            panel.set_visible(False)
        line[0].set_ylabel("trace of the Hessian\n(loss / parameter²)")
    figure.supxlabel("epoch (those analysed)", fontsize=8.5)
    return figure


def draw_points(
    panel: Axes,
    rows: pd.DataFrame,
    place: Callable[[np.ndarray], np.ndarray],
    offset: float,
    **look: Any,
) -> None:
    """Traces with their intervals; an interval that is not finite becomes a dotted line."""
    rows = rows.sort_values("epoch")
    where = place(rows["epoch"].to_numpy(dtype=float)) + offset
    value = rows["trace"].to_numpy()
    bars = np.abs(np.stack([value - rows["low_95"], rows["high_95"] - value]))
    finite = np.isfinite(bars)
    panel.errorbar(where, value, yerr=np.where(finite, bars, 0.0), **look)
    for unknown in where[~finite.all(axis=0)]:
        panel.axvline(unknown, color=look["color"], linewidth=0.8, linestyle=":", zorder=1)


def limits(panel: Axes, rows: pd.DataFrame) -> float:
    """Set the limits that hold all of `rows`; returns the threshold of the symmetric axis."""
    threshold = linear_threshold(rows["trace"].to_numpy(), rows["probe_standard_error"].to_numpy())
    ends = np.concatenate([rows["low_95"], rows["high_95"], rows["trace"]])
    ends = ends[np.isfinite(ends)]
    if ends.size:
        reach = max(threshold, float(np.abs(ends).max()))
        low = -_margin(-ends.min(), reach) if ends.min() < 0 else -threshold * 0.3
        panel.set_ylim(low, _margin(ends.max(), reach) if ends.max() > 0 else threshold * 0.3)
    return threshold


def guides(panel: Axes, threshold: float) -> None:
    """Zero, and the ends of the part of the axis that is linear."""
    panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    for sign in (-1, 1):
        panel.axhline(sign * threshold, color="#c4c4c4", linewidth=0.7, linestyle="--", zorder=1)


def _draw_traces(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    """All tasks of one seed in one panel."""
    epochs = np.sort(rows["epoch"].unique()).astype(float)
    place = epoch_axis(epochs)
    # Enough to keep the bars of neighbouring tasks apart, too little to be read as another epoch.
    shift = 0.007 * max(float(np.ptp(place(epochs))), 1.0)
    for index, task in enumerate(study.tasks):
        style = task_style(index)
        draw_points(
            panel,
            rows[rows["task"] == task.name],
            place,
            shift * (index - (len(study.tasks) - 1) / 2),
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            capsize=2,
            elinewidth=0.9,
            linewidth=1.2,
            label=task.label,
        )
    panel.set_xticks(*epoch_ticks(epochs, place))
    threshold = limits(panel, rows)
    symlog(panel, "y", threshold)
    guides(panel, threshold)
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _margin(end: float, reach: float) -> float:
    """A little beyond `end` on a logarithmic axis."""
    return max(end * 1.8, reach * 1e-6)
