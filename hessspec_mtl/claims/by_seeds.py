"""Statistics for studies of many seeds: what decides a claim is then how it comes out seed by seed.

With few seeds an interval must come from within the runs: epochs at the end of training, two probes
of a density (one degree of freedom), the largest of many numbers with intervals that hold together.
With `ENOUGH` seeds or more all of that is in the spread between them, and what decides is

- of a number: its mean over seeds with Student's interval. What seeds share (the sampling of the
  test set) or cannot tell (what Lanczos leaves open) is added, once. The largest or smallest of
  several numbers is that of their means over seeds, its interval widened for those that may be it;
- of something that is said to happen at times (a ratio beyond ten, a change of sign): the share of
  runs in which it was seen beyond that run's own error, with Wilson's interval. It must be seen in
  more than half of the runs. What was not seen at the analysed epochs never speaks against a claim,
  unless all epochs were analysed.

Fixed before the runs with ten seeds; the statistics for few seeds stand beside these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from hessspec_mtl.claims.spectra import near_zero, rank_bounds, rises
from hessspec_mtl.claims.statistics import LEVEL, Bounded, Judgement, Statistic, Verdict
from hessspec_mtl.claims.traces import seen_so_far, sign_flip, traces_of, widest_log, widest_ratio
from hessspec_mtl.claims.training import FinalErrors, sampling_of_ratio, share_interval
from hessspec_mtl.curvature.spectra import Measured, TaskSpectrum
from hessspec_mtl.study.records import SeedRun, Study

ENOUGH = 5
POWER = 0.8
SEEDS_ONLY = "the spread over seeds holds it"
RUNS = "counting runs"

_RULE = (
    f" With {ENOUGH} seeds or more numbers are means over seeds with Student's interval, and what "
    "is said to happen at times must be seen in more than half of the runs."
)


@dataclass(frozen=True)
class Item:
    """A number as each seed gave it.

    Attributes:
        low: what it is at least, by seed.
        high: what it is at most; the same where nothing but the seed is uncertain.
        shared: standard error of what all seeds share.
    """

    low: Float[np.ndarray, " seeds"]
    high: Float[np.ndarray, " seeds"]
    shared: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float], shared: float = 0.0) -> Item:
        array = np.array(values, np.float64)
        return cls(array, array, shared)

    @classmethod
    def between(cls, bounds: Sequence[tuple[float, float]]) -> Item:
        """Of what each seed knows by two ends alone."""
        low, high = np.array(bounds, np.float64).T
        return cls(low, high)

    @property
    def middle(self) -> Float[np.ndarray, " seeds"]:
        return 0.5 * (self.low + self.high)

    def mirrored(self) -> Item:
        return Item(-self.high, -self.low, self.shared)

    def ends(self, comparisons: int = 1) -> tuple[float, float]:
        """Of the interval of the mean over seeds, Bonferroni for `comparisons`."""
        tail = 0.5 * (1 - LEVEL) / comparisons
        student = float(stats.t.isf(tail, self.low.size - 1))
        normal = float(stats.norm.isf(tail))

        def half(values: np.ndarray) -> float:
            spread = float(values.std(ddof=1)) / values.size**0.5
            return float(np.hypot(student * spread, normal * self.shared))

        return float(self.low.mean()) - half(self.low), float(self.high.mean()) + half(self.high)


def largest_item(shown: Statistic, items: Sequence[Item]) -> Statistic:
    """`shown` with the item that is largest on average, and an interval for the largest of all."""
    best = max(range(len(items)), key=lambda index: float(items[index].middle.mean()))
    floor = items[best].ends()[0]
    # The others stay below it even if each is as large as its plain interval allows.
    close = [item for item in items if not item.ends()[1] < floor]
    low = max(item.ends(len(close))[0] for item in close)
    high = max(item.ends()[1] for item in close)
    values = tuple(Measured(float(value), np.nan) for value in items[best].middle)
    return replace(shown, values=values, within=SEEDS_ONLY, fixed=(low, high))


def smallest_item(shown: Statistic, items: Sequence[Item]) -> Statistic:
    """The same of the item that is smallest on average."""
    found = largest_item(shown, [item.mirrored() for item in items])
    low, high = found.fixed or (-np.inf, np.inf)
    values = tuple(replace(value, value=-value.value) for value in found.values)
    return replace(found, values=values, fixed=(-high, -low))


def share_of_runs(shown: Statistic, of_runs: Sequence[Bounded]) -> Statistic:
    """In which share of the runs `shown` holds beyond that run's own error."""
    seen = [shown.threshold < item.low for item in of_runs]
    refuted = [item.high < shown.threshold for item in of_runs]
    low, _ = share_interval(sum(seen), len(seen))
    _, high = share_interval(len(seen) - sum(refuted), len(seen))
    return Statistic(
        f"share of runs in which this is above {shown.threshold:.3g}: {shown.name}",
        tuple(Measured(float(one), 0.0) for one in seen),
        0.5,
        above=True,
        within=RUNS,
        support=(0.0, 1.0),
        fixed=(low, high),
    )


