"""Blocks of long rows: probes on the sphere, inner products, orthonormal rows, lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._krylov.blocks import (
    combine,
    gram,
    orthonormal_rows,
    rescaled,
    row_forms,
    spherical,
    unit_scale,
    without,
)

DIM = 500


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype()))


def wide(rows: jax.Array) -> np.ndarray:
    return np.asarray(rows, np.float64)


def test_probes_lie_on_the_sphere_and_depend_on_their_number_alone():
    """|v|² = P without error, so a multiple of the identity has its trace from one probe."""
    key = jax.random.key(3)
    rows = spherical(key, 0, 6, DIM, dtype())
    np.testing.assert_allclose(np.sum(wide(rows) ** 2, axis=1), DIM, rtol=8 * eps())
    np.testing.assert_array_equal(spherical(key, 4, 2, DIM, dtype()), rows[4:])
    cosines = wide(rows) @ wide(rows).T / DIM
    # Cosines of independent directions have deviation P^(-1/2) = 0.045.
    assert np.abs(cosines - np.eye(6)).max() < 5 * DIM**-0.5


def test_probes_with_room_for_more_are_the_same_and_rows_of_zeros_follow():
    few = spherical(jax.random.key(0), 3, 2, DIM, dtype())
    found = spherical(jax.random.key(0), 3, 2, DIM, dtype(), room=5)
    np.testing.assert_array_equal(found[:2], few)
    np.testing.assert_array_equal(found[2:], 0.0)


def test_inner_products_and_combinations_are_those_of_dense_rows():
    left, right = normal(3, DIM), normal(5, DIM, seed=1)
    found = gram(left, right)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wide(left) @ wide(right).T, atol=16 * eps() * DIM)
    stack = normal(2, 5, DIM, seed=2)
    forms = np.einsum("tkp,kp->tk", wide(stack), wide(right))
    np.testing.assert_allclose(row_forms(stack, right), forms, atol=16 * eps() * DIM)
    mixed = combine(normal(4, 3, seed=3), left)
    exact = wide(normal(4, 3, seed=3)) @ wide(left)
    np.testing.assert_allclose(mixed, exact, atol=32 * eps())


def test_rows_almost_within_a_span_lose_it_to_a_few_units_of_what_is_left():
    basis = np.linalg.qr(wide(normal(DIM, 9)))[0].T.astype(dtype())
    inside = jnp.asarray(basis[:8])
    rows = jnp.asarray((1e3 * basis[:2] + 1e3 * eps() * basis[8:]).astype(dtype()))
    left = wide(without(inside, rows))
    along = np.linalg.norm(left @ basis[:8].T.astype(np.float64), axis=1)
    assert np.max(along / np.linalg.norm(left, axis=1)) < 16 * eps()


@pytest.mark.parametrize("condition", [0, 6])
def test_orthonormal_rows_stay_so_where_the_given_ones_are_nearly_dependent(condition):
    """A Gram matrix of such rows has lost its small eigenvalues: its Cholesky factor is noise."""
    sizes = 10.0 ** -np.linspace(0, condition, 6)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    rows = np.linalg.qr(wide(normal(DIM, 6)))[0].T
    rows = jnp.asarray(((turn * sizes) @ rows).astype(dtype()))
    basis, factor = orthonormal_rows(rows)
    assert factor.dtype == np.float64
    np.testing.assert_allclose(wide(basis) @ wide(basis).T, np.eye(6), atol=16 * eps())
    np.testing.assert_allclose(factor.T @ wide(basis), rows, atol=16 * eps())
    assert np.array_equal(factor, np.triu(factor))


def test_a_scale_is_the_power_of_two_near_the_longest_row():
    rows = normal(3, DIM)
    longest = np.linalg.norm(wide(rows), axis=1).max()
    for exponent in (-60, 0, 60):
        scale = unit_scale(rows * dtype().type(2.0**exponent))
        assert np.log2(scale) == int(np.log2(scale))
        assert 0.5 <= longest * 2.0**exponent / scale <= 1.0
    assert unit_scale(rows[:0]) == 1.0
    nothing = unit_scale(jnp.zeros((2, DIM), dtype()))
    assert np.log2(nothing) == int(np.log2(nothing))


def test_rescaled_rows_have_the_length_and_rows_of_zeros_stay():
    rows = normal(3, DIM).at[1].set(0)
    found = wide(rescaled(rows, 7.0))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [7, 0, 7], rtol=8 * eps())
    np.testing.assert_allclose(
        found[0] / 7, wide(rows)[0] / np.linalg.norm(rows[0]), atol=8 * eps()
    )
