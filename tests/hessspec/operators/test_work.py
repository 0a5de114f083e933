"""What a product computes, counted from the equations of a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import Batches, FunctionOperator, HessianOperator
from hessspec._operators.work import PASSES, Work, product_work, work_of

pytestmark = pytest.mark.any_dtype


def flops(function, *arguments) -> float:
    return work_of(jax.make_jaxpr(function)(*arguments).jaxpr).flops


@pytest.mark.parametrize(
    ("function", "shapes", "wanted"),
    [
        (lambda a, b: jnp.tanh(a @ b), [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(2, 3, 5), (2, 5, 7)], 2 * 2 * 3 * 5 * 7),
        (lambda a, b: a @ b, [(5, 5), (5,)], 2 * 5 * 5),
        (lambda a, b: a * b + jnp.sum(a), [(4, 4), (4, 4)], 0),
        (lambda a, b: jnp.concatenate([a, b]), [(2, 4), (3, 4)], 0),
        (
            lambda image, kernel: jax.lax.conv(image, kernel, (1, 1), "SAME"),
            [(1, 2, 8, 8), (4, 2, 3, 3)],
            2 * (4 * 8 * 8) * (2 * 3 * 3),
        ),
        (
            lambda a, b: jax.lax.scan(lambda c, row: (jnp.tanh(c @ a), None), b, None, length=6)[0],
            [(5, 5), (2, 5)],
            6 * 2 * 2 * 5 * 5,
        ),
    ],
    ids=["matrices", "batched", "vector", "entries", "side by side", "convolution", "loop"],
)
def test_products_of_matrices_are_counted_and_nothing_else(function, shapes, wanted):
    assert flops(function, *map(jnp.ones, shapes)) == wanted


def test_what_a_product_reads_and_writes_goes_through_memory():
    matrix, vector = jnp.ones((6, 6), jnp.float32), jnp.ones(6, jnp.float32)
    work = work_of(jax.make_jaxpr(lambda a, x: a @ x)(matrix, vector).jaxpr)
    assert work == Work(2 * 36, 4 * (36 + 6 + 6))


def squared(x, batch):
    return jnp.sum((batch @ x) ** 2)


def test_batches_count_as_often_as_they_are_and_data_that_are_read_again_do_not_count():
    x, batch = jnp.zeros(5), np.ones((3, 5))
    one = product_work(HessianOperator(squared, x, data=batch))
    three = product_work(HessianOperator(squared, x, data=Batches([batch] * 3)))
    assert one.flops == PASSES * 2 * 3 * 5
    assert three == one.times(3)
    streamed = HessianOperator(squared, x, data=Batches([batch] * 3), memory_budget=700)
    assert streamed.streamed is not None
    assert product_work(streamed) is None
    assert product_work(streamed + FunctionOperator(lambda v: v, x)) is None


def test_a_sum_computes_what_its_parts_do_and_a_map_of_several_tasks_is_shared():
    x, matrix = jnp.zeros(5), jnp.eye(5)
    one = FunctionOperator(lambda v: matrix @ v, x)
    assert product_work(one).flops == 2 * 5 * 5
    assert product_work(one - 2.0 * one).flops == 2 * 2 * 5 * 5
    two = FunctionOperator(lambda v: jnp.stack([matrix @ v, v]), x, num_tasks=2)
    assert product_work(two).flops == 5 * 5
