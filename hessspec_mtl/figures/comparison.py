"""Two figures that the paper does not have: single against multi-task, and samples for a trace."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from hessspec_mtl.figures.axes import linear_threshold, symlog
from hessspec_mtl.figures.style import (
    BAND,
    MUTED,
    Plot,
    first_seed_only,
    house_style,
    new_figure,
    panel_title,
    task_style,
)
from hessspec_mtl.study.comparison import single_task_table, student_interval
from hessspec_mtl.study.records import Study


def single_task_figure(studies: Sequence[Study], *, name: str = "figure8") -> Plot | None:
    """One network for all tasks beside one network a task; None without data.

    A row for each data set: final test errors, their paired differences, and the traces of the
    Hessians at the end of training.
    """
    data = single_task_table(studies)
    if data.empty:
        return None
    data = data.merge(_final_traces(studies), on=["dataset", "seed", "task"], how="left")
    shown = [study for study in studies if (data["dataset"] == study.name).any()]
    several = any((data[data["dataset"] == s.name]["seed"].nunique() > 1) for s in shown)
    traced = bool(data["multi_task_trace"].notna().any())
    with house_style():
        figure = new_figure(0.4 + 2.15 * len(shown))
        axes = figure.subplots(len(shown), 3 if traced else 2, squeeze=False)
        letters = iter("abcdefghijkl")
        for row, study in zip(axes, shown, strict=True):
            here = data[data["dataset"] == study.name]
            panel_title(row[0], next(letters), f"{study.name}: test error")
            _draw_errors(row[0], study, here)
            panel_title(row[1], next(letters), "all tasks − alone")
            _draw_differences(row[1], study, here)
            if traced:
                panel_title(row[2], next(letters), "trace at the end")
                _draw_final_traces(row[2], study, here)
            for panel in row:
                panel.set_xticks(range(len(study.tasks)), [_short(t.label) for t in study.tasks])
                panel.set_xlim(-0.6, len(study.tasks) - 0.4)
                panel.grid(visible=False, axis="x")
            row[0].set_ylabel("final test MAE\n(standard deviations)")
        key = {"color": MUTED, "linestyle": "none", "markersize": 6}
        handles = [
            Line2D([], [], marker="o", label="one network, all tasks", **key),
            Line2D([], [], marker="s", markerfacecolor="white", label="one network a task", **key),
            Line2D([], [], color=MUTED, linestyle=":", label="predicting the median"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    first, second = (
        (
            "the range over seeds",
            "small points the seeds and the large one their mean, with Student's 95 % interval "
            "over seeds",
        )
        if several
        else (
            "the standard deviation over the last epochs",
            "the bar is the standard deviation of the difference over the last epochs, and says "
            "nothing of other seeds",
        )
    )
    traces = (
        " Third column: trace of each task's Hessian at the end of training, for the shared "
        "network and for the task's own, on a symmetric logarithmic axis, every seed with the 95 % "
        "interval of its probe error."
        if traced
        else ""
    )
    return Plot(
        name=name,
        title="One network for all tasks against one network a task",
        caption=(
            "First column: test error at the end of training (mean over the last epochs) of the "
            "network trained on all tasks and of the same network trained on that task alone, "
            f"with the same seed and split; bars are {first}. Second column: their difference, "
            f"paired by seed; {second}; above 0 the task does better alone.{traces} The paper "
            "quotes this comparison from elsewhere and does not make it."
        ),
        figure=figure,
        data=data,
    )


def _short(label: str) -> str:
    """A label that fits under a narrow panel: two words go on two lines."""
    return label.replace(" ", "\n", 1)


def _final_traces(studies: Sequence[Study]) -> pd.DataFrame:
    """Traces of each task at the end, of the shared network and of the task's own."""
    rows = []
    for study in studies:
        for run in study.runs:
            for index, task in enumerate(study.tasks):
                row: dict[str, object] = {
                    "dataset": study.name,
                    "seed": run.seed,
                    "task": task.name,
                }
                alone = run.single_curvature.get(task.name)
                sides = [
                    ("multi", run.curvature[-1].trace if run.curvature else None, index),
                    ("single", None if alone is None else alone.trace, 0),
                ]
                for side, trace, position in sides:
                    numbers = [np.nan] * 3
                    if trace is not None and alone is not None:
                        low, high = trace.confidence_interval(0.95)
                        numbers = [
                            float(np.asarray(array)[position]) for array in (trace.value, low, high)
                        ]
                    for name, number in zip(("trace", "low_95", "high_95"), numbers, strict=True):
                        key = f"{side}_task_{name}" if name == "trace" else f"{side}_trace_{name}"
                        row[key] = number
                rows.append(row)
    return pd.DataFrame(rows)


def _sides(index: int) -> tuple[tuple[str, float, str, str], ...]:
    """Name, shift, marker and filling of both networks of task number `index`."""
    return (("multi", -0.15, "o", task_style(index).color), ("single", 0.15, "s", "white"))


