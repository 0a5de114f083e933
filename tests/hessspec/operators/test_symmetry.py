"""Asymmetric products: rounding of the loss widens an answer, a wrong derivative is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import FunctionOperator, HessianOperator
from hessspec._base.checks import ASYMMETRY_UNITS, MOST_ASYMMETRY
from hessspec._operators.symmetry import Symmetry
from tests.spectra import DIM, dtype, eps, outliers, with_spectrum

CLASSES, FEATURES, ITEMS = 4, 16, 40
SIZE = CLASSES * FEATURES


def cross_entropy(weights, batch):
    inputs, labels = batch
    scores = jax.nn.log_softmax(jnp.matmul(inputs, weights, precision="highest"))
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))


def two_of_them(weights, batch):
    loss = cross_entropy(weights, batch)
    return jnp.stack([loss, 3.0 * loss])


def all_but_certain(doubt):
    """Weights and data with this probability of the second class, and the true Hessian.

    With p the probabilities, H is the mean of (diag p - pp') ⊗ xx'. The largest p is near 1, so
    1 - p is summed from the others: then no digit is lost.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(FEATURES, CLASSES)).astype(dtype())
    inputs = rng.normal(size=(ITEMS, FEATURES))
    scores = np.sort(inputs @ weights.astype(float), axis=1)
    margins = scores[:, -1:] - scores[:, -2:-1]
    inputs = (inputs * -np.log(doubt) / margins).astype(dtype())
    scores = inputs.astype(float) @ weights.astype(float)
    labels = np.argmax(scores, axis=1)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    p = odds / odds.sum(axis=1, keepdims=True)
    others = np.sum(p, axis=1, keepdims=True, where=p < p.max(axis=1, keepdims=True))
    complement = np.where(p == p.max(axis=1, keepdims=True), others, 1.0 - p)
    middle = -p[:, :, None] * p[:, None]
    middle[:, np.arange(CLASSES), np.arange(CLASSES)] = p * complement
    wide = inputs.astype(float)
    matrix = np.einsum("nf,ncd,ng->fcgd", wide, middle, wide) / ITEMS
    data = jnp.asarray(inputs), jnp.asarray(labels)
    return jnp.asarray(weights), data, matrix.reshape(SIZE, SIZE)


@pytest.fixture(scope="module")
def classifier():
    """So certain that an asymmetry of a thousand eps is nothing but rounding."""
    weights, data, truth = all_but_certain(100.0 * eps())
    operator = HessianOperator(cross_entropy, weights, data=data)
    columns = np.asarray(operator.rows(jnp.eye(SIZE, dtype=dtype())), float)
    gap = np.abs(columns - columns.T).max() / np.linalg.norm(columns, 2)
    assert ASYMMETRY_UNITS * eps() < gap < MOST_ASYMMETRY, gap
    return weights, data, truth


def options(**more):
    return {"key": jax.random.key(1), "progress": False, **more}


@pytest.mark.parametrize(
    ("loss", "method"),
    [(cross_entropy, "auto"), (cross_entropy, "xtrace"), (two_of_them, "auto"),
     pytest.param(cross_entropy, "hutch++", marks=pytest.mark.slow),
     pytest.param(two_of_them, "hutchinson", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_trace_of_an_all_but_certain_classifier_is_in_its_interval(classifier, method, loss):
    weights, data, truth = classifier
    operator = HessianOperator(loss, weights, data=data)
    found = hessspec.trace(operator, **options(method=method, num_matvecs=48))
    low, high = found.confidence_interval(0.999)
    exact = np.trace(truth) * np.array([1.0, 3.0][: found.value.size]).squeeze()
    assert np.all((low <= exact) & (exact <= high))
    assert np.all(found.standard_error < 0.3 * exact)
    assert np.all(found.systematic > 0)


def test_its_density_and_eigenpairs_say_what_rounding_does(classifier):
    weights, data, truth = classifier
    operator = HessianOperator(cross_entropy, weights, data=data)
    eigenvalues = np.linalg.eigvalsh(truth)
    norm = eigenvalues[-1]
    density = hessspec.density(operator, **options(num_probes=2, num_steps=20))
    assert abs(density.nodes.max() - norm) <= density.resolution
    assert density.resolution > 8 * eps() * norm
    pairs = hessspec.eigenpairs(operator, **options(k=3))
    np.testing.assert_allclose(pairs.values, eigenvalues[::-1][:3], atol=0.01 * norm)
    # A tolerance that rounding does not allow is not met, and no pair claims it.
    assert not pairs.converged.any()


def test_its_diagonal_is_refused_since_no_entry_could_say_what_rounding_did(classifier):
    weights, data, _ = classifier
    message = "Likely cancellation.*softmax is all but certain.*moves a product by as much"
    with pytest.raises(ValueError, match=message):
        hessspec.diagonal(cross_entropy, weights, data=data, **options(num_matvecs=40))


SKEW = np.zeros((DIM, DIM))
SKEW[0, 1] = 1.0


@pytest.mark.parametrize("method", ["hutchinson", "auto"])
def test_a_wrong_derivative_of_the_same_size_is_refused(method):
    """Scaling its vectors moves its products by rounding alone, which does not explain it."""
    matrix = with_spectrum(outliers()) + 4.0 * SKEW  # 0.4 % of the norm
    matrix = jnp.asarray(matrix, dtype())
    operator = FunctionOperator(
        lambda v: jnp.matmul(matrix, v, precision="highest"), jnp.zeros(DIM, dtype())
    )
    symmetry = Symmetry(operator)
    block = jnp.eye(2, DIM, dtype=dtype())
    assert not symmetry.allows(4e-3, block, 1000.0)
    assert symmetry.num_matvecs == 6
    assert symmetry.noise < 8 * eps()
    rows = operator.rows(jnp.eye(DIM, dtype=dtype()))
    message = "not symmetric.*Likely a custom derivative rule.*moves a product by far less"
    with pytest.raises(ValueError, match=message):
        Symmetry(operator).check_matrix(np.asarray(rows, float), 1000.0)
    with pytest.raises(ValueError, match="not symmetric"):
        hessspec.trace(operator, **options(method=method, num_matvecs=48))


def test_within_the_unit_of_rounding_nothing_is_asked():
    operator = FunctionOperator(lambda v: v, jnp.zeros(DIM, dtype()))
    symmetry = Symmetry(operator)
    symmetry.check([1.0], [1.0 + 900 * eps()], 1.0, jnp.ones((1, DIM), dtype()), 1.0)
    assert symmetry.num_matvecs == 0
    assert symmetry.units == pytest.approx(ASYMMETRY_UNITS * eps())


def test_rounding_beyond_one_percent_is_refused_as_what_it_is():
    weights, data, _ = all_but_certain(eps())
    operator = HessianOperator(cross_entropy, weights, data=data)
    with pytest.raises(ValueError, match=r"Likely cancellation.*moves a product by as much"):
        hessspec.density(operator, **options(num_probes=2, num_steps=20))
