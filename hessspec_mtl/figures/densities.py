"""Figures 5 and 6: snapshots of every task's spectral density, around 0 and over the full range."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from hessspec import Histogram
from hessspec_mtl.curvature.spectra import TaskSpectrum
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
LOWEST = 0.4  # number of eigenvalues at which the axis begins


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

    A panel reaches ten times as far as the bin about 0 that Lanczos does not look into (the median
    over tasks). Of each bin the mean density is drawn, in the interval of its count.
    """
    shots = _spectra(study, 6)
    rows = []
    with house_style():
        columns = 2 if len(shots) == 4 else min(3, len(shots))
        lines = -(-len(shots) // columns)
        figure = new_figure(0.75 + 2.15 * lines)
        axes = figure.subplots(lines, columns, squeeze=False)
        for panel, (epoch, spectra) in zip(axes.flat, shots, strict=False):
            reach = round_up(10 * float(np.median([s.histogram.cell for s in spectra])))
            table = _draw_densities(panel, study, spectra, reach)
            rows.append(table.assign(dataset=study.name, epoch=epoch, reach=reach))
            panel.set_title(f"epoch {epoch}", pad=19)
        for panel in list(axes.flat)[len(shots) :]:
            panel.set_visible(False)
        figure.supxlabel(EIGENVALUE, fontsize=8.5)
        figure.supylabel("mean density of each bin (1 / eigenvalue)", fontsize=8.5)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    columns_ = ["dataset", "epoch", "task", "low", "high", "density", "lowest", "highest", "reach"]
    return Plot(
        name=name,
        title=f"{study.name}: spectral densities near zero",
        caption=(
            "Share of the eigenvalues of each task's Hessian in each bin around 0, divided by the "
            "width of the bin, on a logarithmic scale. Bins are the finest that this many Lanczos "
            "steps resolve: where one is wide, nothing is known of how the eigenvalues lie in it, "
            "about 0 above all. Each panel has its own axes. Bands are 95 % confidence intervals "
            "of the count in each bin: what the steps leave open and the randomness of the "
            f"{_probes(study)} probes, given the graphs that the loss was averaged over. The share "
            "of eigenvalues beyond each panel is written above it."
            + _epochs_shown(study, shots)
            + first_seed_only([study])
        ),
        figure=figure,
        data=pd.concat(rows, ignore_index=True)[columns_],
    )


def _draw_densities(
    panel: Axes, study: Study, spectra: Sequence[TaskSpectrum], reach: float
) -> pd.DataFrame:
    heights, notes, rows = [], [], []
    for index, (task, spectrum) in enumerate(zip(study.tasks, spectra, strict=True)):
        style, table = task_style(index), mean_densities(spectrum.histogram)
        seen = table[(table["high"] > -reach) & (table["low"] < reach)]
        edges = np.append(seen["low"], seen["high"].iloc[-1])
        # A bin that may be empty has a band that goes down to the axis.
        floor = np.finfo(float).tiny
        low, high = (np.maximum(seen[end], floor) for end in ("lowest", "highest"))
        panel.stairs(high, edges, baseline=low, fill=True, color=style.color, alpha=BAND, lw=0)
        panel.stairs(
            np.maximum(seen["density"], floor),
            edges,
            baseline=None,
            color=style.color,
            linestyle=style.linestyle,
            linewidth=1.1,
            label=task.label,
        )
        heights += [seen["density"], seen["highest"]]
        notes.append(f"{task.label} {_percent(spectrum.mass_beyond(reach))}")
        rows.append(seen.assign(task=task.name))
    drawn = np.concatenate(heights)
    panel.set_yscale("log")
    panel.set_ylim(0.3 * drawn[drawn > 0].min(), 3 * drawn.max())
    panel.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
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


def mean_densities(found: Histogram) -> pd.DataFrame:
    """The share of the eigenvalues in each bin over its width, and the ends of its interval."""
    scale = 1.0 / (found.dim * np.diff(found.edges))
    return pd.DataFrame(
        {
            "low": found.edges[:-1],
            "high": found.edges[1:],
            "density": scale * found.counts,
            "lowest": scale * found.lower,
            "highest": scale * found.upper,
        }
    )


def _percent(share: float) -> str:
    if share == 0:
        return "none"
    if share > 0.995:
        return "all"
    return f"{100 * share:.2g} %" if share >= 1e-6 else "< 0.0001 %"


def full_density_figure(study: Study, *, name: str = "figure6") -> Plot:
    """Figure 6: every eigenvalue of every task, outliers one by one, over up to five epochs.

    Rows are epochs, columns tasks, all on the same axes. Boxes count the eigenvalues in the finest
    bins that the steps resolve, in their intervals; each stem is one eigenvalue that is known.
    """
    shots = _spectra(study, 5)
    everything = [s for _, row in shots for s in row]
    reach = max(float(np.abs(s.histogram.edges).max()) for s in everything)
    # Logarithmic as far down as any panel looks, over seven decades at most.
    floor = max(min(s.histogram.cell for s in everything), 1e-7 * reach)
    threshold = 10.0 ** np.floor(np.log10(floor) + 1e-9)
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
                _draw_counts(panel, spectrum.histogram, index)
                rows.append(
                    counted(spectrum.histogram).assign(
                        dataset=study.name, epoch=epoch, task=task.name
                    )
                )
                if epoch == shots[0][0]:
                    panel.set_title(task.label, color=task_style(index).color)
            line[0].set_ylabel(f"epoch {epoch}")
        first = axes[0, 0]
        first.set_yscale("log")
        first.set_ylim(LOWEST, dim * 4)
        first.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
        first.yaxis.set_minor_formatter(NullFormatter())
        first.set_xlim(-reach, reach)
        for panel in axes.flat:
            symlog(panel, "x", threshold, max_ticks=5)
        figure.supxlabel(EIGENVALUE, fontsize=8.5)
        figure.supylabel("number of eigenvalues in each bin", fontsize=8.5)
    return Plot(
        name=name,
        title=f"{study.name}: full spectra",
        caption=(
            f"All P = {dim:,} eigenvalues of each task's Hessian on a symmetric logarithmic axis, "
            f"linear inside ±{threshold:g}. Boxes: number of eigenvalues in each bin beside those "
            "known one by one, with its 95 % confidence interval as a darker band; a band that "
            "reaches the axis includes none. Bins are the finest that this many Lanczos steps and "
            f"{_probes(study)} probes resolve. Stems with heads: eigenvalues known one by one, at "
            "the height of their multiplicity. In the grey bin about 0 the steps (or rounding) "
            "leave size and sign of an eigenvalue open."
            + _epochs_shown(study, shots)
            + first_seed_only([study])
        ),
        figure=figure,
        data=pd.concat(rows, ignore_index=True)[
            ["dataset", "epoch", "task", "kind", "low", "high", "count", "lowest", "highest"]
        ],
    )


def _draw_counts(panel: Axes, found: Histogram, index: int) -> None:
    style = task_style(index)
    zero = found.about_zero
    if zero >= 0:
        # How eigenvalues lie inside this bin is not known.
        panel.axvspan(*found.edges[zero : zero + 2], color="#d0d0d0", linewidth=0, zorder=0)
    counts, low, high = (np.maximum(column, LOWEST / 2) for column in found.rest())
    look = {"color": style.color, "fill": True, "linewidth": 0}
    panel.stairs(counts, found.edges, baseline=LOWEST / 2, alpha=0.2, **look)
    panel.stairs(high, found.edges, baseline=low, alpha=0.4, **look)
    panel.stairs(counts, found.edges, baseline=None, color=style.color, linewidth=0.9)
    panel.vlines(
        found.atoms, LOWEST / 2, found.multiplicities, color="#000000", linewidth=0.5, alpha=0.55
    )
    panel.plot(
        found.atoms,
        found.multiplicities,
        linestyle="none",
        marker=style.marker,
        markersize=2.4,
        color="#000000",
        markeredgewidth=0,
    )
    panel.axvline(0, color=MUTED, linewidth=0.5, linestyle=":")


def counted(found: Histogram) -> pd.DataFrame:
    """The bins, with all that is in them, and the eigenvalues known one by one."""
    bins = (found.edges[:-1], found.edges[1:], found.counts, found.lower, found.upper)
    single = (found.atoms, found.atoms, *(found.multiplicities,) * 3)
    columns = ("low", "high", "count", "lowest", "highest")
    return pd.concat(
        [
            pd.DataFrame({"kind": kind, **dict(zip(columns, part, strict=True))})
            for kind, part in (("bin", bins), ("atom", single))
        ],
        ignore_index=True,
    )
