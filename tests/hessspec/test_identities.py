"""Identities on random operators, random trees and random numbers of tasks.

The operators have prescribed spectra: outliers, clusters, exact zeros, both signs, low rank, at
sizes up to 300 and scales from 1e-12 to 1e12. Identities hold up to rounding.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessspec
from hessspec import HessianOperator, lanczos
from hessspec._trace.guards import LOOKS
from tests.random_operators import KINDS, Case, cases
from tests.spectra import METHODS, dtype, eps, hessian, quadratic

STEPS = 12


# --- the Lanczos decomposition ------------------------------------------------------------------


@jax.jit
def decompose(matrix, start):
    return lanczos(lambda v: jnp.matmul(matrix, v, precision="highest"), start, STEPS)


@given(case=cases())
def test_every_decomposition_holds_and_integrates_degree_2m_minus_1(case):
    """A Qᵀ = Qᵀ T + r eᵀ, Q Qᵀ = I, and q'p(A)q = e₁'p(T)e₁ for p of degree up to 2m - 1.

    Where the space is exhausted, what is cut off is at most 64 eps (|α| + β) <= 128 eps |A|, and
    T then integrates every polynomial. A Chebyshev polynomial of degree d on [-|A|, |A|] has
    slope at most d²/|A|, so an error of T of c eps |A| changes it by c d² eps.
    """
    start = hessspec.gaussian(jax.random.key(case.seed), jnp.arange(1), case.size, dtype())[0]
    found = decompose(jnp.asarray(case.matrix), start)
    a = case.matrix.astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(a)
    norm = np.abs(eigenvalues).max()
    n = int(found.num_valid_steps)
    q = np.asarray(found.basis, np.float64)[:n]
    alpha, beta = (np.asarray(c, np.float64)[:n] for c in (found.alpha, found.beta))
    t = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    residual = a @ q.T - q.T @ t
    residual[:, -1] -= np.asarray(found.remainder, np.float64) if n == STEPS else 0.0
    units = 50.0 if n == STEPS else 200.0
    assert np.abs(q @ q.T - np.eye(n)).max() < 50 * eps()
    assert np.linalg.norm(residual, 2) < units * eps() * norm
    nodes, s = np.linalg.eigh(t)
    masses = (vectors.T @ q[0]) ** 2
    for degree in range(2 * STEPS):
        chebyshev = np.polynomial.Chebyshev.basis(degree, domain=[-norm, norm])
        exact, rule = masses @ chebyshev(eigenvalues), s[0] ** 2 @ chebyshev(nodes)
        assert abs(exact - rule) < units * eps() * (1 + degree**2)


# --- tasks and their weights --------------------------------------------------------------------


@settings(max_examples=8)
@given(num_tasks=st.sampled_from([1, 4]), seed=st.integers(0, 9999))
def test_products_forms_and_traces_are_linear_in_the_task_weights(num_tasks, seed):
    """One task in a vector is a task axis of length one; weights may be zero or negative."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(sorted(KINDS), num_tasks)
    stack = np.stack([Case(kind, 20, seed + t, 0).matrix for t, kind in enumerate(kinds)])
    weights = rng.choice([-2.0, 0.0, 0.5, 1.0, 3.0], num_tasks)
    operator = hessian(stack)
    whole = operator.weighted(jnp.asarray(weights, dtype()))
    assert operator.num_tasks == num_tasks
    assert whole.num_tasks is None
    block = jnp.asarray(rng.normal(size=(3, 20)), dtype())
    size = np.abs(weights) @ np.abs(stack).max(axis=(1, 2)) * 20
    np.testing.assert_allclose(
        whole.rows(block),
        np.einsum("t,tkp->kp", weights, operator.rows(block)),
        atol=50 * eps() * size,
    )
    np.testing.assert_allclose(
        whole.forms(block),
        np.einsum("t,tk->k", weights, operator.forms(block)),
        atol=500 * eps() * size,
    )
    tasks, one = (
        hessspec.trace(
            o, key=jax.random.key(seed), method="hutchinson", num_matvecs=8, progress=False
        )
        for o in (operator, whole)
    )
    # Forms of several tasks meet no asymmetry: two of the products are spent on looking for it.
    drawn = tasks.samples.shape[-1]
    assert (drawn, one.num_samples) == (8 - LOOKS, 8)
    np.testing.assert_allclose(
        one.samples[:drawn], weights @ tasks.samples, atol=500 * eps() * size
    )


