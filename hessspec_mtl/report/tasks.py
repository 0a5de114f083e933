"""The section of the report on tasks against each other: its tables and its findings in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from hessspec_mtl.claims.ledger import number
from hessspec_mtl.figures.alignment import (
    CUT,
    conflict_table,
    distance_table,
    eigenspace_table,
    pairs,
)
from hessspec_mtl.report.results import has_comparisons
from hessspec_mtl.study.comparison import CONFIDENCE, paired_table, student_interval
from hessspec_mtl.study.records import Study
from hessspec_mtl.study.tables import Table


def single_task_results(studies: Sequence[Study]) -> Table | None:
    """Final test errors alone and together, their paired differences and intervals."""
    data = paired_table(studies)
    if data.empty:
        return None
    rows = []
    for row in data.itertuples():
        interval = (
            f"{_signed(row.low_95)} to {_signed(row.high_95)}"
            if np.isfinite(row.low_95)
            else "one seed"
        )
        sampling = "not kept" if np.isnan(row.sampling_error) else f"± {row.sampling_error:.3f}"
        rows.append(
            (
                str(row.dataset),
                str(row.label),
                _with_spread(row.multi_task_mae, row.multi_task_seed_sd),
                _with_spread(row.single_task_mae, row.single_task_seed_sd),
                f"{row.multi_task_train_mae:.3f}",
                f"{row.single_task_train_mae:.3f}",
                _signed(row.difference),
                interval,
                sampling,
                f"{row.median_predictor_mae:.3f}",
                _corrected(row.p_corrected, row.seeds),
                _better(row.difference, row.p_corrected),
            )
        )
    seeds = int(data["seeds"].max())
    return Table(
        name="single_against_multi",
        title="One network for all tasks against one network a task (MAE, standard "
        "deviations of the training targets)",
        header=(
            "Data set",
            "Property",
            "test, all tasks",
            "test, alone",
            "training, all tasks",
            "training, alone",
            "difference in test",
            "its 95 % interval over seeds",
            "from test examples",
            "median predictor, test",
            "p, corrected",
            "better",
        ),
        rows=tuple(rows),
        data=data,
        notes=(
            f"Means over the last epochs and {seeds} seed{'s' if seeds > 1 else ''}; ± after an "
            "error: standard deviation over seeds. Differences are paired: both networks of a seed "
            "start from the same weights and see the same examples in the same order. Interval: "
            "Student's t on the differences of the seeds. “From test examples”: standard error "
            "that the choice of test examples leaves on the difference, the same for all seeds "
            "and therefore not in the interval. Each interval is for one property by itself; “p, "
            f"corrected” is that of the paired t test after Holm's correction for the {len(data)} "
            "properties of this table, and “better” says which side it favours where it is below "
            "0.05. Where a network is worse on the training set too, that is no overfitting.",
            *_seen_by_one_only(studies),
        ),
    )


def _seen_by_one_only(studies: Sequence[Study]) -> tuple[str, ...]:
    """A note on sets whose examples lack targets: there the two networks see different ones."""
    names = [study.name for study in studies if not study.dataset.complete]
    if not names:
        return ()
    return (
        f"Of {', '.join(names)} a network for one property sees only the training examples that "
        "have it, in another order than the network for all; both are tested on the same ones.",
    )


def _with_spread(value: float, spread: float) -> str:
    return f"{value:.3f}" if np.isnan(spread) else f"{value:.3f} ± {spread:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _corrected(p_value: float, seeds: int) -> str:
    if seeds < 2:
        return "one seed"
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def _better(difference: float, p_corrected: float) -> str:
    if p_corrected >= 1 - CONFIDENCE:
        return "undecided"
    return "alone" if difference > 0 else "all tasks"


def pair_table(studies: Sequence[Study]) -> Table | None:
    """Every two tasks at the end of training: cosine, overlap, distance; means over seeds."""
    if not has_comparisons(studies):
        return None
    parts = [
        (conflict_table(studies), "cosine", "graph_error", (-1.0, 1.0)),
        (_at_cut(eigenspace_table(studies)), "overlap", "reach", (0.0, 1.0)),
        (distance_table(studies), "moved", "moved_probe_error", (0.0, np.inf)),
    ]
    keys = ["dataset", "task_a", "task_b"]
    merged = pd.DataFrame(
        [
            (study.name, study.tasks[a].name, study.tasks[b].name)
            for study in studies
            for a, b in pairs(study)
        ],
        columns=keys,
    )
    for data, value, error, possible in parts:
        if data.empty:
            continue
        last = data[data["epoch"] == data.groupby("dataset")["epoch"].transform("max")]
        records = []
        for key, group in last.groupby(keys, sort=False):
            mean, low, high = student_interval(group[value].to_numpy())
            if np.isfinite(low):
                low, high = np.clip([low, high], *possible)
            names = (value, f"{value}_low_95", f"{value}_high_95", error)
            numbers = (mean, low, high, float(group[error].mean()))
            records.append(
                {**dict(zip(keys, key, strict=True)), **dict(zip(names, numbers, strict=True))}
            )
        merged = merged.merge(pd.DataFrame(records), on=keys, how="left")
    labels = {(s.name, t.name): t.label for s in studies for t in s.tasks}
    rows = [
        (
            str(row["dataset"]),
            f"{labels[row['dataset'], row['task_a']]}, {labels[row['dataset'], row['task_b']]}",
            *_cells(row, "cosine", "graph_error", lambda v: f"{v:.2f}"),
            *_cells(row, "overlap", "reach", lambda v: f"{v:.2f}", number),
            *_cells(row, "moved", "moved_probe_error", number),
        )
        for _, row in merged.iterrows()
    ]
    return Table(
        name="pairs_of_tasks",
        title="Every two tasks at the end of training, the network trained on all",
        header=(
            "Data set",
            "Tasks",
            "cosine of gradients",
            "error from graphs",
            f"overlap of {CUT} eigenvectors",
            "bound of residuals",
            "P · W₁",
            "probe error",
        ),
        rows=tuple(rows),
        data=merged,
        notes=(
            "Means over seeds with Student's 95 % interval over seeds; errors within a run beside "
            "them, means over seeds; intervals end where the number must. Overlap: mean cos² of "
            "the principal angles between the spaces of the eigenvectors of largest |λ|; 1 is the "
            "same space. P · W₁ in loss / parameter².",
        ),
    )


def _at_cut(data: pd.DataFrame) -> pd.DataFrame:
    return data if data.empty else data[data["k"] == min(CUT, int(data["k"].max()))]


def _cells(
    row: pd.Series,
    value: str,
    error: str,
    written: Callable[[float], str],
    error_written: Callable[[float], str] | None = None,
) -> tuple[str, str]:
    if value not in row or pd.isna(row[value]):
        return "–", "–"
    low, high = row[f"{value}_low_95"], row[f"{value}_high_95"]
    text = written(row[value])
    if np.isfinite(low):
        text += f" [{written(low)}, {written(high)}]"
    if pd.isna(row[error]):
        return text.replace("-", "−"), "not known"
    return text.replace("-", "−"), f"± {(error_written or written)(row[error])}"


def error_findings(studies: Sequence[Study]) -> list[str]:
    """Whether tasks are learnt better alone or together, a sentence a data set."""
    errors = paired_table(studies)
    if errors.empty:
        return []
    groups = [(study, errors[errors["dataset"] == study.name]) for study in studies]
    return [_error_sentence(study, rows) for study, rows in groups if len(rows)]


def findings(studies: Sequence[Study]) -> list[str]:
    """What the comparisons say, one paragraph a data set and subject, numbers first."""
    paragraphs = error_findings(studies)
    if has_comparisons(studies):
        conflict, spaces = conflict_table(studies), _at_cut(eigenspace_table(studies))
        for study in studies:
            text = _pair_sentences(study, conflict, spaces)
            if text:
                paragraphs.append(text)
    return paragraphs


def _error_sentence(study: Study, rows: pd.DataFrame) -> str:
    sure = rows["p_corrected"] < 1 - CONFIDENCE
    alone = rows[sure & (rows["difference"] > 0)]["label"].tolist()
    together = rows[sure & (rows["difference"] < 0)]["label"].tolist()
    open_ = [label for label in rows["label"] if label not in alone + together]
    seeds = int(rows["seeds"].max())
    if seeds == 1:
        return (
            f"{study.name}: one seed. Trained alone the tasks have a lower test error in "
            f"{int((rows['difference'] > 0).sum())} of {len(rows)} cases; one seed does not tell "
            "whether another would say the same."
        )
    parts = []
    if alone:
        parts.append(f"better alone: {', '.join(alone)}")
    if together:
        parts.append(f"better together: {', '.join(together)}")
    if open_:
        parts.append(f"not decided by {seeds} seeds: {', '.join(open_)}")
    return f"{study.name}, test errors: {'; '.join(parts)}."


def _pair_sentences(study: Study, conflict: pd.DataFrame, spaces: pd.DataFrame) -> str:
    sentences = []
    if len(conflict):
        mine = conflict[conflict["dataset"] == study.name]
        if len(mine):
            clear = mine["cosine"] + 1.96 * mine["graph_error"] < 0
            sentences.append(
                f"the gradients of two tasks point against each other in "
                f"{int((mine['cosine'] < 0).sum())} of {len(mine)} cases (pairs, analysed epochs "
                f"and seeds), in {int(clear.sum())} of them by more than 1.96 standard errors of "
                f"the choice of graphs; the cosine is {mine['cosine'].mean():.2f} on average and "
                f"{mine['cosine'].min():.2f} at least"
            )
            sentences.append(_curvature_sentence(mine))
    if len(spaces):
        mine = spaces[spaces["dataset"] == study.name]
        if len(mine):
            first = mine[mine["epoch"] == mine["epoch"].min()]["overlap"].mean()
            last = mine[mine["epoch"] == mine["epoch"].max()]["overlap"].mean()
            sentences.append(
                f"the {int(mine['k'].max())} dominant eigenvectors of two tasks span spaces of "
                f"overlap {first:.2f} on average before training and {last:.2f} at its end, where "
                "spaces that have nothing to do with each other have "
                f"{number(mine['chance'].max())}; along these eigenvectors of one task another has "
                f"{_kept(mine):.2f} of the curvature (median)"
            )
    return f"{study.name}: {'; '.join(sentences)}.".replace("-", "−") if sentences else ""


def _curvature_sentence(rows: pd.DataFrame) -> str:
    """Curvature along a task's own gradient and along another's, medians."""
    own = rows[["curvature_of_a_along_gradient_a", "curvature_of_b_along_gradient_b"]].to_numpy()
    other = rows[["curvature_of_b_along_gradient_a", "curvature_of_a_along_gradient_b"]].to_numpy()
    return (
        f"along its own gradient a task has a curvature g'Hg / g'g of {number(np.median(own))}, "
        f"along that of another {number(np.median(other))} (medians, loss / parameter²)"
    )


def _kept(rows: pd.DataFrame) -> float:
    columns = ["curvature_of_b_in_space_a", "curvature_of_a_in_space_b"]
    return float(np.median(rows[columns].to_numpy()))
