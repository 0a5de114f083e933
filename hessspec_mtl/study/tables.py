"""Tables 1 to 3 of the paper: size of the data sets and statistics of the targets, beside ours."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hessspec_mtl.datasets.paper import (
    BULK_RANGE,
    PAPER,
    POISSON_RANGE,
    SHEAR_RANGE,
    STATISTICS,
    is_papers_dataset,
    is_users_dataset,
    target_statistics,
)
from hessspec_mtl.datasets.sources import MP_API
from hessspec_mtl.files.markdown import inline, paragraph, table_row
from hessspec_mtl.files.whole import write_whole

if TYPE_CHECKING:
    from hessspec_mtl.datasets.base import MultitaskDataset
    from hessspec_mtl.study.records import Study


@dataclass(frozen=True)
class Table:
    """A table ready to be written: `rows` as they are printed, `data` as numbers."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """The table as GitHub Markdown, notes below."""
        numbers = [_are_numbers([row[i] for row in self.rows]) for i in range(len(self.header))]
        rule = "".join(" ---: |" if right else " --- |" for right in [False, *numbers[1:]])
        lines = [f"**{inline(self.title)}**", "", table_row(self.header), f"|{rule}"]
        lines += map(table_row, self.rows)
        for note in self.notes:
            lines += ["", paragraph(note)]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """The table as a fragment of HTML; everything in it is escaped."""

        def cells(tag: str, values: Sequence[str]) -> str:
            return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)

        # The second column holds names or units, or, in some tables, numbers as the others do.
        second = all(_is_number(row[1]) for row in self.rows if len(row) > 1)
        kind = ' class="numbers"' if second else ""
        body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in self.notes)
        return (
            f'<div class="scroll"><table{kind}>\n<caption>{html.escape(self.title)}</caption>\n'
            f"<thead><tr>{cells('th', self.header)}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody></table></div>{notes}\n"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "").replace("−", "-"))
    except ValueError:
        return False
    return True


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether what is told in a column is numbers, errors or intervals beside them allowed."""
    told = [cell for cell in cells if cell.strip("–—- ")]
    return all(re.match(r"unknown|[+−-]?\s?\.?\d", cell) for cell in told)


def write_table(table: Table, directory: Path) -> tuple[Path, Path, Path]:
    """Write `table` as CSV, Markdown and HTML fragment; returns the three paths."""
    return (
        write_whole(
            directory / f"{table.name}.csv", table.data.to_csv(index=False, float_format="%.12g")
        ),
        write_whole(directory / f"{table.name}.md", table.to_markdown()),
        write_whole(directory / f"{table.name}.html", table.to_html()),
    )


def decimals(printed: str) -> int:
    """How many digits stand behind the point of `printed`."""
    return len(printed.partition(".")[2])


def agrees(value: float, printed: str) -> bool:
    """Whether `value`, rounded to as many decimals as were printed, is what was printed."""
    return abs(value - float(printed)) <= 0.5 * 10.0 ** -decimals(printed) * (1 + 1e-9)


def dataset_table(
    datasets: Sequence[MultitaskDataset], feature_counts: Sequence[tuple[int, int]]
) -> Table:
    """Table 1: data points, targets, node and edge features, ours beside the paper's.

    Args:
        datasets: complete, before any subsampling.
        feature_counts: node and edge features of each, as encoded.
    """
    header = ("Data set", "Source", "data points", "targets", "node features", "edge features")
    names = ("data_points", "targets", "node_features", "edge_features")
    rows, records = [], []
    for dataset, features in zip(datasets, feature_counts, strict=True):
        ours = (len(dataset), dataset.num_tasks, *features)
        own = is_users_dataset(dataset)
        versions = [(dataset.sources[0].name if own else "this work", ours)]
        if is_papers_dataset(dataset):
            versions.insert(0, ("paper", PAPER[dataset.domain].sizes))
        for source, counts in versions:
            rows.append((dataset.name, source, *(f"{count:,}" for count in counts)))
            records.append(
                {"dataset": dataset.name, "source": source, **dict(zip(names, counts, strict=True))}
            )
        if len(versions) == 2:
            gaps = [a - b for a, b in zip(ours, versions[0][1], strict=True)]
            rows.append((dataset.name, "difference", *(_signed_count(gap) for gap in gaps)))
    notes = []
    for dataset in datasets:
        if is_papers_dataset(dataset):
            if len(dataset) != PAPER[dataset.domain].sizes[0]:
                notes.append(why_fewer(dataset))
        elif not is_users_dataset(dataset):
            notes.append(
                f"{dataset.name} is not a data set of the paper and has no numbers to compare with."
            )
    return Table(
        name="table1",
        title="Table 1. Data sets",
        header=header,
        rows=tuple(rows),
        data=pd.DataFrame(records),
        notes=tuple(notes),
    )


