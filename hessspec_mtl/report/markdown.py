"""The report as Markdown, with links to the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hessspec_mtl.claims import Judgement, ledger_markdown
from hessspec_mtl.figures import PlotFiles
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
    lines = [f"# {results.title}", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts(results)]
    lines += ["", "## Summary", ""]
    for paragraph in summary(results, judgements):
        lines += [paragraph, ""]
    lines += ["## Test errors", "", _test_errors_markdown(results.studies), ""]
    for text in forest_notes(results.studies):
        lines += [text, ""]
    lines += ["## Data", ""]
    for table in tables:
        lines += [table.to_markdown(), ""]
    for text in copies(results.studies):
        lines += [text, ""]
    if reasons := left_out(results.full):
        lines += ["Records of the sources that were left out, and why:", ""]
        lines += [*(f"- {name}: {counts}" for name, counts in reasons), ""]
        links = [f"[{name}]({linked(name)})" for name in left_out_files(results)]
        lines += [f"One by one, with their cause: {', '.join(links)}.", ""] if links else []
    lines += ["## Figures", "", ERROR_BARS, ""]
    if sentence := structures_sentence(results, [files.name for files in figures]):
        lines += [sentence, ""]
    for files in figures:
        image, pdf, data = (
            path.relative_to(directory).as_posix() for path in (files.png, files.pdf, files.csv)
        )
        lines += [
            f"![{files.title}]({image})",
            "",
            f"**{figure_number(files.name)}. {files.title}.** {files.caption} "
            f"([PDF]({pdf}), [data]({data}))",
            "",
        ]
    tasks = (single_task_results(results.studies), pair_table(results.studies))
    if any(table is not None for table in tasks):
        lines += ["## Tasks against each other", ""]
        for text in findings(results.studies):
            lines += [text, ""]
        for table in tasks:
            lines += [table.to_markdown(), ""] if table is not None else []
    if results.weightings:
        lines += ["## Weights of the tasks", ""]
        for text in decision_words(results.weightings):
            lines += [text, ""]
        for decision in results.weightings:
            lines += [decision_table(decision).to_markdown(), ""]
    ledger = ledger_markdown(judgements) if judgements else f"{NOT_JUDGED}\n"
    lines += ["## The paper's claims", "", ledger]
    lines += ["## How this was run", ""]
    rows = [*flat_settings(results.settings), *results.versions.items()]
    lines += ["| Setting or package | Value |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    lines += [""]
    lines += [f"- [{name}]({linked(name)}): {what}" for name, what in results.other_files.items()]
    lines += ["", "## Sources and licences", "", f"- The paper: {PAPER_CITATION}"]
    lines += [f"- {name}. {text}" for name, text in sources(results.studies)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


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
        lines.append(
            f"| {_cell(row.dataset)} | {_cell(row.label)} | {row.mae:.3f} "
            f"| ± {row.mae_epoch_sd:.3f} | {seeds} | {row.median_mae:.3f} | {forest} | {answer} |"
        )
    return "\n".join(lines)
