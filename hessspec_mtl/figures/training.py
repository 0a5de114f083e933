"""Figure 3: the error of every task while the network learns."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessspec_mtl.figures.axes import log_axis
from hessspec_mtl.figures.style import (
    BAND,
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
    spread_apart,
    task_style,
)
from hessspec_mtl.study.records import Study, error_curve, final_error, median_error


def error_table(studies: Sequence[Study]) -> pd.DataFrame:
    """All that Figure 3 shows: one row for each data set, seed, task, split and epoch."""
    rows = []
    for study in studies:
        for run in study.runs:
            baseline = median_error(study.dataset, run.split)
            for index, task in enumerate(study.tasks):
                for split in ("train", "test"):
                    epochs, errors = error_curve(run.history, split, task.name)
                    rows.append(
                        pd.DataFrame(
                            {
                                "dataset": study.name,
                                "seed": run.seed,
                                "task": task.name,
                                "split": split,
                                "epoch": epochs,
                                "standardised_mae": errors,
                                "median_predictor_test_mae": baseline[index],
                            }
                        )
                    )
    return pd.concat(rows, ignore_index=True)


def training_error_figure(studies: Sequence[Study], *, name: str = "figure3") -> Plot:
    """Figure 3: standardised mean absolute error per task, training and test, over the epochs.

    One row for each data set, training on the left and test on the right, on the same logarithmic
    axis. Lines are means over seeds, bands their range; dotted lines are the predictor that always
    says the training median.
    """
    data = error_table(studies)
    several = any(len(study.runs) > 1 for study in studies)
    with house_style():
        figure = new_figure(0.35 + 2.45 * len(studies))
        axes = figure.subplots(len(studies), 2, squeeze=False, sharey="row", sharex="row")
        letters = iter("abcdefghijklmnop")
        for row, study in zip(axes, studies, strict=True):
            here = data[data["dataset"] == study.name]
            for panel, split in zip(row, ("train", "test"), strict=True):
                _draw_split(panel, study, here[here["split"] == split], split)
                side = "training" if split == "train" else "test"
                panel_title(panel, next(letters), f"{study.name}: {side}")
            log_axis(row[0], "y")  # shared with its neighbour, whose lines it now holds too
            row[0].set_ylabel("MAE (standard deviations)")
            _label_line_ends(figure, row[1], study)
        for panel in axes.flat:
            panel.xaxis.get_major_locator().set_params(integer=True)  # two epochs have no half
        for panel in axes[-1]:
            panel.set_xlabel("epoch")
        figure.align_ylabels()
    seeds = "lines are means over seeds and bands their range" if several else "one seed"
    return Plot(
        name=name,
        title="Training and test error of every task",
        caption=(
            "Mean absolute error in standard deviations of the training targets, on the training "
            "split (left) and on the test split (right), for the one network trained on all tasks; "
            f"{seeds}. Dotted lines: the error of always predicting the training median, below "
            "which a network must get to have learnt anything. Numbers at the right: test error, "
            "mean over the last epochs."
        ),
        figure=figure,
        data=data,
    )


def _draw_split(panel: Axes, study: Study, rows: pd.DataFrame, split: str) -> None:
    for index, task in enumerate(study.tasks):
        style = task_style(index)
        curves = rows[rows["task"] == task.name].pivot_table(
            index="epoch", columns="seed", values="standardised_mae"
        )
        epochs, values = curves.index.to_numpy(), curves.to_numpy()
        mean = values.mean(axis=1)
        panel.plot(
            epochs,
            mean,
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markevery=max(1, len(epochs) // 8),
            label=task.label,
        )
        if values.shape[1] > 1:
            panel.fill_between(
                epochs,
                values.min(axis=1),
                values.max(axis=1),
                color=style.color,
                alpha=BAND,
                linewidth=0,
            )
        if split == "test":
            baseline = rows.loc[rows["task"] == task.name, "median_predictor_test_mae"].mean()
            panel.axhline(baseline, color=style.color, linestyle=":", linewidth=0.9, zorder=1)
    panel.set_yscale("log")
    panel.margins(x=0.02)
    if split == "train":
        panel.legend(loc="upper right", ncols=2, columnspacing=1.2)
    else:
        dotted = Line2D([], [], color=MUTED, linestyle=":", linewidth=0.9)
        panel.legend([dotted], ["predicting the median"], loc="upper right")


def _label_line_ends(figure: Figure, panel: Axes, study: Study) -> None:
    """Name each task and its error at the end to the right of its line, without overlaps."""
    finals = [
        float(np.mean([final_error(run.history, "test", task.name)[0] for run in study.runs]))
        for task in study.tasks
    ]
    figure.draw_without_rendering()  # fixes the limits that the placing below relies on
    low, high = np.log10(panel.get_ylim())
    height = panel.get_window_extent().height / figure.dpi * 72
    wishes = [(np.log10(value) - low) / (high - low) * height for value in finals]
    for index, (task, value, place) in enumerate(
        zip(study.tasks, finals, spread_apart(wishes, 10.0), strict=True)
    ):
        panel.annotate(
            f"{task.label}  {value:.2g}",
            xy=(1, wishes[index] / height),
            xycoords="axes fraction",
            xytext=(8, place - wishes[index]),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=7.8,
            color=task_style(index).color,
            annotation_clip=False,
        )
