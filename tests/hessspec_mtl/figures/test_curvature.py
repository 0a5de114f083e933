"""The picture of traces holds values, errors and intervals."""

import pytest

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
