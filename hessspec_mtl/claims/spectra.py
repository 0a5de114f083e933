"""Claims that spectra decide: 5, 6, 7, 10 and 11.

Errors within a run are probe errors, given the graphs that the loss was averaged over. Nothing
is judged inside the cell about 0 that Lanczos does not look into, nor inside float32's resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from hessspec_mtl.claims.statements import MEASURE, STATEMENTS
from hessspec_mtl.claims.statistics import (
    Bounded,
    Judgement,
    Statistic,
    average,
    ends,
    largest,
    mirrored,
    smallest,
)
from hessspec_mtl.claims.traces import seen_so_far, traces_of, widest_log
from hessspec_mtl.curvature.spectra import Measured, TaskSpectrum, measured_by_probes
from hessspec_mtl.study.records import SeedRun, Study

NEAR_ZERO = 0.01  # of the largest |eigenvalue|: what is smaller is "near 0", the rest outliers
RARE = -3.0  # log10 of the share of eigenvalues that outliers may be
COMES_AND_GOES = 3.0  # factor by which an outlier must rise and fall again
DIFFERS = 2.0  # factor between tasks
PAPER_STEPS = 100
EXTREME_RESIDUAL = 0.01  # residual of an extreme eigenvalue, relative to the largest
LOW_RANK = 0.1  # effective rank as a share of P: "significantly less"
Spectra = list[list[TaskSpectrum]]  # by epoch, then by task


def _count(spectra: Spectra) -> int:
    """How many spectra there are, from which one is picked."""
    return sum(map(len, spectra))


def _measured(study: Study, minimum: int) -> bool:
    return all(len(run.curvature) >= minimum for run in study.runs)


def _per_seed(study: Study, functional: Callable[[Spectra], Measured]) -> tuple[Measured, ...]:
    return tuple(functional(run.spectra) for run in study.runs)


def near_zero(spectrum: TaskSpectrum, comparisons: int = 1) -> Measured:
    """Share of eigenvalues of magnitude at most `NEAR_ZERO` of the largest."""
    limit = NEAR_ZERO * spectrum.radius
    share = spectrum.mass_within(limit, comparisons)
    # Inside the resolution neither size nor sign is known: such a limit would count noise.
    return share if limit > spectrum.resolution else Measured(share.value)


def one_sidedness(spectrum: TaskSpectrum) -> Measured:
    """|Σ λ| / Σ |λ| over the eigenvalues above `NEAR_ZERO` of the largest.

    0 for a spectrum that balances about 0, 1 for one on one side of it. Smaller eigenvalues are
    left out: neither Lanczos nor single precision resolves their signs.
    """
    limit = NEAR_ZERO * spectrum.radius

    def functional(nodes: np.ndarray, weights: np.ndarray) -> float:
        far = np.where(np.abs(nodes) > limit, weights, 0.0)
        return float(abs(far @ nodes) / max(float(far @ np.abs(nodes)), np.finfo(float).tiny))

    return spectrum.measure(functional)


def concentrated(study: Study) -> Judgement:
    """Claim 5: mass near 0, and how one-sided the spectra are."""

    def least(spectra: Spectra) -> Measured:
        return smallest([near_zero(s, _count(spectra)) for row in spectra for s in row])

    def balance(spectra: Spectra) -> Measured:
        return average([one_sidedness(s) for row in spectra for s in row])

    statistics = (
        (
            Statistic(
                f"least share of eigenvalues within {NEAR_ZERO:.0%} of the largest |λ|",
                _per_seed(study, least),
                0.5,
                above=True,
                support=(0.0, 1.0),
            ),
            Statistic(
                "|Σ λ| / Σ |λ| of the eigenvalues above that, mean over tasks and epochs",
                _per_seed(study, balance),
                0.5,
                above=False,
                support=(0.0, 1.0),
            ),
        )
        if _measured(study, 1)
        else ()
    )
    return Judgement(
        5,
        STATEMENTS[5],
        study.name,
        statistics,
        "Reproduced if more than half of the eigenvalues are near 0 for every task and epoch, and "
        "positive and negative ones among the others balance by more than half.",
        "figure5",
        remark=(
            "No image classifier is measured here: a spectrum on one side of 0, the extreme case, "
            "has the ratio 1, and the claim is judged against half of that."
        ),
        how_to_measure=MEASURE,
    )


def outliers(study: Study) -> Judgement:
    """Claim 6: rarity on either side, rise and fall, difference between tasks, the trace."""

    def rarest(sign: int) -> Callable[[SeedRun], Measured]:
        def functional(run: SeedRun) -> Measured:
            many = _count(run.spectra)
            shares = [log_share_far(s, sign, many) for row in run.spectra for s in row]
            return mirrored(seen_so_far(largest([mirrored(share) for share in shares]), run))

        return functional

    def rise_and_fall(run: SeedRun) -> Measured:
        # Already bounded for all tasks and epochs together.
        paths = zip(*run.spectra, strict=True)
        return seen_so_far(largest([prominence(path, len(study.tasks)) for path in paths]), run)

    def between_tasks(run: SeedRun) -> Measured:
        rows = [_log_radii(row, len(run.spectra) * len(row)) for row in run.spectra]
        return seen_so_far(widest_log(*np.stack(rows, axis=1)), run)

    def share_of_trace(run: SeedRun) -> Measured:
        values, errors = traces_of(run)
        return average(
            [
                outlier_share(spectrum, float(values[e, t]), float(errors[e, t]))
                for e, row in enumerate(run.spectra)
                for t, spectrum in enumerate(row)
            ]
        )

    statistics = (
        (
            Statistic(
                "log₁₀ of the share of eigenvalues above 1% of the largest positive one, least",
                tuple(map(rarest(1), study.runs)),
                RARE,
                above=False,
                support=(-np.inf, 0.0),
            ),
            Statistic(
                "log₁₀ of the share of eigenvalues below 1% of the most negative one, least",
                tuple(map(rarest(-1), study.runs)),
                RARE,
                above=False,
                support=(-np.inf, 0.0),
            ),
            Statistic(
                "log₁₀ of the largest rise and fall of one task's largest |λ|",
                tuple(map(rise_and_fall, study.runs)),
                float(np.log10(COMES_AND_GOES)),
                above=True,
                support=(0.0, np.inf),
            ),
            Statistic(
                "log₁₀ of the largest ratio between tasks of the largest |λ| at one epoch",
                tuple(map(between_tasks, study.runs)),
                float(np.log10(DIFFERS)),
                above=True,
                support=(0.0, np.inf),
            ),
            Statistic(
                "share of outliers in the trace, mean over tasks and epochs",
                tuple(share_of_trace(run) for run in study.runs),
                0.5,
                above=True,
                support=(0.0, 1.0),
            ),
        )
        if _measured(study, 3)
        else ()
    )
    return Judgement(
        6,
        STATEMENTS[6],
        study.name,
        statistics,
        "Reproduced if for some task and epoch fewer than one eigenvalue in a thousand comes "
        "within a factor of 100 of the extreme one, on either side of 0; the largest |λ| of some "
        "task rises and falls by a factor of "
        f"{COMES_AND_GOES:g} and differs between tasks by one of {DIFFERS:g}; and eigenvalues "
        f"above {NEAR_ZERO:.0%} of the largest make up more than half of the trace. What was not "
        "seen at the analysed epochs does not speak against the claim, unless all were analysed.",
        "figure6",
        how_to_measure=MEASURE,
    )


def log_share_far(spectrum: TaskSpectrum, sign: int, comparisons: int = 1) -> Measured:
    """log10 of the share of eigenvalues beyond `NEAR_ZERO` of the extreme one of one sign.

    0, the share of all, if there is no eigenvalue of that sign.
    """
    extreme = float((sign * spectrum.nodes[spectrum.weights > 0]).max())
    if extreme <= spectrum.resolution:
        return Measured(0.0, 0.0)
    limit = NEAR_ZERO * extreme
    ends = (limit, np.inf) if sign > 0 else (-np.inf, -limit)
    count, whole = spectrum.log_count(*ends, comparisons), float(np.log10(spectrum.dim))
    return replace(count, value=count.value - whole, low=count.low - whole, high=count.high - whole)


def _log_radii(spectra: Sequence[TaskSpectrum], comparisons: int) -> Float[np.ndarray, "3 spectra"]:
    """log10 of the largest |λ|: values, lower ends, upper ends that hold together."""
    logs = [measured_by_probes(np.log10(np.maximum(s.radii, 1e-300))) for s in spectra]
    return np.array([(log.value, *ends(log, comparisons)) for log in logs]).T


def prominence(path: Sequence[TaskSpectrum], num_tasks: int = 1) -> Bounded:
    """log10 of the factor by which the largest |λ| rises to some epoch and falls again after it.

    A peak is picked among all epochs, and among `num_tasks` paths: the interval is that of the
    extreme cases of sizes whose intervals hold together.
    """
    many = len(path) * num_tasks
    return replace(rises(*_log_radii(path, many)), comparisons=many)


def rises(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Bounded:
    """The largest rise and fall along `values`, each known to lie from `low` to `high`."""

    def rise(top: np.ndarray, foot: np.ndarray) -> float:
        before, after = np.minimum.accumulate(foot), np.minimum.accumulate(foot[::-1])[::-1]
        # `fmax`: without any end, infinity less infinity, nothing is known to rise.
        with np.errstate(invalid="ignore"):
            return float(np.fmax(np.minimum(top - before, top - after), 0.0).max())

    return Bounded(rise(values, values), low=rise(low, high), high=rise(high, low))


def outlier_share(spectrum: TaskSpectrum, trace: float, trace_error: float) -> Measured:
    """|S| / (|S| + |tr H - S|), S the sum of the eigenvalues above `NEAR_ZERO` of the largest.

    The trace is that of its own probes: the sum of all nodes would ask where in its cell the
    many eigenvalues about 0 lie, which Lanczos does not tell.
    """
    limit = NEAR_ZERO * spectrum.radius
    outside = spectrum.measure(
        lambda x, w: spectrum.dim * float(np.where(np.abs(x) > limit, w, 0.0) @ x)
    )
    rest = abs(trace - outside.value)
    whole = max(abs(outside.value) + rest, np.finfo(float).tiny)
    error = float(np.hypot(outside.error, trace_error)) / whole
    return Measured(abs(outside.value) / whole, min(error, 1.0), outside.dof)


def spreading(study: Study) -> Judgement:
    """Claim 7: from first to last epoch the tasks' spectra widen, and their widths part."""

    def counts(spectra: Spectra) -> tuple[list[Bounded], list[Bounded]]:
        ends = (spectra[0], spectra[-1])
        # The smallest size that every task resolves at both ends.
        limit = max(spectrum.blur for row in ends for spectrum in row)
        many = 2 * len(spectra[0])
        first, last = ([s.log_count_beyond(limit, many) for s in row] for row in ends)
        return first, last

    def widening(spectra: Spectra) -> Measured:
        pairs = zip(*counts(spectra), strict=True)
        return smallest([_difference(last, first) for first, last in pairs])

    def parting(spectra: Spectra) -> Measured:
        many = 2 * len(spectra[0])

        def spread(logs: Sequence[Measured]) -> Bounded:
            return widest_log(*np.array([[(m.value, *ends(m, many))] for m in logs]).T)

        first, last = map(spread, counts(spectra))
        return Bounded(
            last.value - first.value,
            low=last.low - first.high,
            high=last.high - first.low,
            comparisons=many,
        )

    statistics = (
        (
            Statistic(
                "log₁₀ of the number of eigenvalues above the resolved size, last over first "
                "epoch, least over tasks",
                _per_seed(study, widening),
                0.0,
                above=True,
            ),
            Statistic(
                "log₁₀ of the ratio of these numbers between tasks, last minus first epoch",
                _per_seed(study, parting),
                0.0,
                above=True,
            ),
        )
        if _measured(study, 2)
        else ()
    )
    first = min((point.epoch for run in study.runs for point in run.curvature), default=0)
    return Judgement(
        7,
        STATEMENTS[7],
        study.name,
        statistics,
        "Reproduced if from epoch "
        f"{first} to the last the number of eigenvalues above the resolved size grows for every "
        "task, and its ratio between tasks grows. The resolved size is the smallest that Lanczos "
        "tells from 0 for every task at both epochs.",
        "figure5",
        how_to_measure=MEASURE,
    )


