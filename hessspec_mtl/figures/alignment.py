"""Figures 10 to 12: how tasks lie to each other, pair by pair, while the network learns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from hessspec_mtl.curvature.spectra import task_distances
from hessspec_mtl.figures.axes import epoch_axis, epoch_ticks, sideways
from hessspec_mtl.figures.style import (
    BAND,
    INK,
    MUTED,
    Plot,
    house_style,
    new_figure,
    task_style,
)
from hessspec_mtl.study.records import Study

if TYPE_CHECKING:
    from hessspec_mtl.curvature.follow import EpochCurvature

CUT = 5  # eigenvectors of each task that are compared: a handful of outliers carries the trace
_COLUMNS = 3


def pairs(study: Study) -> list[tuple[int, int]]:
    """Every two tasks, in order."""
    return list(itertools.combinations(range(len(study.tasks)), 2))


def conflict_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Cosines of the tasks' gradients, their norms, and the curvature of each along the other.

    One row for each data set, seed, analysed epoch and pair. `graph_error` is the standard error
    that the choice of the Hessian's graphs leaves on the cosine.
    """
    rows = []
    for study, seed, epoch, point in _points(studies):
        found = point.gradients
        if found is None:
            continue
        cosines, errors, norms = found.cosines, found.cosine_errors, found.norms
        for a, b in pairs(study):
            rows.append(
                {
                    **_names(study, seed, epoch, a, b),
                    "cosine": cosines[a, b],
                    "graph_error": errors[a, b],
                    "norm_a": norms[a],
                    "norm_b": norms[b],
                    "curvature_of_a_along_gradient_a": found.curvature[a, a],
                    "curvature_of_b_along_gradient_b": found.curvature[b, b],
                    "curvature_of_b_along_gradient_a": found.curvature[b, a],
                    "curvature_of_a_along_gradient_b": found.curvature[a, b],
                }
            )
    return pd.DataFrame(rows)


def eigenspace_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Overlap of the tasks' dominant eigenspaces, for each number k of eigenvectors.

    `overlap` is the mean of cos² over the principal angles and `largest_angle` the largest of
    these, in degrees; `reach` is how far the residuals of the eigenvectors let the overlap be from
    the truth (at most 1) and `chance` its mean for spaces that have nothing to do with each other.
    `curvature_of_b_in_space_a` is the curvature of task b along the eigenvectors of task a over
    their eigenvalues.
    """
    rows = []
    for study, seed, epoch, point in _points(studies):
        found = point.eigenspaces
        if found is None:
            continue
        for k in range(1, found.count):
            overlap, turning = found.overlap(k), found.turning(k)
            share, kept = found.gradient_share(k), found.curvature_kept(k)
            for a, b in pairs(study):
                rows.append(
                    {
                        **_names(study, seed, epoch, a, b),
                        "k": k,
                        "overlap": overlap[a, b],
                        "reach": overlap_reach(overlap[a, b], k, turning[a], turning[b]),
                        "chance": k / found.dim,
                        "largest_angle": np.degrees(found.angles[a, b, k - 1, k - 1]),
                        "largest_residual": found.residuals[[a, b], :k].max(),
                        "gradient_a_in_space_b": share[a, b],
                        "gradient_b_in_space_a": share[b, a],
                        "curvature_of_b_in_space_a": kept[b, a],
                        "curvature_of_a_in_space_b": kept[a, b],
                    }
                )
    return pd.DataFrame(rows)


def overlap_reach(overlap: float, k: int, *sines: float) -> float:
    """How far `overlap` is from the truth at most, if the two spaces are turned by `sines`.

    The overlap is |PQ|²/k in the Frobenius norm, P and Q the projections on the spaces. A space
    that is turned moves its projection by √2 times the norm of the sines, hence √overlap by at
    most that over √k.
    """
    shift = float(np.sqrt(2.0 / k) * sum(sines))
    return min(1.0, 2.0 * overlap**0.5 * shift + shift**2)


def distance_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Distances between the tasks' spectra (`spectra.task_distances`), with their probe errors."""
    rows = []
    for study, seed, epoch, point in _points(studies):
        found = task_distances(point.density)
        for a, b in pairs(study):
            rows.append(
                {
                    **_names(study, seed, epoch, a, b),
                    "moved": found.moved[a, b],
                    "moved_probe_error": found.moved_error[a, b],
                    "miscounted": found.miscounted[a, b],
                    "miscounted_probe_error": found.miscounted_error[a, b],
                    "cell": found.cell,
                }
            )
    return pd.DataFrame(rows)


