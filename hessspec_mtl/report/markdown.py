"""The report as Markdown, with links to the files beside it; what is no mark there is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hessspec_mtl.claims import Judgement, ledger_markdown
from hessspec_mtl.figures import PlotFiles
from hessspec_mtl.files.markdown import inline, paragraph, table_row
from hessspec_mtl.report.parts import TITLE, part_findings, part_table
from hessspec_mtl.report.results import Results, forest_notes, test_errors
from hessspec_mtl.report.tasks import findings, pair_table, single_task_results
from hessspec_mtl.report.words import (
    ERROR_BARS,
    NOT_JUDGED,
    PAPER_CITATION,
    copies,
    facts,
    figure_number,
    flat_settings,
    left_out,
    left_out_files,
    linked,
    sources,
    structures_sentence,
    summary,
)
from hessspec_mtl.study.delta_m import decision_table, decision_words
from hessspec_mtl.study.records import Study
from hessspec_mtl.study.tables import Table


def report_markdown(
    results: Results,
    tables: Sequence[Table],
    figures: Sequence[PlotFiles],
    judgements: Sequence[Judgement],
    directory: Path,
) -> str:
    """The report as Markdown, with links to the files beside it."""
    lines = [f"# {inline(results.title)}", ""]
    lines += [f"- **{name}**: {inline(value)}" for name, value in facts(results)]
    lines += ["", "## Summary", "", *_paragraphs(summary(results, judgements))]
    lines += ["## Test errors", "", _test_errors_markdown(results.studies), ""]
    lines += _paragraphs(forest_notes(results.studies))
    lines += ["## Data", ""]
    for table in tables:
        lines += [table.to_markdown(), ""]
    lines += _paragraphs(copies(results.studies))
    if reasons := left_out(results.full):
        lines += ["Records of the sources that were left out, and why:", ""]
        lines += [*(f"- {paragraph(f'{name}: {counts}')}" for name, counts in reasons), ""]
        links = [_link(name) for name in left_out_files(results)]
        lines += [f"One by one, with their cause: {', '.join(links)}.", ""] if links else []
    lines += ["## Figures", "", *_paragraphs([ERROR_BARS])]
    if sentence := structures_sentence(results, [files.name for files in figures]):
        lines += _paragraphs([sentence])
    for files in figures:
        lines += _figure(files, directory)
    lines += _section(
        TITLE,
        part_findings(results.studies),
        [part_table(results.studies)],
    )
    lines += _section(
        "Tasks against each other",
        findings(results.studies),
        [single_task_results(results.studies), pair_table(results.studies)],
    )
    lines += _section(
        "Weights of the tasks",
        decision_words(results.weightings),
        [decision_table(decision) for decision in results.weightings],
    )
    ledger = ledger_markdown(judgements) if judgements else f"{paragraph(NOT_JUDGED)}\n"
    lines += ["## The paper's claims", "", ledger]
    lines += ["## How this was run", ""]
    rows = [*flat_settings(results.settings), *results.versions.items()]
    lines += ["| Setting or package | Value |", "| --- | --- |"]
    lines += [*map(table_row, rows), ""]
    lines += [f"- {_link(name)}: {inline(what)}" for name, what in results.other_files.items()]
    lines += ["", "## Sources and licences", "", f"- The paper: {inline(PAPER_CITATION)}"]
    lines += [f"- {paragraph(f'{name}. {text}')}" for name, text in sources(results.studies)]
    return "\n".join(lines) + "\n"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (paragraph(text), "")]


def _section(title: str, texts: Sequence[str], tables: Sequence[Table | None]) -> list[str]:
    """A section with its paragraphs and tables; nothing where there is no table."""
    found = [table for table in tables if table is not None]
    if not found:
        return []
    lines = [f"## {title}", "", *_paragraphs(texts)]
    return lines + [line for table in found for line in (table.to_markdown(), "")]


def _figure(files: PlotFiles, directory: Path) -> list[str]:
    image, pdf, data = (
        path.relative_to(directory).as_posix() for path in (files.png, files.pdf, files.csv)
    )
    title, caption = inline(files.title), inline(files.caption)
    return [
        f"![{title}]({image})",
        "",
        f"**{figure_number(files.name)}. {title}.** {caption} ([PDF]({pdf}), [data]({data}))",
        "",
    ]


def _link(name: str) -> str:
    """A link to a file beside the report."""
    return f"[{inline(name)}]({linked(name)})"


def _test_errors_markdown(studies: Sequence[Study]) -> str:
    lines = [
        "| Data set | Property | Test MAE | over the last epochs | over seeds | Median predictor "
        "| Random forest | Better? |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in test_errors(studies).itertuples():
        seeds = "one seed" if np.isnan(row.mae_seed_sd) else f"± {row.mae_seed_sd:.3f}"
        forest = "–" if np.isnan(row.forest_mae) else f"{row.forest_mae:.3f}"
        answer = "no" if not row.better else "yes" if row.clearly else "barely"
        cells = (
            *(str(row.dataset), str(row.label), f"{row.mae:.3f}"),
            *(f"± {row.mae_epoch_sd:.3f}", seeds, f"{row.median_mae:.3f}", forest, answer),
        )
        lines.append(table_row(cells))
    return "\n".join(lines)
