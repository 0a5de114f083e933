"""From measured numbers to a verdict, by one rule for all claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import stats

from hessspec_mtl.curvature.spectra import LEVEL, Bounded, Measured


class Verdict(StrEnum):
    """What we say of a claim of the paper."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured in this run"


def ends(item: Measured, comparisons: int = 1) -> tuple[float, float]:
    """The item's own interval, or the symmetric one of its error, Bonferroni for `comparisons`.

    The whole line where value or error is not a number: what was not measured is not ignored.
    """
    if isinstance(item, Bounded):
        return item.low, item.high
    if np.isnan(item.value) or np.isnan(item.error) or np.isinf(item.error):
        return -np.inf, np.inf
    if item.error == 0.0:
        return item.value, item.value
    half = float(stats.t.isf(0.5 * (1.0 - LEVEL) / comparisons, item.dof)) * item.error
    return item.value - half, item.value + half


def largest(items: Sequence[Measured]) -> Bounded:
    """The largest of several true numbers: the item of largest value, and an interval for it.

    The largest of noisy values tends to come out too large. Its lower end is therefore the
    highest of lower ends that hold for all items together; the upper end is the highest of the
    plain upper ends, since it is enough that the one of the truly largest item holds. An item
    without an error leaves the largest unbounded above.
    """
    best = max(items, key=lambda item: -np.inf if np.isnan(item.value) else item.value)
    return Bounded(
        best.value,
        best.error,
        best.dof,
        max(ends(item, len(items))[0] for item in items),
        max(ends(item)[1] for item in items),
        len(items),
    )


def smallest(items: Sequence[Measured]) -> Bounded:
    """The smallest of several true numbers: `largest` mirrored."""
    top = largest([mirrored(item) for item in items])
    return replace(top, value=-top.value, low=-top.high, high=-top.low)


def mirrored(item: Measured) -> Measured:
    """Minus the number, its interval turned round."""
    if isinstance(item, Bounded):
        return replace(item, value=-item.value, low=-item.high, high=-item.low)
    return replace(item, value=-item.value)


