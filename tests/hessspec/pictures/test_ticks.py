"""Labels of axes that count decades never touch, and the outermost are always there."""

import itertools

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from hessspec._pictures.ticks import power_of_ten, symlog_axis  # noqa: E402

pytestmark = pytest.mark.any_dtype


def boxes_of_labels(axis, renderer):
    return [
        label.get_window_extent(renderer)
        for label in axis.get_ticklabels()
        if label.get_text() and label.get_visible()
    ]


@pytest.mark.parametrize("direction", ["x", "y"])
@pytest.mark.parametrize("decades", [1, 4, 8, 14])
@pytest.mark.parametrize("size", [(1.3, 1.1), (3.0, 2.0), (7.0, 4.0)])
def test_labels_do_not_touch(direction, decades, size):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    reach = 10.0**decades
    getattr(axes, f"set_{direction}lim")(-reach / 20, reach * 2)
    symlog_axis(axes, direction, 1.0)
    figure.canvas.draw()
    axis = getattr(axes, f"{direction}axis")
    found = boxes_of_labels(axis, figure.canvas.get_renderer())
    ends = sorted((b.x0, b.x1) if direction == "x" else (b.y0, b.y1) for b in found)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
    assert reach in axis.get_majorticklocs()
    if size[0] == 7.0:
        assert len(found) >= min(4, decades + 1)


def test_labels_are_chosen_anew_when_the_figure_grows():
    figure = Figure(figsize=(1.5, 1.5))
    axes = figure.subplots()
    axes.set_xlim(-1e6, 1e6)
    symlog_axis(axes, "x", 1e-3)
    few = len(axes.get_xticks())
    figure.set_size_inches(9, 3)
    assert len(axes.get_xticks()) > few


def test_powers_are_written_as_people_write_them():
    texts = [power_of_ten(v) for v in (0.0, 1.0, -10.0, 100.0, 0.1, 1e-5, -1e4)]
    assert texts == ["0", "1", "−10", "100", "0.1", "$10^{-5}$", "$-10^{4}$"]
    assert np.unique(texts).size == len(texts)
