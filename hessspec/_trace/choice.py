"""How large a basis several tasks get, by the expected cost to the error wanted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from hessspec._base.printing import counted, number
from hessspec._krylov.block_basis import ON_TRUST, PILOT, TYPICAL
from hessspec._trace.costs import Costs

# Of the log of a variance of several tasks from eight forms of each, beside another with the same
# probes: (2/7)^½ = .53 for one task of normal samples, less for tasks that are not all alike.
NOISE = 0.4
LEAST = 4  # samples that are drawn after the choice, at least: with half of the pilot's they are 8
_MOST = 1e5  # the root of more samples than anybody takes
_QUANTILE = 2.0  # half the width of an interval at 95 %, in standard errors
_FARTHER = 4  # how many times the present rank is looked ahead

Measured = list[tuple[int, float]]  # ranks, and the variance of a sample beside each


@dataclass(frozen=True)
class Choice:
    """What `auto` decided before it drew its samples, and at which prices.

    The prices follow from a count of the loss (`hessspec._trace.costs`), not from a clock; the unit
    is a product with one task's Hessian.

    Attributes:
        rank: of the basis that is deflated.
        given: how many of its rows were given as `directions`.
        groups: probes of their own for so many groups of batches; 1 for common ones.
        direction: the price of the last direction, its forms included.
        sample: of one sample of all tasks beside the basis.
        predicted: of directions, pilots and samples together.
    """

    rank: int
    given: int
    groups: int
    direction: float
    sample: float
    predicted: float

    @classmethod
    def read(cls, saved: dict[str, Any] | None) -> Self | None:
        """What a file holds of it; None from versions that kept none."""
        return None if saved is None else cls(**saved)

    @classmethod
    def of(cls, costs: Costs, rank: int, given: int, groups: int, predicted: float) -> Self:
        """With the prices of its last direction and of its samples."""
        own = costs.own_sample(rank, groups)
        sample = own if groups > 1 else costs.sample(rank)
        return cls(rank, given, groups, costs.direction(rank), sample, predicted)

    def written(self) -> dict[str, Any]:
        """As a file holds it."""
        return asdict(self)

    def __str__(self) -> str:
        given = f", {self.given} of them given" if self.given else ""
        if self.groups > 1:
            probes = f"probes of their own for {self.groups} groups"
        else:
            probes = "common probes"
        prices = f"{number(self.direction, 3)} and {number(self.sample, 3)} products each"
        total = f"{number(self.predicted, 3)} products' worth"
        if self.rank == 0:
            return f"no basis, {probes}; {number(self.sample, 3)} products each, {total}"
        return f"{counted(self.rank, 'direction')}{given}, {probes}; {prices}, {total}"


@dataclass(frozen=True)
class Goal:
    """A tolerance, and how many forms of all tasks there are to meet it with."""

    rtol: float
    atol: float
    cap: int

    def samples(self, value: Float[np.ndarray, " T"], variance: Float[np.ndarray, " T"]) -> float:
        """How many bring the interval of every task within the tolerance, the worst one deciding.

        The variances are those of the pilot, and no other sample enters but by the mean.
        """
        target = self.atol + self.rtol * np.abs(value)
        half = _QUANTILE * np.sqrt(variance)
        ratios = np.divide(half, target, out=np.full_like(half, _MOST), where=half < _MOST * target)
        return float(np.max(ratios, initial=0.0) ** 2)


def next_rank(
    measured: Measured,
    costs: Costs,
    *,
    held: float,
    wanted: float,
    room: int,
    tax: float,
    most: int,
) -> int:
    """The rank to go to now: that of the present basis, or a larger one.

    With `wanted` samples more beside the basis in force a mean would rest on `held` + `wanted`.
    Beside a larger one the same error takes the share of these that its variance is expected to
    have. The rank is sought that gets there at the least cost: directions, a new pilot, samples. It
    must also be within the products that are allowed. A basis is at most doubled at once, for then
    it is measured again.

    Args:
        measured: at every rank so far, the present one last.
        held: samples there are, as they count.
        wanted: further ones that reach the error wanted, or that are left.
        room: samples that could still be bought.
        tax: what a direction takes of these.
        most: the largest rank that there is memory and space for.
    """
    rank, variance = measured[-1]
    if variance <= 0:
        return rank
    decline = decline_of(measured)
    best, least = rank, wanted * costs.sample(rank)
    for target in range(rank + PILOT, min(most, max(_FARTHER * rank, 2 * ON_TRUST)) + 1, PILOT):
        share = ((1 + rank) / (1 + target)) ** decline
        more = max(share * (held + wanted) - PILOT / 2, LEAST)
        if more > room - (target - rank) * tax - PILOT:
            continue
        samples = (PILOT + more) * costs.sample(target)
        cost = (target - rank) * costs.direction(target) + samples
        if cost < least:
            best, least = target, cost
    return min(best, max(2 * rank, ON_TRUST))


def decline_of(measured: Measured) -> float:
    """The exponent d of (1 + r)^-d by which the variance is expected to fall further.

    Eight forms may be off by a factor of two and more. So what differs from the `TYPICAL` decline
    by less than their noise says nothing, and more than that counts for what is beyond the noise.
    Of all runs of the last measurements the one that promises least is believed: a fall that has
    come to its end promises nothing more.
    """
    ranks = np.log1p([rank for rank, _ in measured])
    logs = np.log([max(variance, 1e-300) for _, variance in measured])
    found = TYPICAL
    for first in range(len(measured) - 1):
        x, y = ranks[first:] - ranks[first:].mean(), logs[first:]
        squares = float(x @ x)
        beyond, noise = -float(x @ y) / squares - TYPICAL, NOISE / squares**0.5
        seen = TYPICAL + np.sign(beyond) * max(abs(beyond) - noise, 0.0)
        found = min(found, seen) if first else seen
    return max(float(found), 0.0)


def geometric_mean(values: Float[np.ndarray, " T"]) -> float:
    """Of those above 0: tasks differ in scale, and it falls if most of them fall."""
    held = values[values > 0]
    return float(np.exp(np.mean(np.log(held)))) if held.size else 0.0