# --- scale --------------------------------------------------------------------------------------


def both(case: Case, c: float, method: str):
    """The trace of A and of c A, by the same key."""
    key = jax.random.key(case.seed)
    return (
        hessspec.trace(hessian(m), key=key, method=method, num_matvecs=48, progress=False)
        for m in (case.matrix, case.matrix * dtype().type(c))
    )


@settings(max_examples=6)
@given(case=cases(sizes=(97,)), exponent=st.sampled_from([-40, -11, 7, 40]))
def test_a_power_of_two_changes_no_digit_of_an_estimate(case, exponent):
    case = replace(case, exponent=0)
    for method in METHODS:
        one, scaled = both(case, 2.0**exponent, method)
        np.testing.assert_array_equal(scaled.samples, one.samples * 2.0**exponent)
        assert scaled.value == one.value * 2.0**exponent


@settings(max_examples=6)
@given(
    kind=st.sampled_from(["outliers", "both signs", "decaying"]),
    seed=st.integers(0, 9999),
    factor=st.floats(-12, 12),
)
def test_estimates_stretch_with_the_operator(kind, seed, factor):
    """To 1e-5 of Σ|λ| in float32, whatever the factor: no threshold is absolute.

    Where an eigenvalue is multiple, rounding chooses the direction in which an exhausted Krylov
    space goes on, so that estimates of c A and A agree within their errors only.
    """
    case = Case(kind, 97, seed, 0)
    c = 10.0**factor
    size = np.abs(np.linalg.eigvalsh(case.matrix.astype(np.float64))).sum()
    tolerance = (1e-5 if dtype() == np.float32 else 1e-12) * size
    for method in METHODS:
        one, scaled = both(case, c, method)
        assert abs(scaled.value / c - one.value) < tolerance
        assert abs(scaled.standard_error / c - one.standard_error) < tolerance
        assert one.num_matvecs == scaled.num_matvecs
    one, scaled = (
        hessspec.density(
            hessian(m), key=jax.random.key(seed), num_steps=STEPS, progress=False
        ).plain()
        for m in (case.matrix, case.matrix * dtype().type(c))
    )
    assert abs(scaled.moment(1) / c - one.moment(1)) < tolerance
    assert abs(scaled.extremes().largest / c - one.extremes().largest) < tolerance
    assert abs(scaled.extremes().smallest / c - one.extremes().smallest) < tolerance


# --- random trees -------------------------------------------------------------------------------

TREE_DIM = 18
SHAPES = ((), (3,), (2, 2), (1, 5), (4, 1), (0, 3))


@st.composite
def trees(draw):
    """Nested containers, some of them empty, with float leaves of mixed dtypes, scalars among
    them, leaves that the loss does not use, and leaves that are no parameters at all."""
    floats = [np.float32] + ([np.float64] if dtype() == np.float64 else [])
    floats += [np.float32, jnp.bfloat16]
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=2, max_size=5))
    used = sum(int(np.prod(shape)) for shape in shapes)
    shapes.append((max(TREE_DIM - used, 1),))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    leaves = [
        jnp.asarray(rng.normal(size=shape), draw(st.sampled_from(floats))) for shape in shapes
    ]
    others = draw(
        st.lists(
            st.sampled_from(
                [
                    {},
                    (),
                    [],
                    None,
                    {"empty": ()},
                    3,
                    "name",
                    jnp.arange(2),
                    jnp.array([True]),
                    jax.random.key(1),
                ]
            ),
            max_size=3,
        )
    )
    unused = jnp.ones(2, dtype())
    half = len(leaves) // 2
    nested = draw(st.sampled_from(["flat", "nested", "tuple"]))
    if nested == "flat":
        return {"w": leaves, "others": others, "unused": unused}
    if nested == "tuple":
        return {"w": (leaves[0], *leaves[1:]), "others": (others, {}), "unused": unused}
    return {
        "w": {"a": {"b": leaves[:half]}, "c": [{}, *leaves[half:]]},
        "others": others,
        "unused": unused,
    }


