"""Scales of an axis of eigenvalues: where a number stands on it, and points spread over it."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

Scale = Literal["linear", "log", "symlog"]
_GRID = 601


def coordinate(scale: Scale, linthresh: float) -> Callable[[np.ndarray], np.ndarray]:
    """The function that maps a number to its place on an axis of that scale.

    "log" counts decades of positive numbers; "symlog" is asinh(x / 2c) / ln 10, c = `linthresh`,
    which is linear near 0 and counts decades on either side.

    Raises:
        ValueError: if `scale` is unknown.
    """
    if scale == "linear":
        return lambda x: x
    if scale == "log":
        return np.log10
    if scale == "symlog":
        return lambda x: np.arcsinh(x / (2 * linthresh)) / np.log(10.0)
    raise ValueError(f"`scale` must be 'linear', 'log' or 'symlog', got {scale!r}")


def even_points(
    numbers: Float[np.ndarray, " n"], scale: Scale, linthresh: float
) -> Float[np.ndarray, " grid"]:
    """Points evenly spaced on the axis, a little beyond both ends of `numbers`."""
    if scale == "log":
        positive = numbers[numbers > 0]
        ends = np.log10([positive.min(), positive.max()]) if positive.size else (0.0, 1.0)
        return 10 ** np.linspace(ends[0] - 0.3, ends[1] + 0.3, _GRID)
    low, high = numbers.min(), numbers.max()
    if scale == "linear":
        margin = 0.05 * ((high - low) or abs(high) or 1.0)
        return np.linspace(low - margin, high + margin, _GRID)
    ends = np.arcsinh(np.array([low, high]) / (2 * linthresh))
    return 2 * linthresh * np.sinh(np.linspace(ends[0] - 0.7, ends[1] + 0.7, _GRID))
