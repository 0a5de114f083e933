"""The report in words: its summary, what its error bars mean, where its data come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from hessspec_mtl.claims import Judgement, Verdict
from hessspec_mtl.claims.ledger import number
from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.sources import OWN_LICENCE
from hessspec_mtl.report.results import FullDataset, Results, test_errors
from hessspec_mtl.report.tasks import error_findings
from hessspec_mtl.study.records import Study

if TYPE_CHECKING:
    from hessspec_mtl.curvature.appendix_e import AppendixE


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def duration(seconds: float) -> str:
    """`seconds` as a person would say it."""
    if seconds < 90:
        return plural(max(round(seconds), 1), "second")
    if seconds < 5400:
        return plural(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat_settings(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


ERROR_BARS = (
    "What the error bars mean. Traces and densities are estimated with random vectors (probes). "
    "Their error bars say how much the estimates would change with other probes, for the same "
    "network and the same graphs: they are probe errors, given the graphs named below, and not "
    "errors from the choice of graphs. Errors between seeds are stated apart wherever several "
    "seeds were run. Losses are mean squared errors of standardised targets, hence pure numbers; "
    "eigenvalues have the unit loss / parameter²."
)
PAPER_CITATION = (
    "New, Pekala, Le, Domenico, Piatko, Stiles: Curvature-informed multi-task learning for graph "
    "networks. ICML 2022 workshop AI for Science, arXiv 2208.01684."
)


NOT_JUDGED = (
    "The claims of the paper are not judged here. They are about its two data sets, learnt over "
    "512 epochs by its network, and the thresholds by which we decide them were chosen for these: "
    "on other data “reproduced” would mean nothing. What they are about is measured all the same, "
    "and stands in the tables and figures."
)


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
    alone = error_findings(results.studies)
    if alone:
        paragraphs.append(
            "The same network was also trained on each property alone. By the paired differences "
            "in test error over seeds, at 95 % for all properties together (Holm): "
            + " ".join(alone)
        )
    if judgements:
        paragraphs.append(_verdict_paragraph(judgements))
    elif results.of_own_data:
        paragraphs.append(NOT_JUDGED)
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
    least = "" if all(r.timed for r in study.runs) else "at least "
    text += f", in {least}{duration(training)}" if training else ""
    if run.curvature:
        at = listed([str(point.epoch) for point in run.curvature])
        graphs = len(run.hessian_ids)
        text += (
            f". Curvature was measured after {plural(len(run.curvature), 'epoch')} ({at}), "
            f"averaged over {graphs:,} {things} of the training set, the same ones each time"
        )
        text += f", in {least}{duration(curvature)}" if curvature else ""
    text += tracking_sentence(study)
    if not dataset.complete:
        counts = zip(study.tasks, dataset.counts(), strict=True)
        known = listed([f"{task.label} of {count:,}" for task, count in counts])
        text += (
            f". Not every property is known of each of the {things}: {known}. All means, losses "
            "and Hessians of a property are over those of which it is known"
        )
    return text + "." + outlier_sentence(dataset)


def tracking_sentence(study: Study) -> str:
    """What was followed while it trained, on how many graphs, and what that cost; or nothing."""
    runs = [run for run in study.runs if run.tracking is not None]
    tables = [run.tracking for run in runs if run.tracking is not None]
    if not tables:
        return ""
    looks = [table.drop_duplicates("step") for table in tables]
    count = sum(len(look) for look in looks)
    products = sum(int(table["products"].sum()) for table in tables)
    forms = sum(int(look["forms"].sum()) for look in looks)
    # The first look of each run compiles, or begins from nothing.
    usual = np.concatenate([look["look_seconds"].to_numpy()[1:] for look in looks])
    training = sum(run.seconds.get("training", 0.0) for run in runs)
    tracking = sum(run.seconds.get("tracking", 0.0) for run in runs)
    text = (
        f". While it trained, each property's largest eigenvalue and trace were followed on "
        f"{runs[0].tracked_graphs:,} {study.dataset.domain}: {plural(count, 'look')}, "
        f"{plural(products, 'product')} with a property's Hessian and {plural(forms, 'form')} of "
        "all"
    )
    if training and usual.size:
        percent = 100 * tracking / training
        shown = f"{percent:,.0f}" if percent >= 10 else f"{percent:.2g}"
        text += (
            f", in {shown} % of the seconds of training itself (the first "
            f"look of each seed, which compiles, included; {np.median(usual):.2g} s a look after "
            "it)"
        )
    return text


def outlier_sentence(dataset: MultitaskDataset) -> str:
    """Which single records make more than half of a property's variance, if any do.

    Such a value is most often a slip (another unit, a misplaced point), and the standardised values
    of all others are next to nothing.
    """
    found = []
    for task, column in zip(dataset.tasks, dataset.targets.T, strict=True):
        # Scaled first: a value of 1e200 has no square.
        scaled = column / np.nanmax(np.abs(column), initial=np.finfo(float).tiny)
        squares = np.square(scaled - np.nanmean(scaled))
        largest = int(np.nanargmax(squares))
        share = squares[largest] / max(np.nansum(squares), np.finfo(float).tiny)
        if share > 0.5:
            found.append(
                f"{dataset.ids[largest]} makes {100 * share:.0f} % of the variance of {task.label} "
                f"({column[largest]:.4g})"
            )
    if not found:
        return ""
    return (
        f" Look at these records first: {listed(found)}. Their errors and curvature are, in the "
        "main, those of a single record; correct it, or leave it out."
    )


def _error_paragraph(studies: Sequence[Study]) -> str:
    errors = test_errors(studies)
    worse = errors[~errors["better"]]
    narrow = errors[errors["better"] & ~errors["clearly"]]
    if worse.empty:
        text = (
            "The test error of every property is below that of always predicting the training "
            "median, so the network has learnt something about each of them"
        )
    else:
        text = (
            f"The test error of {_names(worse)} {_is(worse)} NOT below that of always predicting "
            "the training median, averaged over the last epochs: what the network has learnt about "
            "it does not yet beat this simplest guess on new data, and its curvature should be "
            "read with that in mind"
        )
        if len(worse) < len(errors):
            text += ". All other properties are predicted better than by the median"
    if not narrow.empty:
        text += (
            f"; for {_names(narrow)} by less, though, than the error changes from epoch to epoch"
        )
    return text + "."


def _names(errors: pd.DataFrame) -> str:
    return listed([f"{row.label} ({row.dataset})" for row in errors.itertuples()])


def _is(errors: pd.DataFrame) -> str:
    return "is" if len(errors) == 1 else "are"


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
        f"({abs(appendix.trace_z):.2f} standard errors from the estimate){_covering(appendix)}; "
        "the true distribution "
        f"function is {band} the reported 95 % band, and at most {cdf.largest_error:.3f} from the "
        f"estimate; the extreme eigenvalues are off by {number(ends[0])} and {number(ends[1])}."
    ).replace("-", "−")


def _covering(appendix: AppendixE) -> str:
    count = len(appendix.further_traces)
    if count == 0:
        return ""
    return (
        f", and inside {appendix.num_covering} of {count} more such intervals, each from probes of "
        f"its own, where {0.95 * count:.0f} are expected"
    )


def facts(results: Results) -> list[tuple[str, str]]:
    # A run that was resumed remembers the time of the stages that it did not do again, and workers
    # do several at once: the sum of all stages is then longer than this command took.
    stages = sum(sum(run.seconds.values()) for study in results.studies for run in study.runs)
    seconds = max(results.seconds, stages)
    # Work of unknown time was done besides: the sum says how long all took at the least.
    timed = all(run.timed for study in results.studies for run in study.runs)
    took = duration(seconds) if seconds else ""
    if stages > results.seconds > 0:
        took += " of work, all units added up"
    if took and not timed:
        took = f"at least {took}; how long some of the work took is not known"
    facts = [
        ("Preset", results.preset),
        ("Command", results.command),
        ("Ran on", results.device),
        ("Took", took),
        ("Finished", results.finished),
    ]
    seeds = sorted({run.seed for study in results.studies for run in study.runs})
    facts.append((plural(len(seeds), "Seed").split(" ", 1)[1], ", ".join(map(str, seeds))))
    return [(name, value) for name, value in facts if value]


def hessian_graphs(studies: Sequence[Study]) -> list[tuple[str, str]]:
    rows = []
    for study in studies:
        for run in study.runs:
            if run.hessian_ids:
                shown = ", ".join(run.hessian_ids[:400])
                more = len(run.hessian_ids) - 400
                shown += f" and {more:,} more" if more > 0 else ""
                rows.append((f"{study.name}, seed {run.seed} ({len(run.hessian_ids)})", shown))
    return rows


def copies(studies: Sequence[Study]) -> list[str]:
    """What stands in each set under several names, and whether a split separates it."""
    return [_copies_sentence(study) for study in studies if study.copies is not None]


def _copies_sentence(study: Study) -> str:
    found, things = study.copies, study.dataset.domain
    if found is None or found.groups == 0:
        return f"{study.name}: no two of the {things} are one structure to the network."
    alike = (
        "stereoisomers, isotopes, graphs that message passing cannot tell apart"
        if things == "molecules"
        else "cells, origins or settings of one crystal"
    )
    text = (
        f"{study.name}: {found.examples:,} of the {len(study.dataset):,} {things} are only "
        f"{plural(found.groups, 'structure')} to the network ({alike})"
    )
    if found.crossing == 0:
        return f"{text}; none of these is on both sides of the split."
    number = len(study.runs[0].split.test)
    return (
        f"{text}; {found.crossing:,} of these are on both sides of the split, so that "
        f"{found.test_examples:,} of {number:,} test examples have a twin in training. The option "
        "--keep-groups-whole keeps such examples together."
    )


def sources(studies: Sequence[Study]) -> list[tuple[str, str]]:
    rows = []
    for study in studies:
        for source in study.dataset.sources:
            said = [f"Licence: {source.licence}."]
            said += [f"Cite: {source.citation}."] if source.citation else []
            said += [f"Address: {source.url}."] if source.url else []
            if source.licence == OWN_LICENCE and source.sha256:
                said.append(f"SHA-256 of the file that was read: {source.sha256}.")
            rows.append((source.name, " ".join(said)))
    return list(dict(rows).items())


def left_out_files(results: Results) -> list[str]:
    """The files beside the report that list what was left out, one by one."""
    return [name for name in results.other_files if name.endswith("left_out.csv")]


def linked(name: str) -> str:
    """A file beside the report as the target of a link: sets may have names with spaces or `#`."""
    return quote(name)


def structures_sentence(results: Results, drawn: Sequence[str]) -> str:
    """Which of the paper's Figures 1 and 2 are not drawn from data of one's own, and why."""
    if not results.of_own_data:
        return ""
    crystals = results.studies[0].dataset.domain == "crystals"
    if crystals:
        lacking = "Figures 1 and 2, a crystal and a molecule of the paper beside their graphs, are"
    elif "figure2" in drawn:
        lacking = "Figure 1, a crystal of the paper beside its graph, is"
    else:
        lacking = "Figures 1 and 2, structures beside their graphs (none here could be drawn), are"
    return f"Figures have the numbers of the paper's. {lacking} left out."


def left_out(full: Sequence[FullDataset]) -> list[tuple[str, str]]:
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


def figure_number(name: str) -> str:
    """`Figure 5` of `figure5_qm8`."""
    return f"Figure {name.split('_')[0].removeprefix('figure')}"
