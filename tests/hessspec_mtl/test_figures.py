"""Figures show their data, all of it, and leave nothing behind."""

import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.figures import (
    cropped_density_figure,
    crystal_figure,
    full_density_figure,
    molecule_figure,
    single_task_figure,
    trace_convergence_figure,
    trace_figure,
    training_error_figure,
    write_plot,
)
from hessspec_mtl.figures.axes import linear_threshold, power_of_ten, symlog
from hessspec_mtl.figures.densities import round_up, snapshots, symlog_edges
from hessspec_mtl.figures.style import new_figure, spread_apart, task_style
from hessspec_mtl.study.records import median_error

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


def test_first_tasks_differ_in_colour_marker_and_line():
    styles = [task_style(i) for i in range(7)]
    for part in ("color", "marker", "linestyle"):
        assert len({str(getattr(style, part)) for style in styles}) == 7


def test_barium_titanate_has_thirty_faces_in_both_directions():
    data = crystal_figure().data
    assert len(data) == 60
    pairs = data.groupby(["sender", "receiver"]).size()
    for (sender, receiver), count in pairs.items():
        assert pairs[receiver, sender] == count
    oxygen = data[(data["sender_element"] == "Ti") & (data["receiver_element"] == "O")]
    assert len(oxygen) == 6  # the octahedron


def test_the_molecule_keeps_its_hydrogens():
    data = molecule_figure().data
    assert len(data) == 28  # 14 bonds, both directions
    assert (data["bond"] == "single").all()
    assert (data["receiver_element"] == "H").sum() == 6
    with pytest.raises(ValueError, match="rdkit cannot read the SMILES"):
        molecule_figure("not a molecule")


def test_training_figure_holds_every_error_and_the_median_predictor(records):
    study = records.study("QM8", 2)
    data = training_error_figure([study]).data
    assert len(data) == 2 * 2 * 4 * 41
    row = data[(data["task"] == "f2") & (data["split"] == "test") & (data["epoch"] == 40)].iloc[0]
    assert row["standardised_mae"] == pytest.approx(0.55, rel=0.01)
    baseline = median_error(study.dataset, study.runs[0].split)[3]
    assert row["median_predictor_test_mae"] == pytest.approx(baseline)


def test_median_error_is_that_of_the_best_constant(records):
    data = records.dataset("MP")
    split = records.study("MP").runs[0].split
    errors = median_error(data, split)
    train, test = data.targets[split.train], data.targets[split.test]
    for t in range(3):
        constant = np.median(train[:, t])
        expected = np.abs(test[:, t] - constant).mean() / train[:, t].std(ddof=1)
        assert errors[t] == pytest.approx(expected)


def test_trace_figure_holds_values_errors_and_intervals(records):
    study = records.study("QM8")
    data = trace_figure([study]).data
    assert len(data) == 4 * 4
    first = data[(data["epoch"] == 4) & (data["task"] == "f1")].iloc[0]
    assert first["trace"] == pytest.approx(-40 * 3000, rel=1e-9)
    assert first["probe_standard_error"] == pytest.approx(1.0)
    assert first["low_95"] < first["trace"] < first["high_95"]


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


def test_comparison_figures_appear_only_with_their_data(records):
    assert single_task_figure([records.study("QM8")]) is None
    assert trace_convergence_figure([records.study("QM8")]) is None
    plot = single_task_figure([records.study("QM8", 2, single_task=True)])
    assert plot is not None
    assert len(plot.data) == 8
    study = records.study("QM8")
    samples = records.trace(np.array([1.0, 2.0, 3.0, 4.0]), 0.1)
    run = replace(study.runs[0], hutchinson={40: samples})
    convergence = trace_convergence_figure([replace(study, runs=(run,))])
    assert convergence is not None
    last = convergence.data.groupby("task").last()["running_mean"]
    np.testing.assert_allclose(last[["E1", "E2", "f1", "f2"]], [1.0, 2.0, 3.0, 4.0], rtol=1e-9)


def test_files_are_the_same_twice_and_no_state_is_left(records, tmp_path):
    before = dict(mpl.rcParams)
    plot = trace_figure([records.study("MP")])
    first = write_plot(plot, tmp_path / "a")
    second = write_plot(trace_figure([records.study("MP")]), tmp_path / "b")
    assert first.pdf.read_bytes() == second.pdf.read_bytes()
    assert first.pdf.read_bytes().startswith(b"%PDF")
    assert first.png.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(first.csv)
    np.testing.assert_allclose(table["trace"], plot.data["trace"], rtol=1e-8)
    assert not list(tmp_path.rglob("*.part"))
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
