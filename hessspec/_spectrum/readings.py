"""What is read off a density beside numbers and curves: numbers with intervals, both ends."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntervalEstimate:
    """A number with an interval that covers the truth with probability `level`.

    Attributes:
        value: the estimate; a share of the eigenvalues or their number.
        lower, upper: ends of the interval, in the same unit.
        level: its probability.
    """

    value: Float[Array | np.ndarray, "*tasks"]
    lower: Float[Array | np.ndarray, "*tasks"]
    upper: Float[Array | np.ndarray, "*tasks"]
    level: float = field(default=0.95, metadata={"static": True})

    def __float__(self) -> float:
        return float(self.value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extremes:
    """Both ends of the spectrum; an eigenvalue lies within the residual of each value.

    Attributes:
        smallest, largest: the ends as any probe saw them, in the units of H.
        smallest_residual, largest_residual: how far an eigenvalue is from them at most.
    """

    smallest: Float[Array | np.ndarray, "*tasks"]
    largest: Float[Array | np.ndarray, "*tasks"]
    smallest_residual: Float[Array | np.ndarray, "*tasks"]
    largest_residual: Float[Array | np.ndarray, "*tasks"]
