"""What is drawn of a spectral density: the record as plain arrays, and the pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from hessspec._base.tasks import task_labels
from hessspec._pictures.boxes import Boxes, draw_boxes
from hessspec._pictures.scales import Scale, even_points
from hessspec._pictures.spectra import DistributionCurve, draw_distributions
from hessspec._spectrum.bins import Histogram, whole_numbers

if TYPE_CHECKING:
    from hessspec._spectrum.record import SpectralDensity


def plot_density(
    density: SpectralDensity,
    *,
    ax: Any = None,
    scale: Scale = "symlog",
    level: float = 0.95,
    linthresh: float | None = None,
    label: str | None = None,
) -> Any:
    """Draw how many eigenvalues lie where, as far as the run resolves it.

    Boxes are the bins of `SpectralDensity.histogram` without what is known one by one, each with
    the interval of its number as a band; stems are eigenvalues known one by one, each once, at the
    height of the eigenvectors known. The hatched box about 0 is one bin: of what is in it the steps
    show the number alone. Nothing is smoothed; `pdf` does that.

    Args:
        density: the record to draw.
        ax: axes to draw into, one for each task; new ones by default.
        scale: "linear", "log" (positive eigenvalues) or "symlog" (decades on both sides of 0).
        level: of each interval, for its bin alone.
        linthresh: no bin of "log" and "symlog" ends nearer to 0; `resolution` by default.
        label: legend entry; with tasks, " 0", " 1", ... are added.

    Returns:
        The axes; with a task axis an array of them, one panel for each task.

    Raises:
        ImportError: without matplotlib.
        ValueError: if `scale` is unknown, `level` not in (0, 1), or `ax` of another number.
    """
    named = _named_tasks(density, label)
    panels = _draw_boxes(named, ax, scale, level, linthresh)
    return panels[0] if density.num_tasks is None else np.array(panels, dtype=object)


def plot_densities(
    densities: Mapping[str, SpectralDensity] | Sequence[SpectralDensity],
    *,
    ax: Any = None,
    scale: Scale = "symlog",
    level: float = 0.95,
    linthresh: float | None = None,
) -> Any:
    """Draw several densities side by side on common axes: checkpoints, tasks, whole and part.

    Args:
        densities: records by the titles of their panels, or in a sequence; without task axis
            (`density.task(t)` is one of several).
        ax: axes to draw into, one for each; new ones by default.
        scale, level, linthresh: as for `plot_density`.

    Returns:
        An array of axes, one for each density.

    Raises:
        ImportError: without matplotlib.
        ValueError: for no densities, one with a task axis, or as `plot_density`.
    """
    pairs = _titled(densities)
    if not pairs:
        raise ValueError("`densities` must hold at least one density, got none")
    for one, title in pairs:
        if one.num_tasks is not None:
            raise ValueError(
                f"`densities` must hold one spectrum each, got {one.num_tasks} tasks in {title!r}; "
                "choose one with `density.task(t)`, or draw all with `density.plot()`."
            )
    return np.array(_draw_boxes(pairs, ax, scale, level, linthresh), dtype=object)


def plot_cdf(
    density: SpectralDensity,
    *,
    ax: Any = None,
    scale: Scale = "symlog",
    level: float = 0.95,
    uniform: bool = True,
    linthresh: float | None = None,
    label: str | None = None,
) -> Any:
    """Draw the share of eigenvalues below each x, with its confidence band.

    Args:
        density: the record to draw.
        ax: axes to draw into, one for each task; new ones by default.
        scale, linthresh: of the eigenvalue axis, as in `plot_density`.
        level, uniform: of the band, as in `SpectralDensity.cdf_band`.
        label: legend entry; with tasks, " 0", " 1", ... are added.

    Returns:
        The axes; with a task axis an array of them, one panel for each task.

    Raises:
        ImportError: without matplotlib.
    """
    threshold = linear_part(density.resolution, linthresh)
    grid = _grid(density, scale, threshold)
    curves = [
        DistributionCurve(grid, one.cdf(grid), *one.cdf_band(grid, level, uniform), name)
        for one, name in _named_tasks(density, label)
    ]
    panels = draw_distributions(curves, ax, scale, threshold, level)
    return panels[0] if density.num_tasks is None else np.array(panels, dtype=object)


def _draw_boxes(
    named: Sequence[tuple[SpectralDensity, str | None]],
    ax: Any,
    scale: Scale,
    level: float,
    linthresh: float | None,
) -> list[Any]:
    drawn = [
        boxes(one.histogram(scale, level=level, linthresh=linthresh), scale, name)
        for one, name in named
    ]
    return draw_boxes(drawn, ax, scale, level)


def boxes(found: Histogram, scale: Scale, label: str | None) -> Boxes:
    """The bins without their atoms, the atoms as stems, and what is written about 0."""
    counts, low, high = found.rest()
    zero, edges = found.about_zero, found.edges
    if scale == "log":
        # The first bin reaches down to the smallest eigenvalue: a decade of it is shown.
        zero, edges = 0, np.concatenate([edges[1:2] / 10, edges[1:]])
    said = ""
    if zero >= 0:
        where = "up to here" if scale == "log" else "about 0"
        ends = f"[{found.lower[zero]:,.0f}, {found.upper[zero]:,.0f}]"
        said = f"{where}: {whole_numbers(found.counts)[zero]:,}\n{ends}"
    shown = found.atoms > 0 if scale == "log" else np.ones(found.atoms.shape, bool)
    stems, heights = found.atoms[shown], found.multiplicities[shown]
    return Boxes(edges, counts, low, high, zero, said, stems, heights, label)


def _titled(
    densities: Mapping[str, SpectralDensity] | Sequence[SpectralDensity],
) -> list[tuple[SpectralDensity, str | None]]:
    if isinstance(densities, Mapping):
        return [(one, str(title)) for title, one in densities.items()]
    return [(one, str(place)) for place, one in enumerate(densities)]


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
    count = density.num_tasks
    singles = [density] if count is None else [density.task(t) for t in range(count)]
    return list(zip(singles, task_labels(label, count), strict=True))


def _grid(density: SpectralDensity, scale: Scale, linthresh: float) -> np.ndarray:
    nodes = np.asarray(density.nodes)[np.asarray(density.weights) > 0]
    return even_points(nodes, scale, linthresh)
