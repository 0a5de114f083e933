"""The ledger: every claim judged on every data set, as records, JSON, Markdown and HTML."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hessspec_mtl.claims.by_seeds import with_many_seeds
from hessspec_mtl.claims.spectra import (
    concentrated,
    effective_rank,
    lanczos_steps,
    outliers,
    spreading,
)
from hessspec_mtl.claims.statements import STATEMENTS
from hessspec_mtl.claims.statistics import Bounded, Judgement, Statistic, Verdict
from hessspec_mtl.claims.traces import samples_for_trace, traces_differ
from hessspec_mtl.claims.training import (
    multi_against_single,
    oscillator_strengths,
    poisson_ratio,
    rough_equality,
    smooth_training,
)
from hessspec_mtl.curvature.spectra import Measured
from hessspec_mtl.files.markdown import paragraph, table_row
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.records import Study

if TYPE_CHECKING:
    from hessspec_mtl.curvature.appendix_e import AppendixE

DENSITY_ERROR = 0.05  # largest error of a distribution function that we call approximate

_LACKING = {
    2: "python -m hessspec_mtl.reproduce --preset small --sets mp",
    3: "python -m hessspec_mtl.reproduce --preset small --sets qm8",
}


def judge(studies: Sequence[Study], appendix: AppendixE | None = None) -> tuple[Judgement, ...]:
    """The twelve claims on every study, in order of number; verdicts follow from the statistics.

    A claim about one data set only is judged on that set, or listed once as not measured.
    """
    found: list[Judgement] = []
    for study in studies:
        judged = [
            rough_equality(study),
            poisson_ratio(study),
            oscillator_strengths(study),
            traces_differ(study),
            concentrated(study),
            outliers(study),
            spreading(study),
            multi_against_single(study),
            samples_for_trace(study),
            lanczos_steps(study),
            effective_rank(study),
            smooth_training(study),
        ]
        found += [with_many_seeds(j, study) for j in judged if j is not None]
    if appendix is not None:
        found.append(known_spectrum(appendix))
    for number, how in _LACKING.items():
        if not any(judgement.number == number for judgement in found):
            found.append(
                Judgement(number, STATEMENTS[number], "none", (), "", "figure3", how_to_measure=how)
            )
    return tuple(sorted(found, key=lambda judgement: judgement.number))


def known_spectrum(appendix: AppendixE) -> Judgement:
    """Claim 10 where the truth is known: extremes and distribution function of appendix E."""
    radius = float(np.abs(appendix.eigenvalues).max())
    extremes = max(abs(error) for error in appendix.extreme_errors) / radius
    between = appendix.cdf_agreement.largest_error
    return Judgement(
        10,
        STATEMENTS[10],
        "appendix E",
        (
            Statistic(
                "largest error of an extreme eigenvalue, relative to the largest |λ|",
                (Measured(extremes, 0.0),),
                0.01,
                above=False,
                within="exact",
            ),
            Statistic(
                "largest error of the distribution function",
                (Measured(between, 0.0),),
                DENSITY_ERROR,
                above=False,
                within="exact",
            ),
        ),
        f"Reproduced if the extremes are within 1% and the distribution function within "
        f"{DENSITY_ERROR:g} of the truth.",
        "figure7",
        remark="Both errors are against the true eigenvalues, hence known exactly.",
    )


def number(value: float) -> str:
    """`value` to three significant digits, as a reader would write it."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{superscript}".replace("-", "−")


def _within(statistic: Statistic) -> str:
    if statistic.within == "exact":
        return "none (exact for this run)"
    error = statistic.within_error
    if math.isfinite(error):
        return f"± {number(error)} ({statistic.within})"
    bounded = any(math.isfinite(end) for end in statistic.interval)
    return f"see the interval ({statistic.within})" if bounded else "not measured"


