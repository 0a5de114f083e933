"""Directions that are given: spanned by the basis, whatever they are made of, and paid for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import FunctionOperator, HessianOperator
from hessspec._base.probes import TRACE_STREAM
from tests.spectra import DIM, dtype, eps, hessian, outliers, trace_of, with_spectrum

TOP = 5  # outliers of the spectrum


@pytest.fixture(scope="module")
def known():
    """An operator, its eigenvalues, and its outliers' eigenvectors as rows."""
    values = outliers()
    matrix = with_spectrum(values)
    found, vectors = np.linalg.eigh(matrix)
    rows = vectors[:, np.argsort(-np.abs(found))[:TOP]].T
    return hessian(matrix), values, jnp.asarray(rows, dtype())


def sketch(operator, key, count=8):
    """H times Gaussian rows of this key: directions as good as any, made of that key's probes."""
    return operator.rows(hessspec.gaussian(key, jnp.arange(count), DIM, dtype()))


def of_every_sampler(operator, key):
    """Eight directions from all that can be drawn with one key."""
    signs = hessspec.rademacher(key, jnp.arange(2), DIM, dtype())
    pairs = hessspec.eigenpairs(operator, key=key, k=2, max_matvecs=30, progress=False)
    return [sketch(operator, key, 4), operator.rows(signs), pairs.rows]


def errors(operator, truth, directions, seeds, **options):
    found = [
        trace_of(operator, seed=seed, directions=directions(jax.random.key(seed)), **options)
        for seed in range(seeds)
    ]
    gaps = np.array([f.value - truth for f in found])
    return gaps, np.array([f.standard_error for f in found])


