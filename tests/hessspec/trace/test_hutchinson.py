"""Means of quadratic forms: linear, and each probe its own."""

import numpy as np

from tests.spectra import eps, trace_of


def test_the_trace_is_linear_in_the_task_weights(three_tasks):
    operator, _ = three_tasks
    weights = np.array([0.5, -2.0, 1.5])
    tasks = trace_of(operator, "hutchinson", 16)
    one = trace_of(operator.weighted(weights), "hutchinson", 16)
    np.testing.assert_allclose(
        one.samples, weights @ tasks.samples, atol=1e4 * eps() * np.abs(tasks.samples).max()
    )


def test_probes_can_be_added_and_different_keys_share_none(spectrum):
    operator, _ = spectrum
    few, many = (trace_of(operator, "hutchinson", n).samples for n in (16, 40))
    np.testing.assert_allclose(many[:16], few, rtol=1e4 * eps())
    other = trace_of(operator, "hutchinson", 40, seed=1).samples
    assert np.intersect1d(np.round(many, 3), np.round(other, 3)).size == 0