def _seeds(statistic: Statistic) -> str:
    if statistic.seed_error is None:
        return "not measured (one seed)"
    seeds = f"({len(statistic.values)} seeds)"
    if statistic.seed_error == 0 and statistic.within != "exact":
        return f"no more than within a run {seeds}"
    return f"± {number(statistic.seed_error)} {seeds}"


def _interval(statistic: Statistic) -> str:
    low, high = statistic.interval
    if math.isinf(low) and math.isinf(high):
        return "unknown"
    if math.isinf(high):
        return f"at least {number(low)}"
    if math.isinf(low):
        return f"at most {number(high)}"
    return f"{number(low)} to {number(high)}"


def _threshold(statistic: Statistic) -> str:
    return f"{'>' if statistic.above else '<'} {number(statistic.threshold)}"


HEADER = (
    "Claim of the paper",
    "Data set",
    "Deciding statistic",
    "Value",
    "Error within a run",
    "Error between seeds",
    "95 % interval from these errors alone",
    "Holds if",
    "Verdict",
    "Shown in",
)


def figure_name(figure: str) -> str:
    """`figure4` as readers call it."""
    return f"Figure {figure.removeprefix('figure')}" if figure.startswith("figure") else "–"


def ledger_rows(judgements: Sequence[Judgement]) -> list[tuple[str, ...]]:
    """One row for each statistic, cells that repeat the row above left empty."""
    rows, previous = [], 0
    for judgement in judgements:
        claim = "" if judgement.number == previous else f"{judgement.number}. {judgement.claim}"
        previous = judgement.number
        shown = figure_name(judgement.figure)
        if not judgement.statistics:
            how = judgement.how_to_measure
            text = f"not measured in this run; measure it with: {how}" if how else "too few epochs"
            rows.append((claim, judgement.dataset, text, *[""] * 5, str(judgement.verdict), "–"))
        for position, statistic in enumerate(judgement.statistics):
            first = position == 0
            rows.append(
                (
                    claim if first else "",
                    judgement.dataset if first else "",
                    statistic.name,
                    number(statistic.value),
                    _within(statistic),
                    _seeds(statistic),
                    _interval(statistic),
                    _threshold(statistic),
                    str(judgement.verdict) if first else "",
                    shown if first else "",
                )
            )
        rows += [_row_of_former(statistic) for statistic in judgement.former]
    return rows


def _row_of_former(statistic: Statistic) -> tuple[str, ...]:
    """A statistic that would decide with fewer seeds."""
    return (
        "",
        "",
        f"(with few seeds: {statistic.name})",
        number(statistic.value),
        _within(statistic),
        _seeds(statistic),
        _interval(statistic),
        _threshold(statistic),
        "",
        "",
    )


def ledger_markdown(judgements: Sequence[Judgement]) -> str:
    """The ledger as a Markdown table, rules and remarks below it."""
    rows = map(table_row, ledger_rows(judgements))
    lines = [table_row(HEADER), "|" + " --- |" * len(HEADER), *rows, ""]
    lines += [f"- {paragraph(note)}" for note in notes(judgements)]
    return "\n".join(lines) + "\n"


def notes(judgements: Sequence[Judgement]) -> list[str]:
    """How each claim was decided, and what a reader must know besides; each said once."""
    seen: dict[str, None] = {}
    for judgement in judgements:
        if judgement.rule:
            seen[f"Claim {judgement.number}: {judgement.rule}"] = None
        if judgement.remark:
            where = f" ({judgement.dataset})"
            seen[f"Claim {judgement.number}{where}: {judgement.remark}"] = None
    return list(seen)


_CLASSES = {
    Verdict.REPRODUCED: "yes",
    Verdict.NOT_REPRODUCED: "no",
    Verdict.UNDECIDED: "open",
    Verdict.NOT_MEASURED: "absent",
}


