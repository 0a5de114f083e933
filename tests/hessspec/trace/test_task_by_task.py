"""Products of all tasks by the programs of one: the same numbers, lengths of parts included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import rademacher
from hessspec._trace.task_by_task import TaskByTask
from tests.spectra import DIM, dtype, eps


@pytest.mark.parametrize("room", [0, 2**30], ids=["no room to linearise", "linearised"])
def test_products_are_those_of_all_tasks_at_once(three_tasks, room):
    operator, _ = three_tasks
    block = rademacher(jax.random.key(1), jnp.arange(2), DIM, dtype())
    rows, lengths = TaskByTask(operator, room).measured_rows(block)
    wanted, none = operator.measured_rows(block)
    assert lengths is none is None
    np.testing.assert_allclose(rows, wanted, atol=100 * eps() * np.abs(wanted).max())


def test_the_lengths_of_parts_of_a_sum_come_along(three_tasks):
    operator, _ = three_tasks
    total = operator + 2.0 * operator
    block = rademacher(jax.random.key(1), jnp.arange(2), DIM, dtype())
    _, lengths = TaskByTask(total, 2**30).measured_rows(block)
    _, wanted = total.measured_rows(block)
    np.testing.assert_allclose(lengths, wanted, rtol=100 * eps())
