"""The picture of training holds every error and the median predictor."""

import pytest

from hessspec_mtl.figures import (
    training_error_figure,
)
from hessspec_mtl.study.records import median_error


def test_training_figure_holds_every_error_and_the_median_predictor(records):
    study = records.study("QM8", 2)
    data = training_error_figure([study]).data
    assert len(data) == 2 * 2 * 4 * 41
    row = data[(data["task"] == "f2") & (data["split"] == "test") & (data["epoch"] == 40)].iloc[0]
    assert row["standardised_mae"] == pytest.approx(0.55, rel=0.01)
    baseline = median_error(study.dataset, study.runs[0].split)[3]
    assert row["median_predictor_test_mae"] == pytest.approx(baseline)
