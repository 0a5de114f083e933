"""Lanczos driven from the host: the kernel's recurrence, bases of all probes, breakdown, guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator
from hessspec._base.probes import gaussian
from hessspec._krylov import tiles
from hessspec._krylov.lanczos import lanczos
from hessspec._krylov.lockstep import KrylovRun, krylov, krylov_bytes

DIM = 60
rng = np.random.default_rng(0)
BASIS, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
NORMAL = rng.normal(size=DIM)
OUTLIERS = np.concatenate([[1e4, -3e3, 200.0], rng.normal(size=DIM - 3)])
RANK_3 = np.concatenate([[5.0, 3.0, 2.0], np.zeros(DIM - 3)])


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def rotated(eigenvalues: np.ndarray) -> jax.Array:
    return jnp.asarray(((BASIS * eigenvalues) @ BASIS.T).astype(dtype()))


def operator(matrix: jax.Array) -> FunctionOperator:
    return FunctionOperator(
        lambda v: jnp.matmul(matrix, v, precision="highest"),
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
    )


def starts(num_probes: int, dim: int = DIM, seed: int = 0) -> jax.Array:
    return gaussian(jax.random.key(seed), jnp.arange(num_probes), dim, dtype())


def tridiagonal(alpha, beta) -> np.ndarray:
    return np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)


def test_a_bulk_far_below_the_outliers_does_not_end_the_recurrence():
    """beta / |H| of the bulk is 1e-4 here; a threshold of sqrt(eps) would stop in float32."""
    eigenvalues = np.concatenate([[1e4], np.linspace(-1.0, 1.0, DIM - 1)])
    run = krylov(operator(rotated(eigenvalues)), starts(2), 20)
    assert list(run.num_valid_steps) == [20, 20]


def basis_of(run: KrylovRun) -> np.ndarray:
    """The rows of every probe's basis, float64."""
    assert run.bases is not None
    return np.asarray(run.bases.rows(), np.float64)


def test_the_driver_and_the_kernel_agree():
    """One recurrence, driven from the host in chunks or compiled as a whole."""
    matrix, block = rotated(NORMAL), starts(3)
    run = krylov(operator(matrix), block, 20)
    whole = lanczos(lambda rows: jnp.matmul(rows, matrix, precision="highest"), block, 20)
    tolerance = 1e3 * np.finfo(dtype()).eps
    np.testing.assert_allclose(run.alpha, whole.alpha, atol=tolerance)
    np.testing.assert_allclose(run.beta, whole.beta, atol=tolerance)
    assert whole.basis is not None
    kept = basis_of(run)
    np.testing.assert_allclose(kept, whole.basis, atol=100 * tolerance)


def test_probes_in_lockstep_are_the_probes_alone():
    matrix, block = rotated(OUTLIERS), starts(3)
    together = krylov(operator(matrix), block, 10)
    alone = krylov(operator(matrix), block[1:2], 10)
    size = np.abs(together.alpha).max()
    np.testing.assert_allclose(
        together.alpha[1], alone.alpha[0], atol=100 * np.finfo(dtype()).eps * size
    )


def test_without_reorthogonalisation_the_ends_and_the_rule_are_right_but_ghosts_may_appear():
    matrix, block = rotated(OUTLIERS), starts(2)
    run = krylov(operator(matrix), block, 40, reorthogonalize=False)
    assert run.bases is None
    with pytest.raises(ValueError, match="the bases were not kept"):
        run.basis_gram()
    for probe in range(2):
        ritz = np.linalg.eigvalsh(tridiagonal(run.alpha[probe], run.beta[probe]))
        np.testing.assert_allclose(ritz[[0, -1]], [-3e3, 1e4], rtol=1e-5)


def test_basis_gram_holds_the_inner_products_of_all_basis_vectors():
    run = krylov(operator(rotated(NORMAL)), starts(3), 20)
    bases = basis_of(run)
    rows = bases.reshape(60, DIM)
    gram = run.basis_gram().reshape(60, 60)
    np.testing.assert_allclose(gram, rows @ rows.T, atol=1e2 * np.finfo(dtype()).eps)


@pytest.fixture(params=[False, True], ids=["together", "apart"])
def apart(request, monkeypatch) -> bool:
    """Whether the lanes lie apart, as those of long vectors do: here of all vectors."""
    if request.param:
        monkeypatch.setattr(tiles, "_LONG", 1)
    return request.param


