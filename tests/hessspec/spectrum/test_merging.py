"""Densities from keys of their own become one, with all their rows."""

import jax
import numpy as np
import pytest

import hessspec
from hessspec import SpectralDensity
from tests.spectra import DIM, hessian, outliers, with_spectrum

pytestmark = pytest.mark.any_dtype


def density(operator, seed: int, probes: int = 2, steps: int = 24) -> SpectralDensity:
    return hessspec.density(
        operator, key=jax.random.key(seed), num_probes=probes, num_steps=steps, progress=False
    )


@pytest.fixture(scope="module")
def runs():
    """Two runs of other lengths that know the five outliers, and one too short to know all."""
    operator = hessian(with_spectrum(outliers()))
    return density(operator, 0), density(operator, 1, 3, 30), density(operator, 2, 2, 6)


def test_every_reading_that_is_a_mean_over_probes_is_the_mean_of_all(runs):
    one, other, _ = runs
    both = one.merge(other)
    assert both.num_probes == 5
    assert both.num_matvecs == one.num_matvecs + other.num_matvecs
    for read in (
        lambda d: d.moment(2),
        lambda d: d.expectation(np.cos),
        lambda d: d.cdf(np.array([-1.0, 0.3, 60.0])),
        lambda d: d.trace().value,
        lambda d: d.plain().moment(1),
    ):
        expected = (2 * np.asarray(read(one)) + 3 * np.asarray(read(other))) / 5
        np.testing.assert_allclose(read(both), expected, rtol=1e-10)


def test_an_atom_proved_in_either_run_holds_in_both(runs):
    """The short run has not found all outliers; what the other one did bounds every interval."""
    known, _, short = runs
    assert known.count(10.0, np.inf).lower == known.count(10.0, np.inf).upper == 4
    assert short._rows().known.sum() < known._rows().known.sum()
    for both in (known.merge(short), short.merge(known)):
        found = both.count(10.0, np.inf)
        assert found.lower == 4
        assert both.count(-np.inf, -200.0).lower == 1
        # Five that are known to lie outside cannot be inside.
        assert both.count(-20.0, 20.0).upper <= DIM - 5
        assert both.histogram().lower.sum() >= 5
        of_both, of_known = both.histogram(), known.histogram()
        np.testing.assert_array_equal(of_both.atoms, of_known.atoms)


def test_atoms_that_a_single_probe_assumes_bound_nothing_for_others(runs):
    one, _, short = runs
    alone = density(hessian(with_spectrum(outliers())), 7, 1)
    both = short.merge(alone)
    assert both.runs == ((2, True), (1, False))
    assert not both.multiplicities_proved
    assert one.merge(short).multiplicities_proved
    assert list(both._rows().proved) == [True, True, False]


def test_three_runs_are_merged_in_any_order(runs):
    a, b, c = runs
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert [n for n, _ in left.runs] == [2, 3, 2]
    turned = c.merge(b).merge(a)
    np.testing.assert_allclose(turned.moment(2), left.moment(2), rtol=1e-12)
    np.testing.assert_allclose(
        turned.trace().confidence_interval(), left.trace().confidence_interval(), rtol=1e-6
    )


def test_an_exact_spectrum_stands_for_the_rows_of_the_other_run():
    matrix = with_spectrum(np.linspace(-1.0, 3.0, 20))
    exact, short = density(hessian(matrix), 0, 2, 20), density(hessian(matrix), 1, 3, 8)
    assert bool(exact.exact)
    assert not bool(short.exact)
    for both in (exact.merge(short), short.merge(exact)):
        assert bool(both.exact)
        assert both.num_probes == 5
        np.testing.assert_allclose(both.quantile([0.0, 1.0]), [-1.0, 3.0], atol=1e-5)
        assert both.count(0.0, 10.0).lower == both.count(0.0, 10.0).upper == 15
        np.testing.assert_allclose(both.trace().value, 20.0, rtol=1e-5)
        # Each row keeps the coefficients of its own start.
        np.testing.assert_allclose(both.plain().moment(0), 1.0, rtol=1e-6)


def test_a_merged_density_survives_a_file(runs, tmp_path):
    both = runs[0].merge(runs[1])
    both.save(tmp_path / "both.npz")
    again = SpectralDensity.load(tmp_path / "both.npz")
    assert jax.tree.structure(again) == jax.tree.structure(both)
    jax.tree.map(np.testing.assert_array_equal, again, both)
    with pytest.raises(ValueError, match="from another key"):
        again.merge(runs[1])


def test_densities_of_other_questions_are_refused(runs):
    one = runs[0]
    moved = density(hessian(with_spectrum(outliers(), seed=1)), 5)
    with pytest.raises(ValueError, match="its parameters or data are others"):
        one.merge(moved)
    with pytest.raises(ValueError, match="from another key"):
        one.merge(one)
    with pytest.raises(ValueError, match="merged with the density"):
        one.trace().merge(runs[1].trace())
    with pytest.raises(TypeError, match="`other` must be a SpectralDensity like this one"):
        one.merge(one.trace())


def test_tasks_are_merged_each_with_its_own():
    matrices = np.stack([with_spectrum(outliers(), seed=s) for s in range(2)])
    operator = hessian(matrices)
    one, other = density(operator, 0, 1, 8), density(operator, 1, 2, 6)
    both = one.merge(other)
    first = both.task(0)
    again = one.task(0).merge(other.task(0))
    jax.tree.map(np.testing.assert_array_equal, first.nodes, again.nodes)
    np.testing.assert_allclose(both.moment(2)[0], again.moment(2))
    with pytest.raises(ValueError, match="its parts differ: task 1, where this one has task 0"):
        one.task(0).merge(other.task(1))