def _difference(a: Bounded, b: Bounded) -> Bounded:
    """a - b, and what it can be where both lie in their intervals."""
    error = float(np.hypot(a.error, b.error))
    many = max(a.comparisons, b.comparisons)
    return Bounded(
        a.value - b.value, error, low=a.low - b.high, high=a.high - b.low, comparisons=many
    )


def lanczos_steps(study: Study) -> Judgement:
    """Claim 10: residuals of the extreme Ritz values, relative to the largest |λ|."""
    steps = [np.shape(p.density.nodes)[-1] for run in study.runs for p in run.curvature]
    statistics: tuple[Statistic, ...] = ()
    if _measured(study, 1):
        worst = tuple(
            Measured(max(s.extreme_residual() for row in run.spectra for s in row), 0.0)
            for run in study.runs
        )
        statistic = Statistic(
            "largest residual of an extreme eigenvalue, relative to the largest |λ|",
            worst,
            EXTREME_RESIDUAL,
            above=False,
            within="exact",
            support=(0.0, np.inf),
        )
        # Fewer steps than the paper's that do not suffice say nothing about the paper's.
        if min(steps) >= PAPER_STEPS or statistic.holds:
            statistics = (statistic,)
    used = f"Here {min(steps)} steps were taken." if steps and min(steps) != PAPER_STEPS else ""
    return Judgement(
        10,
        STATEMENTS[10],
        study.name,
        statistics,
        f"Reproduced if the residual bounds the error of both extremes by {EXTREME_RESIDUAL:.0%} "
        "of the largest |λ|, for all tasks and epochs. The density between them is judged by the "
        "known spectrum of appendix E.",
        "figure6",
        remark=used,
        how_to_measure="python -m hessspec_mtl.reproduce --preset paper",
    )


