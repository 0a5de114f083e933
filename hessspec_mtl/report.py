"""The report of a run: one page that explains itself, and all that it shows as files beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hessspec_mtl.claims import (
    Judgement,
    Verdict,
    judge,
    ledger_html,
    ledger_markdown,
    write_ledger,
)
from hessspec_mtl.claims.ledger import number
from hessspec_mtl.figures import (
    Plot,
    PlotFiles,
    appendix_e_figure,
    cropped_density_figure,
    crystal_figure,
    full_density_figure,
    molecule_figure,
    single_task_figure,
    trace_convergence_figure,
    trace_figure,
    training_error_figure,
    write_plot,
)
from hessspec_mtl.files import write_whole
from hessspec_mtl.page import PAGE
from hessspec_mtl.study import Study, final_error, median_error
from hessspec_mtl.tables import Table, dataset_table, target_table, write_table

if TYPE_CHECKING:
    from hessspec_mtl.appendix_e import AppendixE
    from hessspec_mtl.datasets.base import MultitaskDataset


@dataclass(frozen=True)
class FullDataset:
    """A data set before subsampling, for Tables 1 to 3, and its feature counts."""

    dataset: MultitaskDataset
    node_features: int
    edge_features: int


@dataclass(frozen=True)
class Results:
    """All that one run of the command brought, ready to be shown.

    Attributes:
        title: heading of the report.
        studies: one a data set.
        full: the data sets before subsampling, in the order of `studies`.
        appendix: the experiment of appendix E, if it was run.
        preset: its name.
        command: what a reader types to get this again.
        settings: the effective configuration, nested.
        versions: package -> version.
        device: what it ran on, in words.
        seconds: wall-clock seconds of the whole run.
        finished: date and time of its end, as text.
        other_files: file name relative to the report -> what it holds, e.g. the ids of the splits.
    """

    title: str
    studies: Sequence[Study]
    full: Sequence[FullDataset]
    appendix: AppendixE | None = None
    preset: str = ""
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0
    finished: str = ""
    other_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    figures: tuple[PlotFiles, ...]
    judgements: tuple[Judgement, ...]


def write_results(results: Results, directory: Path) -> ReportFiles:
    """Draw, tabulate and judge everything, and write it under `directory`.

    Files: `tables/` (CSV, Markdown, HTML fragment), `figures/` (PDF, PNG, CSV), `claims.json`,
    `claims.md`, `test_errors.csv`, `report.html` (self-contained) and `report.md`. Each appears
    whole or not at all; running it again replaces them.
    """
    tables = tables_of(results)
    for table in tables:
        write_table(table, directory / "tables")
    figures = tuple(write_plot(plot, directory / "figures") for plot in plots_of(results))
    judgements = judge(results.studies, results.appendix)
    write_ledger(judgements, directory)
    errors = test_errors(results.studies)
    write_whole(directory / "test_errors.csv", errors.to_csv(index=False, float_format="%.9g"))
    page = report_html(results, tables, figures, judgements)
    text = report_markdown(results, tables, figures, judgements, directory)
    return ReportFiles(
        write_whole(directory / "report.html", page),
        write_whole(directory / "report.md", text),
        figures,
        judgements,
    )


def tables_of(results: Results) -> list[Table]:
    """Tables 1 to 3, as far as the data sets of this run have them."""
    if not results.full:
        return []
    counts = [(entry.node_features, entry.edge_features) for entry in results.full]
    datasets = [entry.dataset for entry in results.full]
    targets = sorted((target_table(dataset) for dataset in datasets), key=lambda t: t.name)
    return [dataset_table(datasets, counts), *targets]


def plots_of(results: Results) -> list[Plot]:
    """Every figure that the records of this run allow, in the order of their numbers."""
    studies = [study for study in results.studies if any(run.curvature for run in study.runs)]
    several = len(results.studies) > 1

    def name(figure: str, study: Study) -> str:
        return f"{figure}_{slug(study.name)}" if several else figure

    plots: list[Plot | None] = [
        crystal_figure(),
        molecule_figure(),
        training_error_figure(results.studies),
        trace_figure(studies) if studies else None,
        *(cropped_density_figure(study, name=name("figure5", study)) for study in studies),
        *(full_density_figure(study, name=name("figure6", study)) for study in studies),
        appendix_e_figure(results.appendix) if results.appendix is not None else None,
        single_task_figure(results.studies),
        trace_convergence_figure(results.studies),
    ]
    return [plot for plot in plots if plot is not None]


def slug(name: str) -> str:
    """`name` fit for a file: lower case, everything but letters and digits a hyphen."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def test_errors(studies: Sequence[Study]) -> pd.DataFrame:
    """Final test error of every task beside that of predicting the training median.

    Columns: dataset, task, label, mae and mae_epoch_sd (mean and standard deviation over the last
    epochs, averaged over seeds), mae_seed_sd (empty for one seed), median_mae, better (whether mae
    is below median_mae for every seed).
    """
    rows = []
    for study in studies:
        for index, task in enumerate(study.tasks):
            finals = np.array(
                [final_error(run.history, "test", task.name) for run in study.runs], np.float64
            )
            baselines = np.array(
                [median_error(study.dataset, run.split)[index] for run in study.runs]
            )
            rows.append(
                {
                    "dataset": study.name,
                    "task": task.name,
                    "label": task.label,
                    "mae": finals[:, 0].mean(),
                    "mae_epoch_sd": finals[:, 1].mean(),
                    "mae_seed_sd": finals[:, 0].std(ddof=1) if len(finals) > 1 else np.nan,
                    "median_mae": baselines.mean(),
                    "better": bool((finals[:, 0] < baselines).all()),
                }
            )
    return pd.DataFrame(rows)


