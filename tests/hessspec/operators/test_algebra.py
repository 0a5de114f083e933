"""What is multiplied: sums, multiples and functions of vectors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec._operators.algebra import ScaledOperator
from hessspec._operators.function import FunctionOperator
from tests.networks import close


def symmetric(seed, size):
    square = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(square + square.T)


@given(
    seed=st.integers(0, 2**16),
    # Subnormal factors vanish in float32 and are refused.
    scale=st.floats(-8, 8, width=32, allow_subnormal=False),
    weights=st.lists(st.floats(-4, 4, width=32, allow_subnormal=False), min_size=2, max_size=2),
)
def test_operators_form_a_vector_space(seed, scale, weights):
    a, b = symmetric(seed, 6), symmetric(seed + 1, 6)
    like = jnp.zeros(6)
    first = FunctionOperator(jax.tree_util.Partial(jnp.matmul, a), like)
    second = FunctionOperator(jax.tree_util.Partial(jnp.matmul, b), like)
    both = FunctionOperator(jax.tree_util.Partial(jnp.matmul, jnp.stack([a, b])), like, num_tasks=2)
    block = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 6)))
    np.testing.assert_allclose(
        (scale * first - second).rows(block),
        np.asarray(block) @ (scale * np.asarray(a) - np.asarray(b)),
        rtol=0,
        atol=1e-4,
    )
    np.testing.assert_allclose(
        both.weighted(np.array(weights)).forms(block),
        weights[0] * np.asarray(first.forms(block)) + weights[1] * np.asarray(second.forms(block)),
        rtol=0,
        atol=1e-3,
    )


def test_quotients_and_sums_are_those_of_the_matrices():
    a, b = symmetric(0, 6), symmetric(1, 6)
    first, second = (FunctionOperator(partial(jnp.matmul, m), jnp.zeros(6)) for m in (a, b))
    close((first / 3).dense(), a / 3)
    close(sum([first, second, first]).dense(), 2 * a + b)
    for factor in (np.float32(2), np.float64(2), jnp.float32(2), np.int8(2), jnp.asarray(2)):
        np.testing.assert_array_equal((factor * first).dense(), 2 * first.dense())
        np.testing.assert_array_equal((first * factor).dense(), 2 * first.dense())
    weights = jnp.asarray([1.0, -2.0])
    both = FunctionOperator(partial(jnp.matmul, jnp.stack([a, b])), jnp.zeros(6), num_tasks=2)
    # Under jit the weights have no values to be checked, and need none.
    found = jax.jit(lambda w: both.weighted(w).rows(jnp.eye(6, dtype=a.dtype)))(weights)
    close(found, a - 2 * b)


def test_a_function_operator_must_keep_the_shape_of_its_vectors():
    with pytest.raises(ValueError, match="`matvec` must return a tree"):
        FunctionOperator(lambda v: v[:2], jnp.zeros(3))
    with pytest.raises(ValueError, match="`scale` must be finite, got inf"):
        ScaledOperator(FunctionOperator(lambda v: v, jnp.zeros(3)), np.inf)


def test_scipy_sees_the_same_operator():
    from scipy.sparse.linalg import eigsh

    matrix = symmetric(0, 12)
    operator = FunctionOperator(lambda v: matrix @ v, jnp.zeros(12)).as_scipy()
    largest = eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0]
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(matrix)[-1], rtol=1e-5)
