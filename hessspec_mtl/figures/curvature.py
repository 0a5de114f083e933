"""Figure 4: the trace of every task's Hessian along training."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hessspec_mtl.figures.axes import linear_threshold, symlog
from hessspec_mtl.figures.style import (
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
    task_style,
)
from hessspec_mtl.study import Study

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
                    )
    columns = ["dataset", "seed", "epoch", "task", "trace"]
    return pd.DataFrame(
        rows, columns=[*columns, "probe_standard_error", "low_95", "high_95"] if not rows else None
    )


def trace_figure(studies: Sequence[Study], *, name: str = "figure4") -> Plot:
    """Figure 4: tr H_t over training for every task, with the probe error of each point.

    One panel for each data set, on a symmetric logarithmic axis, since traces take both signs and
    span orders of magnitude. With several seeds the first is drawn strongly, the others faintly.
    """
    data = trace_table(studies)
    with house_style():
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
    return Plot(
        name=name,
        title="Trace of every task's Hessian during training",
        caption=(
            "Trace of the Hessian of each task's loss with respect to the shared parameters, the "
            "sum of its eigenvalues, on a symmetric logarithmic axis (linear between the grey "
            "lines). Bars are 95 % confidence intervals of the probe error, given the graphs that "
            "the loss was averaged over; points are shifted sideways a little so that bars do not "
            "hide each other."
            + (" Faint lines are other seeds." if any(len(s.runs) > 1 for s in studies) else "")
        ),
        figure=figure,
        data=data,
    )


def _draw_traces(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    epochs = np.sort(rows["epoch"].unique()).astype(float)
    place = _epoch_axis(epochs)
    # Enough to keep the bars of neighbouring tasks apart, too little to be read as another epoch.
    shift = 0.007 * max(float(np.ptp(place(epochs))), 1.0)
    for index, task in enumerate(study.tasks):
        style = task_style(index)
        offset = shift * (index - (len(study.tasks) - 1) / 2)
        for rank, run in enumerate(study.runs):
            mine = rows[(rows["task"] == task.name) & (rows["seed"] == run.seed)]
            mine = mine.sort_values("epoch")
            value = mine["trace"].to_numpy()
            bars = np.abs(np.stack([value - mine["low_95"], mine["high_95"] - value]))
            panel.errorbar(
                place(mine["epoch"].to_numpy(dtype=float)) + offset,
                value,
                yerr=np.where(np.isfinite(bars), bars, 0.0),
                color=style.color,
                marker=style.marker,
                linestyle=style.linestyle,
                alpha=1.0 if rank == 0 else 0.3,
                capsize=2,
                elinewidth=0.9,
                linewidth=1.2 if rank == 0 else 0.8,
                label=task.label if rank == 0 else None,
            )
    panel.set_xticks(*_epoch_ticks(epochs, place))
    panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    threshold = linear_threshold(rows["trace"].to_numpy(), rows["probe_standard_error"].to_numpy())
    ends = np.concatenate([rows["low_95"], rows["high_95"], rows["trace"]])
    ends = ends[np.isfinite(ends)]
    if ends.size:
        reach = max(threshold, float(np.abs(ends).max()))
        low = -_margin(-ends.min(), reach) if ends.min() < 0 else -threshold * 0.3
        panel.set_ylim(low, _margin(ends.max(), reach) if ends.max() > 0 else threshold * 0.3)
    symlog(panel, "y", threshold)
    for sign in (-1, 1):
        panel.axhline(sign * threshold, color="#c4c4c4", linewidth=0.7, linestyle="--", zorder=1)
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _epoch_axis(epochs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Where an epoch stands on the axis: log₂(1 + epoch) if most of them are early, else epoch."""
    early = epochs.size > 2 and float(np.median(epochs)) < 0.3 * float(epochs.max())
    return (lambda epoch: np.log2(1.0 + epoch)) if early else (lambda epoch: epoch)


def _epoch_ticks(
    epochs: np.ndarray, place: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[float], list[str]]:
    """The analysed epochs, less those whose labels would touch the one before."""
    places = place(epochs)
    apart = 0.045 * max(float(np.ptp(places)), 1e-9) if epochs.size > 1 else 0.0
    ticks, labels = [], []
    for epoch, where in zip(epochs, places, strict=True):
        if ticks and where - ticks[-1] < apart:
            continue
        ticks.append(float(where))
        labels.append(f"{epoch:.0f}")
    return ticks, labels


def _margin(end: float, reach: float) -> float:
    """A little beyond `end` on a logarithmic axis."""
    return max(end * 1.8, reach * 1e-6)
