"""Pictures of numbers with intervals: one for each task, leaf or eigenpair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from hessspec._pictures.frame import axes_for

# Values this far apart are drawn on an axis of decades.
_FAR_APART = 50.0
_MOST_DECADES = 6.0
# Names that are longer together lie across each other unless they are turned.
_MOST_LETTERS = 50
_MOST_NAMES = 30  # along an axis


@dataclass(frozen=True)
class Estimates:
    """Numbers with names and the ends of an interval for each, in one colour."""

    names: Sequence[str]
    values: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    label: str | None


@dataclass(frozen=True)
class Pairs:
    """Eigenvalues with their residuals, in order, in one colour."""

    values: Float[Array | np.ndarray, " k"]
    residuals: Float[Array | np.ndarray, " k"]
    converged: Bool[Array | np.ndarray, " k"]
    label: str | None


def draw_estimates(drawn: Sequence[Estimates], ax: Any, title: str) -> Any:
    """Points with bars over common names, side by side where there are several.

    An interval that is not finite is a dotted line.
    """
    axes = axes_for(ax)
    everything = []
    apart = min(0.16, 0.7 / len(drawn))
    for rank, one in enumerate(drawn):
        columns = (one.values, one.low, one.high)
        values, low, high = (np.ravel(np.asarray(column, float)) for column in columns)
        places = np.arange(values.size) + apart * (rank - (len(drawn) - 1) / 2)
        bars = np.stack([values - low, high - values])
        finite = np.isfinite(bars)
        shown = np.where(finite, np.maximum(bars, 0.0), 0.0)
        line = axes.errorbar(places, values, yerr=shown, fmt="o", capsize=4, label=one.label)
        for place in places[~finite.all(axis=0)]:
            axes.axvline(place, color=line[0].get_color(), linestyle=":", linewidth=1)
        everything.append(values[(low > 0) | (high < 0)])  # how small is the rest, nobody knows
    names = drawn[0].names
    crowded = sum(map(len, names)) > _MOST_LETTERS
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    _name(axes, "x", names, **turned)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel(title)
    _scale(axes, "y", np.concatenate(everything))
    _add_legend(axes, [one.label for one in drawn])
    return axes


def draw_pairs(drawn: Sequence[Pairs], ax: Any) -> Any:
    """Eigenvalues against their number, residuals as bars; hollow if not converged."""
    axes = axes_for(ax)
    everything = []
    for pairs in drawn:
        values = np.asarray(pairs.values, float)
        residuals, converged = np.asarray(pairs.residuals, float), np.asarray(pairs.converged)
        number = np.arange(1, values.size + 1)
        line = axes.errorbar(number, values, yerr=residuals, fmt="o", label=pairs.label, capsize=3)
        colour = line[0].get_color()
        axes.plot(number[~converged], values[~converged], "o", color=colour, mfc="white", zorder=3)
        everything.append(values)
    axes.set_xlabel("number of the pair" + _hollow(drawn))
    axes.set_ylabel("eigenvalue of the Hessian")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _scale(axes, "y", np.concatenate(everything))
    _add_legend(axes, [pairs.label for pairs in drawn])
    return axes


def _hollow(drawn: Sequence[Pairs]) -> str:
    return "" if all(np.all(pairs.converged) for pairs in drawn) else " (hollow: not converged)"


def draw_leaves(drawn: Sequence[Estimates], ax: Any) -> Any:
    """A line for each leaf: its mean as a point, the range given as a bar; tasks side by side."""
    axes = axes_for(ax)
    names = drawn[0].names
    for rank, one in enumerate(drawn):
        places = np.arange(len(names)) + 0.16 * (rank - (len(drawn) - 1) / 2)
        (points,) = axes.plot(one.values, places, "o", label=one.label, markersize=4)
        axes.hlines(places, one.low, one.high, color=points.get_color(), linewidth=2, alpha=0.5)
    _name(axes, "y", names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("entries of the diagonal: mean, and nine tenths of them")
    _scale(axes, "x", np.concatenate([np.r_[one.values, one.low, one.high] for one in drawn]))
    _add_legend(axes, [one.label for one in drawn])
    return axes


def _name(axes: Any, direction: str, names: Sequence[str], **how: Any) -> None:
    """Names along an axis; of more than have room every second, third, ..., which is said there."""
    step = -(-len(names) // _MOST_NAMES) or 1
    places = np.arange(0, len(names), step)
    getattr(axes, f"set_{direction}ticks")(places, list(names)[::step], **how)
    if step > 1:
        getattr(axes, f"set_{direction}label")(f"one name of {step} is shown")


def _scale(axes: Any, direction: Any, numbers: np.ndarray) -> None:
    """Decades on an axis whose numbers lie far apart."""
    sizes = np.abs(numbers[np.isfinite(numbers) & (numbers != 0)])
    if sizes.size == 0 or sizes.max() < _FAR_APART * sizes.min():
        return
    from hessspec._pictures.ticks import symlog_axis

    smallest = max(float(np.quantile(sizes, 0.1)), float(sizes.max()) * 10.0**-_MOST_DECADES)
    symlog_axis(axes, direction, 10.0 ** np.floor(np.log10(smallest)))
    if getattr(axes, f"get_autoscale{direction}_on")():
        axes.autoscale(axis=direction)  # the room beyond both ends is a share of the new axis


def _add_legend(axes: Any, labels: Sequence[str | None]) -> None:
    if any(labels):
        axes.legend(fontsize="small")
