"""Diagonals: entry by entry, each with its own error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import HessianOperator
from hessspec._trace.diagonal import DiagonalEstimate, diagonal

DIM = 96


def loss(params, matrix):
    """A quadratic form of all entries, in a nested tree with a scalar leaf."""
    leaves = [jnp.reshape(leaf, (-1,)) for leaf in jax.tree.leaves(params)]
    x = jnp.concatenate(leaves)
    return jnp.einsum("p,...pq,q->...", x, matrix, x, precision="highest") / 2


def params():
    return {"a": {"w": jnp.zeros((5, 10)), "s": jnp.zeros(())}, "b": [jnp.zeros(45)]}


def matrix(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    eigenvalues = rng.normal(size=DIM)
    eigenvalues[:4] = [900.0, -300.0, 100.0, 40.0]
    return (basis * eigenvalues) @ basis.T * scale


def operator(values) -> HessianOperator:
    return HessianOperator(loss, params(), data=jnp.asarray(values, jnp.asarray(0.0).dtype))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def found(values, num_matvecs, seed=0) -> DiagonalEstimate:
    return diagonal(
        operator(values), key=jax.random.key(seed), num_matvecs=num_matvecs, progress=False
    )


def eps(x64: bool) -> float:
    return float(np.finfo(np.float64 if x64 else np.float32).eps)


@pytest.mark.parametrize("num_matvecs", [1, 2, 40])
def test_a_diagonal_hessian_is_exact_from_one_product(num_matvecs, x64):
    values = np.arange(DIM) - 7.0
    estimate = found(np.diag(values), num_matvecs)
    np.testing.assert_allclose(flat(estimate.value), values, atol=100 * eps(x64) * DIM)


def test_as_many_products_as_parameters_give_the_exact_diagonal(x64):
    values = matrix()
    estimate = found(values, 10 * DIM)
    np.testing.assert_allclose(flat(estimate.value), np.diag(values), atol=1e4 * eps(x64))
    assert estimate.method == "exact"
    assert estimate.num_matvecs == DIM
    assert not flat(estimate.standard_error).any()
    np.testing.assert_allclose(estimate.trace.value, np.trace(values), rtol=1e4 * eps(x64))


def test_results_are_trees_of_the_parameters():
    estimate = found(matrix(), 8)
    for tree in (estimate.value, estimate.standard_error):
        assert jax.tree.structure(tree) == jax.tree.structure(params())
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, params())


@pytest.mark.any_dtype
@pytest.mark.parametrize("num_matvecs", [16, 40])
def test_errors_are_as_large_as_stated(num_matvecs):
    values = matrix()
    squares = []
    for seed in range(8):
        estimate = found(values, num_matvecs, seed)
        scores = (flat(estimate.value) - np.diag(values)) / flat(estimate.standard_error)
        squares.append(np.median(np.abs(scores)))
        assert estimate.num_matvecs == num_matvecs
    # The median of |t| is 0.69 for 15 degrees of freedom, near that for more.
    assert 0.5 < np.mean(squares) < 0.95


@pytest.mark.any_dtype
def test_taking_out_the_dominant_space_pays():
    values = matrix()
    errors = [
        np.mean([np.mean((flat(found(values, n, s).value) - np.diag(values)) ** 2)
                 for s in range(4)])
        for n in (16, 40)
    ]  # fmt: skip
    assert errors[1] < errors[0] / 100


@pytest.mark.any_dtype
def test_the_trace_of_the_same_products_has_its_own_error():
    estimate = found(matrix(), 40)
    np.testing.assert_allclose(flat(estimate.value).sum(), estimate.trace.value, rtol=1e-3)
    low, high = estimate.trace.confidence_interval(0.999)
    assert low <= np.trace(matrix()) <= high


def test_one_product_gives_infinite_errors_and_zero_gives_zero():
    assert np.isinf(flat(found(matrix(), 1).standard_error)).all()
    nothing = found(np.zeros((DIM, DIM)), 30)
    assert not flat(nothing.value).any()
    assert not flat(nothing.standard_error).any()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_diagonal_scales_with_h(scale, x64):
    plain, scaled = found(matrix(), 40), found(matrix(scale=scale), 40)
    np.testing.assert_allclose(
        flat(scaled.value) / scale, flat(plain.value), atol=1e3 * eps(x64) * 900
    )


def test_a_vector_loss_gives_a_task_axis():
    stack = np.stack([matrix(0), matrix(1)])
    estimate = found(stack, 40)
    for t in range(2):
        one = jax.tree.map(lambda leaf, t=t: leaf[t], estimate.value)
        alone = found(stack[t], 40)
        np.testing.assert_allclose(flat(one), flat(alone.value), rtol=2e-3, atol=2e-2)
    assert estimate.num_matvecs == 80
    exact = found(stack, DIM)
    leaf = exact.value["a"]["w"][1]
    np.testing.assert_allclose(np.ravel(leaf), np.diag(stack[1])[1:51], rtol=1e-2, atol=1e-3)


@pytest.mark.any_dtype
def test_records_survive_a_file(tmp_path):
    estimate = found(matrix(), 16)
    estimate.save(tmp_path / "diagonal.npz")
    loaded = DiagonalEstimate.load(tmp_path / "diagonal.npz", like=params())
    assert jax.tree.structure(loaded) == jax.tree.structure(estimate)
    np.testing.assert_array_equal(flat(loaded.value), flat(estimate.value))
    with pytest.raises(ValueError, match="`like` must have the 3 leaves"):
        DiagonalEstimate.load(tmp_path / "diagonal.npz", like=jnp.zeros(3))


@pytest.mark.any_dtype
def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match="`num_matvecs` must be at least 1, got 0"):
        found(matrix(), 0)


@pytest.mark.any_dtype
def test_the_budget_limits_the_basis_and_refuses_what_cannot_be_held():
    row = DIM * np.dtype(params()["a"]["w"].dtype).itemsize
    # What sums and blocks take, and ten rows of a basis, of which this spectrum would fill more.
    found = diagonal(operator(matrix()), key=jax.random.key(0), memory_budget=80 * row)
    assert found.method == "deflated"
    assert found.num_samples >= 64 - 10
    with pytest.raises(MemoryError, match="raise `memory_budget`"):
        diagonal(operator(matrix()), key=jax.random.key(0), memory_budget=60 * row)
