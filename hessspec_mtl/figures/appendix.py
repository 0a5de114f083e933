"""Figure 7: a spectrum that is known, beside its estimate (the paper's appendix E)."""

import numpy as np
import pandas as pd

from hessspec_mtl.curvature.appendix_e import AppendixE
from hessspec_mtl.figures.style import (
    BAND,
    COLOURS,
    Plot,
    house_style,
    new_figure,
    panel_title,
)

NUM_BINS = 50


def appendix_e_figure(record: AppendixE, *, name: str = "figure7") -> Plot:
    """Figure 7: true eigenvalues and estimated density; both distribution functions; both traces.

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
    low, high = (float(end) for end in record.trace.confidence_interval(0.95))
    blue, orange = COLOURS[0], COLOURS[4]
    with house_style():
        figure = new_figure(2.75)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 0.8))
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

        right.axhline(record.true_trace, color="#000000", linestyle="--", linewidth=1)
        value = float(record.trace.value)
        right.errorbar(
            [0.5],  # beside the words on the line of the truth
            [value],
            yerr=[[value - low], [high - value]],
            color=orange,
            marker="o",
            capsize=4,
            linestyle="none",
        )
        right.set_xlim(-1, 1)
        right.set_xticks([])
        span = max(high, record.true_trace) - min(low, record.true_trace)
        right.set_ylim(
            min(low, record.true_trace) - 0.25 * span, max(high, record.true_trace) + 0.45 * span
        )
        right.annotate(
            f"true {_signed(record.true_trace)}",
            xy=(-0.95, record.true_trace),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7,
        )
        right.annotate(
            f"estimate {_signed(value)}\n± {float(record.trace.standard_error):.2f} (one s.e.)\n"
            f"{record.trace.num_matvecs} samples",
            xy=(0.5, 0.98),
            xycoords="axes fraction",
            ha="center",
            va="top",
            fontsize=7,
            color=orange,
        )
        right.set_ylabel("sum of eigenvalues")
        titles = ("spectral density", "distribution function", "trace")
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
        pd.DataFrame(
            {
                "series": ["estimated trace", "trace interval low", "trace interval high"],
                "y": [value, low, high],
            }
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
            "95 % interval, and the true one (dashed)."
        ),
        figure=figure,
        data=pd.concat(frames, ignore_index=True),
    )


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
