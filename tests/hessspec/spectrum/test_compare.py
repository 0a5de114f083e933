"""Distances between spectra and angles between eigenspaces: identities, errors, small angles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec import SpectralDensity
from hessspec._krylov.eigenpairs import EigenPairs
from hessspec._spectrum.compare import (
    SpectralDistance,
    kolmogorov_smirnov,
    principal_angles,
    wasserstein1,
)
from hessspec._spectrum.density import stacked

DIM = 60


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def spectrum(nodes, weights=None, exact=True, resolution=0.0) -> SpectralDensity:
    """A density with these rows; equal weights by default."""
    nodes = np.atleast_2d(np.asarray(nodes, np.float64))
    shape = nodes.shape
    weights = np.full(shape, 1.0 / shape[1]) if weights is None else np.atleast_2d(weights)
    zeros = np.zeros(shape)
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        multiplicities=zeros.astype(int),
        residuals=zeros,
        alpha=zeros,
        beta=zeros,
        num_valid_steps=np.full(shape[0], shape[1]),
        resolution=np.asarray(resolution),
        exact=np.asarray(exact),
        dim=DIM,
        num_matvecs=0,
    )


def seen_by(eigenvalues, starts) -> SpectralDensity:
    """What Gaussian starts see of a spectrum if the Krylov spaces are exhausted."""
    squares = starts**2
    weights = squares / squares.sum(axis=1, keepdims=True)
    return spectrum(np.broadcast_to(eigenvalues, starts.shape), weights, exact=False)


numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=7, max_size=7)


@given(numbers, numbers, numbers, st.floats(-30, 30, width=32))
def test_w1_is_the_mean_shift_of_ordered_eigenvalues_and_a_metric(a, b, c, factor):
    first, second, third = (spectrum(values) for values in (a, b, c))
    distance = float(wasserstein1(first, second))
    assert distance == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean(), abs=1e-9)
    assert distance == float(wasserstein1(second, first))
    via = float(wasserstein1(first, third)) + float(wasserstein1(third, second))
    assert distance <= via + 1e-9
    stretched = float(wasserstein1(spectrum(factor * np.array(a)), spectrum(factor * np.array(b))))
    assert stretched == pytest.approx(abs(factor) * distance, rel=1e-9, abs=1e-9)


@given(numbers, numbers)
def test_ks_is_the_largest_difference_of_the_distribution_functions(a, b):
    points = np.sort(a + b)
    expected = np.max(
        np.abs(
            np.searchsorted(np.sort(a), points, "right") / 7
            - np.searchsorted(np.sort(b), points, "right") / 7
        )
    )
    assert float(kolmogorov_smirnov(spectrum(a), spectrum(b))) == pytest.approx(expected)


def test_atoms_that_rounding_moved_apart_are_the_same_for_ks():
    """A rank-deficient H computed twice: zeros of either sign within the resolution."""
    a, b = np.zeros(DIM), np.zeros(DIM)
    a[:3] = b[:3] = [5.0, 7.0, -9.0]
    jitter = 1e-7 * np.random.default_rng(0).uniform(size=DIM)
    distance = kolmogorov_smirnov(
        spectrum(a + jitter, resolution=5e-7), spectrum(b - jitter, resolution=5e-7)
    )
    assert float(distance) < 1e-12
    assert float(kolmogorov_smirnov(spectrum(a + jitter), spectrum(b - jitter))) > 0.4


SPECTRA = {
    "flat": np.linspace(-1.0, 1.0, DIM),
    "outliers": np.concatenate([[-50.0, 80.0, 200.0], np.linspace(-1.0, 1.0, DIM - 3)]),
    "decaying": 1.0 / np.arange(1, DIM + 1) ** 2,
}


@pytest.mark.parametrize("distance", [wasserstein1, kolmogorov_smirnov])
@pytest.mark.parametrize("probes", [2, 5])
@pytest.mark.parametrize("shift", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_stated_error_covers_the_deviation_from_the_truth(name, shift, probes, distance):
    """Over 80 keys; and equal spectra are about as far apart as their error says."""
    rng = np.random.default_rng(7)
    a = SPECTRA[name]
    b = a + shift * np.abs(a).mean()
    truth = float(distance(spectrum(a), spectrum(b)))
    found = [
        distance(
            seen_by(a, rng.normal(size=(probes, DIM))), seen_by(b, rng.normal(size=(probes, DIM)))
        )
        for _ in range(80)
    ]
    deviation = np.sqrt(np.mean([(float(d) - truth) ** 2 for d in found]))
    stated = np.sqrt(np.mean([float(d.error) ** 2 for d in found]))
    assert deviation <= 1.15 * stated
    if shift == 0.0:
        assert deviation >= 0.6 * stated


def test_tasks_that_share_their_probes_are_compared_more_sharply():
    rng = np.random.default_rng(3)
    a, b = SPECTRA["outliers"], 1.05 * SPECTRA["outliers"]
    starts = rng.normal(size=(2, DIM))
    one, other = seen_by(a, starts), seen_by(b, starts)
    both = wasserstein1(stacked([one, other]))
    assert both.value.shape == both.error.shape == (2, 2)
    np.testing.assert_allclose(both.value, both.value.T)
    np.testing.assert_allclose(np.diag(both.value), 0.0)
    assert both.error[0, 1] < 0.2 * float(wasserstein1(one, other).error)
    pairs = wasserstein1(stacked([one, other]), stacked([other, other]))
    np.testing.assert_allclose(pairs.value, [both.value[0, 1], 0.0])


def test_one_probe_has_no_error_and_exact_spectra_need_none():
    rows = seen_by(SPECTRA["flat"], np.random.default_rng(0).normal(size=(1, DIM)))
    exact = spectrum(SPECTRA["flat"])
    assert wasserstein1(rows, exact).error == np.inf
    assert wasserstein1(exact, exact).error == 0.0
    assert float(wasserstein1(exact, exact)) == 0.0


def test_distances_that_make_no_sense_are_refused():
    exact = spectrum(SPECTRA["flat"])
    with pytest.raises(ValueError, match="`b` is missing"):
        wasserstein1(exact)
    with pytest.raises(ValueError, match="same task axis, got a scalar loss and 2 tasks"):
        kolmogorov_smirnov(exact, stacked([exact, exact]))


def test_a_saved_distance_comes_back(tmp_path):
    distance = wasserstein1(spectrum([0.0, 1.0]), spectrum([0.0, 2.0]))
    distance.save(tmp_path / "distance.npz")
    loaded = SpectralDistance.load(tmp_path / "distance.npz")
    assert float(loaded) == float(distance) == 0.5
    assert loaded.kind == "wasserstein1"


def pairs_of(rows) -> EigenPairs:
    rows = jnp.asarray(np.asarray(rows).astype(dtype()))
    lead, dim = rows.shape[:-1], rows.shape[-1]
    vectors = {"a": rows[..., :2].reshape(*lead, 2, 1), "b": rows[..., 2:]}
    ones = np.ones(lead)
    return EigenPairs(ones, vectors, 0 * ones, ones > 0, tol=0.0, dim=dim, num_matvecs=0)


ROTATION, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))


def turned(angles):
    """Two triples of vectors with these principal angles, each triple mixed among itself."""
    mixing, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    second = np.cos(angles)[:, None] * ROTATION[:3] + np.sin(angles)[:, None] * ROTATION[3:6]
    return pairs_of(ROTATION[:3]), pairs_of(mixing @ second)


@pytest.mark.parametrize("angles", [[0.3, 1.0, 1.5], [0.0, 0.7, np.pi / 2]])
def test_angles_come_back_in_rising_order(angles):
    found = principal_angles(*turned(np.array(angles)))
    np.testing.assert_allclose(found, angles, atol=30 * np.finfo(dtype()).eps)


def test_small_angles_are_accurate_where_cosines_are_1():
    """cos θ = 1 - θ²/2 rounds to 1 for these."""
    small = float(np.finfo(dtype()).eps) ** 0.6
    angles = np.array([small, 2 * small, 5 * small])
    found = principal_angles(*turned(angles))
    np.testing.assert_allclose(found, angles, atol=10 * np.finfo(dtype()).eps)


def test_a_span_within_another_has_angle_zero_and_a_foreign_one_a_right_angle():
    two, three, foreign = (pairs_of(ROTATION[s]) for s in (slice(1, 3), slice(0, 3), slice(6, 8)))
    assert principal_angles(two, three).max() < 10 * np.finfo(dtype()).eps
    assert principal_angles(three, two).shape == (2,)
    np.testing.assert_allclose(principal_angles(three, foreign), np.pi / 2, rtol=1e-5)


def test_angles_of_tasks_are_taken_in_pairs():
    a = pairs_of(np.stack([ROTATION[:2], ROTATION[2:4]]))
    b = pairs_of(np.stack([ROTATION[:2], ROTATION[4:6]]))
    found = principal_angles(a, b)
    np.testing.assert_allclose(found, [[0.0, 0.0], [np.pi / 2, np.pi / 2]], atol=1e-5)
    with pytest.raises(ValueError, match="same task axis, got 2 tasks and a scalar loss"):
        principal_angles(a, b.task(0))
    with pytest.raises(ValueError, match="the same parameters, got 12"):
        principal_angles(b.task(0), pairs_of(np.eye(5)[:2]))
