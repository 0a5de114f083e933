"""What part of each task's curvature is the losses' and what the network's own: tr H = tr G + rest.

G, the Gauss-Newton matrix, is the curvature of the loss as a function of the predictions; the rest
has the second derivatives of the predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hessspec_mtl.claims.ledger import number
from hessspec_mtl.figures.parts import parts_table
from hessspec_mtl.study.comparison import student_interval
from hessspec_mtl.study.records import Study
from hessspec_mtl.study.tables import Table

TITLE = "How much of the curvature is the network's own"

_WHAT = (
    "The trace of a property's Hessian has two parts, tr H = tr G + rest. The Gauss-Newton matrix "
    "G is the curvature of the loss as a function of the predictions, carried over to the "
    "parameters by the predictions' slopes. It is all there would be if the network were linear in "
    "its parameters, and its trace is never negative. The rest is the network's own: the second "
    "derivatives of its predictions, weighted by how far these are off. It has either sign, and it "
    "is gone where every example is fitted. Below it is given in units of tr G: 0 says that all "
    "curvature is the losses', 1 that the network adds as much again, −1 that it cancels all."
)


def own_shares(studies: Sequence[Study]) -> pd.DataFrame:
    """The rest in units of tr G: one row for each data set, analysed epoch and task.

    Columns: dataset, task, label, epoch, seeds, trace, gauss_newton and rest (means over seeds),
    rest_low_95 and rest_high_95, share (rest / tr G) and its ends. Intervals are of the probe error
    for one seed, Student's over seeds for several. Empty where tr G was not taken.
    """
    data = parts_table(studies)
    labels = {(s.name, t.name): t.label for s in studies for t in s.tasks}
    rows = []
    for (dataset, epoch, task), group in data.groupby(["dataset", "epoch", "task"], sort=False):
        exact = group["gauss_newton"].to_numpy()
        rest = group["network_curvature"].to_numpy()
        ends = group[["network_curvature_low_95", "network_curvature_high_95"]].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            share, share_ends = rest / exact, ends / exact[:, None]
        rows.append(
            {
                "dataset": dataset,
                "task": task,
                "label": labels[dataset, task],
                "epoch": epoch,
                "seeds": len(group),
                "trace": float(group["trace"].mean()),
                "gauss_newton": float(exact.mean()),
                **_with_interval("rest", rest, ends),
                **_with_interval("share", share, share_ends),
            }
        )
    return pd.DataFrame(rows)


def _with_interval(name: str, values: np.ndarray, ends: np.ndarray) -> dict[str, float]:
    mean, low, high = student_interval(values)
    if values.size == 1:
        low, high = ends[0]
    return {name: mean, f"{name}_low_95": float(low), f"{name}_high_95": float(high)}


def part_table(studies: Sequence[Study]) -> Table | None:
    """tr H, tr G and the rest of each task at the first and the last analysed epoch.

    The numbers (`Table.data`) are those of all analysed epochs. None where tr G was not taken.
    """
    data = own_shares(studies)
    if data.empty:
        return None
    of_set = data.groupby("dataset")["epoch"]
    is_first, is_last = (data["epoch"] == of_set.transform(end) for end in ("min", "max"))
    shown = data[is_first | is_last]
    seeds = int(data["seeds"].max())
    over = (
        f"means over {seeds} seeds with Student's 95 % interval over seeds"
        if seeds > 1
        else "one seed, with 95 % intervals of the probe error of tr H"
    )
    return Table(
        name="gauss_newton",
        title=f"{TITLE}: tr H = tr G + rest",
        header=(
            *("Data set", "Property", "epoch", "tr H", "tr G"),
            *("rest", "95 % interval", "rest / tr G", "95 % interval"),
        ),
        rows=tuple(
            (
                str(row["dataset"]),
                str(row["label"]),
                str(row["epoch"]),
                *map(number, (row["trace"], row["gauss_newton"])),
                number(row["rest"]),
                _interval(row, "rest"),
                number(row["share"]),
                _interval(row, "share"),
            )
            for _, row in shown.iterrows()
        ),
        data=data,
        notes=(
            f"In loss / parameter², of the shared parameters: {over}. tr G was computed without "
            "random vectors, so that the error of the rest is that of tr H. Both are of the same "
            "graphs. The file beside this report has all analysed epochs.",
        ),
    )


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name}_low_95"], row[f"{name}_high_95"]
    return f"{number(low)} to {number(high)}" if np.isfinite([low, high]).all() else "unknown"


def part_findings(studies: Sequence[Study]) -> list[str]:
    """What the parts are, and how large the network's own is of each data set's tasks."""
    data = own_shares(studies)
    if data.empty:
        return []
    names = dict.fromkeys(data["dataset"])
    return [_WHAT, *(_sentence(name, data[data["dataset"] == name]) for name in names)]


def _sentence(name: str, rows: pd.DataFrame) -> str:
    """One data set: the shares at its first and its last epoch."""
    first, last = rows["epoch"].min(), rows["epoch"].max()
    at_end = rows[rows["epoch"] == last]
    text = f"{name}, after epoch {last}: {'; '.join(_share(row) for _, row in at_end.iterrows())}."
    if first < last:
        before = rows[rows["epoch"] == first]
        each = (f"{row['label']} {number(row['share'])}" for _, row in before.iterrows())
        when = "Before training" if first == 0 else f"After epoch {first}"
        text += f" {when} the rest was, in units of tr G: {', '.join(each)}."
    return text


def _share(row: pd.Series) -> str:
    """What the interval of one task's share says in words."""
    low, high = row["share_low_95"], row["share_high_95"]
    held = f"{number(row['share'])} of tr G ({_interval(row, 'share')})"
    if low > 0:
        held = f"the network adds {held}"
    elif high < 0:
        ends = f"{number(-high)} to {number(-low)}"
        held = f"the network takes away {number(-row['share'])} of tr G ({ends})"
    elif np.isfinite([low, high]).all():
        held += ", which may be nothing"
    return f"{row['label']}: {held}"
