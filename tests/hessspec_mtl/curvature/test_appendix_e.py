"""The quadratic loss of appendix E, whose spectrum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hessspec_mtl.curvature.appendix_e import (
    AppendixE,
    appendix_e,
    quadratic_loss,
    semicircle,
    symmetric_normal_matrix,
)
from hessspec_mtl.figures import appendix_e_figure
from hessspec_mtl.report.words import appendix_paragraph

N = 240


@pytest.fixture(scope="module")
def record() -> AppendixE:
    return appendix_e(0, n=N, num_probes=4, num_steps=60, num_matvecs=200, num_trials=100)


def test_the_hessian_is_the_matrix():
    matrix = symmetric_normal_matrix(1, 5)
    np.testing.assert_array_equal(matrix, matrix.T)
    data = jnp.asarray(matrix, jnp.zeros(0).dtype)
    hessian = jax.hessian(quadratic_loss)(jnp.ones(5, data.dtype), data)
    np.testing.assert_allclose(hessian, matrix, rtol=1e-5, atol=1e-5)


def test_the_true_eigenvalues_follow_the_semicircle():
    """Kolmogorov's distance to Wigner's limit is of order 1/n."""
    eigenvalues = np.linalg.eigvalsh(symmetric_normal_matrix(0, 400))
    scale = (2.0 * 400) ** 0.5
    assert stats.kstest(eigenvalues, stats.semicircular(scale=scale).cdf).statistic < 0.02
    grid = np.linspace(-scale, scale, 2001)
    assert np.trapezoid(semicircle(grid, 400), grid) == pytest.approx(1.0, abs=1e-3)


def test_density_and_trace_agree_with_the_truth_within_their_errors(record):
    assert abs(record.trace_z) < 3
    assert record.cdf_agreement.inside
    # At one point the mean of 4 random distribution functions has deviation (p(1 - p) 2 / (N + 2)
    # / 4)^(1/2), by the Beta law; the largest over all points stays within 3 of the widest.
    assert record.cdf_agreement.largest_error < 3 * (0.25 * 2 / (N + 2) / 4) ** 0.5
    for error in record.extreme_errors:
        assert abs(error) < 1e-3 * np.abs(record.eigenvalues).max()


def test_trace_errors_are_standard_normal_over_seeds():
    """20 seeds: mean within 3 / sqrt(20) of 0, spread within the 0.1 % tails of chi-squared."""
    z = [
        appendix_e(seed, n=120, num_probes=1, num_steps=8, num_matvecs=64, num_trials=0).trace_z
        for seed in range(20)
    ]
    assert abs(np.mean(z)) < 3 / 20**0.5
    low, high = stats.chi2.ppf([0.001, 0.999], 19) / 19
    assert low < np.var(z, ddof=1) < high


def test_intervals_of_further_traces_cover_as_often_as_they_say(record):
    """Fewer than 88 or more than 100 of 100 would come by chance once in 400."""
    assert len(record.further_traces) == 100
    assert 88 <= record.num_covering <= 100
    assert f"inside {record.num_covering} of 100 more" in appendix_paragraph(record)


def test_the_same_seed_gives_the_same_record(record):
    again = appendix_e(0, n=N, num_probes=4, num_steps=60, num_matvecs=200, num_trials=0)
    np.testing.assert_array_equal(again.eigenvalues, record.eigenvalues)
    np.testing.assert_array_equal(again.trace.samples, record.trace.samples)
    np.testing.assert_array_equal(again.density.nodes, record.density.nodes)


def test_figure_7_holds_the_true_and_the_estimated(record):
    data = appendix_e_figure(record).data
    truth = data[data["series"] == "true eigenvalue"]["x"]
    np.testing.assert_allclose(truth, record.eigenvalues)
    assert data[data["series"] == "true trace"]["y"].item() == pytest.approx(record.true_trace)
    low = data[data["series"] == "trace interval low of trial 0"]["y"].item()
    assert low == pytest.approx(float(record.trace.confidence_interval(0.95)[0]))


def test_figure_7_shows_every_interval_and_how_many_miss_the_truth(record):
    plot = appendix_e_figure(record)
    said = [text.get_text() for text in plot.figure.axes[2].get_legend().get_texts()]
    holding = record.num_covering + record.trace_within_interval
    assert said == [f"holds the truth: {holding}", f"misses: {101 - holding}", "the first"]
    assert (plot.data["series"].str.startswith("trace interval high")).sum() == 101
    assert f"{record.num_covering} of the 100 hold the truth" in plot.caption