def rank_share(spectrum: TaskSpectrum, comparisons: int = 1) -> Bounded:
    """(Σ|λ|)² / Σλ² as a share of P, with an interval that Lanczos cannot overstate.

    Either of `rank_bounds` varies from probe to probe, by Student's t with one degree of freedom
    fewer than there are probes.
    """
    least, most = rank_bounds(spectrum)
    return Bounded(
        0.5 * (least.value + most.value),
        low=max(ends(least, comparisons)[0], 0.0),
        high=ends(most, comparisons)[1],
        comparisons=comparisons,
    )


def rank_bounds(spectrum: TaskSpectrum) -> tuple[Measured, Measured]:
    """A lower and an upper bound on (Σ|λ|)² / Σλ² as a share of P, each a mean over probes.

    Σλ² is exact for the measure of each start. Of Σ|λ| the nodes give a lower bound, since a
    node is a mean of what it stands for; for those below `NEAR_ZERO` of the largest, Cauchy and
    Schwarz give the upper bound (mass · Σ w λ²)^(1/2).
    """
    limit = NEAR_ZERO * spectrum.radius

    def bound(nodes: np.ndarray, weights: np.ndarray, *, upper: bool) -> float:
        near = np.where(np.abs(nodes) <= limit, weights, 0.0)
        first = float(weights @ np.abs(nodes))
        if upper:
            first += float((near.sum() * (near @ nodes**2)) ** 0.5 - near @ np.abs(nodes))
        return first**2 / max(float(weights @ nodes**2), np.finfo(float).tiny)

    least, most = (
        spectrum.measure(lambda x, w, upper=upper: bound(x, w, upper=upper))
        for upper in (False, True)
    )
    return least, most


