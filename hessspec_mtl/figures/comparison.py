"""Two figures that the paper does not have: single against multi-task, and samples for a trace."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter

from hessspec_mtl.figures.style import (
    BAND,
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
    task_style,
)
from hessspec_mtl.study import Study, final_error, median_error


def single_task_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Final test errors of the shared and of the separate networks, by data set, seed and task."""
    rows = []
    for study in studies:
        for run in study.runs:
            baseline = median_error(study.dataset, run.split)
            for index, task in enumerate(study.tasks):
                if task.name not in run.single_task:
                    continue
                together = final_error(run.history, "test", task.name)
                alone = final_error(run.single_task[task.name], "test", task.name)
                rows.append(
                    {
                        "dataset": study.name,
                        "seed": run.seed,
                        "task": task.name,
                        "multi_task_mae": together[0],
                        "multi_task_epoch_sd": together[1],
                        "single_task_mae": alone[0],
                        "single_task_epoch_sd": alone[1],
                        "median_predictor_mae": baseline[index],
                    }
                )
    return pd.DataFrame(rows)


def single_task_figure(studies: Sequence[Study], *, name: str = "figure8") -> Plot | None:
    """Final test error of one network for all tasks beside one network a task; None without data.

    Points are means over seeds, bars the standard deviation over the last epochs for one seed and
    the range over seeds for several.
    """
    data = single_task_table(studies)
    if data.empty:
        return None
    shown = [study for study in studies if (data["dataset"] == study.name).any()]
    with house_style():
        figure = new_figure(2.9)
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for panel, letter, study in zip(axes, "abcdefgh", shown, strict=False):
            here = data[data["dataset"] == study.name]
            for index, task in enumerate(study.tasks):
                mine = here[here["task"] == task.name]
                for kind, shift, fill in (
                    ("multi", -0.14, task_style(index).color),
                    ("single", 0.14, "white"),
                ):
                    values = mine[f"{kind}_task_mae"].to_numpy()
                    spread = mine[f"{kind}_task_epoch_sd"].to_numpy()
                    middle = values.mean()
                    bars = (
                        [[middle - values.min()], [values.max() - middle]]
                        if values.size > 1
                        else [[spread[0]], [spread[0]]]
                    )
                    panel.errorbar(
                        [index + shift],
                        [middle],
                        yerr=bars,
                        color=task_style(index).color,
                        marker="o" if kind == "multi" else "s",
                        markerfacecolor=fill,
                        markersize=6,
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
            panel.set_xticks(range(len(study.tasks)), [task.label for task in study.tasks])
            panel.set_xlim(-0.6, len(study.tasks) - 0.4)
            panel.set_ylim(bottom=0)
            panel.grid(visible=False, axis="x")
            panel_title(panel, letter, study.name)
        axes[0].set_ylabel("final test MAE\n(standard deviations)")
        key = {"color": MUTED, "linestyle": "none"}
        handles = [
            axes[0].plot([], [], marker="o", markersize=6, label="one network, all tasks", **key)[
                0
            ],
            axes[0].plot(
                [],
                [],
                marker="s",
                markersize=6,
                markerfacecolor="white",
                label="one network a task",
                **key,
            )[0],
            axes[0].plot([], [], color=MUTED, linestyle=":", label="predicting the median")[0],
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return Plot(
        name=name,
        title="One network for all tasks against one network a task",
        caption=(
            "Test error at the end of training (mean over the last epochs) of the network trained "
            "on all tasks (filled circles) and of the same network trained on that task alone "
            "(open squares), with the same seed and split. Bars: range over seeds, or, for a "
            "single seed, the standard deviation over the last epochs. Dotted: predicting the "
            "training median. The paper quotes this comparison from elsewhere and does not make it."
        ),
        figure=figure,
        data=data,
    )


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
            here = here[here["seed"] == study.runs[0].seed]
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
        ),
        figure=figure,
        data=data,
    )
