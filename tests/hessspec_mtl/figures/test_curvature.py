"""The picture of traces holds values, errors and intervals."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec import TraceEstimate
from hessspec_mtl.figures import (
    trace_figure,
)


def test_trace_figure_holds_values_errors_and_intervals(records):
    study = records.study("QM8")
    data = trace_figure([study]).data
    assert len(data) == 4 * 4
    first = data[(data["epoch"] == 4) & (data["task"] == "f1")].iloc[0]
    assert first["trace"] == pytest.approx(-40 * 3000, rel=1e-9)
    assert first["probe_standard_error"] == pytest.approx(1.0)
    assert first["low_95"] < first["trace"] < first["high_95"]


def test_where_the_gauss_newton_trace_was_taken_the_table_splits_the_trace(records):
    study = records.study("QM8")
    assert "gauss_newton" not in trace_figure([study]).data
    exact = TraceEstimate.from_samples(np.zeros((4, 0)), exact=np.array([1.0, 2.0, 3.0, 4.0]))
    run = study.runs[0]
    points = (run.curvature[0], replace(run.curvature[1], gauss_newton=exact))
    study = replace(study, runs=(replace(run, curvature=points),))
    data = trace_figure([study]).data.set_index(["epoch", "task"])
    assert data.loc[(4, "f1"), "gauss_newton"] == 3.0
    parts = data["gauss_newton"] + data["network_curvature"]
    np.testing.assert_allclose(parts.loc[4], data["trace"].loc[4])
    assert data["network_curvature"].loc[0].isna().all()
    assert data["network_curvature_low_95"].loc[0].isna().all()
