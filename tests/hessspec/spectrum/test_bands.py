"""Bounds on masses from T, and intervals for counts from the Beta law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec._spectrum.bands import count_interval, uniform_half_width
from hessspec._spectrum.mass_bounds import mass_bounds
from hessspec._spectrum.quadrature import ritz_pairs

SPECTRA = {
    "normal": np.random.default_rng(0).normal(size=80),
    "outliers": np.concatenate([np.random.default_rng(1).normal(size=70), -np.logspace(1, 4, 10)]),
    "heavy": np.abs(np.random.default_rng(2).normal(size=80)) ** 4,
}


def jacobi_coefficients(eigenvalues, start, num_steps):
    """Lanczos in float64 on a diagonal matrix."""
    q, basis, alpha, beta = start / np.linalg.norm(start), [], [], []
    for _ in range(num_steps):
        basis.append(q)
        w = eigenvalues * q
        alpha.append(q @ w)
        for _ in range(2):
            for b in basis:
                w = w - (b @ w) * b
        beta.append(np.linalg.norm(w))
        q = w / beta[-1]
    return np.array(alpha), np.array(beta)


def rule(alpha, beta):
    """Nodes, weights and residuals."""
    pairs = ritz_pairs(alpha, beta)
    return pairs.values, pairs.weights, pairs.residuals


def extended_rule(alpha, beta, x):
    """Masses below and up to x of the rule with a node at x, by a dense eigensolver."""
    pairs = ritz_pairs(alpha, beta)
    corner = x + beta[-1] ** 2 * (pairs.vectors[-1] ** 2 / (pairs.values - x)).sum()
    matrix = np.diag([*alpha, corner]) + np.diag(beta, 1) + np.diag(beta, -1)
    _, vectors = np.linalg.eigh(matrix)
    cumulative = np.concatenate([[0.0], np.cumsum(vectors[0] ** 2)])
    index = np.searchsorted(pairs.values, x)
    return cumulative[index], cumulative[index + 1]


@given(
    name=st.sampled_from(sorted(SPECTRA)), seed=st.integers(0, 999), num_steps=st.integers(2, 30)
)
def test_the_true_mass_lies_between_the_bounds_and_they_are_sharp(name, seed, num_steps):
    """Both ends are reached by a rule with the same moments, so no bound from T is tighter."""
    eigenvalues = SPECTRA[name]
    start = np.random.default_rng(seed).normal(size=eigenvalues.size)
    alpha, beta = jacobi_coefficients(eigenvalues, start, num_steps)
    # Between two eigenvalues: at one, the bounds jump.
    x = np.quantile(eigenvalues, [0.03, 0.2, 0.5, 0.83, 0.97], method="midpoint")
    low, high = mass_bounds(*rule(alpha, beta), x)
    mass = np.array([(start**2)[eigenvalues <= t].sum() for t in x]) / (start @ start)
    assert np.all(low <= mass + 1e-9)
    assert np.all(mass <= high + 1e-9)
    reached = np.array([extended_rule(alpha, beta, t) for t in x])
    np.testing.assert_allclose(low, reached[:, 0], atol=1e-6)
    np.testing.assert_allclose(high, reached[:, 1], atol=1e-6)


def test_bounds_grow_with_x_and_end_at_zero_and_one():
    eigenvalues = SPECTRA["outliers"]
    start = np.random.default_rng(3).normal(size=eigenvalues.size)
    alpha, beta = jacobi_coefficients(eigenvalues, start, 20)
    x = np.concatenate(
        [[-np.inf], np.sort(np.concatenate([eigenvalues, SPECTRA["normal"]])), [np.inf]]
    )
    low, high = mass_bounds(*rule(alpha, beta), x, blur=1e-6)
    assert np.all(np.diff(low) >= -1e-9)
    assert np.all(np.diff(high) >= -1e-9)
    assert (low[0], high[0], low[-1], high[-1]) == (0, 0, 1, 1)


def test_an_exhausted_krylov_space_leaves_nothing_open():
    """T of full size is the measure itself."""
    exhausted = rule(np.array([1.0, 2.0]), np.array([0.5, 0.0]))
    low, high = mass_bounds(*exhausted, np.array([0.0, 1.5, 3.0]))
    np.testing.assert_allclose(low, high)
    np.testing.assert_allclose(low[[0, 2]], [0.0, 1.0])


def test_x_on_a_node_is_bounded_too():
    alpha, beta = jacobi_coefficients(SPECTRA["normal"], np.ones(80), 6)
    nodes, weights, residuals = rule(alpha, beta)
    low, high = mass_bounds(nodes, weights, residuals, nodes)
    cumulative = np.cumsum(weights)
    np.testing.assert_allclose(low, cumulative - weights, atol=1e-9)
    np.testing.assert_allclose(high, cumulative, atol=1e-9)


@pytest.mark.parametrize(("count", "dim", "num_probes"), [(1, 50, 1), (20, 50, 1), (47, 50, 3)])
def test_counts_are_covered_by_inverting_the_beta_law(count, dim, num_probes):
    """The share of `count` of `dim` directions in a Gaussian vector, 20,000 times."""
    rng = np.random.default_rng(0)
    inside = rng.chisquare(count, size=(20_000, num_probes))
    outside = rng.chisquare(dim - count, size=(20_000, num_probes))
    share = (inside / (inside + outside)).mean(axis=1)
    low, high = count_interval(share, share, dim, num_probes, 0.95)
    assert np.mean((low <= count) & (count <= high)) >= 0.947
    # A share inside (0, 1) excludes none and all.
    assert low.min() >= 1
    assert high.max() <= dim - 1


def test_the_count_interval_has_the_width_of_the_law():
    """For large P the share is normal with variance 2 F (1 - F) / P."""
    share = np.array([0.3])
    low, high = count_interval(share, share, 1_000_000, 2, 0.95)
    expected = 1.96 * (2 * 0.3 * 0.7 / 2_000_000) ** 0.5
    np.testing.assert_allclose((high - low) / 2e6, expected, rtol=1e-2)


def test_no_mass_and_all_mass_leave_the_extremes_possible():
    low, high = count_interval(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 10, 1, 0.95)
    assert low[0] == 0
    assert high[1] == 10
    low, high = count_interval(np.array([0.0]), np.array([1.0]), 10, 1, 0.95)
    assert (low[0], high[0]) == (0, 10)


def test_a_single_direction_is_counted():
    low, high = count_interval(np.array([1.0]), np.array([1.0]), 1, 1, 0.95)
    assert (low[0], high[0]) == (1, 1)


@pytest.mark.parametrize("dim", [20, 500])
def test_the_uniform_band_covers_whole_paths(dim):
    rng = np.random.default_rng(0)
    squares = rng.chisquare(1, size=(4000, dim))
    paths = np.cumsum(squares, axis=1) / squares.sum(axis=1, keepdims=True)
    distance = np.abs(paths - np.arange(1, dim + 1) / dim).max(axis=1)
    coverage = np.mean(distance <= uniform_half_width(dim, 1, 0.95))
    assert coverage >= 0.945