def ledger_html(judgements: Sequence[Judgement]) -> str:
    """The ledger as a fragment of HTML: one block a claim, one table row a statistic."""
    parts = []
    for claim in sorted({judgement.number for judgement in judgements}):
        mine = [judgement for judgement in judgements if judgement.number == claim]
        parts.append(
            f'<section class="claim" id="claim{claim}"><h3><span class="number">{claim}</span> '
            f"{html.escape(mine[0].claim)}</h3>"
        )
        for judgement in mine:
            verdict = judgement.verdict
            link = (
                f' · <a href="#{html.escape(judgement.figure)}">'
                f"{html.escape(figure_name(judgement.figure))}</a>"
                if judgement.statistics and judgement.figure.startswith("figure")
                else ""
            )
            where = "" if judgement.dataset == "none" else f"{html.escape(judgement.dataset)}: "
            parts.append(
                f'<p class="verdict">{where}<span class="badge {_CLASSES[verdict]}">'
                f"{html.escape(str(verdict))}</span>{link}</p>"
            )
            if judgement.statistics:
                parts.append(_statistics_html(judgement.statistics))
                if judgement.former:
                    parts.append('<p class="note">What would decide with few seeds:</p>')
                    parts.append(_statistics_html(judgement.former))
            elif judgement.how_to_measure:
                parts.append(
                    f'<p class="note">To measure it: <code>{html.escape(judgement.how_to_measure)}'
                    "</code></p>"
                )
            if judgement.remark:
                parts.append(f'<p class="note">{html.escape(judgement.remark)}</p>')
        for rule in dict.fromkeys(judgement.rule for judgement in mine if judgement.rule):
            parts.append(f'<p class="note rule">{html.escape(rule)}</p>')
        parts.append("</section>")
    return "\n".join(parts) + "\n"


def _statistics_html(statistics: Sequence[Statistic]) -> str:
    heads = (*HEADER[2:8], "")
    rows = []
    for statistic in statistics:
        holds = {True: "holds", False: "fails", None: "open"}[statistic.holds]
        cells = (
            statistic.name,
            number(statistic.value),
            _within(statistic),
            _seeds(statistic),
            _interval(statistic),
            _threshold(statistic),
            holds,
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    return (
        f'<div class="scroll"><table class="statistics"><thead><tr>{head}</tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity: what is not finite becomes a word or null."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("infinity" if value > 0 else "-infinity")


def ledger_records(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The ledger as plain records, ready for JSON."""
    return [
        {
            "claim": judgement.number,
            "statement": judgement.claim,
            "dataset": judgement.dataset,
            "verdict": str(judgement.verdict),
            "rule": judgement.rule,
            "figure": judgement.figure,
            "remark": judgement.remark,
            "how_to_measure": judgement.how_to_measure,
            "statistics": [_record(statistic) for statistic in judgement.statistics],
            "former": [_record(statistic) for statistic in judgement.former],
        }
        for judgement in judgements
    ]


def _record(statistic: Statistic) -> dict[str, Any]:
    return {
        "name": statistic.name,
        "value": _finite(statistic.value),
        "values_by_seed": [_finite(v.value) for v in statistic.values],
        "error_within_run": _finite(statistic.within_error),
        "error_within_run_is_of": statistic.within,
        "error_between_seeds": _finite(statistic.seed_error),
        "interval_95": [_finite(end) for end in statistic.interval],
        "threshold": statistic.threshold,
        "claim_is_above": statistic.above,
        "comparisons": max(
            statistic.comparisons,
            *(v.comparisons for v in statistic.values if isinstance(v, Bounded)),
            1,
        ),
        "holds": statistic.holds,
    }


def write_ledger(judgements: Sequence[Judgement], directory: Path) -> tuple[Path, Path]:
    """Write `claims.json` and `claims.md`; returns their paths."""
    content = json.dumps(ledger_records(judgements), indent=2, ensure_ascii=False) + "\n"
    return (
        write_whole(directory / "claims.json", content),
        write_whole(directory / "claims.md", ledger_markdown(judgements)),
    )
