"""Pictures of spectra hold every eigenvalue and the mass inside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.figures import (
    cropped_density_figure,
    full_density_figure,
)
from hessspec_mtl.figures.densities import round_up, snapshots


def test_snapshots_keep_both_ends():
    assert snapshots(18, 6) == [0, 3, 7, 10, 14, 17]
    assert snapshots(2, 6) == [0, 1]
    assert snapshots(1, 6) == [0]


@given(st.floats(1e-6, 1e6))
def test_round_up_gives_the_next_round_number(value):
    rounded = round_up(value)
    assert value <= rounded * (1 + 1e-9)
    assert rounded <= 2.5 * value * (1 + 1e-9)


def test_full_spectra_count_every_eigenvalue_and_know_the_largest_by_itself(records):
    data = full_density_figure(records.study("QM8")).data
    bins = data[data["kind"] == "bin"].groupby(["epoch", "task"])[["lowest", "highest"]].sum()
    assert (bins["lowest"] <= records.DIM).all()
    assert (bins["highest"] >= records.DIM).all()
    atoms = data[data["kind"] == "atom"]
    assert set(atoms["epoch"]) == {0, 4, 12, 40}
    largest = atoms[(atoms["epoch"] == 40) & (atoms["task"] == "E1")]["low"].max()
    assert largest == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize("draw", [cropped_density_figure, full_density_figure])
def test_what_is_drawn_holds_the_true_counts(records, draw):
    """The spectra of the records are made up, so the truth is known."""
    data, held = draw(records.study("QM8")).data, []
    if draw is full_density_figure:
        data = data[data["kind"] == "bin"]
    for epoch, scale in ((0, 1.0), (4, 30.0), (12, 2.0), (40, 5.0)):
        for number, task in enumerate(("E1", "E2", "f1", "f2")):
            width = 1e-3 * (1 + epoch) ** 0.5
            truth = records.outlier_spectrum(number, scale * 3.0**number, width)
            for row in data[(data["epoch"] == epoch) & (data["task"] == task)].itertuples():
                count = ((truth > row.low) & (truth <= row.high)).sum()
                cropped = draw is cropped_density_figure
                size = records.DIM * (row.high - row.low) if cropped else 1.0
                least, most = np.round([size * row.lowest, size * row.highest], 6)
                held.append(least <= count <= most)
    assert len(held) > 60
    assert np.mean(held) >= 0.95


def test_cropped_densities_look_at_zero_and_say_what_is_beyond(records):
    figure = cropped_density_figure(records.study("QM8"))
    for panel in figure.figure.axes[:4]:
        low, high = panel.get_xlim()
        assert low == -high
        assert "beyond:" in panel.texts[0].get_text()
    about_zero = figure.data[(figure.data["low"] < 0) & (figure.data["high"] >= 0)]
    assert len(about_zero) == 16
