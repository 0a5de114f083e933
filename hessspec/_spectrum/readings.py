"""What is read off a density beside numbers and curves: numbers with intervals, both ends."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.printing import (
    Facts,
    Printed,
    interval,
    listed,
    number,
    one_number,
    task_rows,
    with_error,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class IntervalEstimate(Printed):
    """A number with an interval that covers the truth with probability `level`.

    Attributes:
        value: the estimate; a share of the eigenvalues or their number, the mean over probes. It
            may lie outside the interval, which knows more (whole numbers, atoms, bounds of T).
        lower, upper: ends of the interval, in the same unit.
        level: its probability.
    """

    value: Float[Array | np.ndarray, "*tasks"]
    lower: Float[Array | np.ndarray, "*tasks"]
    upper: Float[Array | np.ndarray, "*tasks"]
    level: float = field(default=0.95, metadata={"static": True})

    def __float__(self) -> float:
        return one_number(self, self.value)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        columns = zip(*map(np.ravel, (self.value, self.lower, self.upper)), strict=True)
        texts = (f"{v:{spec}} [{low:{spec}}, {high:{spec}}]" for v, low, high in columns)
        return listed(texts, np.ndim(self.value) > 0)

    def _facts(self) -> Facts:
        columns = zip(*map(np.ravel, (self.value, self.lower, self.upper)), strict=True)
        level = f"{100 * self.level:.4g} % interval"
        texts = [f"{number(value)}, {level} {interval(*ends)}" for value, *ends in columns]
        if np.ndim(self.value) == 0:
            return Facts(f"IntervalEstimate: {texts[0]}")
        return Facts(f"IntervalEstimate of {len(texts)} tasks", task_rows("task", texts))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Extremes(Printed):
    """Both ends of the spectrum; an eigenvalue lies within the residual of each value.

    Attributes:
        smallest, largest: the ends as any probe saw them, in the units of H.
        smallest_residual, largest_residual: how far an eigenvalue is from them at most.
    """

    smallest: Float[Array | np.ndarray, "*tasks"]
    largest: Float[Array | np.ndarray, "*tasks"]
    smallest_residual: Float[Array | np.ndarray, "*tasks"]
    largest_residual: Float[Array | np.ndarray, "*tasks"]

    def _facts(self) -> Facts:
        columns = zip(
            *map(np.ravel, (self.smallest, self.smallest_residual)),
            *map(np.ravel, (self.largest, self.largest_residual)),
            strict=True,
        )
        texts = [f"{with_error(a, r)} to {with_error(b, q)}" for a, r, b, q in columns]
        if np.ndim(self.smallest) == 0:
            return Facts(f"Extremes: {texts[0]}")
        return Facts(f"Extremes of {len(texts)} tasks", task_rows("task", texts))
