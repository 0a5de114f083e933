"""Deflated traces: how far the basis grows, and for whom."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.progress import Counted
from hessspec._trace.deflated import Deflated
from tests.spectra import DIM, dtype, eps, hessian, outliers, trace_of, with_spectrum


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
    # Of several tasks not for every key: eight forms may see too little of a drop to go on.
    worst = np.max if tasks == 1 else np.min
    assert worst(shares) < 0.01, "no basis holds the outliers"
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


@pytest.mark.parametrize("given", [0, 3])
def test_what_the_basis_took_off_the_variance_is_known_without_probes(given):
    """2 ‖H‖²_F less 2 ‖ΠHΠ‖²_F, of given rows by the lengths of their products."""
    matrix = with_spectrum(outliers())
    directions, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(DIM, given)))
    rows = jnp.asarray(directions.T, dtype()) if given else None
    run = Deflated(hessian(matrix), jax.random.key(2), 10**9, rows)
    run.advance(48, Counted(SimpleNamespace(update=lambda count: None)))
    q = np.asarray(run.krylov.basis.rows(0, run.krylov.rank), np.float64)
    ranks, _, falls = zip(*run.variances, strict=True)
    assert ranks == (0, *range(given or 2, q.shape[0] + 1, 2))
    outside = [np.eye(DIM) - q[:rank].T @ q[:rank] for rank in ranks]
    left = [2 * np.sum((p @ matrix @ p) ** 2) for p in outside]
    size = np.linalg.norm(matrix, 2)
    rounding = (64 * eps() * size) ** 2 + 1e-14 * DIM * size**2  # of falls, and of squares
    np.testing.assert_allclose(falls[1:], -np.diff(left), rtol=1e-3, atol=2 * rounding)