@pytest.mark.any_dtype
def test_directions_of_the_same_key_leave_the_trace_unbiased(known):
    """The trap they would fall into: with the stream of the probes themselves it is seen."""
    operator, values, _ = known
    gaps, stated = errors(operator, values.sum(), lambda key: sketch(operator, key), 40)
    assert abs(gaps.mean()) < 4 * gaps.std(ddof=1) / 40**0.5
    assert 0.6 < np.sqrt(np.mean((gaps / stated) ** 2)) < 1.5

    def of_probes(key):
        return sketch(operator, jax.random.fold_in(key, TRACE_STREAM))

    # All samples that 16 products pay for beside eight directions are of probes in their span.
    gaps, _ = errors(operator, values.sum(), of_probes, 20, num_matvecs=16)
    assert abs(gaps.mean()) > 4 * gaps.std(ddof=1) / 20**0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "hutch++"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_whatever_is_drawn_with_one_key_may_be_given_to_its_trace(known, tasks, method):
    _, values, _ = known
    matrix = with_spectrum(values)
    operator = hessian(matrix if tasks == 1 else np.stack([matrix, matrix @ matrix / 100]))
    truth = values.sum() if tasks == 1 else np.array([values.sum(), np.sum(values**2) / 100])
    scalar = operator if tasks == 1 else operator.task(0)
    gaps, stated = errors(
        operator, truth, lambda key: of_every_sampler(scalar, key), 200, method=method
    )
    assert np.all(np.abs(gaps.mean(axis=0)) < 4 * gaps.std(axis=0, ddof=1) / 200**0.5)
    # Errors of the trap are six times the stated ones.
    assert np.all(np.mean(gaps**2, axis=0) < 1.3**2 * np.mean(stated**2, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_intervals_of_a_trace_with_directions_cover_the_truth(known, tasks):
    operator, values, _ = known
    matrix = with_spectrum(values)
    if tasks == 2:
        operator = hessian(np.stack([matrix, matrix @ matrix / 100]))
    truth = np.array([values.sum(), np.sum(values**2) / 100])[:tasks].squeeze()
    held = []
    for seed in range(400):
        start = sketch(hessian(matrix), jax.random.key(seed), 4)
        found = trace_of(operator, seed=seed, directions=start, num_matvecs=60)
        low, high = found.confidence_interval()
        held.append((low <= truth) & (truth <= high))
    # Of 400 at 95 %, fewer than 93 % happen with probability 0.03; three tasks are tried.
    assert np.all(np.mean(held, axis=0) >= 0.93)


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", ["auto", "hutch++"])
def test_what_is_spanned_is_exact(known, method):
    operator, values, rows = known
    far = np.sort(np.abs(values))[::-1][TOP]
    found = trace_of(operator, method, 24, directions=rows)
    assert found.standard_error < far * 2 * (2 * DIM / found.num_samples) ** 0.5
    plain = trace_of(operator, "hutchinson", 24)
    assert found.standard_error < plain.standard_error / 10
    assert abs(found.value - values.sum()) < 5 * found.standard_error


def test_neither_scale_nor_copies_nor_zeros_of_directions_matter(known):
    operator, values, rows = known
    plain = trace_of(operator, num_matvecs=24, directions=rows)
    other = jnp.concatenate([1e-9 * rows, rows[::-1] * 1e6, jnp.zeros((3, DIM), dtype())])
    same = trace_of(operator, num_matvecs=24, directions=other)
    assert same.num_matvecs == plain.num_matvecs
    size = np.abs(values).sum()
    np.testing.assert_allclose(same.value, plain.value, atol=1e3 * eps() * size)
    none = trace_of(operator, num_matvecs=24, directions=jnp.zeros((3, DIM), dtype()))
    low, high = none.confidence_interval(0.9999)
    assert low <= values.sum() <= high
    assert none.num_matvecs == 24


def quadratic(params, matrix):
    x = jnp.concatenate([params["a"].ravel(), params["b"]])
    return jnp.einsum("p,pq,q->", x, matrix, x, precision="highest") / 2


@pytest.mark.any_dtype
def test_directions_are_trees_or_rows_or_several_of_them(known):
    _, values, rows = known
    params = {"a": jnp.zeros((4, 10), dtype()), "b": jnp.zeros(80, dtype())}
    operator = HessianOperator(quadratic, params, data=jnp.asarray(with_spectrum(values), dtype()))
    rows = rows[:4]
    tree = operator.space.unflatten_block(rows)
    two = operator.space.unflatten_block(rows.reshape(2, 2, DIM))
    one = operator.space.unflatten(rows[3])
    given = [rows, tree, two, [rows[:3], one], (tree, one)]
    found = [trace_of(operator, num_matvecs=24, directions=d) for d in given]
    for other in found[1:]:
        np.testing.assert_allclose(other.value, found[0].value, rtol=1e4 * eps())
        assert other.num_matvecs == found[0].num_matvecs


@pytest.mark.any_dtype
def test_every_product_and_form_of_directions_is_counted(known):
    matrix, calls = jnp.asarray(with_spectrum(outliers()), dtype()), []

    def matvec(x):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ x

    operator = FunctionOperator(matvec, jnp.zeros(DIM, dtype()))
    for method in ("auto", "hutch++"):
        for num_matvecs in (24, 60):
            jax.effects_barrier()
            calls.clear()
            found = trace_of(operator, method, num_matvecs, directions=known[2])
            jax.effects_barrier()
            assert len(calls) == found.num_matvecs <= num_matvecs


@pytest.mark.any_dtype
def test_a_tolerance_is_met_with_directions_too(known):
    operator, values, rows = known
    found = trace_of(operator, num_matvecs=DIM - 1, rtol=0.05, directions=rows)
    assert found.converged
    assert abs(found.value - values.sum()) <= 0.05 * abs(found.value)


@pytest.mark.any_dtype
def test_wrong_directions_are_explained(known):
    operator, _, rows = known
    for method in ("hutchinson", "xtrace"):
        with pytest.raises(ValueError, match="`directions` need a method that deflates"):
            trace_of(operator, method, directions=rows)
    with pytest.raises(ValueError, match=rf"`directions` must be .* rows of shape \(k, {DIM}\)"):
        trace_of(operator, directions=rows[:, 1:])
    with pytest.raises(ValueError, match="`directions` must be finite, but vector 1 of 5 is not"):
        trace_of(operator, directions=rows.at[1, 3].set(jnp.nan))
    with pytest.raises(TypeError, match="`directions` must hold arrays of real numbers"):
        trace_of(operator, directions=rows > 0)
    with pytest.raises(ValueError, match="`directions` must be finite, but vector 0 of 1 is not"):
        trace_of(operator, directions=np.full((1, DIM), np.inf))
    with pytest.raises(ValueError, match="`num_matvecs` must be at least 13 for 5 independent"):
        trace_of(operator, num_matvecs=12, directions=rows)
