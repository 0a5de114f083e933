"""Records of several tasks: each task's own, or a refusal that says why."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import HessianOperator, TraceEstimate, diagonal
from hessspec._base.tasks import TaskAxis, task_number

KEY = jax.random.key(5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Record(TaskAxis):
    values: np.ndarray
    total: np.ndarray

    def _lead(self):
        return np.shape(self.total)


def test_a_task_is_its_entry_of_every_array():
    record = Record(np.arange(12).reshape(3, 4), np.array([6, 22, 38]))
    assert record.num_tasks == 3
    last = record.task(-1)
    assert last.num_tasks is None
    assert last.total == 38
    np.testing.assert_array_equal(last.values, [8, 9, 10, 11])
    np.testing.assert_array_equal(record.task(np.int64(1)).values, [4, 5, 6, 7])


def test_one_spectrum_has_no_tasks_to_choose_from():
    with pytest.raises(ValueError, match="this Record has no task axis: the loss was a scalar"):
        Record(np.arange(4), np.array(6)).task(0)


@pytest.mark.parametrize("index", [3, -4])
def test_a_task_that_is_not_there_is_refused(index):
    with pytest.raises(IndexError, match=f"`index` must name one of 3 tasks, got {index}"):
        task_number(index, 3)
    with pytest.raises(TypeError, match="`index` must be a whole number"):
        task_number(1.0, 3)


def test_the_trace_of_one_task_keeps_its_samples_and_its_error():
    """Of a covariance between tasks, the task's own entry."""
    samples = np.random.default_rng(1).normal(size=(2, 9))
    covariance = np.array([[0.2, 0.1], [0.1, 0.3]])
    square = TraceEstimate.from_samples(samples**2, pair_covariance=covariance / 2)
    exact = np.array([5.0, 7.0])
    both = TraceEstimate.from_samples(
        samples, exact=exact, pair_covariance=covariance, square=square, method="xtrace"
    )
    for task in (0, 1):
        one = both.task(task)
        assert one.num_tasks is None
        assert one.method == "xtrace"
        assert one.value == both.value[task]
        assert one.standard_error == both.standard_error[task]
        assert one.frobenius_norm == both.frobenius_norm[task]
        assert one.square.standard_error == square.standard_error[task]
        ends = np.array(both.confidence_interval())[:, task]
        np.testing.assert_allclose(one.confidence_interval(), ends, rtol=1e-14)


def test_the_diagonal_of_one_task_comes_with_its_trace():
    """Cubes have the Hessian diag(6 x), their double diag(12 x)."""
    point = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}

    def losses(params):
        cubes = jnp.sum(params["a"] ** 3) + params["b"] ** 3
        return jnp.stack([cubes, 2 * cubes])

    both = diagonal(HessianOperator(losses, point), key=KEY)
    assert both.num_tasks == 2
    for task, factor in enumerate((6.0, 12.0)):
        one = both.task(task)
        np.testing.assert_allclose(one.value["a"], factor * point["a"], rtol=1e-5)
        np.testing.assert_allclose(one.value["b"], factor * point["b"], rtol=1e-5)
        np.testing.assert_allclose(one.trace.value, factor * 6, rtol=1e-5)
        assert one.trace.num_tasks is None
