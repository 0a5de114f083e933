"""Strictness that holds in every test: JAX's silent conversions and broadcasts are errors."""

import os

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compilation makes the first example slow; the time of one example says nothing about ours.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("study", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def x64() -> bool:
    """Whether this run of the suite is the one in float64."""
    return bool(jax.config.read("jax_enable_x64"))
