"""Hutch++: what the sketch holds exactly, and a mean over what is left of the space."""

import numpy as np

from tests.spectra import DIM, eps, hessian, outliers, trace_of, with_spectrum


def test_of_a_multiple_of_the_identity_both_parts_are_known():
    """A third of the budget is sketched; each probe has the length of the rest of the space."""
    found = trace_of(hessian(3.0 * np.eye(DIM)), "hutch++", 48)
    np.testing.assert_allclose(found.exact, 3.0 * 16, rtol=100 * eps())
    np.testing.assert_allclose(found.samples, 3.0 * (DIM - 16), rtol=100 * eps())
    assert found.samples.shape == (16,)
    np.testing.assert_allclose(found.square.value, 9.0 * DIM, rtol=100 * eps())


def test_what_the_sketch_holds_is_no_longer_sampled(spectrum):
    """With the outliers in the sketch, the spread of the samples is that of the bulk."""
    operator, eigenvalues = spectrum
    found = trace_of(operator, "hutch++", 48)
    bulk = np.sum(eigenvalues[5:] ** 2)
    # Of n = 16 samples of variance at most 2 Σ λ²: four deviations of a sample variance.
    assert found.samples.var(ddof=1) < 2 * bulk * (1 + 4 * (2 / 15) ** 0.5)
    np.testing.assert_allclose(found.exact, with_spectrum(outliers()).trace(), rtol=0.2)


def test_more_products_are_all_probes(spectrum):
    """The sketch is made once; the samples of a first look are those of the second as well."""
    operator, _ = spectrum
    # Beyond what samples reach, and not below the rounding of products, which would end the run.
    once, twice = (trace_of(operator, "hutch++", n, atol=0.1) for n in (48, 96))
    assert twice.num_samples == once.num_samples + 48
    np.testing.assert_allclose(twice.exact, once.exact, rtol=1e4 * eps())
    np.testing.assert_allclose(
        twice.samples[: once.num_samples], once.samples, atol=1e4 * eps() * 1000
    )