def flat(tree):
    leaves = [jnp.ravel(leaf).astype(dtype()) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves)


def waves(params, matrix):
    """Its Hessian at x is `matrix` - diag(cos x)."""
    x = flat(params["w"])
    m = matrix[: x.size, : x.size]
    return quadratic(x, m) + jnp.sum(jnp.cos(x))


MATRIX = np.random.default_rng(7).normal(size=(64, 64)) / 8


@settings(max_examples=8)
@given(params=trees(), seed=st.integers(0, 9999))
def test_products_on_any_tree_are_those_of_the_matrix(params, seed):
    """H v is a tree like the parameters, its leaves in their dtypes; what is unused gets zeros."""
    matrix = jnp.asarray(MATRIX + MATRIX.T, dtype())
    operator = HessianOperator(waves, params, data=matrix)
    x = np.asarray(flat(params["w"]), np.float64)
    rng = np.random.default_rng(seed)
    chosen = operator.chosen
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(rng.choice([-1.0, 1.0], leaf.shape), leaf.dtype), chosen
    )
    product = hessspec.hvp(operator, vector=vector)
    assert jax.tree.structure(product) == jax.tree.structure(chosen)
    for leaf, like in zip(jax.tree.leaves(product), jax.tree.leaves(chosen), strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    assert operator.dim == x.size + 2
    assert not np.any(product["unused"])
    dense = (MATRIX + MATRIX.T)[: x.size, : x.size] - np.diag(np.cos(x))
    expected = dense @ np.asarray(flat(vector["w"]), np.float64)
    # Products are rounded to the leaf that they come back in.
    coarsest = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(chosen))
    np.testing.assert_allclose(
        np.asarray(flat(product["w"]), np.float64), expected, atol=20 * coarsest
    )


def permuted_waves(params, batch):
    order, matrix = batch
    return waves({"w": [params[str(i)] for i in order]}, matrix)


@pytest.mark.any_dtype
@settings(max_examples=3)
@given(seed=st.integers(0, 9999))
def test_the_order_of_the_leaves_changes_nothing_but_the_order(seed):
    """With leaves renamed, so that they are flattened in another order, H is permuted with them."""
    rng = np.random.default_rng(seed)
    shapes = [(), (3,), (2, 2), (1, 5), (5,)]
    leaves = [jnp.asarray(rng.normal(size=shape), dtype()) for shape in shapes]
    order = rng.permutation(len(leaves)).tolist()
    matrix = jnp.asarray(MATRIX + MATRIX.T, dtype())
    plain = HessianOperator(waves, {"w": leaves}, data=matrix)
    moved = HessianOperator(
        lambda p, m: permuted_waves(p, (order, m)),
        {str(i): leaf for i, leaf in zip(order, leaves, strict=True)},
        data=matrix,
    )
    vector = [jnp.asarray(rng.normal(size=shape), dtype()) for shape in shapes]
    one = hessspec.hvp(plain, vector={"w": vector})["w"]
    other = hessspec.hvp(moved, vector={str(i): v for i, v in zip(order, vector, strict=True)})
    for i, leaf in zip(order, one, strict=True):
        np.testing.assert_allclose(other[str(i)], leaf, atol=100 * eps())
    key = jax.random.key(seed)
    exact = [hessspec.diagonal(o, key=key, num_matvecs=99, progress=False) for o in (plain, moved)]
    for i, leaf in zip(order, exact[0].value["w"], strict=True):
        np.testing.assert_allclose(exact[1].value[str(i)], leaf, atol=100 * eps())
