"""Figure 15: the weightings of the tasks against each other, by Delta_m over many seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hessspec_mtl.figures.style import (
    BAND,
    COLOURS,
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
    task_style,
)
from hessspec_mtl.study.comparison import student_interval
from hessspec_mtl.study.delta_m import MATTERS, Decision, named, verdicts

_AGAINST, _ALONE = "against equal weights", "against each task alone"


def delta_m_table(decisions: Sequence[Decision]) -> pd.DataFrame:
    """All that is drawn: dataset, weighting, what, seed (empty for a mean), value, low_95, high_95.

    `what` is "against equal weights", "against each task alone" (Delta_m), or a task (its error
    against that of its own network); all in per cent. Runs that diverged are infinite.
    """
    rows: list[tuple[object, ...]] = []
    for decision in decisions:
        base = decision.delta_m("equal")
        for row in verdicts(decision).to_dict("records"):
            name = row["weighting"]
            head = decision.dataset, named(row)
            values = decision.delta_m(name)
            ends = ("", row["against_equal"], row["against_low_95"], row["against_high_95"])
            rows.append((*head, _AGAINST, *ends))
            rows += [(*head, _AGAINST, s, d, "", "") for s, d in (values - base).items()]
            rows.append((*head, _ALONE, "", row["delta_m"], row["low_95"], row["high_95"]))
            for task, column in decision.relative(name).items():
                ended = column[np.isfinite(column)].to_numpy()
                interval = student_interval(ended) if ended.size else (np.nan, -np.inf, np.inf)
                rows.append((*head, task, "", *interval))
    columns = ["dataset", "weighting", "what", "seed", "value", "low_95", "high_95"]
    return pd.DataFrame(rows, columns=columns)


def delta_m_figure(decisions: Sequence[Decision], *, name: str = "figure15") -> Plot | None:
    """Figure 15: Delta_m against equal weights, and each task against its own network.

    A row for each data set; None where no study of weightings is finished.
    """
    if not decisions:
        return None
    data = delta_m_table(decisions)
    with house_style():
        figure = new_figure(0.6 + 2.5 * len(decisions))
        axes = figure.subplots(len(decisions), 2, squeeze=False)
        letters = iter("abcdefgh")
        for line, decision in zip(axes, decisions, strict=True):
            here = data[data["dataset"] == decision.dataset]
            found = verdicts(decision)
            _draw_differences(line[0], here, found)
            panel_title(line[0], next(letters), f"{decision.dataset}: {_AGAINST}")
            _draw_tasks(line[1], here, decision)
            panel_title(line[1], next(letters), _ALONE)
            for panel in line:
                _frame(panel, _labels(found))
            line[1].set_yticklabels([])
            line[1].legend(handles=_task_key(decision), loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes[-1][0].set_xlabel("difference of Δm (%), better to the left")
        axes[-1][1].set_xlabel("change of the error against alone (%)")
    return Plot(
        name=name,
        title="Do weights of the tasks help?",
        caption=(
            "Δm is the mean over tasks of the change of the test error against the network of that "
            "task alone, with the same seed. Left: the difference from equal weights by seed "
            "(small points), its mean and Student's 95 % interval; the grey band is the "
            f"{MATTERS:g} % below which a difference would not matter, named beforehand. An "
            "interval wholly outside the band matters, one wholly inside it says that there is "
            "no such difference. Time: processor time of a run, equal weights' being 1. Right: "
            "Δm (bar, with its interval) and the tasks it is the mean of; 0 is one network a "
            "task."
        ),
        figure=figure,
        data=data,
    )


def _draw_differences(panel: Axes, rows: pd.DataFrame, found: pd.DataFrame) -> None:
    panel.axvspan(-MATTERS, MATTERS, color=MUTED, alpha=BAND, linewidth=0, zorder=0)
    for place, row in enumerate(found.to_dict("records")):
        label = named(row)
        mine = rows[(rows["weighting"] == label) & (rows["what"] == _AGAINST)]
        if row["weighting"] == "equal":
            panel.plot([0], [place], color=COLOURS[3], marker="|", markersize=9)
            continue
        seeds = mine[mine["seed"] != ""]["value"].to_numpy(np.float64)
        seeds = seeds[np.isfinite(seeds)]
        panel.plot(
            seeds,
            np.full(seeds.size, place + 0.2),
            color=MUTED,  # the colours are those of tasks
            marker="o",
            markersize=2.2,
            alpha=0.5,
            linestyle="none",
        )
        _interval(panel, place, row, "against_equal", ("against_low_95", "against_high_95"))


def _labels(found: pd.DataFrame) -> list[str]:
    """Of the rows: weighting, and what it costs; and how many of its runs were lost."""
    equal, labels = float(found["seconds"].iloc[0]), []
    for row in found.to_dict("records"):
        lost = f", {row['diverged']} diverged" if row["diverged"] else ""
        labels.append(f"{named(row)}\ntime × {row['seconds'] / equal:.2f}{lost}")
    return labels


def _draw_tasks(panel: Axes, rows: pd.DataFrame, decision: Decision) -> None:
    for place, label in enumerate(rows["weighting"].unique()):
        mine = rows[(rows["weighting"] == label) & (rows["seed"] == "")].set_index("what")
        for index, task in enumerate(decision.tasks):
            style = task_style(index)
            panel.plot(
                [mine.loc[task, "value"]],
                [place + 0.2],
                color=style.color,
                marker=style.marker,
                markersize=3.6,
                linestyle="none",
            )
        _interval(panel, place, mine.loc[_ALONE].to_dict(), "value", ("low_95", "high_95"))


def _interval(
    panel: Axes, place: int, row: dict[str, float], value: str, ends: tuple[str, str]
) -> None:
    low, high = row[ends[0]], row[ends[1]]
    if not np.isfinite([row[value], low, high]).all():
        return
    panel.errorbar(
        [row[value]],
        [place],
        xerr=[[row[value] - low], [high - row[value]]],
        color=COLOURS[3],
        marker="|",
        markersize=7,
        capsize=3,
        linewidth=1.6,
        linestyle="none",
    )


def _frame(panel: Axes, labels: list[str]) -> None:
    panel.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    panel.grid(visible=False, axis="y")
    panel.margins(x=0.08)


def _task_key(decision: Decision) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for index, task in enumerate(decision.tasks):
        style = task_style(index)
        handles.append(
            Line2D([], [], color=style.color, marker=style.marker, linestyle="none", label=task)
        )
    handles.append(Line2D([], [], color=COLOURS[3], marker="|", linestyle="-", label="Δm"))
    handles.append(Patch(color=MUTED, alpha=BAND, linewidth=0, label=f"± {MATTERS:g} %"))
    return handles
