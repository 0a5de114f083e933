"""Axes that go through zero and span powers of ten."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hessspec_mtl.figures.axes import (
    epoch_axis,
    linear_threshold,
    log_axis,
    power_of_ten,
    sideways,
    symlog,
)
from hessspec_mtl.figures.style import house_style, new_figure


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20), st.integers(3, 9))
def test_symlog_axes_label_zero_and_few_powers_of_ten(values, max_ticks):
    array = np.array(values)
    axes = new_figure(2.0).subplots()
    axes.set_ylim(min(array.min(), 0) - 1, max(array.max(), 0) + 1)
    symlog(axes, "y", linear_threshold(array), max_ticks=max_ticks)
    ticks = axes.get_yticks()
    assert 0.0 in ticks
    assert len(ticks) <= max_ticks + 1
    others = np.log10(np.abs(ticks[ticks != 0]))
    np.testing.assert_allclose(others, others.round(), atol=1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (10, "10"), (-0.1, "−0.1"), (1e5, "$10^{5}$"), (-1e-4, "$-10^{-4}$")],
)
def test_powers_of_ten_are_written_as_readers_expect(value, text):
    assert power_of_ten(value) == text


def boxes(axis, renderer):
    shown = [label for label in axis.get_ticklabels() if label.get_text()]
    return sorted((box.y0, box.y1) for box in (t.get_window_extent(renderer) for t in shown))


@pytest.mark.parametrize("decades", [0.3, 1, 2, 4, 8, 15])
@pytest.mark.parametrize("height", [1.5, 2.6, 4.0])
def test_labels_of_logarithmic_axes_do_not_touch(decades, height):
    with house_style():
        figure = new_figure(height)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot([0, 1], [0.02, 0.02 * 10.0**decades])
        axes.set_yscale("log")
        log_axis(axes, "y")
        figure.canvas.draw()
        found = boxes(axes.yaxis, figure.canvas.get_renderer())
    low, high = axes.get_ylim()
    inside = [value for value in axes.get_yticks() if low <= value <= high]
    assert len(inside) >= 2
    assert all(below[1] <= above[0] for below, above in itertools.pairwise(found))


@pytest.mark.parametrize("count", [1, 3, 10, 40])
def test_seeds_of_one_epoch_do_not_stand_among_those_of_the_next(count):
    """Ten seeds had done so at the epochs 1, 3 and 6 of 40; three stand as far apart as asked."""
    epochs = np.array([0.0, 1, 3, 6, 16, 40])
    places = epoch_axis(epochs)(epochs)
    offsets = sideways(places, count, step=0.02)
    assert offsets.size == count
    assert abs(offsets.sum()) < 1e-12
    points = places[:, None] + offsets
    assert (points[1:].min(axis=1) > points[:-1].max(axis=1)).all()
    if count == 3:
        np.testing.assert_allclose(np.diff(offsets), 0.02 * np.ptp(places))
