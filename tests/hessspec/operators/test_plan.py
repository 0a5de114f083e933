"""Rows in a block and what is kept of a gradient, within a budget of bytes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.memory import platform_of
from hessspec._operators import over_data
from hessspec._operators.hessian import GaussNewtonOperator, HessianOperator
from hessspec._operators.plan import Demand
from hessspec._operators.rows import compiled_rows
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


@pytest.mark.any_dtype
def test_a_product_that_cannot_fit_names_the_ways_out():
    with pytest.raises(MemoryError, match=r"smaller `Batches`, or let `where`"):
        HessianOperator(wide_loss, WIDE[0], data=WIDE[1], memory_budget=100_000)
    with pytest.raises(ValueError, match="`block_rows` must be at least 1, got 0"):
        HessianOperator(scalar_loss, network_params(), data=(X, Y), block_rows=0)


RNG = np.random.default_rng(3)


def network(params, batch):
    return jnp.tanh(batch[0] @ params["w1"] + params["b1"][None]) @ params["w2"]


def curved(outputs, batch):
    return jnp.log(1 + (outputs - batch[1]) ** 2).mean(0)


@pytest.mark.any_dtype
@pytest.mark.parametrize(("abreast", "rematerialize"), [(2, False), (16, False), (3, True)])
def test_vectors_that_go_abreast_have_the_same_products_and_forms(abreast, rematerialize):
    """In passes of two with one left over, of three, and all seven in one."""
    params, block = network_params(), jnp.asarray(RNG.normal(size=(7, 24)))
    choices = {"block_rows": 16, "rematerialize": rematerialize, "data": (X, Y)}
    for loss in (vector_loss, scalar_loss):
        alone, together = (
            HessianOperator(loss, params, abreast=width, **choices) for width in (1, abreast)
        )
        close(together.rows(block), alone.rows(block))
        close(together.forms(block), alone.forms(block))
        if not rematerialize:
            kept = together.linearised(7, 1 << 30)
            close(kept.rows(block), alone.rows(block))
            assert kept.plan.abreast == abreast


@pytest.mark.any_dtype
def test_the_gauss_newton_matrix_goes_abreast_too():
    alone, together = (
        GaussNewtonOperator(network, curved, network_params(), (X, Y), abreast=width)
        for width in (1, 5)
    )
    close(together.dense(), alone.dense())


DEMAND = Demand(vector=100, tasks=1, linearised=1000.0, tree=100)


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("vectorised", "budget", "abreast"),
    [(False, 1 << 30, 1), (True, 1 << 30, 16), (True, 10_000, 4), (True, 4_800, 1)],
)
def test_as_many_vectors_go_abreast_as_fit(vectorised, budget, abreast):
    """A block of 16 needs 4,750 bytes with one vector at a time, 9,650 with four, 14,050 with 8."""
    plan = DEMAND.plan(budget, vectorised=vectorised)
    assert (plan.block_rows, plan.abreast) == (16, abreast)
    assert plan.product_bytes() <= budget
    assert (f", {abreast} of them abreast" in str(plan)) == (abreast > 1)


def asks_host(x, scale):
    """A loss whose callback is told nothing of batches: mapped over rows it works, abreast not."""

    @jax.custom_jvp
    def doubled(y):
        return jax.pure_callback(lambda y: 2 * y, y, y)

    doubled.defjvp(lambda y, v: (doubled(*y), 2 * v[0]))
    return scale * jnp.sum(doubled(x) ** 2)


def test_an_accelerator_takes_vectors_abreast_unless_the_loss_asks_the_host(monkeypatch):
    monkeypatch.setattr(over_data, "platform_of", lambda tree: "gpu")
    operator = HessianOperator(scalar_loss, network_params(), data=(X, Y))
    assert operator.plan.abreast == 16
    asking = HessianOperator(asks_host, X[0], data=jnp.asarray(3.0, X.dtype))
    assert asking.plan.abreast == 1
    close(asking.dense(), 24.0 * np.eye(3))


@pytest.mark.any_dtype
def test_what_is_given_goes_abreast_on_any_device_or_is_refused():
    assert DEMAND.plan(1 << 30, abreast=8).abreast == 8
    assert DEMAND.plan(1 << 30, abreast=1, vectorised=True).abreast == 1
    with pytest.raises(MemoryError, match="leave `block_rows` and `abreast` to be chosen"):
        DEMAND.plan(3_000, block_rows=8, abreast=8)
    with pytest.raises(ValueError, match="`abreast` must be at least 1, got 0"):
        DEMAND.plan(1 << 30, abreast=0)


@pytest.mark.parametrize("abreast", [2, 16])
def test_vectors_abreast_stay_within_what_is_estimated(abreast):
    for loss, case in ((wide_loss, WIDE), (long_loss, LONG)):
        operator = HessianOperator(loss, case[0], data=case[1], abreast=abreast, block_rows=16)
        kept = max(map(operator._linearised_bytes, operator.chunks))
        demand = replace(operator.plan.demand, linearised=kept)
        assert compiled_bytes(operator, 16) <= 1.2 * demand.of(16, False, abreast)


@pytest.mark.any_dtype
def test_the_device_is_that_of_the_parameters():
    assert platform_of({"w": jnp.ones(3), "n": 2}) == "cpu"
    seen = []
    jax.jit(lambda x: seen.append(platform_of(x)) or x)(jnp.ones(3))
    assert seen == [jax.default_backend()]
