"""From the records of a run to its files: tables, figures, claims, report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hessspec_mtl.claims import Judgement, judge, write_ledger
from hessspec_mtl.figures import (
    Plot,
    PlotFiles,
    appendix_e_figure,
    cropped_density_figure,
    crystal_figure,
    delta_m_figure,
    distance_figure,
    eigenspace_figure,
    full_density_figure,
    gradient_conflict_figure,
    molecule_figure,
    own_molecule_figure,
    parts_figure,
    single_task_figure,
    trace_convergence_figure,
    trace_figure,
    tracking_figure,
    training_error_figure,
    weight_figure,
    write_plot,
)
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.report.markdown import report_markdown
from hessspec_mtl.report.page import report_html
from hessspec_mtl.report.parts import part_table
from hessspec_mtl.report.results import Results, has_comparisons, test_errors
from hessspec_mtl.report.tasks import pair_table, single_task_results
from hessspec_mtl.study.delta_m import decision_table
from hessspec_mtl.study.records import Study
from hessspec_mtl.study.tables import (
    Table,
    dataset_table,
    examples_table,
    slug,
    target_table,
    write_table,
)


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
    `claims.md` (not for data of one's own), `test_errors.csv`, `report.html` (self-contained) and
    `report.md`. Each appears whole or not at all; running it again replaces them, and removes
    figures of other data sets.
    """
    tables = tables_of(results)
    for table in tables:
        write_table(table, directory / "tables")
    figures = tuple(write_plot(plot, directory / "figures") for plot in plots_of(results))
    sweep(directory / "figures", figures)
    judgements = () if results.of_own_data else judge(results.studies, results.appendix)
    if judgements:
        write_ledger(judgements, directory)
    else:
        for name in ("claims.json", "claims.md"):  # of a version that judged any data
            directory.joinpath(name).unlink(missing_ok=True)
    made = [table(results.studies) for table in (single_task_results, pair_table, part_table)]
    for table in (*made, *map(decision_table, results.weightings)):
        if table is not None:
            write_table(table, directory / "tables")
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


def sweep(folder: Path, written: Sequence[PlotFiles]) -> None:
    """Remove figures that an earlier run on other data sets left beside those just written."""
    kept = {path for files in written for path in (files.png, files.pdf, files.csv)}
    ours = re.compile(r"figure\d+(_[a-z0-9-]+)?\.(png|pdf|csv)")
    for path in folder.iterdir():
        if path not in kept and ours.fullmatch(path.name) and path.is_file():
            path.unlink()


def tables_of(results: Results) -> list[Table]:
    """Tables 1 to 3, as far as the data sets of this run have them, and the tasks' examples."""
    if not results.full:
        return []
    counts = [(entry.node_features, entry.edge_features) for entry in results.full]
    datasets = [entry.dataset for entry in results.full]
    targets = sorted((target_table(dataset) for dataset in datasets), key=lambda t: t.name)
    return [dataset_table(datasets, counts), *targets, examples_table(results.studies)]


def plots_of(results: Results) -> list[Plot]:
    """Every figure that the records of this run allow, in the order of their numbers."""
    drawn = [_without_formulas(study) for study in results.studies]
    studies = [study for study in drawn if any(run.curvature for run in study.runs)]
    several = len(drawn) > 1

    def name(figure: str, study: Study) -> str:
        return f"{figure}_{slug(study.name)}" if several else figure

    plots: list[Plot | None] = [
        *_structures(drawn, results.of_own_data),
        training_error_figure(drawn),
        trace_figure(studies) if studies else None,
        *(cropped_density_figure(study, name=name("figure5", study)) for study in studies),
        *(full_density_figure(study, name=name("figure6", study)) for study in studies),
        appendix_e_figure(results.appendix) if results.appendix is not None else None,
        single_task_figure(drawn),
        trace_convergence_figure(drawn),
        gradient_conflict_figure(studies),
        eigenspace_figure(studies),
        distance_figure(studies) if has_comparisons(studies) else None,
        weight_figure(drawn),
        tracking_figure(drawn),
        delta_m_figure(results.weightings),
        parts_figure(studies),
    ]
    return [
        replace(plot, title=_plain(plot.title), caption=_plain(plot.caption))
        for plot in plots
        if plot is not None
    ]


def _structures(studies: Sequence[Study], own: bool) -> list[Plot | None]:
    """How structures become graphs: those of the paper, or one of one's own."""
    if own:
        return [own_molecule_figure(study.dataset) for study in studies]
    return [crystal_figure(), molecule_figure()]


def _without_formulas(study: Study) -> Study:
    """The study, its names such that matplotlib takes no part between dollars for a formula."""
    tasks = tuple(replace(task, label=task.label.replace("$", r"\$")) for task in study.tasks)
    name = study.name.replace("$", r"\$")
    return replace(study, dataset=replace(study.dataset, name=name, tasks=tasks))


def _plain(text: str) -> str:
    return text.replace(r"\$", "$")
