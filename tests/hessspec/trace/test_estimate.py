"""The record of a trace: what is read off its samples."""

from dataclasses import replace

import jax
import numpy as np

from hessspec import TraceEstimate
from tests.spectra import (
    trace_of,
)


def test_the_standard_error_is_that_of_a_mean_of_exchangeable_samples():
    """S²/n with n - 1 degrees of freedom, and the covariance of pairs where there is one."""
    samples = np.array([[1.0, 2.0, 4.0, 9.0], [0.0, 0.0, 0.0, 8.0]])
    variance = np.array([np.var(row, ddof=1) / 4 for row in samples])
    plain = TraceEstimate.from_samples(samples, exact=np.array([10.0, -1.0]))
    np.testing.assert_allclose(plain.standard_error, variance**0.5, rtol=1e-14)
    np.testing.assert_allclose(plain.value, [14.0, 1.0], rtol=1e-14)
    covariance = np.array([[0.5, 0.2], [0.2, -0.3]])
    shared = TraceEstimate.from_samples(samples, pair_covariance=covariance)
    # A covariance below 0 is not believed: it would make the error too small.
    expected = np.array([variance[0] + 0.5, variance[1]]) ** 0.5
    np.testing.assert_allclose(shared.standard_error, expected, rtol=1e-14)
    # Of the difference of two tasks the samples differ pair by pair.
    paired = shared.difference(0, 1)
    of_pairs = np.var(samples[0] - samples[1], ddof=1) / 4
    of_pairs += max(0.5 - 0.3 - 2 * 0.2, 0.0)
    np.testing.assert_allclose(paired.standard_error, of_pairs**0.5, rtol=1e-14)


def test_the_products_still_needed_follow_from_the_measured_variance():
    samples = np.random.default_rng(0).normal(5.0, 1.0, 64)
    found = TraceEstimate.from_samples(samples, num_matvecs=64, dim=1000)
    assert found.matvecs_needed(atol=10.0) == 0.0
    width = found.half_width()
    assert found.matvecs_needed(atol=width / 2) == 3 * 64
    rounded = replace(found, systematic=np.asarray(0.1))
    assert rounded.matvecs_needed(atol=0.05) == float("inf")


def test_more_products_than_an_exact_trace_takes_are_never_needed():
    samples = np.random.default_rng(0).normal(5.0, 1.0, (3, 64))
    tasks = TraceEstimate.from_samples(samples, matvecs_per_sample=3.0, dim=100)
    assert tasks.matvecs_needed(atol=1e-6) == tasks.matvecs_needed() == 3 * 100
    assert tasks.task(0).matvecs_needed(atol=1e-6) == 100
    assert tasks.difference(0, 2).matvecs_needed(atol=1e-6) == 2 * 100
    assert TraceEstimate.from_samples([1.0], dim=100).matvecs_needed(rtol=0.1) == 100
    assert TraceEstimate.from_samples([1.0]).matvecs_needed(rtol=0.1) == float("inf")


def test_a_difference_says_of_what_it_is_one(tmp_path):
    samples = np.random.default_rng(0).normal(5.0, 1.0, (3, 64))
    difference = TraceEstimate.from_samples(samples, dim=100).difference(0, -1)
    assert repr(difference).startswith("TraceEstimate: tr H_0 - tr H_2 = ")
    difference.save(tmp_path / "difference.npz")
    assert TraceEstimate.load(tmp_path / "difference.npz").quantity == "tr H_0 - tr H_2"


def test_a_look_among_many_has_a_wider_interval():
    samples = np.random.default_rng(0).normal(size=32)
    once = TraceEstimate.from_samples(samples)
    among = TraceEstimate.from_samples(samples, error_share=0.1)
    assert among.confidence_interval(0.9) == once.confidence_interval(0.99)


def test_records_survive_a_file_and_are_trees(three_tasks, tmp_path):
    operator, _ = three_tasks
    for method in ("xtrace", "auto"):
        found = trace_of(operator, method, 48)
        found.save(tmp_path / "trace.npz")
        loaded = TraceEstimate.load(tmp_path / "trace.npz")
        assert jax.tree.structure(loaded) == jax.tree.structure(found)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(a, b)
