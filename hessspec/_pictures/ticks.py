"""Axes that count decades on both sides of 0, with as many labels as there is room for.

Imports matplotlib: only functions that draw may import this module.
"""

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, NullLocator

Direction = Literal["x", "y"]
# matplotlib allows for 3 letters a label across and 2 lines upwards; −10⁻⁵ and its gap take more.
_ROOM = 1.2


class Decades(Locator):
    """0 and powers of ten on both sides, thinned until no label touches the next.

    Counted down from the outermost power of each side, so that these two always have a label. What
    comes too close to 0 is left out.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self) -> list[float]:
        """The places of the ticks in the present view."""
        return self.tick_values(*self.axis.get_view_interval())  # type: ignore[union-attr]

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """The places of the ticks between two ends."""
        low, high = sorted((vmin, vmax))
        room = self._room()
        place = self._places(low, high)
        first = round(float(np.log10(self.threshold)))
        most = max(_decades(-low, first), _decades(high, first), 1)
        ticks: list[float] = []
        for step in range(1, most + 1):
            ticks = _every(step, low, high, first, place, room)
            if len(ticks) < 2 or np.diff(place(np.array(ticks))).min() >= room:
                break
        return ticks

    def _places(self, low: float, high: float) -> Any:
        transform = self.axis.get_transform()  # type: ignore[union-attr]
        ends = transform.transform(np.array([low, high], float))
        span = float(ends[1] - ends[0]) or 1.0
        return lambda values: (transform.transform(np.asarray(values, float)) - ends[0]) / span

    def _room(self) -> float:
        """What a label takes, as a share of the axis."""
        return _ROOM / max(self.axis.get_tick_space(), 1)  # type: ignore[union-attr]


def _every(step: int, low: float, high: float, first: int, place: Any, room: float) -> list[float]:
    ticks = [0.0] if low <= 0 <= high else []
    for sign, reach in ((-1.0, -low), (1.0, high)):
        top = first + _decades(reach, first) - 1
        side = [sign * 10.0**power for power in range(top, first - 1, -step)]
        # The two outermost stand; the others give way to 0.
        zero = float(place(0.0)) if ticks else None
        ticks += [
            tick
            for tick in side
            if low <= tick <= high and (zero is None or abs(float(place(tick)) - zero) >= room)
        ]
    if ticks == [0.0] and max(high, -low) >= 10.0**first:
        # Room for one label alone: the end of the longer side says more than 0.
        sign, reach = max((1.0, high), (-1.0, -low), key=lambda side: side[1])
        return [sign * 10.0 ** (first + _decades(reach, first) - 1)]
    return sorted(ticks)


def _decades(reach: float, first: int) -> int:
    """How many powers of ten from 10**first on do not exceed `reach`."""
    if reach <= 0:
        return 0
    return max(0, int(np.floor(np.log10(reach) + 1e-9)) - first + 1)


def power_of_ten(value: float) -> str:
    """`value` as ±10ⁿ, a plain number near 1, or 0."""
    if value == 0:
        return "0"
    exponent = round(float(np.log10(abs(value))))
    sign = "−" if value < 0 else ""
    if -1 <= exponent <= 2:
        return f"{sign}{abs(value):g}"
    return f"${'-' if value < 0 else ''}10^{{{exponent}}}$"


def symlog_axis(
    axes: Axes, direction: Direction, threshold: float, *, linscale: float = 1.0
) -> None:
    """Make one axis symmetric logarithmic, linear inside ±threshold, its labels apart."""
    scale = {"linthresh": threshold, "linscale": linscale}
    getattr(axes, f"set_{direction}scale")("symlog", **scale)
    axis = getattr(axes, f"{direction}axis")
    axis.set_major_locator(Decades(threshold))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_locator(NullLocator())
