"""Figure 13: what each task weighed while the network learnt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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


def weight_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Weights by dataset, seed, task and epoch, of the runs that do not weigh all tasks alike."""
    parts = [
        run.weights.assign(dataset=study.name, seed=run.seed)
        for study in studies
        for run in study.runs
        if run.weights is not None
    ]
    columns = ["dataset", "seed", "task", "epoch", "weight"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def weight_figure(studies: Sequence[Study], *, name: str = "figure13") -> Plot | None:
    """Figure 13: the weight of each task over the epochs; None where all tasks weigh the same."""
    data = weight_table(studies)
    shown = [study for study in studies if (data["dataset"] == study.name).any()]
    if not shown:
        return None
    with house_style():
        figure = new_figure(0.35 + 2.2 * len(shown))
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for panel, study, letter in zip(axes, shown, "abcdefgh", strict=False):
            _draw(panel, study, data[data["dataset"] == study.name])
            panel_title(panel, letter, f"{study.name}: {_method(study)}")
            panel.xaxis.get_major_locator().set_params(integer=True)
        axes[-1].set_xlabel("epoch")
        figure.align_ylabels()
    return Plot(
        name=name,
        title="Weights of the tasks during training",
        caption=(
            "What each task's loss, or its gradient of the shared parameters, was multiplied by, "
            "mean over the graphs of an epoch; equal weighting is 1 (dotted). Lines are means over "
            "seeds and bands their range. A factor common to all tasks does not matter to Adam."
        ),
        figure=figure,
        data=data,
    )


def _draw(panel: Axes, study: Study, rows: pd.DataFrame) -> None:
    panel.axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9, zorder=1)
    for index, task in enumerate(study.tasks):
        style = task_style(index)
        curves = rows[rows["task"] == task.name].pivot_table(
            index="epoch", columns="seed", values="weight"
        )
        epochs, values = curves.index.to_numpy(), curves.to_numpy()
        panel.plot(
            epochs,
            values.mean(axis=1),
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markevery=max(1, len(epochs) // 8),
            label=task.label,
        )
        if values.shape[1] > 1:
            low, high = values.min(axis=1), values.max(axis=1)
            panel.fill_between(epochs, low, high, color=style.color, alpha=BAND, linewidth=0)
    values = rows["weight"].to_numpy()
    # Weights that combine gradients may be negative.
    if values.min() > 0 and np.ptp(np.log10(values)) > 1:
        panel.set_yscale("log")
    panel.set_ylabel("weight")
    panel.margins(x=0.02)
    panel.legend(loc="best", ncols=2, columnspacing=1.2)


def _method(study: Study) -> str:
    """The name of the weighting, as it was asked for."""
    return str(study.settings.get("train", {}).get("weighting", "weighted"))