def _points(studies: Sequence[Study]) -> Iterator[tuple[Study, int, int, EpochCurvature]]:
    for study in studies:
        for run in study.runs:
            for point in run.curvature:
                yield study, run.seed, point.epoch, point


def _names(study: Study, seed: int, epoch: int, a: int, b: int) -> dict[str, object]:
    return {
        "dataset": study.name,
        "seed": seed,
        "epoch": epoch,
        "task_a": study.tasks[a].name,
        "task_b": study.tasks[b].name,
    }


def gradient_conflict_figure(studies: Sequence[Study], *, name: str = "figure10") -> Plot | None:
    """Figure 10: cosine of the gradients of every two tasks; None where none was taken."""
    data = conflict_table(studies)
    if data.empty:
        return None
    figure = _pair_panels(
        studies,
        data,
        _Shown(
            "cosine",
            "graph_error",
            "cosine of the\ngradients",
            limits=(-1.05, 1.05),
            possible=(-1.0, 1.0),
        ),
    )
    return Plot(
        name=name,
        title="Gradients of the tasks against each other",
        caption=(
            "Cosine of the angle between the gradients of two tasks with respect to the shared "
            "parameters, each the mean over the graphs of the Hessian. Below 0 a small step for "
            "one task makes the other worse. " + _bars(studies, "graphs") + " There is no probe "
            "error: gradients are exact for these graphs."
        ),
        figure=figure,
        data=data,
    )


def eigenspace_figure(studies: Sequence[Study], *, name: str = "figure11") -> Plot | None:
    """Figure 11: overlap of the dominant eigenspaces of every two tasks; None without data."""
    data = eigenspace_table(studies)
    if data.empty:
        return None
    k = min(CUT, int(data["k"].max()))
    shown = data[data["k"] == k]
    figure = _pair_panels(
        studies,
        shown,
        _Shown(
            "overlap",
            "reach",
            "overlap of\neigenspaces",
            limits=(-0.03, 1.03),
            possible=(0.0, 1.0),
            bound=True,
        ),
    )
    return Plot(
        name=name,
        title="Dominant eigenspaces of the tasks against each other",
        caption=(
            f"Overlap of the spaces that the {k} eigenvectors of largest |λ| span, for every two "
            "tasks: the mean of cos² over the principal angles, 1 for equal spaces and "
            f"{k} / P on average for spaces that have nothing to do with each other. "
            + _bars(studies, "residuals")
            + " The data hold every other "
            "number of eigenvectors too."
        ),
        figure=figure,
        data=data,
    )


def distance_figure(studies: Sequence[Study], *, name: str = "figure12") -> Plot | None:
    """Figure 12: how far the spectra of every two tasks are apart; None for single tasks."""
    data = distance_table(studies)
    if data.empty:
        return None
    figure = _pair_panels(
        studies,
        data,
        _Shown("moved", "moved_probe_error", "P · W₁\n(loss / parameter²)", log=True),
    )
    return Plot(
        name=name,
        title="Distances between the spectra of the tasks",
        caption=(
            "Wasserstein distance between the spectra of two tasks times the number P of their "
            "eigenvalues: by how much eigenvalues must be moved, in all, to turn one spectrum into "
            "the other. Eigenvalues in the cell about 0 that this many Lanczos steps do not look "
            "into count as 0. Panels of a data set share an axis. "
            + _bars(studies, "probes")
            + " The data hold the largest "
            "difference in counts (Kolmogorov and Smirnov) too."
        ),
        figure=figure,
        data=data,
    )


@dataclass(frozen=True)
class _Shown:
    """Which column is drawn, with which errors, and how."""

    value: str
    error: str
    label: str
    limits: tuple[float, float] | None = None
    possible: tuple[float, float] = (0.0, np.inf)  # what the number can be: whiskers end there
    log: bool = False
    bound: bool = False  # the error is a bound, not a standard error


_WHISKERS = {
    "graphs": "one standard error from the choice of the graphs (jackknife over groups of them)",
    "residuals": "how far the residuals of the eigenvectors let the overlap be from the truth, a "
    "bound; none is drawn where it exceeds the axis",
    "probes": "the root mean square error from the random starts (probes)",
}


