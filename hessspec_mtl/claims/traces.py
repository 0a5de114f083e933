"""Claims that traces decide: 4 and 9.

Errors within a run are probe errors, given the graphs that the loss was averaged over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hessspec_mtl.claims.statements import MEASURE, STATEMENTS
from hessspec_mtl.claims.statistics import Judgement, Statistic
from hessspec_mtl.spectra import Measured
from hessspec_mtl.study import SeedRun, Study

PAPER_SAMPLES = 500
ENOUGH_SAMPLES = 0.1  # relative error of a trace that we call sufficient
CERTAIN = 10.0  # standard errors beyond which a sign is certain


def traces_of(run: SeedRun) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors of the traces, one row an epoch, one column a task."""
    return (
        np.array([np.asarray(point.trace.value, np.float64) for point in run.curvature]),
        np.array([np.asarray(point.trace.standard_error, np.float64) for point in run.curvature]),
    )


def widest_ratio(values: np.ndarray, errors: np.ndarray) -> Measured:
    """log10 of the largest over the smallest magnitude in any row, and its error.

    A smallest magnitude that its own error covers counts as twice that error: the ratio is then
    a lower bound.
    """
    magnitudes = np.maximum(np.abs(values), 2.0 * errors)
    rows = np.arange(values.shape[0])
    big, small = np.abs(values).argmax(axis=1), magnitudes.argmin(axis=1)
    top, bottom = np.abs(values)[rows, big], magnitudes[rows, small]
    ratio = np.log10(np.where((top > 0) & (bottom > 0), top / np.where(bottom > 0, bottom, 1), 1))
    best = int(ratio.argmax())
    relative = np.hypot(
        errors[best, big[best]] / max(top[best], 1e-300),
        errors[best, small[best]] / max(bottom[best], 1e-300),
    )
    return Measured(float(ratio[best]), float(relative / np.log(10)))


def sign_flip(values: np.ndarray, errors: np.ndarray) -> Measured:
    """The margin, in standard errors, by which some column takes both signs.

    Positive: both a value above 0 and one below it, the nearer of the two this far from 0.
    Negative: every column keeps one sign, the least certain of its values this far from 0.
    Beyond `CERTAIN` standard errors the margin is cut: what is certain needs no average.
    """
    z = values / np.where(errors > 0, errors, np.finfo(np.float64).tiny ** 0.5)
    margin = np.minimum(z.max(axis=0), (-z).max(axis=0)).max()
    return Measured(float(np.clip(margin, -CERTAIN, CERTAIN)), 1.0)


def traces_differ(study: Study) -> Judgement:
    """Claim 4: ratios between tasks, ratios between epochs, changes of sign."""
    measured = (
        [traces_of(run) for run in study.runs]
        if all(len(run.curvature) >= 2 for run in study.runs)
        else []
    )
    statistics = (
        (
            Statistic(
                "log₁₀ of the largest ratio of traces between tasks at one epoch",
                tuple(widest_ratio(v, e) for v, e in measured),
                1.0,
                above=True,
            ),
            Statistic(
                "log₁₀ of the largest ratio of traces between epochs of one task",
                tuple(widest_ratio(v.T, e.T) for v, e in measured),
                1.0,
                above=True,
            ),
            Statistic(
                "margin of a change of sign within one task, in standard errors "
                f"(at most {CERTAIN:g})",
                tuple(sign_flip(v, e) for v, e in measured),
                0.0,
                above=True,
                comparisons=measured[0][0].size,
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
        "error (corrected for the number of traces looked at).",
        "figure4",
        how_to_measure=MEASURE,
    )


def samples_for_trace(study: Study) -> Judgement:
    """Claim 9: the relative error that 500 Rademacher samples leave on a trace.

    The samples of a plain Hutchinson run give it directly. Without one, the Frobenius norm bounds
    it: the variance of v'Hv is 2(‖H‖² - Σ H_ii²), at most 2‖H‖².
    """
    direct = all(run.hutchinson for run in study.runs)

    def from_samples(run: SeedRun) -> Measured:
        ratios = []
        for estimate in run.hutchinson.values():
            samples = np.asarray(estimate.samples, np.float64)
            error = samples.std(axis=-1, ddof=1) / PAPER_SAMPLES**0.5
            ratios += [
                Measured(float(e / abs(v)), float(e / v**2 * s), samples.shape[-1] - 1)
                for e, v, s in zip(
                    np.atleast_1d(error),
                    np.atleast_1d(estimate.value),
                    np.atleast_1d(estimate.standard_error),
                    strict=True,
                )
            ]
        return median_item(ratios)

    def from_norm(run: SeedRun) -> Measured:
        values, errors = traces_of(run)
        ratios = []
        for e, row in enumerate(run.spectra):
            for t, spectrum in enumerate(row):
                square = spectrum.dim * float(spectrum.density.moment(2))
                bound = (2.0 * square / PAPER_SAMPLES) ** 0.5 / max(abs(values[e, t]), 1e-300)
                relative = errors[e, t] / max(abs(values[e, t]), 1e-300)
                ratios.append(Measured(float(bound), float(bound * relative)))
        return median_item(ratios)

    available = direct or all(len(run.curvature) >= 1 for run in study.runs)
    kind = "" if direct else "bound on the "
    return Judgement(
        9,
        STATEMENTS[9],
        study.name,
        (
            Statistic(
                f"{kind}relative standard error of a trace from {PAPER_SAMPLES} samples, "
                "median over tasks and epochs",
                tuple(from_samples(run) if direct else from_norm(run) for run in study.runs),
                ENOUGH_SAMPLES,
                above=False,
            ),
        )
        if available
        else (),
        f"Reproduced if the typical relative error is below {ENOUGH_SAMPLES:.0%}.",
        "figure4",
        remark=""
        if direct
        else "No run with plain samples: the error is bounded by (2/500)^(1/2) ‖H‖ / |tr H|, which "
        "the diagonal of H can only lower.",
        how_to_measure=MEASURE,
    )


def median_item(items: Sequence[Measured]) -> Measured:
    """The item in the middle (the upper of two), with its own error."""
    return sorted(items, key=lambda item: item.value)[len(items) // 2]
