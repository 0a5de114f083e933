"""Eigenpairs from vectors that are given: the same pairs as from random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import eigenpairs
from tests.spectra import DIM, dtype, eps, hessian, outliers, with_spectrum

K = 4


def pairs_of(operator, start=None, k=K, **options):
    return eigenpairs(operator, key=jax.random.key(3), k=k, start=start, progress=False, **options)


def check(found, matrix, k=K):
    values = np.linalg.eigvalsh(matrix)
    wanted = values[np.argsort(-np.abs(values))[:k]]
    scale = np.abs(values).max()
    np.testing.assert_allclose(found.values, wanted, atol=float(eps()) ** (2 / 3) * scale)
    assert found.converged.all()


def eigenvectors(matrix, chosen):
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-np.abs(values))
    return jnp.asarray(vectors[:, order[chosen]].T, dtype())


@pytest.fixture(scope="module")
def drifting():
    """A matrix, and one an epoch later."""
    before = with_spectrum(outliers())
    change = with_spectrum(np.random.default_rng(1).normal(size=DIM), seed=2)
    return before, before + 0.02 * change


def test_the_pairs_of_an_epoch_before_lead_to_those_of_now_with_no_more_products(drifting):
    before, now = drifting
    cold = pairs_of(hessian(now))
    warm = pairs_of(hessian(now), pairs_of(hessian(before)).vectors)
    check(cold, now)
    check(warm, now)
    assert warm.num_matvecs <= cold.num_matvecs


STARTS = {
    "other eigenvectors": lambda matrix: eigenvectors(matrix, [60, 70, 80, 90]),
    "all but the second": lambda matrix: eigenvectors(matrix, [0, 2, 3, 4]),
    "one vector": lambda matrix: eigenvectors(matrix, [2])[0],
    "dependent and zero": lambda matrix: (
        jnp.zeros((K, DIM), dtype()).at[1:3].set(eigenvectors(matrix, [0]))
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_the_start_has_not_seen_is_found_all_the_same(drifting, name):
    """Eigenvectors span a space that H does not leave: only what is random shows what is beyond."""
    _, now = drifting
    check(pairs_of(hessian(now), STARTS[name](now)), now)


def test_each_task_may_have_a_start_of_its_own(drifting):
    stack = np.stack(drifting)
    operator = hessian(stack)
    own = jnp.stack([eigenvectors(matrix, np.arange(K)) for matrix in stack])
    for start in (own, own[0]):
        found = pairs_of(operator, start)
        for t, matrix in enumerate(stack):
            check(found.task(t), matrix)


def test_products_stay_within_the_limit(drifting):
    _, now = drifting
    start = eigenvectors(now, np.arange(50, 50 + K))
    found = pairs_of(hessian(now), start, max_matvecs=2 * K + 8)
    assert found.num_matvecs <= 2 * K + 8


def test_wrong_starts_are_explained(drifting):
    operator = hessian(drifting[0])
    rows = eigenvectors(drifting[0], np.arange(K))
    with pytest.raises(ValueError, match="`start` must be a tree like the chosen parameters"):
        pairs_of(operator, rows[:, 1:])
    with pytest.raises(ValueError, match="`start` must be finite"):
        pairs_of(operator, rows.at[0, 0].set(jnp.inf))
