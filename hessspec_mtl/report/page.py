"""The report as one self-contained page of HTML; everything in it is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hessspec_mtl.claims import Judgement, ledger_html
from hessspec_mtl.figures import PlotFiles
from hessspec_mtl.report.frame import PAGE
from hessspec_mtl.report.parts import TITLE, part_findings, part_table
from hessspec_mtl.report.results import Results, forest_notes, test_errors
from hessspec_mtl.report.tasks import findings, pair_table, single_task_results
from hessspec_mtl.report.words import (
    ERROR_BARS,
    NOT_JUDGED,
    PAPER_CITATION,
    appendix_paragraph,
    copies,
    facts,
    figure_number,
    flat_settings,
    hessian_graphs,
    left_out,
    left_out_files,
    linked,
    sources,
    structures_sentence,
    summary,
)
from hessspec_mtl.study.delta_m import decision_table, decision_words
from hessspec_mtl.study.tables import Table


def report_html(
    results: Results,
    tables: Sequence[Table],
    figures: Sequence[PlotFiles],
    judgements: Sequence[Judgement],
) -> str:
    """The report as one page that needs no other file; everything in it is escaped."""
    numbers = (7, 8, 10, 11, 12, 15, 16)
    apart: dict[str, list[PlotFiles]] = {f"figure{number}": [] for number in numbers}
    others = []
    for files in figures:
        apart.get(files.name.split("_")[0], others).append(files)
    appendix, weightings, of_parts = (apart.pop(f"figure{number}") for number in (7, 15, 16))
    of_tasks = [files for group in apart.values() for files in group]
    sections = [
        ("summary", "Summary", "".join(map(_paragraph, summary(results, judgements)))),
        ("errors", "Test errors", _errors_html(results)),
        ("data", "Data", _data_html(results, tables)),
        (
            "figures",
            "Figures",
            _paragraph(ERROR_BARS, "aside")
            + _paragraph(structures_sentence(results, [files.name for files in others]))
            + _figures_html(others),
        ),
    ]
    if table := part_table(results.studies):
        words = "".join(map(_paragraph, part_findings(results.studies)))
        sections.append(("parts", TITLE, words + table.to_html() + _figures_html(of_parts)))
    body = _tasks_html(results) + _figures_html(of_tasks)
    if body:
        sections.append(("tasks", "Tasks against each other", body))
    if results.weightings:
        body = _weightings_html(results) + _figures_html(weightings)
        sections.append(("weightings", "Weights of the tasks", body))
    if results.appendix is not None:
        body = _paragraph(appendix_paragraph(results.appendix)) + _figures_html(appendix)
        sections.append(("appendix", "A spectrum that is known", body))
    sections += [
        ("claims", "The paper's claims", _claims_html(judgements)),
        ("run", "How this was run", _run_html(results)),
        ("sources", "Sources and licences", _sources_html(results)),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "\n".join(
        f'<section id="{name}"><h2>{title}</h2>\n{content}\n</section>'
        for name, title, content in sections
    )
    return PAGE.substitute(
        title=html.escape(results.title),
        facts=_pairs_html(facts(results)),
        contents=links,
        body=body,
    )


def _data_html(results: Results, tables: Sequence[Table]) -> str:
    reasons = left_out(results.full)
    parts = [table.to_html() for table in tables]
    parts += [_paragraph(text) for text in copies(results.studies)]
    if reasons:
        parts += [_paragraph("Records of the sources that were left out, and why:")]
        parts += [_pairs_html(reasons)]
        links = [f'<a href="{linked(n)}">{html.escape(n)}</a>' for n in left_out_files(results)]
        if links:
            parts.append(f"<p>One by one, with their cause: {', '.join(links)}.</p>")
    return "".join(parts)


def _tasks_html(results: Results) -> str:
    tables = (single_task_results(results.studies), pair_table(results.studies))
    parts = [_paragraph(text) for text in findings(results.studies)]
    parts += [table.to_html() for table in tables if table is not None]
    return "".join(parts)


def _weightings_html(results: Results) -> str:
    parts = [_paragraph(text) for text in decision_words(results.weightings)]
    parts += [decision_table(decision).to_html() for decision in results.weightings]
    return "".join(parts)


def _claims_html(judgements: Sequence[Judgement]) -> str:
    if not judgements:
        return _paragraph(NOT_JUDGED)
    how = (
        "Every claim is decided by numbers. A claim holds if each number lies on the stated side "
        "of its threshold with its whole 95 % interval (“reproduced”); it fails if one lies on the "
        "other side with its whole interval (“not reproduced”); otherwise it is “undecided”. "
        "Errors within a run are probe errors for curvature and the standard deviation over the "
        "last epochs for training, with the sampling of the test examples for test errors; errors "
        "between seeds are what seeds differ by beyond that. "
        "Thresholds are ours, since the paper states its claims in words."
    )
    return _paragraph(how) + ledger_html(judgements)


def _run_html(results: Results) -> str:
    parts = []
    graphs = hessian_graphs(results.studies)
    if graphs:
        parts += [
            "<h3>Graphs that the Hessian was averaged over</h3>",
            f"<details><summary>their names</summary>{_pairs_html(graphs)}</details>",
        ]
    settings = flat_settings(results.settings)
    if settings:
        parts += [
            "<h3>Settings</h3>",
            f"<details><summary>the effective configuration</summary>{_pairs_html(settings)}"
            "</details>",
        ]
    if results.versions:
        parts += ["<h3>Versions</h3>", _pairs_html(list(results.versions.items()))]
    if results.other_files:
        rows = "".join(
            f'<tr><th><a href="{linked(name)}">{html.escape(name)}</a></th>'
            f"<td>{html.escape(what)}</td></tr>"
            for name, what in results.other_files.items()
        )
        parts += [
            "<h3>Files beside this report</h3>",
            f'<div class="scroll"><table class="pairs"><tbody>{rows}</tbody></table></div>',
        ]
    return "".join(parts)


def _sources_html(results: Results) -> str:
    return _paragraph(f"The paper: {PAPER_CITATION}") + _pairs_html(sources(results.studies))


def _errors_html(results: Results) -> str:
    notes = (_paragraph(text, "note") for text in forest_notes(results.studies))
    return _test_errors_html(test_errors(results.studies)) + "".join(notes)


def _test_errors_html(errors: pd.DataFrame) -> str:
    rows = []
    for row in errors.itertuples():
        seeds = "one seed" if np.isnan(row.mae_seed_sd) else f"± {row.mae_seed_sd:.3f}"
        badge = _badge(bool(row.better), bool(row.clearly))
        rows.append(
            f"<tr><td>{html.escape(str(row.dataset))}</td><td>{html.escape(str(row.label))}</td>"
            f"<td>{row.mae:.3f}</td><td>± {row.mae_epoch_sd:.3f}</td><td>{seeds}</td>"
            f"<td>{row.median_mae:.3f}</td><td>{row.mae / row.median_mae:.2f}</td>"
            f"<td>{_or_dash(row.forest_mae)}</td>"
            f'<td><span class="badge {badge[0]}">{badge[1]}</span></td></tr>'
        )
    heads = (
        "Data set",
        "Property",
        "Test MAE",
        "over the last epochs",
        "over seeds",
        "Median predictor",
        "Ratio",
        "Random forest",
        "Better than the median?",
    )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    return (
        '<div class="scroll"><table><caption>Test errors in standard deviations of the training '
        f"targets (mean and standard deviation over the last epochs)</caption><thead><tr>{head}"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _or_dash(error: float) -> str:
    return "–" if np.isnan(error) else f"{error:.3f}"


def _badge(better: bool, clearly: bool) -> tuple[str, str]:
    """Style and text of the answer whether a task is predicted better than by the median."""
    if not better:
        return "no", "no"
    return ("yes", "yes") if clearly else ("open", "barely")


def _figures_html(figures: Sequence[PlotFiles]) -> str:
    """All figures; the first of several with one number carries that number's anchor too."""
    parts, seen = [], set()
    for files in figures:
        anchor = files.name.split("_")[0]
        if anchor != files.name and anchor not in seen:
            parts.append(f'<a id="{html.escape(anchor)}"></a>')
        seen.add(anchor)
        parts.append(_figure_html(files))
    return "".join(parts)


def _figure_html(files: PlotFiles, directory_name: str = "figures") -> str:
    image = base64.b64encode(files.png.read_bytes()).decode("ascii")
    heading = html.escape(figure_number(files.name))
    links = " · ".join(
        f'<a href="{directory_name}/{html.escape(path.name)}">{kind}</a>'
        for kind, path in (("PDF", files.pdf), ("data (CSV)", files.csv))
    )
    return (
        f'<figure id="{html.escape(files.name)}">'
        f'<img alt="{html.escape(files.title)}" src="data:image/png;base64,{image}">'
        f"<figcaption><b>{heading}. {html.escape(files.title)}.</b> {html.escape(files.caption)} "
        f'<span class="links">{links}</span></figcaption></figure>'
    )


def _paragraph(text: str, kind: str = "") -> str:
    if not text:
        return ""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def _pairs_html(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f'<div class="scroll"><table class="pairs"><tbody>{body}</tbody></table></div>'
