"""Axes that stay readable: symmetric logarithmic ones, and those of analysed epochs."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

Direction = Literal["x", "y"]

# What is labelled of a logarithmic axis of fewer decades: these multiples of powers of ten.
_LABELLED: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.5, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)),
    (1.3, (1.0, 2.0, 3.0, 5.0)),
    (2.6, (1.0, 3.0)),
)


def power_of_ten(value: float) -> str:
    """`value` as ±10ⁿ, a plain number near 1, or 0."""
    if value == 0:
        return "0"
    exponent = round(float(np.log10(abs(value))))
    sign = "−" if value < 0 else ""
    if -1 <= exponent <= 2:
        return f"{sign}{abs(value):g}"
    return f"${'-' if value < 0 else ''}10^{{{exponent}}}$"


def linear_threshold(values: np.ndarray, errors: np.ndarray | None = None) -> float:
    """A power of ten below which an axis may be linear: under most values, not under the noise.

    The threshold is the largest power of ten not above the tenth percentile of the non-zero
    magnitudes, but no more than five decades below the largest, since more would leave no room
    for any of them. With `errors`, it is not below the smallest error: signs inside that are
    noise.
    """
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    if magnitudes.size == 0:
        return 1.0
    wanted = max(np.quantile(magnitudes, 0.1), magnitudes.max() * 1e-5)
    if errors is not None:
        finite = errors[np.isfinite(errors) & (errors > 0)]
        if finite.size:
            wanted = max(wanted, finite.min())
    return float(10.0 ** np.floor(np.log10(min(wanted, magnitudes.max()))))


def symlog(axes: Axes, direction: Direction, threshold: float, *, max_ticks: int = 9) -> None:
    """Make one axis symmetric logarithmic with at most `max_ticks` labelled powers of ten.

    Call it after everything is drawn and the limits are what they shall be. Zero always has a
    tick where it is in view; the powers on either side are thinned alike.
    """
    getattr(axes, f"set_{direction}scale")("symlog", linthresh=threshold, linscale=0.6)
    axis = getattr(axes, f"{direction}axis")
    low, high = getattr(axes, f"get_{direction}lim")()
    start = round(np.log10(threshold))
    sides = {
        sign: int(np.floor(np.log10(max(reach, threshold)) + 1e-9))
        for sign, reach in ((1, high), (-1, -low))
    }
    total = sum(max(0, top - start + 1) for top in sides.values())
    step = max(1, int(np.ceil(total / max(1, max_ticks - 1))))
    ticks = [0.0] if low <= 0 <= high else []
    for sign, top in sides.items():
        # Counted down from the largest, so that the outermost power is always labelled.
        ticks += [sign * 10.0**power for power in range(top, start - 1, -step)]
    axis.set_major_locator(FixedLocator(sorted(t for t in ticks if low <= t <= high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_locator(NullLocator())


def log_axis(axes: Axes, direction: Direction) -> None:
    """Make one axis logarithmic, with labels between the powers of ten where there is room.

    Call it when the limits are what they shall be: 1, 1.5 and 2 to 9 times powers of ten over half
    a decade, 1, 2, 3 and 5 over little more than one, 1 and 3 over two, then powers alone, thinned
    to what the axis has room for.
    """
    getattr(axes, f"set_{direction}scale")("log")
    axis = getattr(axes, f"{direction}axis")
    low, high = getattr(axes, f"get_{direction}lim")()
    decades = abs(float(np.log10(high / low)))
    between = next((labels for most, labels in _LABELLED if decades < most), (1.0,))
    axis.set_major_locator(LogLocator(base=10, subs=between))
    written = power_of_ten if len(between) == 1 else "{:g}".format
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axis.set_minor_formatter(NullFormatter())


def epoch_axis(epochs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Where an epoch stands on the axis: log₂(1 + epoch) if most of them are early, else epoch."""
    early = epochs.size > 2 and float(np.median(epochs)) < 0.3 * float(epochs.max())
    return (lambda epoch: np.log2(1.0 + epoch)) if early else (lambda epoch: epoch)


def sideways(places: np.ndarray, count: int, step: float) -> np.ndarray:
    """How far each of `count` points at one epoch is moved, so that bars do not hide each other.

    By `step` of the axis's reach from point to point, less where those of neighbouring epochs
    would mix.

    Args:
        places: of the epochs on the axis, in order.
    """
    reach = max(float(np.ptp(places)), 1.0)
    gap = float(np.diff(places).min()) if places.size > 1 else reach
    width = min(step * reach * (count - 1), 0.6 * gap)
    return np.linspace(-width / 2, width / 2, count)


def epoch_ticks(
    epochs: np.ndarray, place: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[float], list[str]]:
    """The analysed epochs, less those whose labels would touch the one before."""
    places = place(epochs)
    apart = 0.045 * max(float(np.ptp(places)), 1e-9) if epochs.size > 1 else 0.0
    ticks, labels = [], []
    for epoch, where in zip(epochs, places, strict=True):
        if ticks and where - ticks[-1] < apart:
            continue
        ticks.append(float(where))
        labels.append(f"{epoch:.0f}")
    return ticks, labels
