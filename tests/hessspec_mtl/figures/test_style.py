"""Labels, colours and markers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.figures.style import spread_apart, task_style

finite = st.floats(-1e3, 1e3)


@given(st.lists(finite, min_size=1, max_size=8), st.floats(0.1, 50))
def test_labels_are_spread_apart_in_order_about_their_mean(positions, gap):
    placed = spread_apart(positions, gap)
    order = sorted(range(len(positions)), key=positions.__getitem__)
    steps = np.diff([placed[i] for i in order])
    assert np.all(steps >= gap - 1e-6)
    assert np.mean(placed) == pytest.approx(np.mean(positions), abs=1e-6)


def test_labels_already_apart_stay_where_they_are():
    assert spread_apart([0.0, 30.0, 10.0], 10.0) == [0.0, 30.0, 10.0]


def test_first_tasks_differ_in_colour_marker_and_line():
    styles = [task_style(i) for i in range(7)]
    for part in ("color", "marker", "linestyle"):
        assert len({str(getattr(style, part)) for style in styles}) == 7
