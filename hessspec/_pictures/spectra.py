"""Pictures of distribution functions with their bands, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from hessspec._pictures.frame import on_the_rim, panels_for
from hessspec._pictures.scales import Scale


@dataclass(frozen=True)
class DistributionCurve:
    """A distribution function at `x` in a band from `low` to `high`, in one colour."""

    x: Float[np.ndarray, " grid"]
    shares: Float[np.ndarray, " grid"]
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]
    label: str | None


def draw_distributions(
    curves: Sequence[DistributionCurve],
    ax: Any,
    scale: Scale,
    linthresh: float,
    level: float,
) -> list[Any]:
    """A panel for each: steps in their band, which holds with probability `level`."""
    panels = panels_for(ax, [curve.label for curve in curves])
    for panel, curve in zip(panels, curves, strict=True):
        label = curve.label if len(curves) == 1 else None
        (line,) = panel.step(curve.x, curve.shares, where="post", label=label, linewidth=1.2)
        colour = line.get_color()
        panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        _set_scale(panel, scale, linthresh)
        panel.set_xlim(curve.x.min(), curve.x.max())
        panel.set_ylim(0, 1)
        panel.set_xlabel("eigenvalue of the Hessian")
        panel.set_ylabel(f"share of eigenvalues below ({level:.0%} band)")
        if label:
            panel.legend(fontsize="small")
    on_the_rim(panels)
    return panels


def _set_scale(panel: Any, scale: Scale, linthresh: float) -> None:
    if scale == "symlog":
        from hessspec._pictures.ticks import symlog_axis

        symlog_axis(panel, "x", 10.0 ** np.floor(np.log10(linthresh)))
    else:
        panel.set_xscale(scale)
