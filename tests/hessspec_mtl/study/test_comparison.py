"""Tasks alone and together, compared seed by seed."""

import numpy as np
import pytest
from scipy import stats

from hessspec_mtl.study.comparison import (
    holm,
    paired_p_value,
    student_interval,
)


def test_the_interval_over_seeds_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(2, 5))
    mean, low, high = student_interval(left - right)
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    np.testing.assert_allclose((low, high), (expected.low, expected.high))
    assert mean == pytest.approx((left - right).mean())
    assert student_interval(np.array([0.3])) == (0.3, -np.inf, np.inf)


def test_p_values_are_those_of_the_paired_t_test_and_corrected_for_their_number():
    values = np.random.default_rng(0).normal(size=5)
    assert paired_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert paired_p_value(values[:1]) == 1.0
    # 3 x 0.01, 2 x 0.02, 1 x 0.03 made monotone; never above 1.
    np.testing.assert_allclose(holm(np.array([0.02, 0.01, 0.03])), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])
