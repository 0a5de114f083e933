"""Figure 7: a spectrum that is known, beside its estimate (the paper's appendix E)."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from hessspec_mtl.curvature.appendix_e import AppendixE
from hessspec_mtl.figures.style import (
    BAND,
    COLOURS,
    INK,
    MUTED,
    Plot,
    house_style,
    new_figure,
    panel_title,
)

NUM_BINS = 50
_SERIES = ("estimated trace", "trace interval low", "trace interval high")


def appendix_e_figure(record: AppendixE, *, name: str = "figure7") -> Plot:
    """Figure 7: true eigenvalues and estimated density; both distribution functions; all traces.

    The kernel of the estimated density is as wide as a bin of the histogram, so that the two show
    the same amount of detail.
    """
    truth = record.eigenvalues
    reach = 1.15 * float(np.abs(truth).max())
    bins = np.linspace(-reach, reach, NUM_BINS + 1)
    width = float(bins[1] - bins[0])
    histogram = np.histogram(truth, bins=bins, density=True)[0]
    grid = np.linspace(-reach, reach, 401)
    estimate = np.asarray(record.density.pdf(grid, bandwidth=width), np.float64)
    cdf = record.cdf_agreement
    blue = COLOURS[0]
    with house_style():
        figure = new_figure(2.75)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.15, 1.0))
        left.stairs(histogram, bins, fill=True, color="#bdbdbd", label="true eigenvalues")
        left.plot(grid, estimate, color=blue, label="estimated density")
        nodes = np.asarray(record.density.nodes, np.float64)[np.asarray(record.density.weights) > 0]
        for end in (nodes.min(), nodes.max()):
            left.annotate(
                _signed(end),
                xy=(end, 0),
                xytext=(3 if end > 0 else -3, 11),  # outwards, clear of the density
                textcoords="offset points",
                ha="left" if end > 0 else "right",
                fontsize=7,
                color=blue,
                arrowprops={"arrowstyle": "-|>", "color": blue, "linewidth": 0.8},
            )
        left.set_xlim(-1.65 * reach, 1.65 * reach)
        left.set_ylim(0, 1.42 * max(float(estimate.max()), float(histogram.max())))
        left.set_xlabel("eigenvalue")
        left.set_ylabel("density (1 / eigenvalue)")
        left.legend(loc="upper left", handlelength=1.6)

        middle.fill_between(
            cdf.grid,
            cdf.low - cdf.truth,
            cdf.high - cdf.truth,
            color=blue,
            alpha=BAND,
            linewidth=0,
            label="95 % band, all λ at once",
        )
        middle.plot(cdf.grid, cdf.estimate - cdf.truth, color=blue, linewidth=1, label="estimate")
        middle.axhline(0, color="#000000", linewidth=1, linestyle="--", label="truth")
        reach_y = 1.1 * float(np.abs(np.stack([cdf.low, cdf.high]) - cdf.truth[None]).max())
        middle.set_ylim(-reach_y, reach_y * 1.75)
        middle.set_xlabel("eigenvalue λ")
        middle.set_ylabel("estimate − truth")
        middle.legend(loc="upper left", handlelength=1.6)

        intervals = _draw_traces(right, record)
        titles = ("spectral density", "distribution function", "traces")
        for panel, letter, title in zip((left, middle, right), "abc", titles, strict=True):
            panel_title(panel, letter, title)
    frames = [
        pd.DataFrame({"series": "true eigenvalue", "x": truth, "y": 1.0 / truth.size}),
        pd.DataFrame({"series": "estimated density", "x": grid, "y": estimate}),
        pd.DataFrame({"series": "true cdf", "x": cdf.grid, "y": cdf.truth}),
        pd.DataFrame({"series": "estimated cdf", "x": cdf.grid, "y": cdf.estimate}),
        pd.DataFrame({"series": "cdf band low", "x": cdf.grid, "y": cdf.low}),
        pd.DataFrame({"series": "cdf band high", "x": cdf.grid, "y": cdf.high}),
        pd.DataFrame({"series": ["true trace"], "y": [record.true_trace]}),
        *(
            pd.DataFrame({"series": f"{series} of trial {trial}", "y": [value]})
            for trial, row in enumerate(intervals)
            for series, value in zip(_SERIES, row, strict=True)
        ),
    ]
    return Plot(
        name=name,
        title="Appendix E: a spectrum that is known",
        caption=(
            f"The Hessian of L(x) = xᵀAx/2 is the symmetric normal matrix A, {truth.size} × "
            f"{truth.size}. (a) True eigenvalues and the density estimated from "
            f"{np.shape(record.density.nodes)[-2]} probes of {np.shape(record.density.nodes)[-1]} "
            "Lanczos steps; arrows mark the estimated extremes. (b) Estimated minus true "
            "distribution function, with the band that should hold the truth everywhere at once. "
            f"(c) The trace estimated from {record.trace.num_matvecs} Rademacher samples with its "
            f"95 % interval, and the true one (dashed){_words_of_trials(record)}."
        ),
        figure=figure,
        data=pd.concat(frames, ignore_index=True),
    )


def _draw_traces(axes: Axes, record: AppendixE) -> Float[np.ndarray, "trials 3"]:
    """All intervals by the size of their estimates; returns estimate and ends in order of trial.

    One interval misses the truth by chance one time in twenty: whether they hold it as often as
    they say is seen in a hundred.
    """
    traces = (record.trace, *record.further_traces)
    ends = [(float(t.value), *map(float, t.confidence_interval(0.95))) for t in traces]
    found = np.array(ends)
    value, low, high = found[np.argsort(found[:, 0])].T
    first = int(np.argsort(np.argsort(found[:, 0]))[0])
    holds = (low <= record.true_trace) & (record.true_trace <= high)
    place = np.arange(value.size)
    for shown, colour, words in ((holds, MUTED, "holds the truth"), (~holds, COLOURS[4], "misses")):
        label = f"{words}: {shown.sum()}"
        axes.vlines(place[shown], low[shown], high[shown], color=colour, lw=0.8, label=label)
    axes.plot(place, value, ".", color=INK, markersize=1.6)
    axes.plot(place[first], value[first], "o", color=COLOURS[0], label="the first")
    axes.axhline(record.true_trace, color="#000000", linestyle="--", linewidth=1)
    axes.set_xticks([])
    bottom, top = float(low.min()), float(high.max())
    axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.55 * (top - bottom))
    axes.set_xlabel(f"{value.size} traces, sorted")
    axes.set_ylabel("sum of eigenvalues")
    axes.legend(loc="upper left", handlelength=1.2)
    return found


def _words_of_trials(record: AppendixE) -> str:
    """What panel (c) shows beside the one estimate that the report speaks of."""
    count = len(record.further_traces)
    if count == 0:
        return ""
    return (
        f"; beside it {count} more, each from probes of its own, in the order of their estimates. "
        f"{record.num_covering} of the {count} hold the truth, where {0.95 * count:.0f} are "
        "expected"
    )


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
