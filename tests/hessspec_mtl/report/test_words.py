"""Numbers, durations and lists in words."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.report.words import duration, flat_settings, listed, outlier_sentence
from hessspec_mtl.study.tables import axis_label, slug
from tests.hessspec_mtl.conftest import dataset


def test_words():
    assert duration(0.3) == duration(1.2) == "1 second"
    assert duration(75) == "75 seconds"
    assert duration(600) == "10 minutes"
    assert duration(7200) == "2.0 hours"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert slug("My data, v2") == "my-data-v2"
    assert flat_settings({"a": {"b": 1}, "c": (2, 3)}) == [("a.b", "1"), ("c", "(2, 3)")]


def test_a_unit_is_written_once():
    assert axis_label("K", "GPa") == axis_label("K (GPa)", "GPa") == "K (GPa)"
    assert axis_label("ratio", "1") == "ratio"


@pytest.mark.parametrize("value", [1e12, -1e200])
def test_a_record_that_makes_most_of_the_variance_is_named(value):
    usual = dataset("QM8")
    assert outlier_sentence(usual) == ""
    targets = usual.targets.copy()
    targets[7, 1] = value
    targets[:30, 2] = np.nan  # as many examples of another target are missing
    said = outlier_sentence(replace(usual, targets=targets, published=None))
    # One of n values, all others equal beside it, makes 1 - 1/n of the variance.
    assert f"QM8-7 makes {100 * (1 - 1 / 60):.0f} % of the variance of E₂ ({value:.4g})" in said
    assert "f₁" not in said