def _draw_errors(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    for index, task in enumerate(study.tasks):
        mine = rows[rows["task"] == task.name]
        for kind, shift, marker, filling in _sides(index):
            values = mine[f"{kind}_task_mae"].to_numpy()
            middle = values.mean()
            bars = [[middle - values.min()], [values.max() - middle]]
            if values.size == 1:
                spread = mine[f"{kind}_task_epoch_sd"].to_numpy()
                bars = [[spread[0]], [spread[0]]]
            panel.errorbar(
                [index + shift],
                [middle],
                yerr=bars,
                color=task_style(index).color,
                marker=marker,
                markerfacecolor=filling,
                markersize=5.5,
                capsize=3,
                linestyle="none",
            )
        panel.hlines(
            mine["median_predictor_mae"].mean(),
            index - 0.36,
            index + 0.36,
            color=MUTED,
            linestyle=":",
            linewidth=1,
        )
    panel.set_ylim(bottom=0)


def _draw_differences(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    for index, task in enumerate(study.tasks):
        mine, style = rows[rows["task"] == task.name], task_style(index)
        values = mine["difference"].to_numpy()
        mean, low, high = student_interval(values)
        if values.size == 1:
            low, high = mean + mine["difference_epoch_sd"].to_numpy()[0] * np.array([-1, 1])
        else:
            panel.plot(
                np.full(values.size, index + 0.22),
                values,
                color=style.color,
                marker=style.marker,
                markersize=2.8,
                alpha=0.7,
                linestyle="none",
            )
        panel.errorbar(
            [index],
            [mean],
            yerr=[[mean - low], [high - mean]],
            color=style.color,
            marker=style.marker,
            markersize=5.5,
            capsize=3,
            linestyle="none",
        )
    panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    low, high = panel.get_ylim()
    panel.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


def _draw_final_traces(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    ends: list[np.ndarray] = []
    for index, task in enumerate(study.tasks):
        mine = rows[rows["task"] == task.name]
        for kind, shift, marker, filling in _sides(index):
            values = mine[f"{kind}_task_trace"].to_numpy(float)
            low, high = (mine[f"{kind}_trace_{end}_95"].to_numpy(float) for end in ("low", "high"))
            spread = np.linspace(-0.07, 0.07, values.size) if values.size > 1 else np.zeros(1)
            bars = np.stack([values - low, high - values])
            panel.errorbar(
                index + shift + spread,
                values,
                yerr=np.where(np.isfinite(bars), bars, 0.0),
                color=task_style(index).color,
                marker=marker,
                markerfacecolor=filling,
                markersize=3.5,
                elinewidth=0.8,
                linestyle="none",
            )
            ends += [values, low, high]
    panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    numbers = np.concatenate(ends)
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size:
        low, high = float(numbers.min()), float(numbers.max())
        threshold = linear_threshold(numbers)
        panel.set_ylim(
            1.8 * low if low < 0 else -0.3 * threshold, 1.8 * high if high > 0 else 0.3 * threshold
        )
        symlog(panel, "y", threshold, max_ticks=6)
    panel.set_ylabel("tr H (loss / parameter²)")


def trace_convergence_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Running mean of plain Hutchinson samples and its standard error, for each task and epoch."""
    rows = []
    for study in studies:
        for run in study.runs:
            for epoch, estimate in run.hutchinson.items():
                samples = np.atleast_2d(np.asarray(estimate.samples, np.float64))
                count = np.arange(1, samples.shape[-1] + 1)
                mean = samples.cumsum(axis=-1) / count
                square = (samples**2).cumsum(axis=-1) / count
                variance = np.maximum(square - mean**2, 0.0) * count / np.maximum(count - 1, 1)
                error = np.sqrt(variance / count)
                for index, task in enumerate(study.tasks):
                    rows.append(
                        pd.DataFrame(
                            {
                                "dataset": study.name,
                                "seed": run.seed,
                                "epoch": epoch,
                                "task": task.name,
                                "samples": count[1:],
                                "running_mean": mean[index, 1:],
                                "standard_error": error[index, 1:],
                            }
                        )
                    )
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def trace_convergence_figure(studies: Sequence[Study], *, name: str = "figure9") -> Plot | None:
    """How a plain Hutchinson trace settles with its samples; None where no such run was made.

    One panel for each data set, the last epoch that was sampled: the running mean over its final
    value, with a band of two standard errors.
    """
    data = trace_convergence_table(studies)
    if data.empty:
        return None
    shown = [study for study in studies if (data["dataset"] == study.name).any()]
    with house_style():
        figure = new_figure(2.7)
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for panel, letter, study in zip(axes, "abcdefgh", shown, strict=False):
            here = data[data["dataset"] == study.name]
            here = here[here["seed"] == here["seed"].min()]
            epoch = here["epoch"].max()
            here = here[here["epoch"] == epoch]
            for index, task in enumerate(study.tasks):
                style = task_style(index)
                mine = here[here["task"] == task.name]
                scale = abs(float(mine["running_mean"].iloc[-1])) or 1.0
                centre, error = mine["running_mean"] / scale, mine["standard_error"] / scale
                panel.plot(
                    mine["samples"],
                    centre,
                    color=style.color,
                    linestyle=style.linestyle,
                    label=task.label,
                )
                panel.fill_between(
                    mine["samples"],
                    centre - 2 * error,
                    centre + 2 * error,
                    color=style.color,
                    alpha=BAND,
                    linewidth=0,
                )
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_ylim(-3, 3)
            panel.set_xlabel("number of samples vᵀHv")
            panel_title(panel, letter, f"{study.name}, epoch {epoch}")
        axes[0].set_ylabel("running mean / |final mean|")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return Plot(
        name=name,
        title="How many samples a trace needs",
        caption=(
            "Running mean of the quadratic forms vᵀHv over Rademacher probes v, divided by the "
            "magnitude of its last value, with a band of two standard errors. ±1 is the estimate "
            "from all samples; a band that crosses 0 does not know the sign of the trace yet."
            + first_seed_only(shown)
        ),
        figure=figure,
        data=data,
    )
