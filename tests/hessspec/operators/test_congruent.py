"""D H D: the operator in other coordinates, and the generalised eigenvalues it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import hessspec
from hessspec._operators.rows import compiled_rows
from tests.networks import X, Y, close, network_params, scalar_loss, vector_loss


def scale_of(params, seed=5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(np.exp(rng.normal(size=p.shape)), p.dtype), params)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


@pytest.mark.parametrize("loss", [scalar_loss, vector_loss])
def test_products_and_forms_are_those_of_the_matrix_between_two_diagonals(loss):
    params = network_params()
    plain = hessspec.HessianOperator(loss, params, data=(X, Y))
    scale = scale_of(params)
    operator, d = plain.congruent(scale), flat(scale)
    expected = d[:, None] * np.asarray(plain.dense(), np.float64) * d
    close(operator.dense(), expected)
    block = jnp.asarray(np.random.default_rng(1).normal(size=(3, plain.dim)), plain.dtype)
    forms = np.einsum("kp,...pq,kq->...k", block, expected, block)
    close(operator.forms(block), forms, units=1000)
    if plain.num_tasks is not None:
        close(operator.task(1).dense(), expected[1])


def test_eigenvalues_are_those_of_the_generalised_problem():
    """Hx = λ D⁻² x, by scipy, and x = D y for the eigenvectors y found here."""
    params = network_params()
    plain = hessspec.HessianOperator(scalar_loss, params, data=(X, Y))
    scale = scale_of(params)
    h, d = np.asarray(plain.dense(), np.float64), flat(scale)
    values, vectors = linalg.eigh((h + h.T) / 2, np.diag(d**-2.0))
    pairs = hessspec.eigenpairs(
        plain.congruent(scale), key=jax.random.key(0), k=3, which="LA", progress=False
    )
    close(pairs.values.astype(plain.dtype), values[::-1][:3], units=300)
    x = d * np.asarray(pairs.rows[0], np.float64)
    cosine = abs(x @ (vectors[:, -1] / d**2)) / np.sqrt(x @ (x / d**2))
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)


def test_a_scale_may_be_a_function_of_the_path_and_a_number_for_a_leaf():
    params = network_params()
    plain = hessspec.HessianOperator(scalar_loss, params, data=(X, Y))
    by_path = plain.congruent(lambda path: 2.0 if path == "b1" else 1.0)
    by_tree = plain.congruent({"w1": 1.0, "b1": 2.0 * jnp.ones(4), "w2": jnp.ones((4, 2))})
    np.testing.assert_array_equal(by_path.dense(), by_tree.dense())


def test_leaves_that_are_not_chosen_need_no_scale():
    params = network_params()
    part = hessspec.HessianOperator(
        scalar_loss, params, data=(X, Y), where=lambda path, leaf: path != "w1"
    )
    whole = scale_of(params)
    some = {"b1": whole["b1"], "w2": whole["w2"]}
    np.testing.assert_array_equal(part.congruent(whole).dense(), part.congruent(some).dense())


def test_another_scale_compiles_nothing_and_a_linearised_operator_is_the_same():
    params = network_params()
    plain = hessspec.HessianOperator(scalar_loss, params, data=(X, Y))
    block = jnp.eye(2, plain.dim, dtype=plain.dtype)
    first = plain.congruent(scale_of(params))
    first.rows(block)
    before = compiled_rows._cached._cache_size()
    second = plain.congruent(scale_of(params, seed=6))
    close(second.linearised(2, 2**30).rows(block), second.rows(block))
    second.forms(block)
    after = compiled_rows._cached._cache_size()
    assert after - before <= 1, "the linearised operator's own program, once"


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b1": -1.0}, "`scale` must be positive and finite in float.., got -1 at `b1`"),
        ({"b1": jnp.full(4, jnp.nan)}, "got nan at `b1`"),
        ({"b1": 0.0}, "got 0 at `b1`"),
        ({"w2": jnp.ones(3)}, r"shape \(4, 2\) at `w2`, got \(3,\)"),
        ({"w2": True}, "`scale` must be made of real numbers"),
    ],
)
def test_a_diagonal_that_cannot_be_is_refused_by_the_path_of_its_leaf(change, message):
    params = network_params()
    plain = hessspec.HessianOperator(scalar_loss, params, data=(X, Y))
    with pytest.raises(ValueError, match=message):
        plain.congruent({"w1": 1.0, "b1": 1.0, "w2": 1.0} | change)


@pytest.mark.any_dtype
def test_a_scale_that_lacks_a_parameter_is_told_which():
    plain = hessspec.HessianOperator(scalar_loss, network_params(), data=(X, Y))
    with pytest.raises(ValueError, match="but lacks `w1`; it has b1, w2"):
        plain.congruent({"b1": 1.0, "w2": 1.0})


@pytest.mark.any_dtype
def test_a_scale_of_another_kind_is_told_what_it_may_be():
    plain = hessspec.HessianOperator(scalar_loss, network_params(), data=(X, Y))
    with pytest.raises(ValueError, match=r"function of the path of a leaf, got float 2\.0; one"):
        plain.congruent(2.0)
    with pytest.raises(ValueError, match="flat entries become a tree by"):
        plain.congruent(jnp.ones(plain.dim))
    with pytest.raises(TypeError, match=r"`scale` is called as `scale\(path\)`, but it takes"):
        plain.congruent(lambda path, leaf: 1.0)
