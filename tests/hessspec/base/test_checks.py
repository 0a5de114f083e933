"""Guards stop at what rounding cannot explain, and not before."""

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.checks import check_finite, check_losses, check_symmetric
from hessspec._base.space import VectorSpace

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_asymmetry_is_refused_from_a_thousand_units_of_rounding_on(dtype, scale):
    """Relative to the size of the products, whatever their scale."""
    unit = np.finfo(dtype).eps * scale
    check_symmetric([1.0 * scale], [1.0 * scale + 900 * unit], scale, dtype)
    with pytest.raises(ValueError, match="not symmetric"):
        check_symmetric([1.0 * scale], [1.0 * scale + 1100 * unit], scale, dtype)


def test_one_pair_in_many_is_enough_and_is_the_one_shown():
    forward, backward = np.ones((3, 3)), np.ones((3, 3))
    backward[1, 2] = 2.5
    with pytest.raises(ValueError, match=r"u'Hv = 1 but v'Hu = 2\.5"):
        check_symmetric(forward, backward, np.ones((3, 3)), DTYPES[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loss_is_random_from_a_thousand_units_of_rounding_on(dtype):
    eps = np.finfo(dtype).eps
    check_losses([3.0, -5.0], [3.0, -5.0 * (1 + 900 * eps)], dtype)
    with pytest.raises(ValueError, match="random"):
        check_losses([3.0, -5.0], [3.0, -5.0 * (1 + 1100 * eps)], dtype)


def test_the_task_whose_loss_is_not_finite_is_named():
    with pytest.raises(ValueError, match="the loss of task 1, 3 is nan"):
        check_losses([0.0, np.nan, 1.0, np.inf], [0.0, np.nan, 1.0, np.inf], DTYPES[0])
    with pytest.raises(ValueError, match=r"^the loss is inf"):
        check_losses(np.inf, np.inf, DTYPES[0])


def test_entries_that_are_not_finite_are_named_by_their_leaves():
    space = VectorSpace.of({"a": jnp.zeros(2), "b": jnp.zeros((2, 2)), "c": jnp.zeros(1)})
    rows = np.zeros((2, 3, 7))
    check_finite(jnp.asarray(rows), space, "the product")
    rows[1, 0, 2] = np.nan  # the first entry of b
    with pytest.raises(ValueError, match="the product is not finite in `b`:"):
        check_finite(jnp.asarray(rows), space, "the product")
    rows[0, 2, 1], rows[0, 0, 6] = np.inf, -np.inf  # the last of a, all of c
    with pytest.raises(ValueError, match="not finite in `a`, `b`, `c`:"):
        check_finite(jnp.asarray(rows), space, "the product")
