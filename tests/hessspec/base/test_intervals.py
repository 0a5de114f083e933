"""Intervals for the mean of a few quadratic forms."""

import numpy as np
import pytest
from scipy import stats

from hessspec._base.intervals import mean_interval, sample_skewness


def covered(samples: np.ndarray, level: float) -> float:
    """How often the interval holds the true mean, which is 0."""
    low, high = mean_interval(samples, level)
    return float(np.mean((low <= 0.0) & (high >= 0.0)))


def chi_squared(rng, nu: float, shape: tuple[int, int]) -> np.ndarray:
    return rng.chisquare(nu, shape) - nu


@pytest.mark.parametrize("n", [8, 16, 64])
@pytest.mark.parametrize("nu", [1.0, 2.0, 8.0])
def test_skewed_samples_are_covered_where_students_t_fails(n, nu):
    samples = chi_squared(np.random.default_rng(0), nu, (8000, n))
    # 8,000 intervals: the estimate of 95 % has standard deviation 0.24 %.
    assert covered(samples, 0.95) > 0.943
    assert covered(-samples, 0.95) > 0.943
    if n == 16 and nu == 1.0:
        error = samples.std(axis=1, ddof=1) / n**0.5
        plain = np.abs(samples.mean(axis=1)) <= stats.t.ppf(0.975, n - 1) * error
        assert plain.mean() < 0.90


@pytest.mark.parametrize("n", [16, 64])
def test_two_outliers_of_opposite_sign_are_covered(n):
    rng = np.random.default_rng(1)
    for share in (0.5, 1.0):
        shape = (8000, n)
        samples = chi_squared(rng, 1.0, shape) - share * chi_squared(rng, 1.0, shape)
        assert covered(samples, 0.95) > 0.93


@pytest.mark.parametrize("n", [16, 64])
def test_normal_samples_pay_little_for_the_protection(n):
    samples = np.random.default_rng(2).normal(size=(8000, n))
    assert covered(samples, 0.95) > 0.945
    low, high = mean_interval(samples, 0.95)
    plain = 2 * stats.t.ppf(0.975, n - 1) * samples.std(axis=1, ddof=1).mean() / n**0.5
    assert np.mean(high - low) < (1.12 if n == 16 else 1.03) * plain


def test_the_wide_side_is_the_one_the_tail_points_to():
    samples = np.concatenate([np.zeros(15), [10.0]])
    low, high = mean_interval(samples, 0.95)
    assert high - samples.mean() > 1.5 * (samples.mean() - low)
    mirrored = mean_interval(-samples, 0.95)
    np.testing.assert_allclose((-mirrored[1], -mirrored[0]), (low, high))


def test_one_sample_tells_nothing_and_equal_samples_everything():
    assert mean_interval(np.array([3.0]), 0.95) == (-np.inf, np.inf)
    assert mean_interval(np.full(10, 3.0), 0.95) == (3.0, 3.0)


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_the_interval_scales_with_the_samples(factor):
    samples = np.random.default_rng(3).exponential(size=(2, 20))
    expected = np.array(mean_interval(samples, 0.9)) * factor
    np.testing.assert_allclose(mean_interval(samples * factor, 0.9), expected, rtol=1e-10)


def test_the_skewness_of_a_chi_squared_variable_is_root_8():
    samples = np.random.default_rng(4).chisquare(1.0, (1, 400_000))
    np.testing.assert_allclose(sample_skewness(samples), 8**0.5, rtol=0.05)


@pytest.mark.parametrize("n", [2, 8, 31])
def test_samples_without_skewness_have_students_interval(n):
    """With n - 1 degrees of freedom, to every digit."""
    samples = np.linspace(-1.0, 1.0, n) + 5.0
    half = stats.t.ppf(0.975, n - 1) * samples.std(ddof=1) / n**0.5
    low, high = mean_interval(samples, 0.95)
    np.testing.assert_allclose((low, high), (5.0 - half, 5.0 + half), rtol=1e-12)
    wide = mean_interval(samples, 0.95, inflation=3.0)
    np.testing.assert_allclose(wide, (5.0 - 3 * half, 5.0 + 3 * half), rtol=1e-12)
