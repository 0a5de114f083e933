"""Sharpness along one direction from passes forward alone, for losses too dear to multiply with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import real_number, whole_number
from hessspec._base.printing import Facts, Printed, number
from hessspec._base.selection import Where
from hessspec._base.signatures import called_as
from hessspec._base.tasks import TaskAxis
from hessspec._krylov.given import given_rows
from hessspec._operators.batches import Batches
from hessspec._operators.calls import require_values
from hessspec._operators.hessian import HessianOperator

_FACTOR = 2.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class CriticalSharpness(Printed, TaskAxis):
    """How far a loss lets itself be followed along an update, in units of the learning rate.

    A loss with T values adds a leading task axis to every array.

    Attributes:
        low: the largest rate tried that did not raise the loss, below the first that did; 0 if
            even the smallest raised it.
        high: the smallest rate tried that raised the loss; infinite if none did.
        num_passes: passes forward, all losses in each.
    """

    low: Float[Array | np.ndarray, "*tasks"]
    high: Float[Array | np.ndarray, "*tasks"]
    num_passes: int = field(default=0, metadata={"static": True})

    @property
    def rate(self) -> Float[np.ndarray, "*tasks"]:
        """The critical learning rate η: the middle of `low` and `high`."""
        low, high = np.asarray(self.low, float), np.asarray(self.high, float)
        return np.where(low == 0, 0.0, (low + high) / 2)

    @property
    def sharpness(self) -> Float[np.ndarray, "*tasks"]:
        """2 / η, in the units of an eigenvalue of H; infinite if every step raises the loss."""
        with np.errstate(divide="ignore"):
            return 2.0 / self.rate

    def _facts(self) -> Facts:
        rates, values = np.ravel(self.rate), np.ravel(self.sharpness)
        rows = [
            ("critical rate", ", ".join(map(number, rates))),
            ("sharpness 2 / rate", ", ".join(map(number, values))),
        ]
        return Facts(f"CriticalSharpness by {self.num_passes} passes", rows)

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.low)


@called_as("critical_sharpness(loss_fn, params, updates, learning_rate=rate, data=batch)")
def critical_sharpness(
    loss_fn: Callable[..., Array],
    params: PyTree,
    updates: PyTree,
    *,
    learning_rate: float = 1.0,
    data: PyTree | Batches | None = None,
    where: Where | None = None,
    rtol: float = 1 / 16,
    guess: float | None = None,
    max_passes: int = 64,
) -> CriticalSharpness:
    """2 / η for the smallest learning rate η with which this update would raise the loss.

    Where the loss is quadratic along u and u is a descent direction, L(θ + su) is back at L(θ) for
    s = -2 u'∇L / u'Hu; for a step of gradient descent, u = -η∇L, the sharpness is then
    ∇L'H∇L / |∇L|², an average of the eigenvalues of H weighted by the gradient's share in each, and
    λ_max at most. With Adam's updates it is the same average for D H D [kalra2026, section 2.3].

    The rate is doubled or halved until it is between two that were tried, and the interval then
    halved. If the loss is a vector, each of its entries is followed along the same update: for the
    update of another loss that is the relative critical sharpness [kalra2026, section 4].

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` if `data` is given.
        params, data, where: see `HessianOperator`.
        updates: what an optimiser would add to the (chosen) parameters, as optax returns it.
        learning_rate: the rate with which `updates` were made; rates are multiples of it.
        rtol: width of the interval relative to its upper end; 1/16 takes 4 halvings.
        guess: a rate to begin with, such as that of an earlier call; by default `learning_rate`.
        max_passes: where to stop: `low` is then 0, or `high` infinite.

    Returns:
        The interval of η, and the sharpness.

    Raises:
        ValueError: if the loss is not finite at `params`, `updates` are no such tree, 0 or not
            finite, or a number is out of range.
        TypeError: if an argument is of the wrong kind, or inside `jit`.

    Cost: no product; some 6 passes forward from a good guess.

    Source: Kalra et al. (2026), definitions 2.1 and 4.1 and the search of section 2.2 [kalra2026];
    checked in `tests/hessspec/tracking/test_critical.py`.
    """
    rate = real_number("learning_rate", learning_rate)
    first = rate if guess is None else real_number("guess", guess)
    if not (0 < rate < np.inf and 0 < first < np.inf):
        raise ValueError(
            f"`learning_rate` and `guess` must be positive and finite, got {rate} and {first}"
        )
    if not 0.0 < real_number("rtol", rtol) < 1.0:
        raise ValueError(f"`rtol` must lie in (0, 1), got {rtol}")
    most = whole_number("max_passes", max_passes, least=2)
    operator = HessianOperator(loss_fn, params, data=data, where=where)
    require_values("critical_sharpness", (operator, updates))
    operator.validate()
    rows = given_rows("updates", updates, operator.space)
    if rows.shape[0] != 1 or not bool(jnp.any(rows)):
        raise ValueError(
            f"`updates` must be one vector that is not 0, got {rows.shape[0]}"
            + (" of zeros alone" if rows.shape[0] == 1 else "")
        )
    along = rows[0]

    def losses(at: float) -> np.ndarray:
        multiple = jnp.asarray(at / rate, operator.dtype)
        return np.asarray(operator._over_stream(_losses_at, along, multiple), np.float64)

    here = losses(0.0)

    def raised(at: float) -> np.ndarray:
        return ~(losses(at) <= here)  # nan counts as raised

    low, high, passes = _search(raised, here.shape[0], first, rtol, most - 1)
    shape = () if operator.num_tasks is None else (operator.num_tasks,)
    return CriticalSharpness(low.reshape(shape), high.reshape(shape), passes + 1)


def _search(
    raised: Callable[[float], np.ndarray], tasks: int, first: float, rtol: float, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The last rate that did not raise each loss and the first that did; and the passes spent."""
    tried: list[tuple[float, np.ndarray]] = []
    low, high, rate = np.zeros(tasks), np.full(tasks, np.inf), first
    while len(tried) < most and 0 < rate < np.inf:
        tried.append((rate, raised(rate)))
        for at, up in tried:
            high = np.where(up, np.minimum(high, at), high)
        low = np.zeros(tasks)
        for at, up in tried:
            low = np.where(~up & (at < high), np.maximum(low, at), low)
        is_open = (low == 0) | ~np.isfinite(high) | (high - low > rtol * high)
        if not np.any(is_open):
            break
        # One loss after the other; a pass for one may well serve the others.
        task = int(np.argmax(is_open))
        if low[task] == 0:
            rate = high[task] / _FACTOR
        elif not np.isfinite(high[task]):
            rate = low[task] * _FACTOR
        else:
            rate = (low[task] + high[task]) / 2
    return low, high, len(tried)


@eqx.filter_jit
def _losses_at(
    operator: HessianOperator, along: Float[Array, " dim"], multiple: Float[Array, ""]
) -> Float[Array, " T"]:
    x = operator.space.flatten(operator.chosen) + multiple * along
    return operator._sum(lambda functions, batch: operator._values(functions, x, batch))


__all__ = ["CriticalSharpness", "critical_sharpness"]
