"""The Lanczos recurrence: identities of the decomposition, breakdown, scale, guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec._base.probes import gaussian
from hessspec._krylov.lanczos import lanczos
from hessspec._spectrum.quadrature import gauss_quadrature

DIM, STEPS = 60, 8
rng = np.random.default_rng(0)
BASIS, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
SPECTRA = {
    "normal": rng.normal(size=DIM),
    "outliers": np.concatenate([[1e4, -3e3, 200.0], rng.normal(size=DIM - 3)]),
    "clusters": np.repeat([-2.0, 0.0, 1.0, 5.0, 9.0, 11.0], 10) + 1e-3 * rng.normal(size=DIM),
    "decaying": 1.0 / np.arange(1, DIM + 1) ** 2,
    "positive": np.linspace(1.0, 2.0, DIM),
}


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def rotated(eigenvalues: np.ndarray, basis: np.ndarray = BASIS) -> jax.Array:
    return jnp.asarray(((basis * eigenvalues) @ basis.T).astype(dtype()))


def starts(num_probes: int, dim: int = DIM, seed: int = 0) -> jax.Array:
    return gaussian(jax.random.key(seed), jnp.arange(num_probes), dim, dtype())


@jax.jit
def decompose(matrix: jax.Array, start: jax.Array):
    return lanczos(lambda v: jnp.matmul(matrix, v, precision="highest"), start, STEPS)


def tridiagonal(alpha, beta) -> np.ndarray:
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    return np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)


@given(
    name=st.sampled_from(sorted(SPECTRA)), seed=st.integers(0, 999), exponent=st.integers(-12, 12)
)
def test_the_decomposition_holds_and_the_basis_is_orthonormal(name, seed, exponent):
    """A Qᵀ = Qᵀ T + r eᵀ and Q Qᵀ = I, at every scale."""
    matrix = rotated(SPECTRA[name]) * dtype().type(10.0**exponent)
    found = decompose(matrix, starts(1, seed=seed)[0])
    a, q = np.asarray(matrix, np.float64), np.asarray(found.basis, np.float64)
    size, eps = np.linalg.norm(a, 2), np.finfo(dtype()).eps
    residual = a @ q.T - q.T @ tridiagonal(found.alpha, found.beta)
    residual[:, -1] -= np.asarray(found.remainder, np.float64)
    assert np.abs(q @ q.T - np.eye(STEPS)).max() < 50 * eps
    assert np.abs(residual).max() < 50 * eps * size
    assert float(found.asymmetry) < 50 * eps
    remainder = np.linalg.norm(np.asarray(found.remainder, np.float64))
    np.testing.assert_allclose(remainder, float(found.beta[-1]), rtol=100 * eps)


@given(name=st.sampled_from(sorted(SPECTRA)), seed=st.integers(0, 999))
def test_m_steps_integrate_polynomials_of_degree_2m_minus_1_exactly(name, seed):
    """q'p(H)q = e₁'p(T)e₁, on Chebyshev polynomials, which stay of size 1 on the spectrum."""
    matrix, start = rotated(SPECTRA[name]), starts(1, seed=seed)[0]
    found = decompose(matrix, start)
    # The measure of the matrix as it was rounded.
    eigenvalues, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    q = np.asarray(start, np.float64)
    masses = (vectors.T @ (q / np.linalg.norm(q))) ** 2
    nodes, s = np.linalg.eigh(tridiagonal(found.alpha, found.beta))
    low, high = eigenvalues.min(), eigenvalues.max()
    for degree in range(2 * STEPS):
        chebyshev = np.polynomial.Chebyshev.basis(degree, domain=[low, high])
        # Rounding moves the nodes by eps |H|, where the polynomial's slope is at most degree².
        slack = 50 * np.finfo(dtype()).eps * (1 + degree**2)
        exact, rule = masses @ chebyshev(eigenvalues), s[0] ** 2 @ chebyshev(nodes)
        assert abs(exact - rule) < slack


@pytest.mark.parametrize("exponent", [-40, -3, 7, 40])
def test_scaling_by_a_power_of_two_changes_no_digit(exponent):
    matrix, start = rotated(SPECTRA["outliers"]), starts(1)[0]
    factor = 2.0**exponent
    one, scaled = decompose(matrix, start), decompose(matrix * dtype().type(factor), start)
    np.testing.assert_array_equal(np.asarray(one.alpha) * dtype().type(factor), scaled.alpha)
    np.testing.assert_array_equal(np.asarray(one.basis), scaled.basis)


def test_the_length_of_the_start_does_not_matter():
    matrix, start = rotated(SPECTRA["normal"]), starts(1)[0]
    one, tiny = decompose(matrix, start), decompose(matrix, start * dtype().type(2.0**-90))
    np.testing.assert_array_equal(one.alpha, tiny.alpha)


BREAKDOWNS = {
    "zero": (np.zeros(DIM), 1),
    "identity": (np.ones(DIM), 1),
    "two clusters": (np.repeat([-2.0, 1.0], DIM // 2), 2),
    "rank 3": (np.concatenate([[5.0, 3.0, 2.0], np.zeros(DIM - 3)]), 4),
}


@pytest.mark.parametrize("name", BREAKDOWNS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_an_exhausted_space_is_noticed_at_once(name, scale):
    """About as many valid steps as distinct eigenvalues, and every Ritz value is one of them.

    A rotated matrix is rounded, so it may hold one more value within rounding of another.
    """
    eigenvalues, distinct = BREAKDOWNS[name]
    found = decompose(rotated(eigenvalues * scale), starts(1)[0])
    n = int(found.num_valid_steps)
    assert distinct <= n <= distinct + (1 if distinct > 2 else 0)
    for leaf in (found.alpha, found.beta, found.basis, found.remainder):
        assert np.all(np.isfinite(np.asarray(leaf)))
    ritz = np.linalg.eigvalsh(tridiagonal(found.alpha[:n], found.beta[:n]))
    distance = np.abs(ritz[:, None] - np.unique(eigenvalues) * scale)
    assert distance.min(axis=0).max() < 2e-5 * scale
    assert distance.min(axis=1).max() < 2e-5 * scale
    assert not np.any(np.asarray(found.basis)[n:])


def test_a_zero_start_gives_no_valid_step():
    found = decompose(rotated(SPECTRA["normal"]), jnp.zeros(DIM, dtype()))
    assert int(found.num_valid_steps) == 0
    assert not np.any(np.asarray(found.alpha))


def test_a_product_that_is_not_finite_is_not_taken_for_an_exhausted_space():
    """H e₂ is nan: from e₀ it is met by the third product, from e₂ by the first, from e₅ never."""
    dim = 6
    couplings = np.diag([1.0, 1.0, 1.0, 1.0, 0.0], 1)  # the last entry stands alone
    matrix = jnp.asarray(couplings + couplings.T, dtype())

    def product(v):
        return v @ matrix + jnp.where(v[:, 2:3] != 0, jnp.nan, 0)

    first = jnp.eye(dim, dtype=dtype())[jnp.array([0, 2, 5])]
    found = lanczos(product, first, 4)
    assert found.num_valid_steps.tolist() == [2, 0, 1]
    assert np.isnan(np.asarray(found.alpha)).sum(axis=1).tolist() == [2, 4, 0]
    for row in (0, 1):
        with pytest.raises(ValueError, match="must be finite: a start or a product"):
            gauss_quadrature(found.alpha[row], found.beta[row], found.num_valid_steps[row])
    assert gauss_quadrature(found.alpha[2], found.beta[2], 1).nodes[0] == 0.0
    start = jnp.full(dim, jnp.nan, dtype())
    assert np.isnan(np.asarray(lanczos(lambda v: v, start, 2).alpha)).all()


@pytest.mark.parametrize("num_steps", [0, DIM + 1])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"`num_steps` must lie in \[1, 60\]"):
        lanczos(lambda v: v, starts(1)[0], num_steps)


def test_a_start_must_be_a_vector_or_a_block():
    with pytest.raises(ValueError, match="`start` must be a float vector"):
        lanczos(lambda v: v, jnp.zeros((2, 2, 2)), 1)