# Words


def duration(seconds: float) -> str:
    """`seconds` as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def summary(results: Results, judgements: Sequence[Judgement]) -> list[str]:
    """The report in a few paragraphs of plain English."""
    paragraphs = [
        "A graph network was trained to predict several properties of a molecule or a crystal at "
        "once. While it learned, the curvature of each property's loss was measured with respect "
        "to the parameters that all properties share: the trace of the Hessian matrix (the sum of "
        "its eigenvalues) and its spectral density (where the eigenvalues lie). The question, put "
        "by New and co-authors in “Curvature-informed multi-task learning for graph networks” "
        "(arXiv 2208.01684), is whether properties differ in curvature, which could explain why "
        "learning them together is hard."
    ]
    paragraphs += [_study_paragraph(results, position) for position in range(len(results.studies))]
    paragraphs.append(_error_paragraph(results.studies))
    paragraphs.append(_verdict_paragraph(judgements))
    if results.appendix is not None:
        paragraphs.append(appendix_paragraph(results.appendix))
    return paragraphs


def _study_paragraph(results: Results, position: int) -> str:
    study = results.studies[position]
    dataset, run = study.dataset, study.runs[0]
    things = dataset.domain
    whole = len(results.full[position].dataset) if position < len(results.full) else len(dataset)
    subset = f"a random subset of {len(dataset):,} of its" if whole != len(dataset) else "all"
    subset_size = f"{whole:,}"
    epochs = int(run.history["epoch"].max()) if len(run.history) else 0
    text = (
        f"{study.name}: {subset} {subset_size} {things} ({len(run.split.train):,} for training, "
        f"{len(run.split.test):,} for testing), {len(study.tasks)} properties "
        f"({listed([task.label for task in study.tasks])}). The network has P = "
        f"{study.num_params:,} shared parameters and was trained for {plural(epochs, 'epoch')} "
        f"with {plural(len(study.runs), 'seed')}"
    )
    training = sum(r.seconds.get("training", 0.0) for r in study.runs)
    curvature = sum(r.seconds.get("curvature", 0.0) for r in study.runs)
    text += f", in {duration(training)}" if training else ""
    if run.curvature:
        at = listed([str(point.epoch) for point in run.curvature])
        graphs = len(run.hessian_ids)
        text += (
            f". Curvature was measured after {plural(len(run.curvature), 'epoch')} ({at}), "
            f"averaged over {graphs:,} {things} of the training set, the same ones each time"
        )
        text += f", in {duration(curvature)}" if curvature else ""
    return text + "."


def _error_paragraph(studies: Sequence[Study]) -> str:
    errors = test_errors(studies)
    worse = errors[~errors["better"]]
    if worse.empty:
        return (
            "The test error of every property is below that of always predicting the training "
            "median, so the network has learnt something about each of them."
        )
    names = [f"{row.label} ({row.dataset})" for row in worse.itertuples()]
    verb = "is" if len(names) == 1 else "are"
    return (
        f"The test error of {listed(names)} {verb} NOT below that of always predicting the "
        "training median: the network has learnt nothing that generalises about it, and its "
        "curvature should be read with that in mind."
        + (
            ""
            if len(worse) == len(errors)
            else " All other properties are predicted better than by the median."
        )
    )


def _verdict_paragraph(judgements: Sequence[Judgement]) -> str:
    counts = {v: sum(j.verdict is v for j in judgements) for v in Verdict}
    numbers = len({j.number for j in judgements})
    return (
        f"The paper makes {numbers} claims that can be tested. Judged on each data set apart, "
        f"{counts[Verdict.REPRODUCED]} judgements are “reproduced”, "
        f"{counts[Verdict.NOT_REPRODUCED]} “not reproduced”, {counts[Verdict.UNDECIDED]} "
        f"“undecided” and {counts[Verdict.NOT_MEASURED]} “not measured in this run”. Each verdict "
        "follows from a number, its error and a rule that are all given below."
    )


def appendix_paragraph(appendix: AppendixE) -> str:
    """Whether density and trace of appendix E agree with the truth, with the numbers."""
    low, high = (float(end) for end in appendix.trace.confidence_interval(0.95))
    cdf = appendix.cdf_agreement
    inside = "inside" if appendix.trace_within_interval else "OUTSIDE"
    band = "inside" if cdf.inside else "NOT everywhere inside"
    ends = appendix.extreme_errors
    return (
        "Where the truth is known (appendix E of the paper, a random symmetric matrix with "
        f"{appendix.eigenvalues.size:,} eigenvalues): the true trace {appendix.true_trace:.2f} is "
        f"{inside} the reported 95 % interval from {low:.2f} to {high:.2f} "
        f"({abs(appendix.trace_z):.2f} standard errors from the estimate); the true distribution "
        f"function is {band} the reported 95 % band, and at most {cdf.largest_error:.3f} from the "
        f"estimate; the extreme eigenvalues are off by {number(ends[0])} and {number(ends[1])}."
    ).replace("-", "−")


ERROR_BARS = (
    "What the error bars mean. Traces and densities are estimated with random vectors (probes). "
    "Their error bars say how much the estimates would change with other probes, for the same "
    "network and the same graphs: they are probe errors, given the graphs named below, and not "
    "errors from the choice of graphs. Errors between seeds are stated apart wherever several "
    "seeds were run. Losses are mean squared errors of standardised targets, hence pure numbers; "
    "eigenvalues have the unit loss / parameter²."
)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat_settings(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


# HTML


def _paragraph(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def _pairs_html(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f'<div class="scroll"><table class="pairs"><tbody>{body}</tbody></table></div>'


def _test_errors_html(errors: pd.DataFrame) -> str:
    rows = []
    for row in errors.itertuples():
        seeds = "one seed" if np.isnan(row.mae_seed_sd) else f"± {row.mae_seed_sd:.3f}"
        badge = ("yes", "yes") if row.better else ("no", "no")
        rows.append(
            f"<tr><td>{html.escape(str(row.dataset))}</td><td>{html.escape(str(row.label))}</td>"
            f"<td>{row.mae:.3f}</td><td>± {row.mae_epoch_sd:.3f}</td><td>{seeds}</td>"
            f"<td>{row.median_mae:.3f}</td><td>{row.mae / row.median_mae:.2f}</td>"
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
        "Better than the median?",
    )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    return (
        '<div class="scroll"><table><caption>Test errors in standard deviations of the training '
        f"targets (mean and standard deviation over the last epochs)</caption><thead><tr>{head}"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figure_html(files: PlotFiles, directory_name: str = "figures") -> str:
    image = base64.b64encode(files.png.read_bytes()).decode("ascii")
    heading = html.escape(_number(files.name))
    links = " · ".join(
        f'<a href="{directory_name}/{html.escape(path.name)}">{kind}</a>'
        for kind, path in (("PDF", files.pdf), ("data (CSV)", files.csv))
    )
    anchor = files.name.split("_")[0]
    extra = f'<a id="{html.escape(anchor)}"></a>' if anchor != files.name else ""
    return (
        f'{extra}<figure id="{html.escape(files.name)}">'
        f'<img alt="{html.escape(files.title)}" src="data:image/png;base64,{image}">'
        f"<figcaption><b>{heading}. {html.escape(files.title)}.</b> {html.escape(files.caption)} "
        f'<span class="links">{links}</span></figcaption></figure>'
    )


def _number(name: str) -> str:
    """`Figure 5` of `figure5_qm8`."""
    return f"Figure {name.split('_')[0].removeprefix('figure')}"


def _hessian_graphs(studies: Sequence[Study]) -> list[tuple[str, str]]:
    rows = []
    for study in studies:
        for run in study.runs:
            if run.hessian_ids:
                shown = ", ".join(run.hessian_ids[:400])
                more = len(run.hessian_ids) - 400
                shown += f" and {more:,} more" if more > 0 else ""
                rows.append((f"{study.name}, seed {run.seed} ({len(run.hessian_ids)})", shown))
    return rows


def _sources(studies: Sequence[Study]) -> list[tuple[str, str]]:
    rows = []
    for study in studies:
        for source in study.dataset.sources:
            where = f" Address: {source.url}." if source.url else ""
            rows.append(
                (source.name, f"Licence: {source.licence}. Cite: {source.citation}.{where}")
            )
    return list(dict(rows).items())


def _left_out(full: Sequence[FullDataset]) -> list[tuple[str, str]]:
    rows = []
    for entry in full:
        reasons: dict[str, int] = {}
        for left in entry.dataset.left_out:
            reasons[left.reason] = reasons.get(left.reason, 0) + 1
        common = sorted(reasons.items(), key=lambda pair: -pair[1])[:12]
        if common:
            text = "; ".join(f"{count:,} × {reason}" for reason, count in common)
            text += f"; and {len(reasons) - 12} rarer reasons" if len(reasons) > 12 else ""
            rows.append((entry.dataset.name, text))
    return rows


def _facts(results: Results) -> list[tuple[str, str]]:
    # A run that was resumed remembers the time of the stages that it did not do again.
    stages = sum(sum(run.seconds.values()) for study in results.studies for run in study.runs)
    seconds = max(results.seconds, stages)
    facts = [
        ("Preset", results.preset),
        ("Command", results.command),
        ("Ran on", results.device),
        ("Took", duration(seconds) if seconds else ""),
        ("Finished", results.finished),
    ]
    seeds = sorted({run.seed for study in results.studies for run in study.runs})
    facts.append((plural(len(seeds), "Seed").split(" ", 1)[1], ", ".join(map(str, seeds))))
    return [(name, value) for name, value in facts if value]


def report_html(
    results: Results,
    tables: Sequence[Table],
    figures: Sequence[PlotFiles],
    judgements: Sequence[Judgement],
) -> str:
    """The report as one page that needs no other file; everything in it is escaped."""
    appendix = [files for files in figures if files.name.startswith("figure7")]
    others = [files for files in figures if not files.name.startswith("figure7")]
    sections = [
        ("summary", "Summary", "".join(map(_paragraph, summary(results, judgements)))),
        ("errors", "Test errors", _test_errors_html(test_errors(results.studies))),
        ("data", "Data", _data_html(results, tables)),
        (
            "figures",
            "Figures",
            _paragraph(ERROR_BARS, "aside") + "".join(map(_figure_html, others)),
        ),
    ]
    if results.appendix is not None:
        body = _paragraph(appendix_paragraph(results.appendix)) + "".join(
            map(_figure_html, appendix)
        )
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
        facts=_pairs_html(_facts(results)),
        contents=links,
        body=body,
    )


def _data_html(results: Results, tables: Sequence[Table]) -> str:
    left_out = _left_out(results.full)
    parts = [table.to_html() for table in tables]
    if left_out:
        parts += [_paragraph("Records of the sources that were left out, and why:")]
        parts += [_pairs_html(left_out)]
    return "".join(parts)


def _claims_html(judgements: Sequence[Judgement]) -> str:
    how = (
        "Every claim is decided by numbers. A claim holds if each number lies on the stated side "
        "of its threshold with its whole 95 % interval (“reproduced”); it fails if one lies on the "
        "other side with its whole interval (“not reproduced”); otherwise it is “undecided”. "
        "Errors within a run are probe errors for curvature and the standard deviation over the "
        "last epochs for training; errors between seeds are what seeds differ by beyond that. "
        "Thresholds are ours, since the paper states its claims in words."
    )
    return _paragraph(how) + ledger_html(judgements)


def _run_html(results: Results) -> str:
    parts = []
    graphs = _hessian_graphs(results.studies)
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
            f'<tr><th><a href="{html.escape(name)}">{html.escape(name)}</a></th>'
            f"<td>{html.escape(what)}</td></tr>"
            for name, what in results.other_files.items()
        )
        parts += [
            "<h3>Files beside this report</h3>",
            f'<div class="scroll"><table class="pairs"><tbody>{rows}</tbody></table></div>',
        ]
    return "".join(parts)


PAPER_CITATION = (
    "New, Pekala, Le, Domenico, Piatko, Stiles: Curvature-informed multi-task learning for graph "
    "networks. ICML 2022 workshop AI for Science, arXiv 2208.01684."
)


def _sources_html(results: Results) -> str:
    return _paragraph(f"The paper: {PAPER_CITATION}") + _pairs_html(_sources(results.studies))


# Markdown


def report_markdown(
    results: Results,
    tables: Sequence[Table],
    figures: Sequence[PlotFiles],
    judgements: Sequence[Judgement],
    directory: Path,
) -> str:
    """The report as Markdown, with links to the files beside it."""
    lines = [f"# {results.title}", ""]
    lines += [f"- **{name}**: {value}" for name, value in _facts(results)]
    lines += ["", "## Summary", ""]
    for paragraph in summary(results, judgements):
        lines += [paragraph, ""]
    lines += ["## Test errors", "", _test_errors_markdown(results.studies), "", "## Data", ""]
    for table in tables:
        lines += [table.to_markdown(), ""]
    lines += ["## Figures", "", ERROR_BARS, ""]
    for files in figures:
        image, pdf, data = (
            path.relative_to(directory).as_posix() for path in (files.png, files.pdf, files.csv)
        )
        lines += [
            f"![{files.title}]({image})",
            "",
            f"**{_number(files.name)}. {files.title}.** {files.caption} "
            f"([PDF]({pdf}), [data]({data}))",
            "",
        ]
    lines += ["## The paper's claims", "", ledger_markdown(judgements)]
    lines += ["## How this was run", ""]
    rows = [*flat_settings(results.settings), *results.versions.items()]
    lines += ["| Setting or package | Value |", "| --- | --- |"]
    lines += [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows]
    lines += [""]
    lines += [f"- [{name}]({name}): {what}" for name, what in results.other_files.items()]
    lines += ["", "## Sources and licences", "", f"- The paper: {PAPER_CITATION}"]
    lines += [f"- {name}. {text}" for name, text in _sources(results.studies)]
    return "\n".join(lines) + "\n"


def _test_errors_markdown(studies: Sequence[Study]) -> str:
    lines = [
        "| Data set | Property | Test MAE | over the last epochs | over seeds | Median predictor "
        "| Better? |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in test_errors(studies).itertuples():
        seeds = "one seed" if np.isnan(row.mae_seed_sd) else f"± {row.mae_seed_sd:.3f}"
        lines.append(
            f"| {row.dataset} | {row.label} | {row.mae:.3f} | ± {row.mae_epoch_sd:.3f} | {seeds} "
            f"| {row.median_mae:.3f} | {'yes' if row.better else 'no'} |"
        )
    return "\n".join(lines)
