"""Pictures of spectra. Needs matplotlib, the extra `plot`; nothing else in the package does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hessspec._spectrum.record import Scale, SpectralDensity

_GRID = 601


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it with `pip install hessspec[plot]`."
        ) from error
    return pyplot


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
    axes: Any = _pyplot().subplots()[1] if ax is None else ax
    threshold = _linthresh(density, scale, linthresh)
    for task, one in enumerate(_tasks(density)):
        name = label if density.num_tasks is None else f"{label or 'task'} {task}"
        grid = _grid(density, scale, threshold)
        curve = density.dim * one.pdf(grid, bandwidth, scale=scale, linthresh=threshold)
        (line,) = axes.plot(grid, curve, label=name, linewidth=1.2)
        nodes, counts = _atoms(one)
        if scale == "log":
            nodes, counts = nodes[nodes > 0], counts[nodes > 0]
        if nodes.size:
            axes.vlines(nodes, 0, counts, color=line.get_color(), linewidth=0.8)
            axes.plot(nodes, counts, "o", color=line.get_color(), markersize=2.5)
    _set_scale(axes, scale, threshold)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    unit = "unit" if scale == "linear" else "decade"
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel(f"eigenvalues per {unit}; stems: eigenvalues")
    if label or density.num_tasks:
        axes.legend()
    return axes


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
    axes: Any = _pyplot().subplots()[1] if ax is None else ax
    threshold = _linthresh(density, scale, linthresh)
    for task, one in enumerate(_tasks(density)):
        name = label if density.num_tasks is None else f"{label or 'task'} {task}"
        grid = _grid(density, scale, threshold)
        low, high = one.cdf_band(grid, level, uniform)
        (line,) = axes.step(grid, one.cdf(grid), where="post", label=name, linewidth=1.2)
        axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    _set_scale(axes, scale, threshold)
    axes.set_ylim(0, 1)
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel(f"share of eigenvalues below ({level:.0%} band)")
    if label or density.num_tasks:
        axes.legend()
    return axes


def _tasks(density: SpectralDensity) -> list[SpectralDensity]:
    if density.num_tasks is None:
        return [density]
    return [density.task(t) for t in range(density.num_tasks)]


def _atoms(density: SpectralDensity) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and the eigenvalues in each by its weight, of the probe that has most of them."""
    multiplicities = np.asarray(density.multiplicities)
    probe = int((multiplicities > 0).sum(axis=1).argmax())
    settled = multiplicities[probe] > 0
    counts = density.dim * np.asarray(density.weights)[probe]
    return np.asarray(density.nodes)[probe][settled], counts[settled]


def _linthresh(density: SpectralDensity, scale: Scale, linthresh: float | None) -> float | None:
    if scale != "symlog" or linthresh is not None:
        return linthresh
    resolution = float(np.max(np.asarray(density.resolution)))
    return resolution if resolution > 0 else 1.0


def _grid(density: SpectralDensity, scale: Scale, linthresh: float | None) -> np.ndarray:
    """Points evenly spaced on the axis, a little beyond both ends of the spectrum."""
    nodes = np.asarray(density.nodes)[np.asarray(density.weights) > 0]
    if scale == "log":
        nodes = nodes[nodes > 0]
        low, high = (np.log10(nodes.min()), np.log10(nodes.max())) if nodes.size else (0.0, 1.0)
        return 10 ** np.linspace(low - 0.3, high + 0.3, _GRID)
    low, high = nodes.min(), nodes.max()
    if scale == "linear":
        margin = 0.05 * ((high - low) or abs(high) or 1.0)
        return np.linspace(low - margin, high + margin, _GRID)
    threshold = linthresh or 1.0
    ends = np.arcsinh(np.array([low, high]) / (2 * threshold))
    return 2 * threshold * np.sinh(np.linspace(ends[0] - 0.7, ends[1] + 0.7, _GRID))


def _set_scale(ax: Any, scale: Scale, linthresh: float | None) -> None:
    if scale == "symlog":
        ax.set_xscale("symlog", linthresh=linthresh or 1.0)
    else:
        ax.set_xscale(scale)
