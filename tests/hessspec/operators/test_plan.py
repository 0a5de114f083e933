"""Rows in a block and what is kept of a gradient, within a budget of bytes."""

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._operators.algebra import compiled_rows
from hessspec._operators.hessian import HessianOperator
from tests.networks import X, Y, close, network_params, scalar_loss, vector_loss


def wide_loss(params, batch):
    """Few parameters and many items: what a linearised gradient keeps is nearly all it needs."""
    hidden = batch
    for kernel in params:
        hidden = jnp.tanh(hidden @ kernel)
    return (hidden**2).mean()


def long_loss(x, scale):
    """Many parameters and next to nothing kept."""
    return jnp.cos(scale * x).mean() + jnp.mean(x) ** 4


def compiled_bytes(operator, rows):
    """What XLA says a compiled block of products takes: vectors in and out, and its own arrays."""
    block = jnp.ones((rows, operator.dim), operator.dtype)
    memory = compiled_rows.lower(operator, block).compile().compiled.memory_analysis()
    return block.nbytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


ONE = np.dtype(X.dtype).itemsize
WIDE = ([jnp.full((8, 32), 0.1), jnp.full((32, 32), 0.1)], jnp.ones((4000, 8)))
LONG = (jnp.linspace(0.0, 1.0, 100_000), jnp.asarray(2.0))


@pytest.mark.parametrize(
    ("loss", "case", "numbers", "block_rows", "rematerialize"),
    [
        (wide_loss, WIDE, 10_000_000, 16, False),
        (wide_loss, WIDE, 1_600_000, 16, True),
        (long_loss, LONG, 10_000_000, 16, False),
        (long_loss, LONG, 1_500_000, 4, False),
    ],
)
def test_blocks_and_rematerialisation_follow_the_budget(
    loss, case, numbers, block_rows, rematerialize
):
    budget = numbers * ONE
    operator = HessianOperator(loss, case[0], data=case[1], memory_budget=budget)
    plan = operator.plan
    assert (plan.block_rows, plan.rematerialize) == (block_rows, rematerialize)
    assert plan.product_bytes() <= budget
    assert compiled_bytes(operator, plan.block_rows) <= 1.2 * budget


def test_rematerialisation_changes_nothing_but_rounding():
    params = network_params()
    for loss in (scalar_loss, vector_loss):
        kept, again = (
            HessianOperator(loss, params, data=(X, Y), rematerialize=choice, block_rows=3)
            for choice in (False, True)
        )
        assert (again.plan.block_rows, again.plan.rematerialize) == (3, True)
        close(again.dense(), kept.dense())


def test_a_product_that_cannot_fit_names_the_ways_out():
    with pytest.raises(MemoryError, match=r"smaller `Batches`, or let `where`"):
        HessianOperator(wide_loss, WIDE[0], data=WIDE[1], memory_budget=100_000)
    with pytest.raises(ValueError, match="`block_rows` must be at least 1, got 0"):
        HessianOperator(scalar_loss, network_params(), data=(X, Y), block_rows=0)
