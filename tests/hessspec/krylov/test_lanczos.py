"""The Lanczos recurrence: identities of the decomposition, breakdown, scale, guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec import FunctionOperator
from hessspec._base.probes import gaussian
from hessspec._krylov.lanczos import inner_products, lanczos
from hessspec._krylov.lockstep import KrylovRun, krylov
from hessspec._krylov.tiles import flat, tile_shape, tiled

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


def operator(matrix: jax.Array) -> FunctionOperator:
    return FunctionOperator(
        lambda v: jnp.matmul(matrix, v, precision="highest"),
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
    )


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


def test_a_bulk_far_below_the_outliers_does_not_end_the_recurrence():
    """beta / |H| of the bulk is 1e-4 here; a threshold of sqrt(eps) would stop in float32."""
    eigenvalues = np.concatenate([[1e4], np.linspace(-1.0, 1.0, DIM - 1)])
    run = krylov(operator(rotated(eigenvalues)), starts(2), 20)
    assert list(run.num_valid_steps) == [20, 20]


def basis_of(run: KrylovRun, dim: int = DIM) -> np.ndarray:
    """The rows of every probe's basis, float64."""
    parts = [np.asarray(c, np.float64).transpose(0, 2, 1, 3) for c in run.chunks]
    return np.concatenate([p.reshape(*p.shape[:2], -1) for p in parts], axis=1)[..., :dim]


def test_the_driver_and_the_kernel_agree():
    """One recurrence, driven from the host in chunks or compiled as a whole."""
    matrix, block = rotated(SPECTRA["normal"]), starts(3)
    run = krylov(operator(matrix), block, 20)
    whole = lanczos(lambda rows: jnp.matmul(rows, matrix, precision="highest"), block, 20)
    tolerance = 1e3 * np.finfo(dtype()).eps
    np.testing.assert_allclose(run.alpha, whole.alpha, atol=tolerance)
    np.testing.assert_allclose(run.beta, whole.beta, atol=tolerance)
    assert whole.basis is not None
    kept = basis_of(run)[:, :20]
    np.testing.assert_allclose(kept, whole.basis, atol=100 * tolerance)


def test_probes_in_lockstep_are_the_probes_alone():
    matrix, block = rotated(SPECTRA["outliers"]), starts(3)
    together = krylov(operator(matrix), block, 10)
    alone = krylov(operator(matrix), block[1:2], 10)
    size = np.abs(together.alpha).max()
    np.testing.assert_allclose(
        together.alpha[1], alone.alpha[0], atol=100 * np.finfo(dtype()).eps * size
    )


def test_without_reorthogonalisation_the_ends_and_the_rule_are_right_but_ghosts_may_appear():
    matrix, block = rotated(SPECTRA["outliers"]), starts(2)
    run = krylov(operator(matrix), block, 40, reorthogonalize=False)
    assert run.chunks == ()
    for probe in range(2):
        ritz = np.linalg.eigvalsh(tridiagonal(run.alpha[probe], run.beta[probe]))
        np.testing.assert_allclose(ritz[[0, -1]], [-3e3, 1e4], rtol=1e-5)


def test_basis_gram_holds_the_inner_products_of_all_basis_vectors():
    run = krylov(operator(rotated(SPECTRA["normal"])), starts(3), 20)
    bases = basis_of(run)[:, :20]
    rows = bases.reshape(60, DIM)
    gram = run.basis_gram().reshape(60, 60)
    np.testing.assert_allclose(gram, rows @ rows.T, atol=1e2 * np.finfo(dtype()).eps)


@pytest.mark.parametrize("dim", [1, 4096, 4097, 9000, 12_289])
def test_tiles_hold_every_column_once(dim: int):
    count, width = tile_shape(dim)
    rows = jnp.arange(2.0 * dim, dtype=dtype()).reshape(2, dim) + 1
    tiles = tiled(rows)
    assert tiles.shape == (2, count, width)
    assert count * width - dim < 16 * count
    np.testing.assert_array_equal(flat(tiles, dim), rows)
    assert np.count_nonzero(tiles) == rows.size


