"""From measured numbers to a verdict, by one rule for all claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from hessspec_mtl.spectra import Measured

LEVEL = 0.95


class Verdict(StrEnum):
    """What we say of a claim of the paper."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured in this run"


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
    """

    name: str
    values: tuple[Measured, ...]
    threshold: float
    above: bool
    within: str = "probes"
    comparisons: int = 1

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

        Infinite on both sides where no error was measured.
        """
        tail = 0.5 * (1.0 - LEVEL) / self.comparisons
        within = self.within_error
        dof = float(sum(measured.dof for measured in self.values))
        error = within
        if len(self.values) > 1:
            spread = self._spread_squared() ** 0.5
            # The spread may be small by luck: never below what the runs know of themselves.
            if np.isnan(within) or spread > within:
                error, dof = spread, float(len(self.values) - 1)
        if np.isnan(error):
            return -np.inf, np.inf
        if error == 0.0:
            return self.value, self.value
        half = float(stats.t.isf(tail, dof)) * error
        return self.value - half, self.value + half

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
    """

    number: int
    claim: str
    dataset: str
    statistics: tuple[Statistic, ...]
    rule: str
    figure: str
    remark: str = ""
    how_to_measure: str = ""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.statistics)


def average(items: Sequence[Measured]) -> Measured:
    """Mean of several numbers whose errors may be fully correlated, since tasks share probes.

    The error of the mean is then at most the root mean square of the errors; their degrees of
    freedom add up.
    """
    errors = np.array([item.error for item in items])
    return Measured(
        float(np.mean([item.value for item in items])),
        float(np.sqrt(np.mean(errors**2))),
        float(sum(item.dof for item in items)),
    )
