"""Means of quadratic forms: linear, and each probe its own."""

import jax
import jax.numpy as jnp
import numpy as np

from hessspec import rademacher
from hessspec._base.probes import TRACE_STREAM
from hessspec._operators.over_data import loss_values
from hessspec._operators.rows import compiled_forms, compiled_rows
from tests.spectra import DIM, dtype, eps, hessian, outliers, trace_of, with_spectrum


def test_every_sample_is_the_form_of_its_probe_and_the_squares_come_along(spectrum):
    """Sample i is vᵢᵀHvᵢ with vᵢ drawn by index i, |Hvᵢ|² that of tr H²."""
    operator, _ = spectrum
    matrix = with_spectrum(outliers())
    key = jax.random.fold_in(jax.random.key(4), TRACE_STREAM)
    probes = np.asarray(rademacher(key, jnp.arange(20), DIM, dtype()), float)
    found = trace_of(operator, "hutchinson", 20, seed=4)
    forms = np.einsum("kp,pq,kq->k", probes, matrix, probes)
    np.testing.assert_allclose(found.samples, forms, atol=100 * eps() * np.abs(matrix).sum())
    squares = np.sum((probes @ matrix) ** 2, axis=1)
    np.testing.assert_allclose(found.square.samples, squares, rtol=1e4 * eps())


def test_the_trace_is_linear_in_the_task_weights(three_tasks):
    operator, _ = three_tasks
    weights = np.array([0.5, -2.0, 1.5])
    tasks = trace_of(operator, "hutchinson", 16)
    one = trace_of(operator.weighted(weights), "hutchinson", 16)
    # Two of the 16 products of each task tell how sure the forms are.
    assert (one.num_samples, tasks.num_samples) == (16, 14)
    atol = 1e4 * eps() * np.abs(tasks.samples).max()
    np.testing.assert_allclose(one.samples[:14], weights @ tasks.samples, atol=atol)


def test_probes_can_be_added_and_different_keys_share_none(spectrum):
    operator, _ = spectrum
    few, many = (trace_of(operator, "hutchinson", n).samples for n in (16, 40))
    np.testing.assert_allclose(many[:16], few, rtol=1e4 * eps())
    other = trace_of(operator, "hutchinson", 40, seed=1).samples
    assert np.intersect1d(np.round(many, 3), np.round(other, 3)).size == 0


def test_blocks_of_any_length_share_the_program_of_forms_and_tasks_that_of_products():
    """27 forms of each task are four blocks, of which the last has three rows to itself."""
    values = np.arange(40.0)
    operator = hessian(np.stack([np.diag(values), np.diag(values[::-1])]))
    operator.task(0).linearised(2, 2**30).rows(jnp.ones((2, 40), dtype()))  # as a density does
    programs = [compiled_forms._cached, compiled_rows._cached, loss_values._cached]
    before = [program._cache_size() for program in programs]
    found = trace_of(operator, "hutchinson", 29)
    assert found.num_samples == 27
    np.testing.assert_allclose(
        found.samples, values.sum(), rtol=100 * eps()
    )  # exact for a diagonal H
    after = [program._cache_size() for program in programs]
    assert np.subtract(after, before).tolist() == [1, 0, 0]
