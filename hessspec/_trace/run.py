"""A trace by one method: which estimator it is, and when it has had enough products."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Keep, Resumable
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import PILOT
from hessspec._operators.algebra import AbstractOperator
from hessspec._trace.by_block import Blockwise
from hessspec._trace.choice import Goal
from hessspec._trace.deflated import Deflated
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.exact import ExactRun, exact_trace
from hessspec._trace.guards import LOOKS
from hessspec._trace.hutchinson import Hutchinson
from hessspec._trace.hutchpp import HutchPlusPlus
from hessspec._trace.shared import SharedDeflation
from hessspec._trace.xtrace import XTrace

FIRST_LOOK = 48
MIN_AUTO = 48  # below, the pilot probes of the adaptive method take too large a share


class Estimator(Protocol):
    """A method that can be given more products."""

    def advance(self, budget: int, bar: ProgressBar, keep: Keep) -> TraceEstimate: ...


class TraceRun(Resumable):
    """All products of one estimator, or look by look as many as a tolerance takes.

    Args:
        operator: what is multiplied.
        method: what the answer says.
        estimator: makes it, from the products that it is to have first, and from the tolerance.
        wanted: products in all; with a tolerance at most, and then from P on the answer is exact.
        first_look: products before the first look.
        rtol, atol: the tolerance; with none of them no looks are taken.
    """

    changing = ("look", "used", "estimator", "exact")

    def __init__(
        self,
        operator: AbstractOperator,
        method: str,
        estimator: Callable[[int, Goal | None], Estimator],
        wanted: int,
        first_look: int,
        rtol: float,
        atol: float,
    ) -> None:
        self.operator, self.method, self.rtol, self.atol = operator, method, rtol, atol
        self.is_adaptive = rtol > 0.0 or atol > 0.0
        self.exact_after = wanted >= operator.dim
        # Looks leave as many products as the exact trace takes, where the cap allows that at all.
        last = min(wanted - operator.dim, operator.dim - 1) if self.exact_after else wanted
        self.budgets = [min(last, first_look)] if last > 0 else []
        while self.budgets and self.budgets[-1] < last:
            self.budgets.append(min(2 * self.budgets[-1], last))
        if not self.is_adaptive:
            self.budgets = [] if self.exact_after else [wanted]
        self.estimator: Estimator | None = None
        if self.budgets:
            goal = Goal(rtol, atol, self.budgets[-1]) if self.is_adaptive else None
            self.estimator = estimator(self.budgets[0], goal)
        self.exact = ExactRun(operator)
        self.look = 1  # the one that products are made for
        self.used = 0  # products of all looks, where they are over

    def advance(self, bar: ProgressBar, keep: Keep) -> TraceEstimate:
        """What it ends with."""
        estimate = None
        for look, budget in enumerate(self.budgets, start=1):
            if look < self.look or self.estimator is None:
                continue
            self.look = look
            estimate = self.estimator.advance(budget, bar, keep)
            if not self.is_adaptive:
                return estimate
            # Σ 6/(π look)² = 1 over all looks there could ever be.
            estimate = replace(estimate, error_share=6.0 / (np.pi * look) ** 2)
            if self._meets(estimate):
                return replace(estimate, converged=True)
            if self._is_hopeless(estimate) and not self.exact_after:
                return replace(estimate, converged=False)
        if estimate is not None and not self.exact_after:
            return replace(estimate, converged=False)
        if estimate is not None:
            self.look, self.used = len(self.budgets) + 1, estimate.num_matvecs
        exact = exact_trace(self.exact, self.method, bar, keep)
        if not self.is_adaptive:
            return exact
        met = self._meets(exact)
        return replace(exact, converged=met, num_matvecs=exact.num_matvecs + self.used)

    def _meets(self, estimate: TraceEstimate) -> bool:
        return bool(np.all(estimate.half_width() <= self._target(estimate)))

    def _is_hopeless(self, estimate: TraceEstimate) -> bool:
        """Whether rounding alone exceeds the tolerance, which no further sample changes."""
        known = estimate.systematic
        return known is not None and bool(np.any(known > self._target(estimate)))

    def _target(self, estimate: TraceEstimate) -> Float[np.ndarray, "*T"]:
        return self.atol + self.rtol * np.abs(estimate.value)


def estimator_for(
    operator: AbstractOperator,
    key: PRNGKeyArray,
    method: str,
    budget: int,
    room: int,
    given: Float[Array, "r dim"] | None,
    goal: Goal | None = None,
) -> Estimator:
    """The method in force: with very few products only Hutchinson's mean is left."""
    scalar = operator.num_tasks is None
    deflated = deflates(method, budget, given is not None)
    if isinstance(operator, Blockwise):
        if deflated:
            return SharedDeflation(operator, key, room, given, goal)
        return Hutchinson(operator, key, room)
    if not operator.has_products:
        return Hutchinson(operator, key, room)
    if deflated:
        if scalar:
            return Deflated(operator, key, room, given)
        return SharedDeflation(operator, key, room, given, goal)
    if method in ("auto", "xtrace") and budget >= 4:
        return XTrace(operator, key)
    if method == "hutch++" and budget >= 6:
        return HutchPlusPlus(operator, key, given)
    return Hutchinson(operator, key, room)


def deflates(method: str, budget: int, has_directions: bool) -> bool:
    """Whether a run by this method has a basis that grows."""
    return method == "auto" and (budget >= MIN_AUTO or has_directions)


def first_look(operator: AbstractOperator, method: str, given: Float[Array, "r dim"] | None) -> int:
    """Products before the first look: more where they are taken by given directions."""
    if given is None:
        return FIRST_LOOK
    count = given.shape[0]
    return max(FIRST_LOOK, count + beside(operator, method, count) + PILOT)


def beside(operator: AbstractOperator, method: str, given: int) -> int:
    """Products, or forms of all tasks, that deflation needs beside the given directions."""
    if method == "hutch++":
        return 6
    if operator.num_tasks is None:
        return PILOT
    # Forms in whole blocks: of the directions and the probes that are looked at, and of the pilot.
    blocks = LOOKS + -(given + LOOKS) % PILOT if given else 0
    return PILOT + math.ceil(LOOKS / operator.form_cost) + blocks
