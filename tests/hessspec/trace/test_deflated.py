"""Deflated traces: how far the basis grows, and for whom."""

import numpy as np
import pytest

from tests.spectra import DIM, hessian, outliers, trace_of, with_spectrum


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, 2])
def test_at_a_later_look_the_basis_may_grow_again(tasks):
    """Sixty outliers do not fit into the basis that the first 48 products can pay for."""
    eigenvalues = np.random.default_rng(2).normal(size=600)
    eigenvalues[:60] = np.logspace(4, 2, 60)
    matrices = [with_spectrum(eigenvalues * (1 + t)) for t in range(tasks)]
    operator = hessian(matrices[0] if tasks == 1 else np.stack(matrices))
    truth = eigenvalues.sum() * (1 + np.arange(tasks))
    found = [trace_of(operator, num_matvecs=598, rtol=1e-3, seed=seed) for seed in range(4)]
    shares = [np.abs(f.exact / truth - 1).max() for f in found]
    # Not for every key: eight pilot probes may see too little of a drop to go on.
    assert np.min(shares) < 0.01, "no basis holds the outliers"
    for f in found:
        np.testing.assert_array_less(np.abs(f.value - truth), 4 * f.standard_error + 1e-5 * truth)


def test_a_task_without_spread_does_not_drown_the_others():
    """The forms of a multiple of the identity differ by rounding, and 1 / rounding is no weight."""
    matrix, eigenvalues = with_spectrum(outliers()), outliers()
    beside = [hessian(np.stack([matrix, other])) for other in (2 * matrix, np.eye(DIM))]
    errors = [
        [trace_of(op, num_matvecs=64, seed=seed).value[0] - eigenvalues.sum() for seed in range(6)]
        for op in beside
    ]
    same, identity = (float(np.sqrt(np.mean(np.square(e)))) for e in errors)
    assert identity < 3 * same