@dataclass(frozen=True)
class Statistic:
    """One number that decides a claim, as each seed measured it.

    The claim holds if the number lies above `threshold` (below, if `above` is False). The rule is
    one for all: the whole confidence interval on the claimed side decides for the claim, the
    whole interval on the other side decides against it, anything else decides nothing.

    Attributes:
        name: what the number is.
        values: one a seed.
        threshold: where the claim begins to hold.
        above: on which side of it.
        within: what the error of a single seed's value measures, e.g. "probes".
        comparisons: how many numbers the value was picked from, each with a like error: the
            interval is widened so that it holds for all of them together (Bonferroni).
        support: what the number can be at all; the interval ends there.
        fixed: the interval itself, where it comes from all seeds together and not from `values`.
    """

    name: str
    values: tuple[Measured, ...]
    threshold: float
    above: bool
    within: str = "probes"
    comparisons: int = 1
    support: tuple[float, float] = (-np.inf, np.inf)
    fixed: tuple[float, float] | None = None

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return float(np.mean([measured.value for measured in self.values]))

    @property
    def within_error(self) -> float:
        """Standard error of `value` from within the runs alone; NaN where not measured."""
        errors = np.array([measured.error for measured in self.values])
        return float(np.sqrt((errors**2).sum()) / errors.size)

    @property
    def seed_error(self) -> float | None:
        """Standard error of `value` from seed to seed alone; None with a single seed.

        The spread of the values holds both sources of error; what the runs know of themselves is
        taken off, down to zero.
        """
        if len(self.values) < 2:
            return None
        total = self._spread_squared()
        within = self.within_error
        return float(np.sqrt(max(total - (0.0 if np.isnan(within) else within**2), 0.0)))

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of 95 %: both sources of error with several seeds, else one.

        It covers the sources that `within` names and, with several seeds, the spread between
        them, and ends where the number must (`support`). Infinite on both sides where no error
        was measured, on one side for a bound.
        """
        if self.fixed is not None:
            low, high = self.fixed
        elif any(isinstance(measured, Bounded) for measured in self.values):
            low, high = self._mean_of_intervals()
        else:
            low, high = ends(self.over_seeds, self.comparisons)
        if np.isinf(low) and np.isinf(high):
            return low, high
        low, high = np.clip([low, high], *self.support)
        return float(low), float(high)

    @property
    def over_seeds(self) -> Measured:
        """Mean over seeds with the larger of the errors within and between them."""
        within = self.within_error
        dof = float(sum(measured.dof for measured in self.values))
        error = within
        if len(self.values) > 1:
            spread = self._spread_squared() ** 0.5
            # The spread may be small by luck: never below what the runs know of themselves.
            if np.isnan(within) or spread > within:
                error, dof = spread, float(len(self.values) - 1)
        return Measured(self.value, error, dof)

    @property
    def holds(self) -> bool | None:
        """Whether the number is on the claimed side; None where the interval does not tell."""
        low, high = self.interval
        if low > self.threshold:
            return self.above
        if high < self.threshold:
            return not self.above
        if low == high:  # exactly on the threshold, without error
            return False
        return None

    def _mean_of_intervals(self) -> tuple[float, float]:
        """Mean over seeds of the ends, each moved out by its own spread from seed to seed.

        Ends and not errors are averaged: seeds may share what the intervals are for (the test
        set, the pull of a maximum towards large values), and that does not average out.
        """
        sides = np.array([ends(measured, self.comparisons) for measured in self.values]).T
        result = []
        for side, outward in zip(sides, (-1.0, 1.0), strict=True):
            end = outward * np.inf if np.isinf(side).any() else float(side.mean())
            if side.size > 1 and np.isfinite(end):
                spread = float(side.std(ddof=1)) / side.size**0.5
                end += outward * spread * float(stats.t.isf(0.5 * (1 - LEVEL), side.size - 1))
            result.append(end)
        return result[0], result[1]

    def _spread_squared(self) -> float:
        values = np.array([measured.value for measured in self.values])
        return float(values.var(ddof=1) / values.size)


def verdict_of(statistics: Sequence[Statistic]) -> Verdict:
    """All must hold for a claim to be reproduced; one that fails is enough against it."""
    if not statistics:
        return Verdict.NOT_MEASURED
    holds = [statistic.holds for statistic in statistics]
    if any(answer is False for answer in holds):
        return Verdict.NOT_REPRODUCED
    if all(holds):
        return Verdict.REPRODUCED
    return Verdict.UNDECIDED


@dataclass(frozen=True)
class Judgement:
    """One claim of the paper, on one data set.

    Attributes:
        number: of the claim, 1 to 12.
        claim: what the paper says, in our words.
        dataset: on what it was judged.
        statistics: the numbers that decide; none if the run lacks the data.
        rule: how the numbers decide, in words.
        figure: the figure that shows it.
        remark: what a reader must know besides, e.g. of what was not compared.
        how_to_measure: what to run where the data are lacking.
        former: statistics that decide where seeds are few, shown beside those that decide here.
    """

    number: int
    claim: str
    dataset: str
    statistics: tuple[Statistic, ...]
    rule: str
    figure: str
    remark: str = ""
    how_to_measure: str = ""
    former: tuple[Statistic, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.statistics)


def average(items: Sequence[Measured]) -> Measured:
    """Mean of several numbers whose errors may be fully correlated, since tasks share probes.

    The error of the mean is then at most the root mean square of the errors, and known no better
    than the least known of them: shared probes add no degrees of freedom.
    """
    errors = np.array([item.error for item in items])
    return Measured(
        float(np.mean([item.value for item in items])),
        float(np.sqrt(np.mean(errors**2))),
        float(min(item.dof for item in items)),
    )
