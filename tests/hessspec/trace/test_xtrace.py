"""XTrace: samples that leave one vector out, and their covariance."""

import numpy as np
from scipy import stats

from hessspec import TraceEstimate
from hessspec._trace.xtrace import leave_one_out, pair_covariance
from tests.spectra import with_spectrum


def test_leave_one_out_agrees_with_leaving_one_out():
    """Against the definition: a new QR factorisation without vector i, and without i and j."""
    rng = np.random.default_rng(0)
    dim, k = 30, 6
    matrix = with_spectrum(rng.normal(size=dim))
    tests = rng.normal(size=(dim, k))
    tests *= dim**0.5 / np.linalg.norm(tests, axis=0)
    sketch = matrix @ tests

    def sample(i, out):
        basis, _ = np.linalg.qr(np.delete(sketch, out, axis=1))
        rest = tests[:, i] - basis @ (basis.T @ tests[:, i])
        form = rest @ matrix @ rest * (dim - basis.shape[1]) / (rest @ rest)
        return np.trace(basis.T @ matrix @ basis) + form

    basis, factor = np.linalg.qr(sketch)
    directions = np.linalg.inv(factor).T
    found = leave_one_out(
        dim,
        directions / np.linalg.norm(directions, axis=0),
        basis.T @ tests,
        basis.T @ matrix @ basis,
        factor,
        np.sum(tests * sketch, axis=0),
    )
    expected = [sample(i, [i]) for i in range(k)]
    np.testing.assert_allclose(found.samples, expected, rtol=1e-9)
    for i, j in [(0, 1), (3, 2), (5, 0)]:
        influence = expected[i] - sample(i, [i, j])
        np.testing.assert_allclose(found.influence[i, j], influence, rtol=1e-6, atol=1e-9)


def test_the_variance_of_xtrace_counts_the_covariance_of_its_samples():
    """Without it the stated variance is a third too small on a decaying spectrum."""
    eigenvalues = 0.9 ** np.arange(100)
    rng = np.random.default_rng(0)
    errors, stated, plain, covered = [], [], [], []
    for _ in range(400):
        tests = rng.normal(size=(100, 8))
        tests *= 10.0 / np.linalg.norm(tests, axis=0)
        basis, factor = np.linalg.qr(eigenvalues[:, None] * tests)
        directions = np.linalg.inv(factor).T
        found = leave_one_out(
            100,
            directions / np.linalg.norm(directions, axis=0),
            basis.T @ tests,
            basis.T @ (eigenvalues[:, None] * basis),
            factor,
            eigenvalues @ tests**2,
        )
        errors.append(found.samples.mean() - eigenvalues.sum())
        plain.append(found.samples.var(ddof=1) / 8)
        covariance = pair_covariance([found.influence])[0, 0]
        stated.append(plain[-1] + covariance)
        record = TraceEstimate.from_samples(found.samples, pair_covariance=covariance)
        low, high = record.confidence_interval()
        covered.append(low <= eigenvalues.sum() <= high)
    true = np.mean(np.square(errors))
    assert np.mean(plain) < 0.75 * true
    assert 0.8 * true < np.mean(stated) < 1.25 * true
    # So Student's t covers too seldom, and the record's interval does not.
    assert np.mean(np.abs(errors) <= stats.t.ppf(0.975, 7) * np.sqrt(plain)) < 0.92
    assert np.mean(covered) > 0.93