def test_a_basis_of_several_tiles_is_that_of_the_kernel():
    dim = 9000
    values = jnp.asarray(np.random.default_rng(3).normal(size=dim).astype(dtype()))
    diagonal = FunctionOperator(lambda v: values * v, jax.ShapeDtypeStruct((dim,), dtype()))
    block = gaussian(jax.random.key(2), jnp.arange(2), dim, dtype())
    run = krylov(diagonal, block, 20)
    whole = lanczos(lambda rows: rows * values[None], block, 20)
    eps = np.finfo(dtype()).eps
    np.testing.assert_allclose(run.alpha, whole.alpha, atol=1e3 * eps)
    bases = basis_of(run, dim)[:, :20]
    for basis in bases:
        np.testing.assert_allclose(basis @ basis.T, np.eye(20), atol=50 * eps)
    rows = bases.reshape(40, dim)
    gram = run.basis_gram().reshape(40, 40)
    np.testing.assert_allclose(gram, rows @ rows.T, atol=50 * eps)
    mixes = np.random.default_rng(4).normal(size=(3, 2, 20))
    lengths = np.linalg.norm(mixes.reshape(3, -1) @ rows, axis=1)
    np.testing.assert_allclose(run.combined_lengths(mixes), lengths, rtol=50 * eps)


class Counting:
    """Counts the rows that the device really multiplied."""

    def __init__(self, matrix: jax.Array) -> None:
        self.inner, self.count = operator(matrix), 0
        self.space, self.dim, self.dtype = self.inner.space, self.inner.dim, self.inner.dtype

    def rows(self, block: jax.Array) -> jax.Array:
        self.count += block.shape[0]
        return self.inner.rows(block)


@pytest.mark.parametrize(("name", "most"), [("identity", 2 * 3), ("rank 3", 2 * 8)])
def test_products_reported_are_products_executed_and_an_exhausted_run_stops(name, most):
    counted = Counting(rotated(BREAKDOWNS[name][0]))
    run = krylov(counted, starts(2), 40)
    assert run.num_matvecs == counted.count <= most


def test_another_run_of_the_same_shapes_compiles_nothing():
    from hessspec._krylov import lockstep

    krylov(operator(rotated(SPECTRA["normal"])), starts(2), 20)
    programs = (
        lockstep._project,
        lockstep._extend_tiles,
        lockstep._store,
        lockstep._first_pass,
    )
    before = [program._cache_size() for program in programs]
    krylov(operator(rotated(SPECTRA["outliers"])), starts(2, seed=5), 20)
    assert [program._cache_size() for program in programs] == before


def test_an_asymmetric_product_is_an_error():
    matrix = np.asarray(rotated(SPECTRA["normal"])).copy()
    matrix[0, 1] += 0.1
    with pytest.raises(ValueError, match="not symmetric"):
        krylov(operator(jnp.asarray(matrix)), starts(1), 10)
    with pytest.raises(ValueError, match="not symmetric"):
        krylov(operator(jnp.asarray(matrix)), starts(1), 10, reorthogonalize=False)


def test_a_product_that_is_not_finite_is_an_error():
    matrix = rotated(SPECTRA["normal"]).at[3, 3].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite"):
        krylov(operator(matrix), starts(1), 10)


def test_bases_that_do_not_fit_are_refused_with_the_ways_out():
    with pytest.raises(MemoryError, match="reorthogonalize=False"):
        krylov(operator(rotated(SPECTRA["normal"])), starts(2), 20, memory_budget=1000)


@pytest.mark.parametrize("num_steps", [0, DIM + 1])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"`num_steps` must lie in \[1, 60\]"):
        lanczos(lambda v: v, starts(1)[0], num_steps)


def test_a_start_must_be_a_vector_or_a_block():
    with pytest.raises(ValueError, match="`start` must be a float vector"):
        lanczos(lambda v: v, jnp.zeros((2, 2, 2)), 1)


def test_long_inner_products_are_right_to_a_few_units():
    """Terms of one sign, added one after the other, would be off by 100 units or more."""
    dim = 1_000_003
    row = np.linspace(1.0, 2.0, dim).astype(dtype())
    row /= np.linalg.norm(row.astype(np.float64))
    exact = float(row.astype(np.float64) @ row.astype(np.float64))
    found = inner_products(
        "krp,kp->kr", jnp.asarray(np.stack([row, -row])[None]), jnp.asarray(row[None])
    )
    np.testing.assert_allclose(found, [[exact, -exact]], rtol=16 * np.finfo(dtype()).eps)


@pytest.mark.parametrize("reorthogonalize", [False, True])
def test_a_shift_of_rank_one_is_symmetric_although_its_second_vector_is_not_orthogonal(
    reorthogonalize,
):
    """H = I + c uu': beta is tiny, and q0'q1 of order eps / beta with it."""
    dim = 20_000
    unit = jnp.full(dim, dim**-0.5, dtype())
    operator = FunctionOperator(
        lambda v: v + jnp.asarray(1e-3, dtype()) * unit * jnp.sum(unit * v), unit
    )
    starts = jax.random.normal(jax.random.key(0), (2, dim), dtype())
    run = krylov(operator, starts, 4, reorthogonalize=reorthogonalize)
    assert run.asymmetry < 50 * np.finfo(dtype()).eps
