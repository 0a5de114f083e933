"""Gauss quadrature from Lanczos coefficients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec._spectrum.quadrature import gauss_quadrature


def jacobi_coefficients(nodes, masses, num_steps):
    """Lanczos in float64 on a diagonal matrix: coefficients of a known discrete measure."""
    q, alpha, beta = np.sqrt(masses), [], []
    basis = []
    for _ in range(num_steps):
        basis.append(q)
        w = nodes * q
        alpha.append(q @ w)
        for _ in range(2):
            for b in basis:
                w = w - (b @ w) * b
        beta.append(np.linalg.norm(w))
        q = w / beta[-1] if beta[-1] > 0 else np.zeros_like(w)
    return np.array(alpha), np.array(beta)


def measure(seed, size=30):
    rng = np.random.default_rng(seed)
    return np.sort(rng.normal(size=size)), rng.dirichlet(np.ones(size))


def test_gauss_legendre_is_recovered():
    """The Jacobi matrix of the uniform measure on [-1, 1] is known in closed form."""
    j = np.arange(1, 7)
    beta = j / np.sqrt(4.0 * j**2 - 1)
    rule = gauss_quadrature(np.zeros(6), beta)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    np.testing.assert_allclose(rule.nodes, nodes, atol=1e-14)
    np.testing.assert_allclose(rule.weights, weights / 2, atol=1e-14)


@given(seed=st.integers(0, 10_000), num_steps=st.integers(1, 12))
def test_moments_up_to_degree_2m_minus_1_are_exact(seed, num_steps):
    nodes, masses = measure(seed)
    rule = gauss_quadrature(*jacobi_coefficients(nodes, masses, num_steps))
    for degree in range(2 * num_steps):
        chebyshev = np.polynomial.Chebyshev.basis(degree, domain=[nodes[0], nodes[-1]])
        assert abs(masses @ chebyshev(nodes) - rule.weights @ chebyshev(rule.nodes)) < 1e-10
    assert abs(rule.weights.sum() - 1) < 1e-12


@given(seed=st.integers(0, 10_000), num_steps=st.integers(1, 12))
def test_an_eigenvalue_lies_within_the_residual_of_every_node(seed, num_steps):
    nodes, masses = measure(seed)
    rule = gauss_quadrature(*jacobi_coefficients(nodes, masses, num_steps))
    distance = np.abs(rule.nodes[:, None] - nodes[None]).min(axis=1)
    assert np.all(distance <= rule.residuals + 1e-12)


def test_unused_slots_repeat_a_node_without_weight():
    alpha, beta = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 3.0]]), np.ones((2, 3))
    rule = gauss_quadrature(alpha, beta, [2, 3])
    alone = gauss_quadrature(alpha[0, :2], beta[0, :2])
    np.testing.assert_allclose(rule.nodes[0], [*alone.nodes, alone.nodes[-1]])
    assert rule.weights[0, 2] == rule.residuals[0, 2] == 0
    np.testing.assert_allclose(rule.weights.sum(axis=1), 1.0)


def test_bad_coefficients_are_named():
    with pytest.raises(ValueError, match="same shape"):
        gauss_quadrature(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match=r"`num_valid_steps` must lie in \[1, 3\]"):
        gauss_quadrature(np.ones(3), np.ones(3), 0)
    with pytest.raises(ValueError, match="finite"):
        gauss_quadrature(np.array([1.0, np.nan]), np.ones(2))