def with_many_seeds(judgement: Judgement, study: Study) -> Judgement:
    """The judgement by these statistics, where there are seeds enough; those before beside them.

    One that is open says how many seeds would decide it.
    """
    better = _BETTER.get(judgement.number)
    found = judgement
    if len(study.runs) >= ENOUGH and judgement.statistics and better is not None:
        statistics = better(judgement.statistics, study)
        former = tuple(s for s in judgement.statistics if s not in statistics)
        found = replace(
            judgement, statistics=statistics, former=former, rule=judgement.rule + _RULE
        )
    if found.verdict is Verdict.UNDECIDED and len(study.runs) > 1:
        said = [decided_by(statistic) for statistic in found.statistics if statistic.holds is None]
        found = replace(found, remark=" ".join([*filter(None, [found.remark]), *said]))
    return found


def decided_by(statistic: Statistic) -> str:
    """How many seeds would decide an open statistic, in a sentence."""
    number = seeds_to_decide(statistic)
    if number is None:
        return (
            f"No number of seeds decides “{statistic.name}” as it is measured: what is not of the "
            "seeds alone reaches over the threshold."
        )
    return (
        f"About {number:,} seeds would decide “{statistic.name}” with a chance of {POWER:.0%}, if "
        "mean and spread stay as they are."
    )


def seeds_to_decide(statistic: Statistic) -> int | None:
    """So many seeds put the interval on one side of the threshold with the chance `POWER`.

    The spread between seeds and the mean are taken to be what was seen. What the interval has
    beyond Student's stays as wide as it is. None where no number of seeds would do.
    """
    values = np.array([measured.value for measured in statistic.values])
    mean, count = float(values.mean()), values.size
    distance = abs(mean - statistic.threshold)
    low, high = statistic.interval
    reach = mean - low if mean > statistic.threshold else high - mean
    spread = float(values.std(ddof=1))
    student = float(stats.t.isf(0.5 * (1 - LEVEL), count - 1)) * spread / count**0.5
    power = float(stats.norm.ppf(POWER))
    if statistic.within == RUNS:
        if not mean > 0.5:
            return None
        # The half-width of a share about 1/2, and its deviation.
        factor = float(stats.norm.isf(0.5 * (1 - LEVEL))) + power
        return int(np.ceil(max(count + 1, (0.5 * factor / distance) ** 2)))
    left = distance - max(reach - student, 0.0)
    if not np.isfinite(reach) or left <= 0:
        return None
    for number in (*range(count + 1, 1000), *np.geomspace(1000, 1e6, 60).astype(int)):
        quantile = float(stats.t.isf(0.5 * (1 - LEVEL), number - 1)) + power
        if quantile * spread / number**0.5 <= left:
            return int(number)
    return None


Better = Callable[[tuple[Statistic, ...], Study], tuple[Statistic, ...]]


