"""Two quadratics, gradients that conflict, and strictness: silent broadcasts are errors."""

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _strict_jax():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def cases() -> dict[int, np.ndarray]:
    """By number of tasks: gradients as rows, random, of unlike lengths, some in conflict."""
    rng = np.random.default_rng(7)
    return {
        count: rng.normal(size=(5, count, dim)) * np.exp(0.7 * rng.normal(size=(5, count, 1)))
        for count, dim in ((2, 5), (4, 8))
    }
