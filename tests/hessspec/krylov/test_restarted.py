"""Block Lanczos with restarts: the relation that they and new sweeps keep, and how it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator
from hessspec._base.progress import progress_bar
from hessspec._krylov.restarted import WIDTH, RestartedBasis, search, settled_bounds, wanted_first

DIM = 120
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
BULK = np.linspace(-1.0, 1.0, DIM)
OUTLIERS = np.concatenate([[900.0, -400.0, 35.0], BULK[3:]])


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def operator(eigenvalues: np.ndarray) -> FunctionOperator:
    matrix = jnp.asarray(((ROTATION * eigenvalues) @ ROTATION.T).astype(dtype()))
    return FunctionOperator(
        lambda v: jnp.matmul(matrix, v, precision="highest"),
        jax.ShapeDtypeStruct((DIM,), dtype()),
    )


def grown(eigenvalues: np.ndarray, blocks: int) -> RestartedBasis:
    basis = RestartedBasis(operator(eigenvalues), jax.random.key(0))
    for _ in range(blocks):
        basis.grow()
    return basis


def rows(basis: RestartedBasis) -> np.ndarray:
    return np.asarray(basis.basis.rows(0, basis.rank), np.float64)


def left_over(basis: RestartedBasis, eigenvalues: np.ndarray) -> np.ndarray:
    """H Qᵀ - Qᵀ T - Nᵀ B, the part of each row that the relation leaves out, as rows."""
    q, following = rows(basis), np.asarray(basis.next, np.float64)
    matrix = (ROTATION * eigenvalues) @ ROTATION.T / basis.scale
    return q @ matrix - basis.compressed @ q - basis.coupling.T @ following


def restart(basis: RestartedBasis, keep: int) -> None:
    pairs = basis.ritz()
    basis.recombine(pairs, wanted_first(pairs.values, "LM")[:keep])


def test_restarts_lose_nothing_but_the_directions_left_out():
    """The relation and the orthonormal rows survive restarts at every size, past a chunk too."""
    basis = grown(OUTLIERS, 10)
    tolerance = 64 * eps() * basis.norm
    for keep, more in ((6, 3), (12, 8), (18, 1)):
        assert np.abs(left_over(basis, OUTLIERS)).max() < tolerance
        restart(basis, keep)
        assert basis.rank == keep
        assert np.abs(left_over(basis, OUTLIERS)).max() < tolerance
        for _ in range(more):
            basis.grow()
    both = np.concatenate([rows(basis), np.asarray(basis.next, np.float64)])
    np.testing.assert_allclose(both @ both.T, np.eye(both.shape[0]), atol=64 * eps())
    assert not np.any(basis.untracked)


def test_a_new_sweep_keeps_account_of_what_it_does_not_track():
    """Beside the relation the kept rows have remainders, of the sizes that are noted for them."""
    basis = grown(OUTLIERS, 6)
    restart(basis, 4)
    sizes = np.linalg.norm(basis.coupling, axis=0)
    basis.start_sweep()
    np.testing.assert_allclose(basis.untracked, sizes, rtol=1e-12, atol=1e-150)
    found = np.linalg.norm(left_over(basis, OUTLIERS), axis=1)
    np.testing.assert_allclose(found, sizes, atol=64 * eps() * basis.norm)
    inside = rows(basis) @ np.asarray(basis.next, np.float64).T
    assert np.abs(inside).max() < 16 * eps()
    basis.grow()
    news = basis.ritz().news
    assert np.all((news > -1e-12) & (news < 1 + 1e-12))
    np.testing.assert_allclose(news.sum(), WIDTH, atol=1e-9)


def test_estimated_residuals_are_those_that_products_measure():
    basis = grown(OUTLIERS, 8)
    restart(basis, 4)
    estimate = basis.ritz()
    order = wanted_first(estimate.values, "LM")
    with progress_bar(None, "", enabled=False) as bar:
        values, residuals = basis.measure(4, bar)
    tolerance = 64 * eps() * basis.norm
    np.testing.assert_allclose(values, estimate.values[order], atol=tolerance)
    np.testing.assert_allclose(residuals, estimate.residuals[order], atol=tolerance)


def test_the_rows_are_handed_over_in_the_order_asked_for():
    basis = grown(OUTLIERS, 10)
    q = rows(basis)
    np.testing.assert_array_equal(basis.surrender(np.array([17, 0, 3])), q[[17, 0, 3]])


def test_an_exhausted_space_is_filled_up_at_random():
    """The identity: no product leaves the span, and the basis grows on, orthonormal."""
    basis = grown(np.ones(DIM), 10)
    q = rows(basis)
    np.testing.assert_allclose(q @ q.T, np.eye(20), atol=64 * eps())
    np.testing.assert_allclose(basis.compressed * basis.scale, np.eye(20), atol=64 * eps())
    assert np.abs(basis.coupling).max() < 64 * eps()


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_no_unwanted_value_lies_beyond_the_settled_bounds(which):
    values = np.random.default_rng(1).normal(size=40)
    order = wanted_first(values, which)
    assert sorted(order) == list(range(40))
    for k in (1, 2, 7):
        low, high = settled_bounds(values[order[:k]], which)
        rest = values[order[k:]]
        assert np.all((rest >= low) & (rest <= high))
        # And the bounds are no looser than the least wanted of the chosen.
        chosen = np.sort(values[order[:k]])
        assert np.any(np.isclose(np.abs(chosen), high)) or np.any(np.isclose(chosen, low))


def test_the_bound_on_an_overlooked_eigenvalue_is_about_the_ends_of_the_spectrum():
    """From one random start nothing lies beyond the ends, which says nothing about what is
    inside; and a sweep of two blocks has seen too little to say so."""
    eigenvalues = np.concatenate([[3.0, -2.0], BULK[2:]])
    basis = grown(eigenvalues, 20)
    scale = basis.scale
    assert basis._has_none_beyond(3.2 / scale, 1.0)
    assert basis._has_none_beyond(-2.2 / scale, -1.0)
    assert not basis._has_none_beyond(2.5 / scale, 1.0)
    assert not grown(eigenvalues, 2)._has_none_beyond(3.2 / scale, 1.0)


def test_a_search_spends_no_more_than_it_may_and_finds_every_copy():
    eigenvalues = np.concatenate([np.repeat([9.0, 5.0], 3), 0.1 * BULK[6:]])
    with progress_bar(None, "", enabled=False) as bar:
        found = search(
            operator(eigenvalues), jax.random.key(1), 7, "LM", eps() ** (2 / 3), 90, 30, bar
        )
    assert found.num_matvecs <= 90
    np.testing.assert_allclose(found.values[:6], eigenvalues[:6], rtol=64 * eps())
    assert np.all(found.residuals[:6] <= eps() ** (2 / 3) * found.norm)
    q = np.asarray(found.rows, np.float64)
    np.testing.assert_allclose(q @ q.T, np.eye(7), atol=64 * eps())