def _rough_equality(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    training, test = former
    pairs = [(i, j) for i in range(len(study.tasks)) for j in range(len(study.tasks)) if i != j]
    errors = [FinalErrors(study, run, "test", _names(study)) for run in study.runs]
    return training, largest_item(test, [_item(errors, pair, ratio=True) for pair in pairs])


def _poisson_ratio(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    names = _names(study)
    (poisson,) = [i for i, name in enumerate(names) if name.lower().startswith("poisson")]
    errors = [FinalErrors(study, run, "test", names) for run in study.runs]
    moduli = [i for i in range(len(names)) if names[i].lower().replace("_", "") in _MODULI]
    return (smallest_item(former[0], [_item(errors, (poisson, other)) for other in moduli]),)


_MODULI = ("logg", "logk")


def _oscillator_strengths(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    names = _names(study)
    errors = [FinalErrors(study, run, "test", names) for run in study.runs]
    first, second = names.index("f1"), names.index("f2")
    others = range(len(names))
    lowest = [_item(errors, (other, first)) for other in others if other != first]
    highest = [_item(errors, (second, other)) for other in others if other != second]
    return smallest_item(former[0], lowest), smallest_item(former[1], highest)


def _multi_against_single(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    (ratio,) = former
    names = _names(study)
    runs = [run for run in study.runs if set(names) <= set(run.single_task)]
    if len(runs) < ENOUGH:
        return former
    sampling = float(np.mean([sampling_of_ratio(study, run, names) for run in runs]))
    item = Item.of([value.value for value in ratio.values], ratio.value * sampling)
    return (largest_item(ratio, [item]),)


def _item(errors: Sequence[FinalErrors], pair: tuple[int, int], *, ratio: bool = False) -> Item:
    """Difference (or ratio) of two tasks' errors at the end, with the sampling of the test set."""
    i, j = pair
    values, sampling = [], []
    for one in errors:
        value = one.means[i] / one.means[j] if ratio else one.means[i] - one.means[j]
        values.append(value)
        scale = np.abs(value) / one.means[[i, j]] if ratio else np.ones(2)
        sampling.append(np.hypot(*(one.sampling[[i, j]] * scale)))
    return Item.of(values, float(np.mean(sampling)))


def _traces_differ(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    def of(functional: Callable[[np.ndarray, np.ndarray], Bounded]) -> list[Bounded]:
        many = len(study.runs[0].curvature) * len(study.tasks)
        return [seen_so_far(functional(*traces_of(run, many)), run) for run in study.runs]

    tasks, epochs, signs = former
    return (
        share_of_runs(tasks, of(widest_ratio)),
        share_of_runs(epochs, of(lambda values, errors: widest_ratio(values.T, errors.T))),
        share_of_runs(signs, of(sign_flip)),
    )


def _concentrated(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    share, balance = former
    # Nodes do not tell where in their cells the eigenvalues are: that is no matter of seeds, and in
    # the density's own intervals.
    items = [
        Item.between([_ends_of_share(near_zero(s)) for s in of_runs])
        for of_runs in _by_place(study)
    ]
    return smallest_item(share, items), balance


def _ends_of_share(share: Measured) -> tuple[float, float]:
    """Of its interval: the whole of what a share can be where nothing was resolved."""
    return (share.low, share.high) if isinstance(share, Bounded) else (0.0, 1.0)


def _outliers(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    above, below, rise, between, share = former

    def risen(run: SeedRun) -> Bounded:
        paths = [_log_radii(path) for path in zip(*run.spectra, strict=True)]
        found = [rises(*path) for path in paths]
        low, high = (max(getattr(item, end) for item in found) for end in ("low", "high"))
        return seen_so_far(Bounded(max(f.value for f in found), low=low, high=high), run)

    def differing(run: SeedRun) -> Bounded:
        rows = [_log_radii(row) for row in run.spectra]
        return seen_so_far(widest_log(*np.stack(rows, axis=1)), run)

    return (
        above,
        below,
        share_of_runs(rise, [risen(run) for run in study.runs]),
        share_of_runs(between, [differing(run) for run in study.runs]),
        share,
    )


def _log_radii(spectra: Sequence[TaskSpectrum]) -> Float[np.ndarray, "3 spectra"]:
    """log10 of the largest |λ| that any probe saw, and of it less and plus its residual.

    A Ritz value is never beyond the extreme eigenvalue, and one lies within its residual: by that
    claim 10 judges extremes too. The spread over two probes knows next to nothing of either.
    """
    radii = np.array([max(s.radius, 1e-300) for s in spectra])
    off = np.array([min(s.extreme_residual(), 1.0) for s in spectra])
    tiny = np.finfo(np.float64).tiny
    return np.log10(np.stack([radii, np.maximum(radii * (1 - off), tiny), radii * (1 + off)]))


def _spreading(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    widening, parting = former
    changes = []
    for run in study.runs:
        ends = run.spectra[0], run.spectra[-1]
        limit = max(spectrum.blur for row in ends for spectrum in row)
        first, last = ([s.log_count_beyond(limit) for s in row] for row in ends)
        pairs = zip(first, last, strict=True)
        changes.append([(b.low - a.high, b.high - a.low) for a, b in pairs])
    items = [Item.between(of_runs) for of_runs in zip(*changes, strict=True)]
    return smallest_item(widening, items), parting


def _samples_for_trace(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    (median,) = former
    if all(run.hutchinson for run in study.runs):
        return former
    # A bound: what lies above what suffices decides nothing.
    _, high = Item.of([value.value for value in median.values]).ends()
    values = tuple(Measured(value.value, np.nan) for value in median.values)
    return (replace(median, values=values, within=SEEDS_ONLY, fixed=(0.0, high)),)


def _effective_rank(former: tuple[Statistic, ...], study: Study) -> tuple[Statistic, ...]:
    items = []
    for of_runs in zip(*(run.spectra[-1] for run in study.runs), strict=True):
        bounds = map(rank_bounds, of_runs)
        items.append(Item.between([(least.value, most.value) for least, most in bounds]))
    return (largest_item(former[0], items),)


def _by_place(study: Study) -> list[tuple[TaskSpectrum, ...]]:
    """The spectra of all runs, for each epoch and task."""
    flat = [[spectrum for row in run.spectra for spectrum in row] for run in study.runs]
    return list(zip(*flat, strict=True))


def _names(study: Study) -> list[str]:
    return [task.name for task in study.tasks]


_BETTER: Mapping[int, Better] = {
    1: _rough_equality,
    2: _poisson_ratio,
    3: _oscillator_strengths,
    4: _traces_differ,
    5: _concentrated,
    6: _outliers,
    7: _spreading,
    8: _multi_against_single,
    9: _samples_for_trace,
    11: _effective_rank,
}