def target_table(dataset: MultitaskDataset) -> Table:
    """Table 2 (crystals) or Table 3 (molecules): statistics of the targets beside the paper's.

    The table of a set that is not the paper's has the set's name in its own, so that the two can
    stand in one folder: `table3` is QM8's, `table3_mine` that of a set called "mine".

    Args:
        dataset: complete, before any subsampling.
    """
    ours = target_statistics(dataset)
    paper = PAPER[dataset.domain]
    number = paper.number
    if not is_papers_dataset(dataset):
        header = ("Statistic", *(axis_label(task.label, task.unit) for task in dataset.tasks))
        if not dataset.complete:
            ours.loc["examples"] = dataset.counts()
        rows = tuple((s, *(f"{value:.8g}" for value in ours.loc[s])) for s in ours.index)
        data = ours.rename_axis("statistic").reset_index()
        note = f"{dataset.name} is not a data set of the paper and has no numbers to compare with."
        notes = () if is_users_dataset(dataset) else (note,)
        return Table(
            f"table{number}_{slug(dataset.name)}",
            f"Table {number}. Targets of {dataset.name} ({len(dataset):,} data points)",
            header,
            rows,
            data,
            notes,
        )
    rows, records, misses = [], [], 0
    for statistic in STATISTICS:
        printed = paper.targets[statistic]
        values = [float(value) for value in ours.loc[statistic]]
        shown = [
            f"{v:.{max(decimals(p), 4)}f}".replace("-", "−")
            for v, p in zip(values, printed, strict=True)
        ]
        gaps = [_gap(v, p) for v, p in zip(values, printed, strict=True)]
        misses += sum(not agrees(v, p) for v, p in zip(values, printed, strict=True))
        rows += [
            (statistic, "paper", *printed),
            ("", "this work", *shown),
            ("", "difference", *gaps),
        ]
        for name, value, p in zip(ours.columns, values, printed, strict=True):
            records.append(
                {
                    "statistic": statistic,
                    "task": name,
                    "paper": float(p),
                    "ours": value,
                    "difference": value - float(p),
                    "agrees_to_printed_digits": agrees(value, p),
                }
            )
    total = len(STATISTICS) * dataset.num_tasks
    verdict = (
        f"All {total} numbers agree with the paper to every printed digit."
        if misses == 0
        else f"{total - misses} of {total} numbers agree with the paper to every printed digit."
    )
    size = f"{len(dataset):,} data points here, {paper.sizes[0]:,} in the paper"
    fewer = misses and len(dataset) != paper.sizes[0]
    notes = (verdict, "The note below Table 1 says why.") if fewer else (verdict,)
    return Table(
        name=f"table{number}",
        title=f"Table {number}. Targets of {dataset.name} ({size})",
        header=("Statistic", "Source", *paper.labels),
        rows=tuple(rows),
        data=pd.DataFrame(records),
        notes=notes,
    )


def examples_table(studies: Sequence[Study]) -> Table:
    """How many examples each task has: to train on, to test on and for its Hessian."""
    records = []
    for study in studies:
        dataset, run = study.dataset, study.runs[0]
        of_hessian = np.flatnonzero(np.isin(dataset.ids, run.hessian_ids))
        parts = (run.split.train, run.split.test, of_hessian)
        counts = [dataset.counts(np.asarray(part)) for part in parts]
        records += [
            {
                "dataset": study.name,
                "task": task.name,
                "label": task.label,
                **dict(zip(("train", "test", "hessian"), map(int, numbers), strict=True)),
            }
            for task, *numbers in zip(study.tasks, *counts, strict=True)
        ]
    data = pd.DataFrame(records)
    missing = [study.name for study in studies if not study.dataset.complete]
    notes = (
        f"Not every example of {', '.join(missing)} has every property: means, errors, losses and "
        "Hessians of a property are over those that have it.",
    )
    return Table(
        name="examples_of_tasks",
        title="Examples of each property",
        header=("Data set", "Property", "for training", "for testing", "for the Hessian"),
        rows=tuple(
            (str(r.dataset), str(r.label), f"{r.train:,}", f"{r.test:,}", f"{r.hessian:,}")
            for r in data.itertuples()
        ),
        data=data,
        notes=notes if missing else (),
    )


def why_fewer(dataset: MultitaskDataset) -> str:
    """Why the number of data points of one of the paper's sets is not the paper's."""
    count, printed = f"{len(dataset):,}", f"{PAPER[dataset.domain].sizes[0]:,}"
    sources = " and ".join(source.name for source in dataset.sources)
    if dataset.domain == "molecules":
        return (
            f"{dataset.name} has {count} data points here and {printed} in the paper ({sources})."
        )
    if MP_API in dataset.sources:
        history = (
            f"The paper took {printed} crystals from the Materials Project as it then was; the "
            "database has grown and changed since."
        )
    else:
        history = (
            f"The paper took {printed} crystals from the Materials Project of October 2020, a "
            "state of the database that can no longer be asked for."
        )
    (k_low, k_high), (g_low, g_high), (p_low, p_high) = BULK_RANGE, SHEAR_RANGE, POISSON_RANGE
    return (
        f"{history} Read here: {sources}. Of its crystals those are kept whose elastic constants "
        f"lie in the ranges that the paper prints (bulk modulus {k_low:g} to {k_high:g} GPa, shear "
        f"modulus {g_low:g} to {g_high:g} GPa, Poisson ratio {p_low:.2f} to {p_high:.2f}, all "
        f"inclusive), which leaves {count}. So the extremes lie within the paper's by "
        "construction, and means and deviations differ because the two sets of crystals do."
    )


def axis_label(label: str, unit: str) -> str:
    """`label (unit)`, or `label` alone for a pure number or where it ends with the unit already."""
    return label if unit in {"", "1"} or label.endswith(f"({unit})") else f"{label} ({unit})"


def slug(name: str) -> str:
    """`name` fit for a file: lower case, everything but letters and digits a hyphen."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _signed_count(gap: int) -> str:
    return "0" if gap == 0 else f"{gap:+,}".replace("-", "−")


def _gap(value: float, printed: str) -> str:
    """The difference at the precision of the printed digits, or a word if there is none."""
    if agrees(value, printed):
        return "none"
    return f"{value - float(printed):+.2g}".replace("-", "−")
