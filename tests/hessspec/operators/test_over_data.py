"""A loss over a data set: kept or streamed, and one program for all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._operators.batches import Batches
from hessspec._operators.hessian import HessianOperator
from hessspec._operators.rows import compiled_rows
from tests.networks import X, Y, close, network_params, scalar_loss, vector_loss


@pytest.mark.parametrize("vectors", [None, 1500])
def test_ragged_batches_give_the_mean_of_one_big_batch(vectors):
    """The same mean whether batches are kept or, for want of memory, streamed."""
    x, y = jnp.tile(X, (200, 1)), jnp.tile(Y, (200, 1))
    cuts = [slice(0, 800), slice(800, 1600), slice(1600, 2200)]
    whole = HessianOperator(vector_loss, network_params(), data=(x, y))
    budget = None if vectors is None else vectors * whole.dim * X.dtype.itemsize
    parts = HessianOperator(
        vector_loss,
        network_params(),
        data=Batches([(x[cut], y[cut]) for cut in cuts]),
        memory_budget=budget,
    )
    assert (parts.streamed is not None) == (vectors is not None)
    close(parts.dense(), whole.dense())
    block = np.random.default_rng(3).normal(size=(5, whole.dim))
    close(parts.forms(block), whole.forms(block))
    close(parts.losses(), whole.losses())


def test_tasks_and_weights_share_one_compiled_program():
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return vector_loss(params, batch)

    operator = HessianOperator(loss, network_params(), data=(X, Y))
    dense = np.asarray(operator.dense())
    block = jnp.eye(operator.dim, dtype=operator.dtype)[:4]
    operator.task(0).rows(block)
    before = traces
    close(operator.task(1).rows(block), dense[1][:4])
    close(operator.task(-1).rows(block), dense[1][:4])
    close(operator.weighted(np.array([2.0, -3.0])).rows(block), (2 * dense[0] - 3 * dense[1])[:4])
    assert traces == before
    with pytest.raises(IndexError, match="one of 2 tasks, got 2"):
        operator.task(2)
    with pytest.raises(ValueError, match="needs an operator with a task axis"):
        operator.task(0).task(0)


def test_a_new_checkpoint_and_a_new_batch_reuse_the_compiled_program():
    compiled = []

    def run(params, batch):
        with jax.log_compiles(False):
            operator = HessianOperator(scalar_loss, params, data=batch)
        size = compiled_rows._cached._cache_size()  # equinox's view of jit's cache
        operator.rows(jnp.ones((2, operator.dim)))
        compiled.append(compiled_rows._cached._cache_size() - size)

    run(network_params(), (X, Y))
    run(jax.tree.map(lambda leaf: 2 * leaf, network_params()), (X + 1, Y))
    assert compiled[1] == 0


def test_a_loss_that_answers_differently_each_time_is_refused():
    values = iter(range(10))

    def loss(p):
        noise = jax.pure_callback(
            lambda: np.float32(next(values)), jax.ShapeDtypeStruct((), np.float32)
        )
        return (p**2).sum() + noise

    operator = HessianOperator(loss, jnp.ones(2, jnp.float32))
    with pytest.raises(ValueError, match="two evaluations of the loss"):
        operator.validate()
