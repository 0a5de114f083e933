"""Eigenpairs followed over matrices whose spectra are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._tracking.kernel import track
from hessspec._tracking.state import TrackerState

DIM = 60
OUTLIERS = np.array([9.0, 6.0, 4.0, -7.0])


@pytest.fixture(scope="module")
def dtype():
    return np.float64 if jax.config.read("jax_enable_x64") else np.float32


@pytest.fixture(scope="module")
def tol(dtype):
    return float(np.finfo(dtype).eps) ** (2 / 3)


def rotation(seed, size=DIM, angle=None):
    """A random orthogonal matrix, or one that is `angle` from the identity."""
    square = np.random.default_rng(seed).normal(size=(size, size))
    if angle is None:
        return np.linalg.qr(square)[0]
    skew = square - square.T
    half = angle / np.linalg.norm(skew, 2) / 2 * skew
    return np.linalg.solve(np.eye(size) - half, np.eye(size) + half)


def spectrum(size=DIM):
    bulk = np.random.default_rng(9).uniform(-0.5, 0.5, size - OUTLIERS.size)
    return np.concatenate([OUTLIERS, bulk])


def with_spectrum(values, basis):
    return (basis * values) @ basis.T


@partial(jax.jit, static_argnames="tol")
def step(state, matrix, tol):
    products = partial(jnp.einsum, "kp,pq->kq", precision="highest")
    return track(lambda block: products(block, matrix), state, tol=tol)


def wanted(matrix, which, k):
    values = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    return values[np.argsort(order, kind="stable")][:k]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("which", "k"),
    [
        ("LA", 2),
        pytest.param("LA", 1, marks=SLOW),
        pytest.param("SA", 1, marks=SLOW),
        pytest.param("LM", 2, marks=SLOW),
    ],
)
def test_values_are_those_of_the_dense_matrix_while_it_turns(which, k, dtype, tol):
    basis, state = rotation(0), TrackerState.start(jax.random.key(0), DIM, k, which, dtype)
    turn = rotation(1, angle=0.05)
    for n in range(12):
        values = spectrum() * (1 + 0.05 * n)
        matrix = jnp.asarray(with_spectrum(values, basis), dtype)
        state, found = step(state, matrix, tol)
        truth = wanted(matrix, which, k)
        assert bool(np.all(found.converged))
        assert np.all(np.asarray(found.residuals) <= tol * float(found.norm))
        # An eigenvalue within the square of the residual over the gap, and rounding.
        units = 50 * np.finfo(dtype).eps * np.abs(truth).max()
        np.testing.assert_allclose(found.values, truth, rtol=0, atol=units)
        dense = np.asarray(matrix, np.float64) @ np.asarray(state.rows, np.float64).T
        rests = dense - np.asarray(state.rows.T, np.float64) * np.asarray(found.values, np.float64)
        np.testing.assert_allclose(
            np.linalg.norm(rests, axis=0), found.residuals, rtol=0.1, atol=units
        )
        basis = turn @ basis
    inner = np.asarray(state.rows) @ np.asarray(state.rows).T
    np.testing.assert_allclose(inner, np.eye(k), atol=50 * np.finfo(dtype).eps)


def test_a_settled_spectrum_costs_one_check_of_the_old_vectors_and_two_that_look_around(dtype, tol):
    matrix = jnp.asarray(with_spectrum(spectrum(), rotation(0)), dtype)
    state = TrackerState.start(jax.random.key(1), DIM, 2, "LA", dtype)
    spent = []
    for _ in range(6):
        state, found = step(state, matrix, tol)
        spent.append(int(found.num_matvecs))
    assert spent[-3:] == [4, 4, 4]
    assert float(found.rotation) < 10 * tol


@pytest.mark.any_dtype
def test_the_angle_is_that_by_which_the_space_has_turned(dtype, tol):
    """A turn in the plane of the second and third eigenvectors, of which the former is wanted."""
    basis, state = rotation(0), TrackerState.start(jax.random.key(2), DIM, 2, "LA", dtype)
    for angle in (0.0, 0.3):
        turned = basis.copy()
        turned[:, 1] = np.cos(angle) * basis[:, 1] + np.sin(angle) * basis[:, 2]
        turned[:, 2] = -np.sin(angle) * basis[:, 1] + np.cos(angle) * basis[:, 2]
        state, found = step(state, jnp.asarray(with_spectrum(spectrum(), turned), dtype), tol)
    np.testing.assert_allclose(found.rotation, 0.3, atol=3 * tol)


@pytest.mark.any_dtype
@pytest.mark.parametrize("place", [2, 3, 40], ids=["the next in line", "another", "of the bulk"])
def test_an_eigenvalue_that_overtakes_without_any_coupling_is_noticed(place, dtype, tol):
    """Only its own value changes: nothing of it shows in products with the other vectors."""
    basis, values = rotation(0), spectrum()
    state = TrackerState.start(jax.random.key(3), DIM, 2, "LA", dtype)
    for _ in range(4):
        state, found = step(state, jnp.asarray(with_spectrum(values, basis), dtype), tol)
    values[place] = 12.0
    matrix, calls = jnp.asarray(with_spectrum(values, basis), dtype), 0
    while abs(float(found.values[0]) - 12.0) > 1e-3 and calls < 30:
        state, found = step(state, matrix, tol)
        calls += 1
    # B has 12 rows, and all but the first of them are looked at every other time.
    assert calls <= (2 if place == 2 else 24)
    np.testing.assert_allclose(np.abs(state.rows[0] @ basis[:, place]), 1.0, atol=1e-5)


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("size", "k"), [(3, 2), *(pytest.param(*pair, marks=SLOW) for pair in [(1, 1), (3, 3), (4, 3)])]
)
def test_small_spaces_are_searched_whole(size, k, dtype, tol):
    matrix = np.diag(np.arange(1.0, size + 1.0))
    state = TrackerState.start(jax.random.key(4), size, k, "LA", dtype)
    for _ in range(2):
        state, found = step(state, jnp.asarray(matrix, dtype), tol)
    np.testing.assert_allclose(found.values, wanted(matrix, "LA", k), rtol=50 * np.finfo(dtype).eps)


@pytest.mark.any_dtype
def test_multiple_eigenvalues_are_found_as_often_as_asked_for(dtype, tol):
    values = np.concatenate([[5.0, 5.0], np.linspace(-1, 1, DIM - 2)])
    matrix = jnp.asarray(with_spectrum(values, rotation(0)), dtype)
    _, found = step(TrackerState.start(jax.random.key(5), DIM, 2, "LA", dtype), matrix, tol)
    np.testing.assert_allclose(found.values, 5.0, rtol=50 * np.finfo(dtype).eps)


@pytest.mark.any_dtype
@pytest.mark.parametrize("matrix", [np.zeros((DIM, DIM)), np.eye(DIM)], ids=["zero", "identity"])
def test_degenerate_operators_come_to_an_end(matrix, dtype, tol):
    state = TrackerState.start(jax.random.key(6), DIM, 2, "LA", dtype)
    for _ in range(3):
        state, found = step(state, jnp.asarray(matrix, dtype), tol)
        np.testing.assert_allclose(found.values, matrix[0, 0], atol=50 * np.finfo(dtype).eps)
    assert int(found.num_matvecs) <= 4


@pytest.mark.any_dtype
@pytest.mark.parametrize("exponent", [-60, 40])
def test_a_power_of_two_changes_no_digit(exponent, dtype, tol):
    matrix = jnp.asarray(with_spectrum(spectrum(), rotation(0)), dtype)
    found = []
    for factor in (1.0, 2.0**exponent):
        state = TrackerState.start(jax.random.key(7), DIM, 2, "LA", dtype)
        for _ in range(2):
            state, pairs = step(state, matrix * factor, tol)
        found.append((np.asarray(pairs.values) / factor, np.asarray(state.rows)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.any_dtype
def test_it_is_a_function_from_state_to_state_for_a_scan(dtype, tol):
    basis = rotation(0)
    matrices = np.stack([with_spectrum(spectrum() * (1 + n / 5), basis) for n in range(4)])
    matrices = jnp.asarray(matrices, dtype)
    start = TrackerState.start(jax.random.key(8), DIM, 2, "LA", dtype)
    _, scanned = jax.lax.scan(lambda state, matrix: step(state, matrix, tol), start, matrices)
    values, state = [], start
    for matrix in matrices:
        state, found = step(state, matrix, tol)
        values.append(found.values)
    np.testing.assert_allclose(scanned.values, values, rtol=20 * np.finfo(dtype).eps)


@pytest.mark.any_dtype
def test_products_are_spent_up_to_the_limit_and_what_has_not_converged_is_flagged(dtype, tol):
    matrix = jnp.asarray(with_spectrum(spectrum(), rotation(0)), dtype)
    state = TrackerState.start(jax.random.key(9), DIM, 2, "LA", dtype)

    def limited(state, most):
        return track(lambda block: block @ matrix, state, tol=tol, max_matvecs=most)[1]

    found = jax.jit(limited, static_argnums=1)(state, 4)
    assert int(found.num_matvecs) == 4
    assert not bool(found.converged[0])
    with pytest.raises(ValueError, match="`max_matvecs` must be at least 2 for 2 pairs, got 0"):
        limited(state, 0)
    with pytest.raises(ValueError, match=r"`k` must lie in \[1, 60\] for 60 parameters, got 61"):
        TrackerState.start(jax.random.key(0), DIM, 61)


@pytest.mark.any_dtype
def test_a_state_of_another_dtype_than_the_products_is_refused_by_name():
    """As one of float32, the default, beside an operator in float64."""
    state = TrackerState.start(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"`state` must have .* float16, got float32; start it"):
        track(lambda rows: rows.astype(jnp.float16), state, tol=1e-3)
