"""Pictures of spectra hold every eigenvalue and the mass inside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.figures import (
    cropped_density_figure,
    full_density_figure,
)
from hessspec_mtl.figures.densities import round_up, snapshots, symlog_edges


def test_snapshots_keep_both_ends():
    assert snapshots(18, 6) == [0, 3, 7, 10, 14, 17]
    assert snapshots(2, 6) == [0, 1]
    assert snapshots(1, 6) == [0]


@given(st.floats(1e-6, 1e6))
def test_round_up_gives_the_next_round_number(value):
    rounded = round_up(value)
    assert value <= rounded * (1 + 1e-9)
    assert rounded <= 2.5 * value * (1 + 1e-9)


def test_bins_are_symmetric_and_cover_the_range():
    edges = symlog_edges(1e-4, 30.0)
    np.testing.assert_allclose(edges, -edges[::-1])
    assert edges[-1] >= 30.0 * (1 - 1e-9)
    assert np.all(np.diff(edges) > 0)


def test_full_spectra_count_every_eigenvalue(records):
    data = full_density_figure(records.study("QM8")).data
    bins = data[data["kind"] == "bin"].groupby(["epoch", "task"])["count"].sum()
    np.testing.assert_allclose(bins, records.DIM, rtol=1e-6)
    atoms = data[data["kind"] == "atom"]
    assert set(atoms["epoch"]) == {0, 4, 12, 40}
    largest = atoms[(atoms["epoch"] == 40) & (atoms["task"] == "E1")]["low"].max()
    assert largest == pytest.approx(5.0, rel=1e-5)


def test_cropped_densities_integrate_to_the_mass_inside(records):
    study = records.study("QM8")
    data = cropped_density_figure(study).data
    for (epoch, task), rows in data.groupby(["epoch", "task"]):
        x, y = rows["eigenvalue"].to_numpy(), rows["density"].to_numpy()
        inside = np.trapezoid(y, x)
        position = [p.epoch for p in study.runs[0].curvature].index(epoch)
        spectrum = study.runs[0].spectra[position][[t.name for t in study.tasks].index(task)]
        assert inside == pytest.approx(1 - spectrum.mass_beyond(x.max()), abs=0.02)
        assert np.all(rows["lowest_probe"] <= rows["density"] + 1e-12)
        assert np.all(rows["highest_probe"] >= rows["density"] - 1e-12)