def _bars(studies: Sequence[Study], what: str) -> str:
    """What is drawn with what, in a sentence of the caption."""
    count = max(len(study.runs) for study in studies)
    whiskers = f"Whiskers: {_WHISKERS[what]}."
    if count == 1:
        return f"One seed. {whiskers}"
    return (
        f"Small points are the {count} seeds, each with its error within the run; the line is "
        f"their mean and the band their range. {whiskers}"
    )


def _pair_panels(studies: Sequence[Study], data: pd.DataFrame, shown: _Shown) -> Figure:
    """One panel for each data set and pair of tasks, rows of three."""
    cells = [
        (study, a, b)
        for study in studies
        if (data["dataset"] == study.name).any()
        for a, b in pairs(study)
    ]
    lines = -(-len(cells) // _COLUMNS)
    with house_style():
        figure = new_figure(0.45 + 1.55 * lines)
        axes = figure.subplots(lines, _COLUMNS, squeeze=False, sharey=not shown.log)
        for panel, (study, a, b) in zip(axes.flat, cells, strict=False):
            first, second = study.tasks[a], study.tasks[b]
            here = data[
                (data["dataset"] == study.name)
                & (data["task_a"] == first.name)
                & (data["task_b"] == second.name)
            ]
            _draw_pair(panel, here, shown, color=task_style(0).color)
            if shown.log:
                panel.set_ylim(*_log_limits(data[data["dataset"] == study.name], shown))
            panel.set_title(f"{study.name}: {first.label}, {second.label}", fontsize=8)
        for panel in list(axes.flat)[len(cells) :]:
            panel.set_visible(False)
        for line in axes:
            line[0].set_ylabel(shown.label)
        figure.supxlabel("epoch (those analysed)", fontsize=8.5)
        handles: list[Line2D] = [
            Line2D([], [], color=task_style(0).color, marker="o", label="mean over seeds"),
            Line2D([], [], color=MUTED, marker="o", markersize=2.5, lw=0, label="one seed"),
        ]
        if data["seed"].nunique() > 1:
            figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _log_limits(rows: pd.DataFrame, shown: _Shown) -> tuple[float, float]:
    """Limits that hold all panels of one data set, so that these compare."""
    values = rows[shown.value].to_numpy(float)
    high = float((values + np.nan_to_num(rows[shown.error], posinf=0.0)).max())
    positive = values[values > 0]
    low = float(positive.min()) if positive.size else 1.0
    return 0.5 * low, 2.0 * max(high, low)


def _whiskers(values: np.ndarray, errors: np.ndarray, possible: tuple[float, float]) -> np.ndarray:
    """Lengths of the whiskers down and up, which end where the number must."""
    errors = np.where(np.isfinite(errors), errors, 0.0)
    down, up = (np.maximum(room, 0.0) for room in (values - possible[0], possible[1] - values))
    return np.stack([np.minimum(errors, down), np.minimum(errors, up)])


def _draw_pair(panel: Axes, rows: pd.DataFrame, shown: _Shown, *, color: str) -> None:
    wide = rows.pivot_table(index="epoch", columns="seed", values=shown.value)
    errors = rows.pivot_table(index="epoch", columns="seed", values=shown.error, dropna=False)
    epochs = wide.index.to_numpy(float)
    place = epoch_axis(epochs)
    where, values = place(epochs), wide.to_numpy()
    several = values.shape[1] > 1
    if several:
        panel.fill_between(
            where, values.min(axis=1), values.max(axis=1), color=color, alpha=BAND, linewidth=0
        )
    panel.plot(
        where,
        values.mean(axis=1),
        color=color,
        marker="o",
        markersize=3.5,
        linewidth=1.4,
        zorder=3,
    )
    for column, offset in enumerate(sideways(where, values.shape[1], step=0.012)):
        bars = errors.to_numpy()[:, column]
        if shown.bound:
            bars = np.where(bars < 1.0, bars, np.nan)
        panel.errorbar(
            where + offset,
            values[:, column],
            yerr=_whiskers(values[:, column], bars, shown.possible),
            color=INK if several else color,
            alpha=0.65 if several else 1.0,
            marker="o",
            markersize=1.8,
            linestyle="none",
            elinewidth=0.7,
            zorder=2,
        )
    if shown.log:
        panel.set_yscale("log")
        panel.yaxis.set_minor_formatter(NullFormatter())
    elif shown.limits is not None:
        panel.set_ylim(*shown.limits)
        panel.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    panel.set_xticks(*epoch_ticks(epochs, place))
