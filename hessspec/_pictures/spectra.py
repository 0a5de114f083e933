"""Pictures of spectra from plain arrays: densities with stems, distributions with bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hessspec._pictures.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class DensityCurve:
    """A smooth density at `x` and single eigenvalues beside it, in one colour.

    Attributes:
        x, heights: points of the curve; eigenvalues per unit of the axis.
        stems, counts: places of the stems; eigenvalues in each.
        label: entry in the legend, if there is one.
    """

    x: Float[np.ndarray, " grid"]
    heights: Float[np.ndarray, " grid"]
    stems: Float[np.ndarray, " n"]
    counts: Float[np.ndarray, " n"]
    label: str | None


@dataclass(frozen=True)
class DistributionCurve:
    """A distribution function at `x` in a band from `low` to `high`, in one colour."""

    x: Float[np.ndarray, " grid"]
    shares: Float[np.ndarray, " grid"]
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]
    label: str | None


def draw_densities(
    curves: Sequence[DensityCurve], ax: Axes | None, scale: Scale, linthresh: float
) -> Axes:
    """Curves and stems on one axis of eigenvalues; heights are linear below 1, then decades."""
    axes: Any = _pyplot().subplots()[1] if ax is None else ax
    for curve in curves:
        (line,) = axes.plot(curve.x, curve.heights, label=curve.label, linewidth=1.2)
        shown = curve.stems > 0 if scale == "log" else np.ones(curve.stems.shape, bool)
        stems, counts = curve.stems[shown], curve.counts[shown]
        if stems.size:
            axes.vlines(stems, 0, counts, color=line.get_color(), linewidth=0.8)
            axes.plot(stems, counts, "o", color=line.get_color(), markersize=2.5)
    _set_scale(axes, scale, linthresh)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    unit = "unit" if scale == "linear" else "decade"
    axes.set_ylabel(f"eigenvalues per {unit}; stems: eigenvalues")
    _add_legend(axes, curves)
    return axes


def draw_distributions(
    curves: Sequence[DistributionCurve],
    ax: Axes | None,
    scale: Scale,
    linthresh: float,
    level: float,
) -> Axes:
    """Steps in their bands, which hold with probability `level`, on one axis of eigenvalues."""
    axes: Any = _pyplot().subplots()[1] if ax is None else ax
    for curve in curves:
        (line,) = axes.step(curve.x, curve.shares, where="post", label=curve.label, linewidth=1.2)
        colour = line.get_color()
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    _set_scale(axes, scale, linthresh)
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share of eigenvalues below ({level:.0%} band)")
    _add_legend(axes, curves)
    return axes


def _set_scale(axes: Any, scale: Scale, linthresh: float) -> None:
    if scale == "symlog":
        axes.set_xscale(scale, linthresh=linthresh)
    else:
        axes.set_xscale(scale)
    axes.set_xlabel("eigenvalue of the Hessian")


def _add_legend(axes: Any, curves: Sequence[DensityCurve] | Sequence[DistributionCurve]) -> None:
    if any(curve.label for curve in curves):
        axes.legend()


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it with `pip install hessspec[plot]`."
        ) from error
    return pyplot
