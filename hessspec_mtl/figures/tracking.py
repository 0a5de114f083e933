"""Figure 14: sharpness and trace of every task at fine grain, while the network trains."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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
from hessspec_mtl.study.records import SeedRun, Study

Band = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]

# What is drawn: column, its band, what it is.
_QUANTITIES: tuple[tuple[str, Band, str], ...] = (
    (
        "sharpness",
        lambda rows: (
            (rows["sharpness"] - rows["residual"]).to_numpy(),
            (rows["sharpness"] + rows["residual"]).to_numpy(),
        ),
        "largest eigenvalue",
    ),
    (
        "trace",
        lambda rows: (rows["trace_low_95"].to_numpy(), rows["trace_high_95"].to_numpy()),
        "trace",
    ),
)


def tracking_table(studies: Sequence[Study]) -> pd.DataFrame:
    """All that was followed: one row for each data set, seed, step and task."""
    parts = [
        run.tracking.assign(dataset=study.name, seed=run.seed, graphs=run.tracked_graphs)
        for study in studies
        for run in study.runs
        if run.tracking is not None
    ]
    table = pd.concat(parts, ignore_index=True)
    first = ["dataset", "seed", "graphs"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def tracking_figure(studies: Sequence[Study], *, name: str = "figure14") -> Plot | None:
    """Figure 14: largest eigenvalue and trace of every task over the steps, with their bands.

    As Figure 4, but followed while training at every so many steps. One row for each data set, the
    first of its seeds; None if nothing was followed.
    """
    shown = [study for study in studies if study.runs[0].tracking is not None]
    if not shown:
        return None
    with house_style():
        figure = new_figure(0.4 + 2.5 * len(shown))
        axes = figure.subplots(len(shown), 2, squeeze=False, sharex="row")
        letters = iter("abcdefghijklmnop")
        for line, study in zip(axes, shown, strict=True):
            for panel, (column, band, words) in zip(line, _QUANTITIES, strict=True):
                _draw(panel, study, column, band)
                panel_title(panel, next(letters), f"{study.name}: {words}")
            line[0].set_ylabel("loss / parameter²")
            line[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for panel in axes[-1]:
            panel.set_xlabel("step of training")
        figure.align_ylabels()
    return Plot(
        name=name,
        title="Largest eigenvalue and trace of every task's Hessian, step by step",
        caption=(
            "Largest eigenvalue (sharpness) and trace of the Hessian of each task's loss with "
            "respect to the shared parameters, followed while the network trained, on symmetric "
            "logarithmic axes (linear between the grey dashed lines). "
            + " ".join(graphs_sentence(study) for study in shown)
            + " Bands of the eigenvalue: the residual, within which an eigenvalue lies; of the "
            "trace: 95 % confidence intervals of the probe error, from the same few probes at all "
            "steps, so that steps compare better than the bands say. Both given these graphs."
            + first_seed_only(shown)
        ),
        figure=figure,
        data=tracking_table(shown),
    )


def graphs_sentence(study: Study) -> str:
    """How often and on how many graphs it was followed."""
    run = study.runs[0]
    return (
        f"{study.name}: {_how_often(run)}, losses averaged over "
        f"{run.tracked_graphs:,} {study.dataset.domain} of the training set, the same at all steps."
    )


def _how_often(run: SeedRun) -> str:
    """Of a training shorter than the steps between two looks there is one, before it."""
    assert run.tracking is not None
    steps = np.unique(run.tracking["step"].to_numpy())
    if steps.size < 2:
        return "once, before training"
    apart = int(steps[1] - steps[0])
    return "every step" if apart == 1 else f"every {apart:,} steps"


def _draw(panel: Axes, study: Study, column: str, band: Band) -> None:
    table = study.runs[0].tracking
    assert table is not None
    edges = [np.zeros(1)]
    for index, task in enumerate(study.tasks):
        style = task_style(index)
        rows = table[table["task"] == task.name].sort_values("step")
        steps = rows["step"].to_numpy(float)
        low, high = band(rows)
        edges += [low, high]
        panel.fill_between(steps, low, high, color=style.color, alpha=BAND, linewidth=0)
        panel.plot(
            steps,
            rows[column].to_numpy(),
            color=style.color,
            linestyle=style.linestyle,
            label=task.label,
            linewidth=1.2,
        )
    threshold = linear_threshold(table[column].to_numpy())
    panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    reach = np.concatenate(edges)
    lowest, highest = reach[np.isfinite(reach)].min(), reach[np.isfinite(reach)].max()
    # From the bands: a margin in proportion to the whole would reach a decade below zero.
    panel.set_ylim(min(1.3 * lowest, -0.3 * threshold), max(1.3 * highest, threshold))
    for sign in (-1, 1):
        if panel.get_ylim()[0] <= sign * threshold <= panel.get_ylim()[1]:
            line = {"color": "#c4c4c4", "linewidth": 0.7, "linestyle": "--", "zorder": 1}
            panel.axhline(sign * threshold, **line)
    symlog(panel, "y", threshold, max_ticks=7)
