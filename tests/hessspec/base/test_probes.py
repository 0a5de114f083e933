"""Random probes: each a function of the key and its index alone, with identity covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.probes import gaussian, rademacher
from tests.spectra import dtype

KEY = jax.random.key(3)
KINDS = {"signs": rademacher, "normals": gaussian}


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_depends_on_its_index_and_not_on_what_stands_beside_it(kind):
    draw = KINDS[kind]
    rows = np.asarray(draw(KEY, jnp.arange(8), 33, dtype()))
    chosen = np.asarray(draw(KEY, jnp.asarray([3, 0, 7]), 33, dtype()))
    np.testing.assert_array_equal(chosen, rows[[3, 0, 7]])
    assert np.unique(rows, axis=0).shape == rows.shape
    assert rows.dtype == dtype()


@pytest.mark.parametrize("dim", [1, 31, 32, 33])
def test_signs_fill_rows_of_any_length(dim):
    """Thirty-two signs come from one random word; the last word is cut."""
    rows = np.asarray(rademacher(KEY, jnp.arange(3), dim, dtype()))
    assert rows.shape == (3, dim)
    np.testing.assert_array_equal(np.abs(rows), 1.0)


@pytest.mark.parametrize(("kind", "fourth"), [("signs", 1.0), ("normals", 3.0)])
def test_the_covariance_is_the_identity_and_the_fourth_moment_that_of_the_law(kind, fourth):
    count, dim = 4000, 33
    rows = np.asarray(KINDS[kind](KEY, jnp.arange(count), dim, dtype()), np.float64)
    # Products of different entries have variance 1, squares at most 2: five deviations of a mean.
    np.testing.assert_allclose(rows.T @ rows / count, np.eye(dim), atol=5 * (2 / count) ** 0.5)
    # The eighth moment of a normal is 105, so its fourth power has variance 96.
    np.testing.assert_allclose((rows**4).mean(), fourth, atol=5 * (96 / count / dim) ** 0.5)
