"""Strictness of the core's tests: JAX's silent conversions and broadcasts are errors."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_jax():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> bool:
    """Whether this run of the suite is the one in float64."""
    return bool(jax.config.read("jax_enable_x64"))
