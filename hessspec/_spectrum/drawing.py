"""What is drawn of a spectral density: the record as plain arrays, and the pictures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from hessspec._pictures.scales import Scale, even_points
from hessspec._pictures.spectra import (
    DensityCurve,
    DistributionCurve,
    draw_densities,
    draw_distributions,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hessspec._spectrum.record import SpectralDensity


def plot_density(
    density: SpectralDensity,
    *,
    ax: Axes | None = None,
    scale: Scale = "symlog",
    bandwidth: float | None = None,
    linthresh: float | None = None,
    label: str | None = None,
) -> Axes:
    """Draw the eigenvalues resolved one by one as stems and the rest as a smooth density.

    Heights are numbers of eigenvalues. A stem's is P times the weight of its node, in the row with
    most atoms: the multiplicity of the atom and, where fewer vectors of a multiple eigenvalue were
    found than there are, an estimate of the others. The curve's is the number of eigenvalues in
    one unit of the axis (a decade, unless `scale` is "linear"). With a task axis each task is one
    colour.

    Args:
        density: the record to draw.
        ax: axes to draw into; new ones by default.
        scale: "linear", "log" (positive eigenvalues) or "symlog" (decades on both sides of 0).
        bandwidth: of the curve, in units of the axis; see `SpectralDensity.pdf`.
        linthresh: half-width of the linear part of "symlog"; `resolution` by default.
        label: legend entry; with tasks, " 0", " 1", ... are added.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    threshold = linear_part(density.resolution, linthresh)
    grid = _grid(density, scale, threshold)
    curves = [
        DensityCurve(
            grid,
            density.dim * one.pdf(grid, bandwidth, scale=scale, linthresh=threshold),
            *_atoms(one),
            name,
        )
        for one, name in _named_tasks(density, label)
    ]
    return draw_densities(curves, ax, scale, threshold)


def plot_cdf(
    density: SpectralDensity,
    *,
    ax: Axes | None = None,
    scale: Scale = "symlog",
    level: float = 0.95,
    uniform: bool = True,
    linthresh: float | None = None,
    label: str | None = None,
) -> Axes:
    """Draw the share of eigenvalues below each x, with its confidence band.

    Args:
        density: the record to draw.
        ax: axes to draw into; new ones by default.
        scale, linthresh: of the eigenvalue axis, as in `plot_density`.
        level, uniform: of the band, as in `SpectralDensity.cdf_band`.
        label: legend entry.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    threshold = linear_part(density.resolution, linthresh)
    grid = _grid(density, scale, threshold)
    curves = [
        DistributionCurve(grid, one.cdf(grid), *one.cdf_band(grid, level, uniform), name)
        for one, name in _named_tasks(density, label)
    ]
    return draw_distributions(curves, ax, scale, threshold, level)


def linear_part(resolution: Float[Array | np.ndarray, "*tasks"], linthresh: float | None) -> float:
    """Half-width of the linear part of "symlog": what cannot be told from 0, unless one is given.

    1 if everything can, and if 0 is given.
    """
    width = float(np.max(np.asarray(resolution))) if linthresh is None else linthresh
    return width if width > 0 else 1.0


def _named_tasks(
    density: SpectralDensity, label: str | None
) -> list[tuple[SpectralDensity, str | None]]:
    """The spectrum of each task with its entry in the legend."""
    if density.num_tasks is None:
        return [(density, label)]
    return [(density.task(t), f"{label or 'task'} {t}") for t in range(density.num_tasks)]


def _grid(density: SpectralDensity, scale: Scale, linthresh: float) -> np.ndarray:
    nodes = np.asarray(density.nodes)[np.asarray(density.weights) > 0]
    return even_points(nodes, scale, linthresh)


def _atoms(density: SpectralDensity) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and the eigenvalues in each by its weight, of the probe that has most of them."""
    multiplicities = np.asarray(density.multiplicities)
    probe = int((multiplicities > 0).sum(axis=1).argmax())
    settled = multiplicities[probe] > 0
    counts = density.dim * np.asarray(density.weights)[probe]
    return np.asarray(density.nodes)[probe][settled], counts[settled]
