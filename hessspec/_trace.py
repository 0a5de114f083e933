"""The verb `trace`: tr H and its error from products with H."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, overload

import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from hessspec._auto import Deflated, SharedDeflation
from hessspec._calls import resolve_call
from hessspec._hutchinson import Hutchinson, exact_trace
from hessspec._hutchpp import HutchPlusPlus
from hessspec._operators import AbstractOperator, Where
from hessspec._progress import ProgressBar, progress_bar
from hessspec._trace_estimate import TraceEstimate
from hessspec._xtrace import XTrace

Method = Literal["auto", "xtrace", "hutch++", "hutchinson"]
METHODS = ("auto", "xtrace", "hutch++", "hutchinson")
DEFAULT_MATVECS = 64
DEFAULT_CAP = 4096  # with a tolerance and no `num_matvecs`
FIRST_LOOK = 48
MIN_AUTO = 48  # below, the pilot probes of the adaptive method take too large a share


class Estimator(Protocol):
    """A method that can be given more products."""

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate: ...


@overload
def trace(
    loss_fn: Callable[..., Array],
    params: PyTree,
    key: PRNGKeyArray,
    *,
    data: PyTree = None,
    where: Where | None = None,
    method: Method = "auto",
    num_matvecs: int | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> TraceEstimate: ...


@overload
def trace(
    loss_fn: AbstractOperator,
    /,
    *,
    key: PRNGKeyArray,
    method: Method = "auto",
    num_matvecs: int | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> TraceEstimate: ...


def trace(
    loss_fn: Callable[..., Array] | AbstractOperator,
    params: PyTree = None,
    key: PRNGKeyArray | None = None,
    *,
    data: PyTree = None,
    where: Where | None = None,
    method: Method = "auto",
    num_matvecs: int | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> TraceEstimate:
    """Estimate tr H, for every task of the loss, with its error."""
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}")
    if num_matvecs is not None and num_matvecs < 1:
        raise ValueError(
            f"`num_matvecs` must be at least 1, got {num_matvecs}: "
            "each product gives at most one sample of the trace."
        )
    if not (rtol >= 0.0 and atol >= 0.0):
        raise ValueError(f"`rtol` and `atol` must be at least 0, got {rtol} and {atol}")
    operator, key = resolve_call("trace", loss_fn, params, key, data, where, memory_budget)
    adaptive = rtol > 0.0 or atol > 0.0
    wanted = num_matvecs or (DEFAULT_CAP if adaptive else DEFAULT_MATVECS)
    budget = min(wanted, operator.dim)
    with progress_bar(budget, "trace", enabled=progress) as bar:
        if not adaptive:
            if budget >= operator.dim:
                return exact_trace(operator, method, bar)
            return _estimator(operator, key, method, budget).advance(budget, bar)
        return _until(operator, key, method, budget, rtol, atol, bar)


def _estimator(
    operator: AbstractOperator, key: PRNGKeyArray, method: str, budget: int
) -> Estimator:
    """The method in force: with very few products only Hutchinson's mean is left."""
    scalar = operator.num_tasks is None
    if method == "auto" and budget >= MIN_AUTO:
        return Deflated(operator, key) if scalar else SharedDeflation(operator, key)
    if method in ("auto", "xtrace") and budget >= 4:
        return XTrace(operator, key)
    if method == "hutch++" and budget >= 6:
        return HutchPlusPlus(operator, key)
    return Hutchinson(operator, key)


def _until(
    operator: AbstractOperator,
    key: PRNGKeyArray,
    method: str,
    cap: int,
    rtol: float,
    atol: float,
    bar: ProgressBar,
) -> TraceEstimate:
    budgets = [min(cap, FIRST_LOOK)]
    while budgets[-1] < cap:
        budgets.append(min(2 * budgets[-1], cap))
    if budgets[-1] >= operator.dim:
        budgets.pop()
    estimator = _estimator(operator, key, method, min(cap, FIRST_LOOK))
    estimate = None
    for look, budget in enumerate(budgets, start=1):
        # Σ 6/(π look)² = 1 over all looks there could ever be.
        share = 6.0 / (np.pi * look) ** 2
        estimate = replace(estimator.advance(budget, bar), error_share=share)
        if _meets(estimate, rtol, atol):
            return replace(estimate, converged=True)
    if estimate is None or cap >= operator.dim:
        exact = exact_trace(operator, method, bar)
        used = 0 if estimate is None else estimate.num_matvecs
        return replace(exact, converged=True, num_matvecs=exact.num_matvecs + used)
    return replace(estimate, converged=False)


def _meets(estimate: TraceEstimate, rtol: float, atol: float) -> bool:
    return bool(np.all(estimate.half_width() <= atol + rtol * np.abs(estimate.value)))


__all__ = ["TraceEstimate", "trace"]
