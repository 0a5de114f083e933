"""Bins hold what is true: whole counts, each eigenvalue once, as fine as the run resolves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import FunctionOperator
from hessspec._spectrum.bins import whole_numbers
from tests.spectra import hessian, outliers, with_spectrum


def true_counts(found, eigenvalues):
    """How many eigenvalues lie in each bin, those beyond the outer edges in the outer bins."""
    edges = np.concatenate([[-np.inf], found.edges[1:-1], [np.inf]])
    return np.array(
        [((eigenvalues > a) & (eigenvalues <= b)).sum() for a, b in itertools.pairwise(edges)]
    )


def held(found, eigenvalues):
    truth = true_counts(found, eigenvalues)
    return (found.lower <= truth) & (truth <= found.upper)


@pytest.fixture(scope="module")
def operator():
    return hessian(with_spectrum(outliers()))


@pytest.fixture(scope="module")
def spectra(operator):
    return [hessspec.density(operator, key=jax.random.key(i), num_steps=30) for i in range(8)]


@pytest.mark.parametrize("scale", ["symlog", "log", "linear"])
def test_intervals_hold_the_true_counts(spectra, scale):
    ok = np.concatenate([held(s.histogram(scale), outliers()) for s in spectra])
    assert np.mean(~ok) <= 0.05


def test_the_bins_hold_all_eigenvalues_and_the_atoms_once(spectra):
    for spectrum in spectra:
        found = spectrum.histogram()
        assert found.lower.sum() <= 120 <= found.upper.sum()
        np.testing.assert_allclose(found.counts.sum(), 120, rtol=1e-12)
        printed = [line.split("]")[1].split("[")[0] for line in found.lines()]
        assert sum(int(count) for count in printed) == 120
        assert np.all((found.lower <= found.counts) & (found.counts <= found.upper))
        assert found.multiplicities.sum() == found.known.sum()
        np.testing.assert_allclose(found.atoms[-4:], [50, 100, 200, 1000], rtol=1e-4)
        assert found.multiplicities[-4:].tolist() == [1, 1, 1, 1]
        rest = found.rest()
        far = found.edges[:-1] >= 20
        assert np.all(np.stack(rest)[:, far] == 0)  # what is known is not counted again


def test_rounded_counts_keep_their_sum_and_the_largest_rests_go_up():
    assert whole_numbers(np.array([0.6, 1.6, 0.3, 7.5])).tolist() == [1, 2, 0, 7]
    assert whole_numbers(np.array([3.0, 0.0])).tolist() == [3, 0]


def test_no_bin_leaves_open_more_than_it_holds(spectra):
    """But for the randomness of the starts, which is given beside it."""
    for spectrum in spectra:
        found = spectrum.histogram()
        assert np.all(found.upper <= np.maximum(8 * found.counts, 8))


@pytest.mark.any_dtype
def test_more_steps_give_finer_bins(operator):
    key = jax.random.key(3)
    few, many = (hessspec.density(operator, key=key, num_steps=m) for m in (12, 30))
    assert few.histogram().counts.size < many.histogram().counts.size


@pytest.mark.any_dtype
def test_a_single_step_resolves_one_bin_alone(operator):
    found = hessspec.density(operator, key=jax.random.key(0), num_steps=1).histogram()
    assert found.counts.tolist() == found.lower.tolist() == found.upper.tolist() == [120]


def test_an_exact_spectrum_is_counted_exactly():
    eigenvalues = np.array([-2.0, 0.0, 0.0, 0.5, 0.5, 0.5, 7.0, 11.0])
    found = hessspec.density(
        hessian(with_spectrum(eigenvalues)), key=jax.random.key(0), num_steps=20
    ).histogram()
    assert found.known.tolist() == true_counts(found, eigenvalues).tolist()
    assert found.lower.tolist() == found.upper.tolist() == found.known.tolist()
    assert found.multiplicities.sum() == 8


@pytest.mark.any_dtype
def test_eigenvalues_of_one_sign_are_not_drawn_about_zero():
    eigenvalues = np.linspace(3.0, 40.0, 120)
    found = hessspec.density(
        hessian(with_spectrum(eigenvalues)), key=jax.random.key(0), num_steps=30
    ).histogram()
    assert found.about_zero == -1
    assert found.edges[0] == 2.0
    assert np.all(held(found, eigenvalues))
    mirrored = hessspec.density(
        hessian(-with_spectrum(eigenvalues)), key=jax.random.key(0), num_steps=30
    ).histogram()
    assert mirrored.edges[-1] == -2.0


@pytest.mark.any_dtype
def test_an_operator_that_is_zero_has_one_bin():
    found = hessspec.density(
        hessian(np.zeros((120, 120))), key=jax.random.key(0), num_steps=30
    ).histogram()
    assert found.counts.sum() == 120
    assert found.about_zero >= 0


@pytest.mark.any_dtype
def test_edges_keep_clear_of_what_is_known():
    """At an atom of exactly 0.5 no bin ends: the atom could be on either side."""
    eigenvalues = np.concatenate([np.full(3, 0.5), np.linspace(-0.01, 0.01, 116), [2.0]])
    found = hessspec.density(
        hessian(with_spectrum(eigenvalues)), key=jax.random.key(0), num_steps=30
    ).histogram()
    assert not np.any(np.isclose(found.edges, 0.5))
    assert not np.any(np.isclose(found.edges[1:-1], 2.0))
    assert np.all(held(found, eigenvalues))


@pytest.mark.any_dtype
def test_a_density_of_tasks_asks_for_one_of_them(spectra):
    tasks = jax.tree.map(lambda *leaves: np.stack(leaves), *spectra[:2])
    with pytest.raises(ValueError, match=r"2 tasks.*task\(t\)\.histogram"):
        tasks.histogram()
    assert tasks.task(0).histogram().counts.tolist() == spectra[0].histogram().counts.tolist()


@pytest.mark.any_dtype
def test_an_unknown_scale_is_refused(spectra):
    with pytest.raises(ValueError, match=r"`scale` must be 'linear', 'log' or 'symlog'"):
        spectra[0].histogram("cubic")
    with pytest.raises(ValueError, match="`level`"):
        spectra[0].histogram(level=1.0)


@pytest.mark.any_dtype
def test_a_narrow_bulk_beside_large_outliers_is_not_taken_for_one_eigenvalue():
    """Its Ritz values form a chain in which rounding hides each gap, but not its whole width.

    In float32, for which the widths are chosen: the resolution is 3e-5, the bulk 2e-3 wide.
    """
    far = 27.0 * np.array([1.0, -0.8, 0.6, -0.5, 0.3, 0.2, -0.15, 0.1])
    bulk = 1e-3 * np.random.default_rng(3).uniform(-1, 1, 3992)
    eigenvalues = np.concatenate([far, bulk]).astype(np.float32)
    diagonal = jnp.asarray(eigenvalues)
    operator = FunctionOperator(lambda v: diagonal * v, like=diagonal)
    for key in jax.random.split(jax.random.key(0), 3):
        spectrum = hessspec.density(operator, key=key, num_probes=3, num_steps=24)
        within = spectrum.count(-1e-4, 1e-4)
        assert within.lower <= (np.abs(eigenvalues) <= 1e-4).sum() <= within.upper
        found = spectrum.histogram()
        assert np.all(held(found, eigenvalues))
        assert np.all((np.abs(found.atoms) > 1) | (found.multiplicities == bulk.size))
