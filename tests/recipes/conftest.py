"""The judge of every recipe: the dense Hessian by JAX, of the parameters as one flat vector."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree


@pytest.fixture
def dense() -> Callable[..., np.ndarray]:
    """`dense(loss, params, *batch)`, in the order of `jax.tree.leaves(params)`."""

    def of(loss: Callable[..., Any], params: Any, *batch: Any) -> np.ndarray:
        flat, unravel = ravel_pytree(params)
        hessian = jax.jit(jax.hessian(lambda x: loss(unravel(x), *batch)))
        return np.asarray(hessian(flat), np.float64)

    return of


@pytest.fixture
def close() -> Callable[..., None]:
    """Equal up to float32's rounding of sums as long as these networks are wide and deep."""

    def check(actual: Any, expected: Any, units: float = 500) -> None:
        scale = np.abs(expected).max()
        tolerance = units * np.finfo(np.float32).eps * scale
        np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)

    return check
