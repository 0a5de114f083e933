"""Claims that traces decide: 4 and 9.

Errors within a run are probe errors, given the graphs that the loss was averaged over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from hessspec_mtl.claims.statements import MEASURE, STATEMENTS
from hessspec_mtl.claims.statistics import LEVEL, Bounded, Judgement, Statistic, ends
from hessspec_mtl.curvature.spectra import Measured
from hessspec_mtl.study.records import SeedRun, Study

PAPER_SAMPLES = 500
ENOUGH_SAMPLES = 0.1  # relative error of a trace that we call sufficient
CERTAIN = 10.0  # standard errors beyond which a sign is certain


def quantile(comparisons: int = 1) -> float:
    """Of the normal law: two-sided at 95 % for `comparisons` numbers together (Bonferroni)."""
    return float(stats.norm.isf(0.5 * (1.0 - LEVEL) / comparisons))


def traces_of(run: SeedRun, comparisons: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values and errors of the traces, one row an epoch, one column a task.

    The errors times `quantile(comparisons)` are half the traces' own confidence intervals, at
    the level where all `comparisons` of them hold together: 1.96 errors are what figure 4 draws.
    """
    level = 1.0 - (1.0 - LEVEL) / comparisons
    values = [np.asarray(point.trace.value, np.float64) for point in run.curvature]
    half = [point.trace.half_width(level) for point in run.curvature]
    return np.array(values), np.array(half) / quantile(comparisons)


def widest_ratio(values: Float[np.ndarray, "rows many"], errors: np.ndarray) -> Bounded:
    """log10 of the largest over the smallest magnitude in any row, and an interval for it.

    Every magnitude has an interval, all of them hold together, and the ratio lies between the
    ratios of their ends. A magnitude that its own error covers may be 0: the ratio is then a lower
    bound (its value counts twice the error) that can support a claim but never refute one.
    """
    known = np.isfinite(values) & ~np.isnan(errors)
    magnitudes, errors = np.where(known, np.abs(values), 0.0), np.where(known, errors, np.inf)
    half = quantile(values.size) * errors
    low, high = np.maximum(magnitudes - half, 0.0), magnitudes + half
    floored = np.maximum(magnitudes, 2.0 * errors)
    return widest_log(_log10(magnitudes), _log10(low), _log10(high), smallest=_log10(floored))


def widest_log(
    values: Float[np.ndarray, "rows many"],
    low: np.ndarray,
    high: np.ndarray,
    smallest: np.ndarray | None = None,
) -> Bounded:
    """The largest difference within a row, of numbers known to lie from `low` to `high` together.

    Args:
        values: of the numbers.
        low: lower ends, -inf where there is none.
        high: upper ends.
        smallest: what stands for a value where it is the smaller of the two.
    """
    with np.errstate(invalid="ignore"):
        value = values.max(axis=1) - (values if smallest is None else smallest).min(axis=1)
        least = low.max(axis=1) - high.min(axis=1)
        most = high.max(axis=1) - low.min(axis=1)
    return Bounded(
        max(0.0, float(np.nanmax(value, initial=0.0))),
        low=max(0.0, float(np.nanmax(least, initial=0.0))),
        high=float(np.where(np.isnan(most), np.inf, most).max()),
        comparisons=values.size,
    )


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log10(values)


def seen_so_far(item: Bounded, run: SeedRun) -> Bounded:
    """The largest over analysed epochs as one over all epochs of training: a lower bound of it.

    What happened between the analysed epochs was not looked at, so that such a number can speak
    for a claim and never against it. Where every epoch was analysed it stays as it is.
    """
    last = int(run.history["epoch"].max()) if len(run.history) else 0
    return item if len(run.curvature) > last else replace(item, high=np.inf)


def sign_flip(values: np.ndarray, errors: np.ndarray) -> Bounded:
    """The margin, in standard errors, by which some column takes both signs.

    Positive: both a value above 0 and one below it, the nearer of the two this far from 0.
    Negative: every column keeps one sign, the least certain of its values this far from 0.
    Beyond `CERTAIN` standard errors the margin is cut: what is certain needs no average. The
    interval is one quantile for all values together to either side; a value without an error
    counts for no sign, and where one is present nothing speaks against a change of sign.
    """
    known = np.isfinite(values) & np.isfinite(errors)
    z = np.where(known, values, 0.0) / np.where(
        known & (errors > 0), errors, np.finfo(np.float64).tiny ** 0.5
    )
    margin = float(np.clip(np.minimum(z.max(axis=0), (-z).max(axis=0)).max(), -CERTAIN, CERTAIN))
    reach = quantile(values.size)
    high = margin + reach if known.all() else np.inf
    return Bounded(margin, 1.0, low=margin - reach, high=high, comparisons=values.size)


