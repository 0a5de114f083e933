"""One look at Figure 15 tells: intervals, zero and the band below which nothing matters."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.figures import delta_m_figure
from hessspec_mtl.study.decision import SEEDS, methods
from hessspec_mtl.study.delta_m import Decision, verdicts

TASKS = ("a", "b")


@pytest.fixture(scope="module")
def decision(weighed) -> Decision:
    screen = weighed.screened(
        TASKS, {"equal": 1.0, "fixed 1 3": 0.9, "nash": 0.9, "sharpness": 0.9}
    )
    table = weighed.decided(screen, {"nash": -5.0, "sharpness": 3.0})
    lost = (table["weighting"] == "sharpness") & (table["seed"] == 4)
    table.loc[lost, "mae"] = np.inf
    return Decision("QM8", TASKS, methods(screen)[:-1], table)


def test_it_draws_every_seed_each_interval_zero_and_the_band(decision):
    plot = delta_m_figure([decision])
    left, right = plot.figure.axes
    band = left.patches[0].get_extents().transformed(left.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-2.0, 2.0))
    points = {line.get_xdata().size for line in left.lines if line.get_marker() == "o"}
    assert points == {len(SEEDS), len(SEEDS) - 1}  # the run that diverged has no place
    found = verdicts(decision).set_index("weighting")
    ends = [bar.get_segments()[0][:, 0] for bar in left.collections]
    assert ends[1] == pytest.approx(found.loc["nash", ["against_low_95", "against_high_95"]])
    assert [text.get_text().split("\n")[0] for text in left.get_yticklabels()] == [
        *("equal", "fixed 1 3", "nash", "sharpness", "gauss-newton-root")
    ]
    assert "1 diverged" in left.get_yticklabels()[3].get_text()
    for panel in (left, right):
        assert panel.yaxis_inverted()
        assert any(np.all(line.get_xdata() == 0) for line in panel.lines)


def test_all_that_is_drawn_lies_beside_it(decision):
    data = delta_m_figure([decision, replace(decision, dataset="MP")]).data
    nash = data[(data["weighting"] == "nash") & (data["seed"] == "")].set_index("what")
    assert nash.loc["against equal weights", "value"].tolist() == pytest.approx([-5.0] * 2)
    assert nash.loc["a", "value"].tolist() == pytest.approx([-5.0] * 2)
    lost = data[(data["weighting"] == "sharpness") & (data["seed"] == 4)]
    assert np.isinf(lost["value"].astype(float)).all()


def test_without_a_finished_study_there_is_none():
    assert delta_m_figure([]) is None