def effective_rank(study: Study) -> Judgement:
    """Claim 11: (Σ|λ|)² / Σλ², as a share of P, at the last analysed epoch."""

    def highest(spectra: Spectra) -> Measured:
        return largest([rank_share(s, len(spectra[-1])) for s in spectra[-1]])

    statistics: tuple[Statistic, ...] = ()
    remark = ""
    if _measured(study, 1):
        values = _per_seed(study, highest)
        statistics = (
            Statistic(
                "effective rank (Σ|λ|)² / Σλ² as a share of P, largest over tasks",
                values,
                LOW_RANK,
                above=False,
                support=(0.0, 1.0),
            ),
        )
        low, high = (study.num_params * end for end in statistics[0].interval)
        known = f"between {max(low, 1.0):,.0f} and {high:,.0f}"
        about = f"about {study.num_params * statistics[0].value:,.0f}"
        remark = (
            f"Effective rank {known if np.isfinite(high) else about} of {study.num_params:,} "
            "parameters; it is the rank of the Hessian, which stands for the dimension of the "
            "latent space."
        )
    return Judgement(
        11,
        STATEMENTS[11],
        study.name,
        statistics,
        f"Reproduced if the effective rank is below {LOW_RANK:.0%} of P for every task.",
        "figure6",
        remark=remark,
        how_to_measure=MEASURE,
    )
