"""Figures 5 and 6: snapshots of every task's spectral density, around 0 and over the full range."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from hessspec_mtl.curvature.spectra import TaskSpectrum, widest
from hessspec_mtl.figures.axes import symlog
from hessspec_mtl.figures.style import (
    BAND,
    MUTED,
    Plot,
    first_seed_only,
    house_style,
    new_figure,
    task_style,
)
from hessspec_mtl.study.records import Study

EIGENVALUE = "eigenvalue λ (loss / parameter²)"
NUM_GRID = 601
BINS_PER_DECADE = 4


def snapshots(num_epochs: int, wanted: int) -> list[int]:
    """At most `wanted` of `num_epochs` positions, evenly spread, the first and last included."""
    return sorted(set(np.linspace(0, num_epochs - 1, min(wanted, num_epochs)).round().astype(int)))


def _spectra(study: Study, wanted: int) -> list[tuple[int, list[TaskSpectrum]]]:
    run = study.runs[0]
    return [(run.curvature[i].epoch, run.spectra[i]) for i in snapshots(len(run.curvature), wanted)]


def _epochs_shown(study: Study, shots: Sequence[tuple[int, list[TaskSpectrum]]]) -> str:
    """Which of the analysed epochs are drawn, in a sentence of the caption."""
    total = len(study.runs[0].curvature)
    if len(shots) == total:
        return " All analysed epochs are shown."
    epochs = ", ".join(str(epoch) for epoch, _ in shots)
    return f" Shown are epochs {epochs}, {len(shots)} of the {total} analysed."


def _probes(study: Study) -> int:
    return int(study.runs[0].curvature[0].density.num_probes)


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9)))


def cropped_density_figure(study: Study, *, name: str = "figure5") -> Plot:
    """Figure 5: every task's density near 0, one panel for each of up to six epochs.

    The kernel of a panel is as wide as the cell about 0 that Lanczos does not look into (the
    median over tasks), and its crop twenty times that. Bands are the spread over probes.
    """
    shots = _spectra(study, 6)
    rows = []
    with house_style():
        columns = 2 if len(shots) == 4 else min(3, len(shots))
        lines = -(-len(shots) // columns)
        figure = new_figure(0.75 + 2.15 * lines)
        axes = figure.subplots(lines, columns, squeeze=False)
        for panel, (epoch, spectra) in zip(axes.flat, shots, strict=False):
            bandwidth = float(np.median([spectrum.blur for spectrum in spectra])) or 1.0
            reach = round_up(20 * bandwidth)
            grid = np.linspace(-reach, reach, NUM_GRID)
            table = _draw_densities(panel, study, spectra, grid, bandwidth)
            rows.append(table.assign(dataset=study.name, epoch=epoch, bandwidth=bandwidth))
            panel.set_title(f"epoch {epoch}", pad=19)
        for panel in list(axes.flat)[len(shots) :]:
            panel.set_visible(False)
        figure.supxlabel(EIGENVALUE, fontsize=8.5)
        figure.supylabel("spectral density ψ (1 / eigenvalue)", fontsize=8.5)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    columns_ = ["dataset", "epoch", "task", "eigenvalue", "density", "lowest_probe"]
    return Plot(
        name=name,
        title=f"{study.name}: spectral densities near zero",
        caption=(
            "Spectral density of each task's Hessian (its integral over all eigenvalues is 1) "
            "around 0, on a logarithmic scale. It is smoothed with a Gaussian kernel as wide as "
            "the cell about 0 into which this many Lanczos steps do not look: the central peak has "
            "the kernel's width, the shoulders have their own. Each panel has its own axes. "
            f"Lines are means over {_probes(study)} probes and bands their range, which is less "
            "than a confidence interval; both are given the graphs that the loss was averaged "
            "over. The share of eigenvalues beyond each panel is written above it."
            + _epochs_shown(study, shots)
            + first_seed_only([study])
        ),
        figure=figure,
        data=pd.concat(rows, ignore_index=True)[[*columns_, "highest_probe", "bandwidth"]],
    )


def _draw_densities(
    panel: Axes,
    study: Study,
    spectra: Sequence[TaskSpectrum],
    grid: np.ndarray,
    bandwidth: float,
) -> pd.DataFrame:
    reach, top, notes, rows = float(grid[-1]), 0.0, [], []
    for index, (task, spectrum) in enumerate(zip(study.tasks, spectra, strict=True)):
        style = task_style(index)
        curves = spectrum.smoothed(grid, bandwidth)
        mean, low, high = curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)
        top = max(top, float(high.max()))
        panel.fill_between(grid, low, high, color=style.color, alpha=BAND, linewidth=0)
        panel.plot(
            grid,
            mean,
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markevery=(20 + 25 * index, 140),
            markersize=3.2,
            linewidth=1.1,
            label=task.label,
        )
        notes.append(f"{task.label} {_percent(spectrum.mass_beyond(reach))}")
        rows.append(
            pd.DataFrame(
                {
                    "task": task.name,
                    "eigenvalue": grid,
                    "density": mean,
                    "lowest_probe": low,
                    "highest_probe": high,
                }
            )
        )
    panel.set_yscale("log")
    panel.set_ylim(top * 10**-6.5, top * 4)
    panel.yaxis.set_major_locator(LogLocator(base=100, numticks=6))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(-reach, reach)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=4, symmetric=True))
    # Above the panel, where no density can lie, in two lines.
    half = -(-len(notes) // 2)
    panel.annotate(
        f"beyond: {', '.join(notes[:half])},\n{', '.join(notes[half:])}".strip(",\n"),
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=6.2,
        color=MUTED,
        linespacing=1.15,
    )
    return pd.concat(rows, ignore_index=True)


def _percent(share: float) -> str:
    if share == 0:
        return "none"
    if share > 0.995:
        return "all"
    return f"{100 * share:.2g} %" if share >= 1e-6 else "< 0.0001 %"


def full_density_figure(study: Study, *, name: str = "figure6") -> Plot:
    """Figure 6: every eigenvalue of every task, outliers one by one, over up to five epochs.

    Rows are epochs, columns tasks, all on the same axes. The filled steps count the eigenvalues in
    each bin of the symmetric logarithmic axis; each stem is one eigenvalue that was resolved.
    """
    shots = _spectra(study, 5)
    everything = [s for _, row in shots for s in row]
    reach = widest(everything)
    # Logarithmic as far down as any panel looks, over seven decades at most.
    floor = max(min(s.blur for s in everything), 1e-7 * reach, 1e-300)
    threshold = 10.0 ** min(np.floor(np.log10(floor)), np.floor(np.log10(reach or 1.0)))
    edges = symlog_edges(threshold, reach * 1.5)
    dim = everything[0].dim
    rows = []
    with house_style():
        figure = new_figure(0.7 + 1.12 * len(shots))
        axes = figure.subplots(
            len(shots), len(study.tasks), squeeze=False, sharex=True, sharey=True
        )
        for line, (epoch, spectra) in zip(axes, shots, strict=True):
            for index, (panel, task, spectrum) in enumerate(
                zip(line, study.tasks, spectra, strict=True)
            ):
                rows.append(
                    _draw_counts(panel, spectrum, edges, index).assign(
                        dataset=study.name, epoch=epoch, task=task.name
                    )
                )
                if epoch == shots[0][0]:
                    panel.set_title(task.label, color=task_style(index).color)
            line[0].set_ylabel(f"epoch {epoch}")
        first = axes[0, 0]
        first.set_yscale("log")
        first.set_ylim(0.4, dim * 4)
        first.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
        first.yaxis.set_minor_formatter(NullFormatter())
        first.set_xlim(-reach * 2, reach * 2)
        for panel in axes.flat:
            symlog(panel, "x", threshold, max_ticks=5)
        figure.supxlabel(EIGENVALUE, fontsize=8.5)
        figure.supylabel("number of eigenvalues in each bin", fontsize=8.5)
    return Plot(
        name=name,
        title=f"{study.name}: full spectra",
        caption=(
            f"All P = {dim:,} eigenvalues of each task's Hessian on a symmetric logarithmic axis, "
            f"linear inside ±{threshold:g}. Filled steps: number of eigenvalues in each bin, the "
            f"mean over {_probes(study)} probes; whiskers: their range. Stems with heads: "
            "eigenvalues that were resolved one by one, at the height of their multiplicity. In "
            "the grey strip, one bin, this many Lanczos steps (or rounding) leave size and sign of "
            "an eigenvalue open." + _epochs_shown(study, shots) + first_seed_only([study])
        ),
        figure=figure,
        data=pd.concat(rows, ignore_index=True)[
            ["dataset", "epoch", "task", "kind", "low", "high", "count", "lowest", "highest"]
        ],
    )


def symlog_edges(threshold: float, reach: float) -> np.ndarray:
    """Bin edges from -reach to reach: one bin about 0, then `BINS_PER_DECADE` a decade."""
    decades = max(np.log10(reach / threshold), 1 / BINS_PER_DECADE)
    outer = threshold * np.logspace(0, decades, int(np.ceil(decades * BINS_PER_DECADE)) + 1)
    return np.concatenate([-outer[::-1], outer])


def _draw_counts(
    panel: Axes, spectrum: TaskSpectrum, edges: np.ndarray, index: int
) -> pd.DataFrame:
    style = task_style(index)
    atoms, multiplicities = spectrum.atoms()
    # About 0 there is one bin: how eigenvalues lie inside it is not known.
    blur = spectrum.blur
    panel.axvspan(-blur, blur, color="#d0d0d0", linewidth=0, zorder=0)
    edges = np.concatenate([edges[edges < -blur], [-blur, blur], edges[edges > blur]])
    counts = spectrum.counts(edges)
    mean, low, high = counts.mean(axis=0), counts.min(axis=0), counts.max(axis=0)
    panel.stairs(
        np.maximum(mean, 1e-3), edges, fill=True, color=style.color, alpha=0.3, baseline=1e-3
    )
    panel.stairs(np.maximum(mean, 1e-3), edges, color=style.color, linewidth=0.9)
    middles = 0.5 * (edges[1:] + edges[:-1])
    seen = mean > 0
    panel.vlines(
        middles[seen],
        np.maximum(low[seen], 1e-3),
        high[seen],
        color=style.color,
        linewidth=0.8,
    )
    panel.vlines(atoms, 1e-3, multiplicities, color="#000000", linewidth=0.5, alpha=0.55)
    panel.plot(
        atoms,
        multiplicities,
        linestyle="none",
        marker=style.marker,
        markersize=2.4,
        color="#000000",
        markeredgewidth=0,
    )
    panel.axvline(0, color=MUTED, linewidth=0.5, linestyle=":")
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "kind": "bin",
                    "low": edges[:-1],
                    "high": edges[1:],
                    "count": mean,
                    "lowest": low,
                    "highest": high,
                }
            ),
            pd.DataFrame(
                {
                    "kind": "atom",
                    "low": atoms,
                    "high": atoms,
                    "count": multiplicities,
                    "lowest": multiplicities,
                    "highest": multiplicities,
                }
            ),
        ],
        ignore_index=True,
    )