HARD = {
    "outliers": OUTLIERS,
    "three times the identity": np.full(DIM, 3.0),
    "rank 3": RANK_3,
    "two exact copies": np.repeat(NORMAL[: DIM // 2], 2),
    "bulk far below": np.concatenate([[1e4], np.linspace(-1.0, 1.0, DIM - 1)]),
}


def test_bases_are_orthonormal_to_a_few_eps_on_hard_spectra(apart):
    """Whatever converges, repeats or is exhausted on the way, over two chunks and more.

    The operator is diagonal, so that copies are exact.
    """
    eps = np.finfo(dtype()).eps
    for eigenvalues in HARD.values():
        values = jnp.asarray(eigenvalues, dtype())
        run = krylov(
            FunctionOperator(lambda v, values=values: values * v, values), starts(2), DIM // 2
        )
        assert run.bases is not None
        assert len(run.bases.parts) == (2 if apart else 1)
        bases = basis_of(run)
        distinct = len(np.unique(eigenvalues))
        for probe, n in enumerate(run.num_valid_steps):
            assert n == min(distinct, DIM // 2)
            rows = bases[probe, :n]
            assert np.abs(rows @ rows.T - np.eye(n)).max() < 16 * eps
            assert not np.any(bases[probe, n:])
            # Of a space that is exhausted nothing is left of the last product either.
            whole = n - 1 if n == DIM // 2 else n
            image = rows * np.asarray(values, np.float64)
            t = tridiagonal(run.alpha[probe, :n], run.beta[probe, :n])
            left = np.linalg.norm((image - t @ rows)[:whole], axis=1)
            assert left.max() < 64 * eps * np.abs(eigenvalues).max()


def test_a_basis_of_several_tiles_is_that_of_the_kernel(apart):
    dim = 9000
    values = jnp.asarray(np.random.default_rng(3).normal(size=dim).astype(dtype()))
    diagonal = FunctionOperator(lambda v: values * v, jax.ShapeDtypeStruct((dim,), dtype()))
    block = gaussian(jax.random.key(2), jnp.arange(2), dim, dtype())
    run = krylov(diagonal, block, 20)
    whole = lanczos(lambda rows: rows * values[None], block, 20)
    eps = np.finfo(dtype()).eps
    np.testing.assert_allclose(run.alpha, whole.alpha, atol=1e3 * eps)
    bases = basis_of(run)
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
        self.mesh = self.inner.mesh

    def rows(self, block: jax.Array) -> jax.Array:
        self.count += block.shape[0]
        return self.inner.rows(block)

    def measured_rows(self, block: jax.Array) -> tuple[jax.Array, None]:
        return self.rows(block), None


@pytest.mark.parametrize(("eigenvalues", "most"), [(np.ones(DIM), 2 * 3), (RANK_3, 2 * 8)])
def test_products_reported_are_products_executed_and_an_exhausted_run_stops(eigenvalues, most):
    counted = Counting(rotated(eigenvalues))
    run = krylov(counted, starts(2), 40)
    assert run.num_matvecs == counted.count <= most


def test_another_run_of_the_same_shapes_compiles_nothing():
    from hessspec._krylov import basis, lockstep

    krylov(operator(rotated(NORMAL)), starts(2), 20)
    programs = (
        basis._project,
        lockstep._extend_tiles,
        basis._store_each,
        lockstep._first_pass,
    )
    before = [program._cache_size() for program in programs]
    krylov(operator(rotated(OUTLIERS)), starts(2, seed=5), 20)
    assert [program._cache_size() for program in programs] == before


def test_an_asymmetric_product_is_an_error():
    matrix = np.asarray(rotated(NORMAL)).copy()
    matrix[0, 1] += 0.1
    with pytest.raises(ValueError, match="not symmetric"):
        krylov(operator(jnp.asarray(matrix)), starts(1), 10)
    with pytest.raises(ValueError, match="not symmetric"):
        krylov(operator(jnp.asarray(matrix)), starts(1), 10, reorthogonalize=False)


def test_a_product_that_is_not_finite_is_an_error():
    matrix = rotated(NORMAL).at[3, 3].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite"):
        krylov(operator(matrix), starts(1), 10)


def test_bases_that_do_not_fit_are_refused_with_the_ways_out():
    with pytest.raises(MemoryError, match="reorthogonalize=False"):
        krylov(operator(rotated(NORMAL)), starts(2), 20, memory_budget=1000)


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


@pytest.mark.parametrize("dim", [60, 9000])
def test_the_bytes_asked_for_hold_the_bases(dim, apart):
    values = jnp.linspace(1.0, 2.0, dim, dtype=dtype())
    diagonal = FunctionOperator(lambda v: values * v, jax.ShapeDtypeStruct((dim,), dtype()))
    run = krylov(diagonal, starts(2, dim), 20)
    assert run.bases is not None
    held = sum(chunk.nbytes for part in run.bases.parts for chunk in part.chunks)
    step = 4 * 2 * dim * dtype().itemsize  # the vectors of one step beside them
    assert krylov_bytes(2, 20, dim, dtype()) == held + step
    assert len(run.bases.parts) == (2 if apart else 1)
