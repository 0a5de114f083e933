"""Spectral densities of losses with several tasks: an axis, an own density each, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import HessianOperator, SpectralDensity, density
from tests.spectra import dtype


def losses(params, batch):
    """Two losses of the same parameters."""
    outputs = batch @ params["w"] + params["b"][None]
    return jnp.stack([jnp.mean(outputs**4), jnp.mean(jnp.cos(outputs))])


@pytest.fixture(scope="module")
def two_tasks():
    generator = np.random.default_rng(3)
    params = {
        "w": jnp.asarray(generator.normal(size=(12, 5)).astype(dtype())),
        "b": jnp.asarray(generator.normal(size=5).astype(dtype())),
    }
    batch = jnp.asarray(generator.normal(size=(30, 12)).astype(dtype()))
    hessian = HessianOperator(losses, params, data=batch)
    found = density(hessian, key=jax.random.key(2), num_probes=2, num_steps=30)
    dense = np.asarray(hessian.dense(), np.float64)
    return found, np.linalg.eigvalsh(dense), (params, batch)


def test_a_vector_loss_gives_a_leading_task_axis(two_tasks):
    found, eigenvalues, _ = two_tasks
    assert found.num_tasks == 2
    assert np.shape(found.nodes) == (2, 2, 30)
    np.testing.assert_allclose(np.sum(found.weights, axis=-1), 1.0)
    assert found.num_matvecs == 2 * 2 * 30
    trace = found.trace()
    assert np.shape(trace.value) == (2,)
    low, high = trace.confidence_interval(0.999)
    assert np.all((low <= eigenvalues.sum(axis=1)) & (eigenvalues.sum(axis=1) <= high))
    assert found.cdf(np.linspace(-1, 1, 4)).shape == (2, 4)
    assert found.mass(-1.0, 1.0).value.shape == (2,)
    ends = found.extremes()
    size = np.abs(eigenvalues).max(axis=1)
    assert np.all(np.abs(ends.largest - eigenvalues[:, -1]) < 1e-3 * size)


def test_each_task_is_the_density_of_its_own_loss(two_tasks):
    found, _, (params, batch) = two_tasks
    alone = density(
        lambda p, b: losses(p, b)[1],
        params,
        jax.random.key(2),
        data=batch,
        num_probes=2,
        num_steps=30,
    )
    size = np.abs(alone.nodes).max()
    first = np.asarray(found.task(1).alpha)[:, :5], np.asarray(alone.alpha)[:, :5]
    np.testing.assert_allclose(*first, atol=1e-3 * size)
    np.testing.assert_allclose(found.task(1).trace().value, alone.trace().value, rtol=2e-2)


def test_the_difference_of_two_tasks_has_its_own_error(two_tasks):
    found, eigenvalues, _ = two_tasks
    difference = found.trace().difference(0, 1)
    truth = eigenvalues[0].sum() - eigenvalues[1].sum()
    low, high = difference.confidence_interval(0.999)
    assert low <= truth <= high
    assert float(difference.standard_error) > 0


def test_a_task_that_does_not_exist_is_refused(two_tasks):
    with pytest.raises(IndexError, match="2 tasks"):
        two_tasks[0].task(2)
    with pytest.raises(ValueError, match="no task axis"):
        two_tasks[0].task(1).task(0)


def test_a_record_of_several_tasks_survives_a_file(two_tasks, tmp_path):
    record = two_tasks[0]
    record.save(tmp_path / "tasks.npz")
    again = SpectralDensity.load(tmp_path / "tasks.npz")
    assert jax.tree.structure(again) == jax.tree.structure(record)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(record), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        again.trace().confidence_interval(), record.trace().confidence_interval()
    )