def traces_differ(study: Study) -> Judgement:
    """Claim 4: ratios between tasks, ratios between epochs, changes of sign."""
    measured = (
        [traces_of(run, len(run.curvature) * len(study.tasks)) for run in study.runs]
        if all(len(run.curvature) >= 2 for run in study.runs)
        else []
    )
    runs = list(zip(study.runs, measured, strict=False))
    statistics = (
        (
            Statistic(
                "log₁₀ of the largest ratio of traces between tasks at one epoch",
                tuple(seen_so_far(widest_ratio(v, e), run) for run, (v, e) in runs),
                1.0,
                above=True,
                support=(0.0, np.inf),
            ),
            Statistic(
                "log₁₀ of the largest ratio of traces between epochs of one task",
                tuple(seen_so_far(widest_ratio(v.T, e.T), run) for run, (v, e) in runs),
                1.0,
                above=True,
                support=(0.0, np.inf),
            ),
            Statistic(
                "margin of a change of sign within one task, in standard errors "
                f"(at most {CERTAIN:g})",
                tuple(seen_so_far(sign_flip(v, e), run) for run, (v, e) in runs),
                0.0,
                above=True,
                support=(-CERTAIN, CERTAIN),
            ),
        )
        if measured
        else ()
    )
    return Judgement(
        4,
        STATEMENTS[4],
        study.name,
        statistics,
        "Reproduced if both ratios exceed 10 and some task's trace takes both signs beyond its "
        "error (corrected for the number of traces looked at). A ratio to a trace that its own "
        "error covers is a lower bound: it can speak for the claim but not against it. So is "
        "whatever was not seen at the analysed epochs, unless all epochs were analysed.",
        "figure4",
        how_to_measure=MEASURE,
    )


def samples_for_trace(study: Study) -> Judgement:
    """Claim 9: the relative error that 500 Rademacher samples leave on a trace.

    The samples of a plain Hutchinson run give it directly. Without one, the Frobenius norm bounds
    it: the variance of v'Hv is 2(‖H‖² - Σ H_ii²), at most 2‖H‖². A bound below what suffices
    decides for the claim; a bound above it decides nothing.
    """
    direct = all(run.hutchinson for run in study.runs)
    available = direct or all(len(run.curvature) >= 1 for run in study.runs)
    kind, where = "bound on the ", "tasks and analysed epochs"
    if direct:
        epochs = sorted({epoch for run in study.runs for epoch in run.hutchinson})
        kind = ""
        where = f"tasks at epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}"
    return Judgement(
        9,
        STATEMENTS[9],
        study.name,
        (
            Statistic(
                f"{kind}relative standard error of a trace from {PAPER_SAMPLES} samples, "
                f"median over {where}",
                tuple(
                    median_item(_from_samples(run) if direct else _from_norm(run))
                    for run in study.runs
                ),
                ENOUGH_SAMPLES,
                above=False,
                support=(0.0, np.inf),
            ),
        )
        if available
        else (),
        f"Reproduced if the typical relative error is below {ENOUGH_SAMPLES:.0%}.",
        "figure4",
        remark=""
        if direct
        else "No run with plain samples: the error is bounded by (2/500)^(1/2) ‖H‖ / |tr H|, which "
        "the diagonal of H can only lower. Such a bound can decide for the claim, not against it.",
        how_to_measure=MEASURE,
    )


def _relative(
    error: float, low: float, high: float, trace: float, reach: float, comparisons: int
) -> Bounded:
    """`error` in [low, high] over a trace within `reach`; unbounded if the trace may be 0."""
    size = abs(trace)
    return Bounded(
        error / max(size, np.finfo(np.float64).tiny),
        low=max(low, 0.0) / (size + reach) if size + reach > 0 else 0.0,
        high=high / (size - reach) if size > reach else np.inf,
        comparisons=comparisons,
    )


def _from_samples(run: SeedRun) -> list[Bounded]:
    """The error of `PAPER_SAMPLES` samples by the spread of those that were drawn.

    The variance of a sample variance, (m₄ - S⁴)/n for large n, is that of the distribution drawn.
    """
    ratios = []
    for estimate in run.hutchinson.values():
        samples = np.atleast_2d(np.asarray(estimate.samples, np.float64))
        many = samples.shape[0] * len(run.hutchinson)
        reach = np.atleast_1d(estimate.half_width(1.0 - (1.0 - LEVEL) / (2 * many)))
        values = np.atleast_1d(estimate.value)
        for row, value, half in zip(samples, values, reach, strict=True):
            error = float(row.std(ddof=1)) / PAPER_SAMPLES**0.5 if row.size > 1 else np.nan
            if not np.isfinite(error):
                ratios.append(Bounded(np.nan, comparisons=many))
                continue
            squares = (row - row.mean()) ** 2
            # Relative error of S is half that of S².
            relative = squares.std() / (2 * row.size**0.5 * max(squares.mean(), 1e-300))
            _, up = ends(Measured(0.0, float(relative), row.size - 1), 2 * many)
            down, up = error * (1.0 - up), error * (1.0 + up)
            ratios.append(_relative(error, down, up, float(value), float(half), many))
    return ratios


def _from_norm(run: SeedRun) -> list[Bounded]:
    """Upper bounds on the error of `PAPER_SAMPLES` samples, by the Frobenius norm."""
    many = len(run.spectra) * len(run.spectra[0])
    values, errors = traces_of(run, 2 * many)
    half = errors * quantile(2 * many)
    ratios = []
    for e, row in enumerate(run.spectra):
        for t, spectrum in enumerate(row):
            square = spectrum.measure(lambda x, w, dim=spectrum.dim: dim * float(w @ x**2))
            _, most = ends(square, 2 * many)
            bound, high = ((2.0 * s / PAPER_SAMPLES) ** 0.5 for s in (square.value, most))
            ratios.append(_relative(bound, 0.0, high, float(values[e, t]), float(half[e, t]), many))
    return ratios


def median_item(items: Sequence[Bounded]) -> Bounded:
    """The median (the upper of two) of values and of either end: ends that hold together."""
    middle = len(items) // 2
    value, low, high = (
        float(np.sort(column)[middle])
        for column in np.array([(item.value, item.low, item.high) for item in items]).T
    )
    return Bounded(value, low=low, high=high, comparisons=len(items))
