"""The comparison of errors with other libraries: its distance, its networks and its page."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from benchmarks.peers.accuracy import METHODS, NETWORKS, Found, distance, page

pytestmark = pytest.mark.any_dtype


def test_the_distance_is_that_between_two_distributions():
    rng = np.random.default_rng(0)
    nodes, weights, truth = rng.normal(size=(2, 50)), rng.uniform(size=(2, 50)), rng.normal(size=80)
    found = distance(nodes.ravel(), weights.ravel(), truth)
    assert found == pytest.approx(wasserstein_distance(nodes.ravel(), truth, weights.ravel()))
    assert distance(truth, np.ones(80), truth) == pytest.approx(0.0, abs=1e-12)


def test_five_networks_are_small_enough_for_a_dense_matrix():
    assert len(NETWORKS) == 5
    for network in NETWORKS.values():
        layers = zip(network.sizes[:-1], network.sizes[1:], strict=True)
        assert 500 < sum((m + 1) * n for m, n in layers) <= 2000
    arrays = NETWORKS["start"].arrays()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert arrays["targets"].shape == (200, 2)


def test_the_page_counts_intervals_and_leaves_out_who_states_none():
    truth = np.array([1.0, 2.0, 3.0])
    traces = {}
    for library, methods in METHODS.items():
        for method in methods:
            rows = np.array([[6.6, 5.0, 7.0], [5.4, 5.0, 5.5]])  # of the two intervals one holds 6
            if library in ("curvlinops", "traceax"):
                rows[:, 1:] = np.nan
            traces[library, method] = rows
    found = Found(truth, traces, {"hessspec, atoms": [0.1, 0.3]}, {"hessspec": {"jax": "1"}})
    found.missing = {"eigenthings": "its environment is missing"}
    text = page({"start": found}, seeds=2)
    errors, stated = text.split("### Stated errors")
    assert "| hessspec, auto | 10 |" in errors  # 0.6 of 6
    assert "| curvlinops, xtrace | 10 |" in errors
    assert "| matfree, xtrace | 1 of 2 |" in stated
    assert "curvlinops, xtrace" not in stated
    assert "| hessspec, atoms | 10 |" in stated  # a mean of 0.2, mean |λ| 2
    assert "- eigenthings did not run: its environment is missing" in stated
