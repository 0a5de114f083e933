"""The fingerprint follows the numbers of an operator, and nothing of how they are kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import Batches, FunctionOperator, GaussNewtonOperator, HessianOperator
from hessspec._operators import fingerprint as module
from hessspec._operators.fingerprint import fingerprint

pytestmark = pytest.mark.any_dtype
PARAMS = {"bias": jnp.ones(3), "kernel": jnp.arange(12.0).reshape(4, 3)}
X = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 4))))


def loss(params, batch):
    return jnp.mean(jnp.tanh(batch @ params["kernel"] + params["bias"][None]) ** 2)


def operator(params=PARAMS, batches=X, **options) -> HessianOperator:
    return HessianOperator(loss, params, data=Batches(list(batches)), **options)


def test_memory_and_repeated_construction_do_not_change_it():
    """With a budget too small for the data these are streamed, one batch at a time."""
    streamed = operator(memory_budget=1200)
    assert streamed.streamed is not None
    assert fingerprint(operator()) == fingerprint(operator()) == fingerprint(streamed)


def test_batches_of_two_shapes_count_in_their_order_in_the_data():
    ragged = [X[0], X[1, :3], X[2]]
    sizes = [b.shape[0] for b in ragged]
    found = {
        fingerprint(HessianOperator(loss, PARAMS, data=Batches(order, sizes=s)))
        for order, s in ((ragged, sizes), (ragged[::-1], sizes[::-1]), (ragged[:2], sizes[:2]))
    }
    assert len(found) == 2 + 1


def test_every_number_that_makes_the_operator_changes_it():
    moved = {**PARAMS, "bias": PARAMS["bias"].at[1].add(1e-6)}
    others = X.copy()
    others[4, 2, 1] += 1e-6
    weighted = operator()
    found = [
        operator(),
        operator(moved),
        operator(batches=others),
        operator(batches=X[:5]),
        operator(where=lambda path, leaf: path == "bias"),
        2.0 * weighted,
        3.0 * weighted,
        weighted + weighted,
        GaussNewtonOperator(
            lambda p, b: b @ p["kernel"], lambda y, b: jnp.mean(y**2), PARAMS, X[0]
        ),
        HessianOperator(loss, PARAMS, data=X[0]),
    ]
    assert len({fingerprint(one) for one in found}) == len(found)


def test_arrays_that_a_loss_closes_over_are_data_too():
    def closed(batch):
        return HessianOperator(lambda p: loss(p, batch), PARAMS)

    assert fingerprint(closed(X[0])) == fingerprint(closed(X[0].copy()))
    assert fingerprint(closed(X[0])) != fingerprint(closed(X[1]))

    def times(factor):
        return FunctionOperator(lambda v: v * factor, jnp.zeros(3))

    assert fingerprint(times(jnp.ones(3))) != fingerprint(times(2 * jnp.ones(3)))


def test_tasks_and_their_weights_are_told_apart():
    tasks = HessianOperator(lambda p: jnp.stack([jnp.sum(p**2), jnp.sum(p**3)]), jnp.ones(4))
    found = {fingerprint(one) for one in (tasks, tasks.task(0), tasks.task(1))}
    assert len(found) == 3


class _Shard:
    """A piece of an array on a device, as jax describes it."""

    def __init__(self, whole, index, replica_id=0):
        self.index, self.replica_id = index, replica_id
        self.data = whole[index]


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("shape", [(7,), (6, 10, 3), (5, 9000), (4, 1)])
def test_entries_read_from_shards_are_those_of_the_whole(monkeypatch, shape, lead):
    """Cut along every axis in two, with a second copy of each piece that must not count."""
    whole = np.random.default_rng(1).normal(size=shape)
    cuts = [(slice(0, n // 2), slice(n // 2, n)) for n in shape]
    pieces = [()]
    for pair in cuts:
        pieces = [(*piece, cut) for piece in pieces for cut in pair]

    class Sharded:
        def __init__(self):
            self.shape, self.dtype, self.is_fully_addressable = shape, whole.dtype, True
            self.addressable_shards = [_Shard(whole, p, copy) for p in pieces for copy in (0, 1)]

    monkeypatch.setattr(module.jax, "Array", Sharded)
    np.testing.assert_array_equal(module._entries(Sharded(), lead), module._picked(whole, lead))


@pytest.mark.parametrize("shape", [(4096, 8), (96, 512, 2), (30_030, 30)])
def test_every_column_and_row_of_a_large_array_is_looked_at(shape):
    """Entries in steps of 8 would all lie in the first of 8 columns, whatever the others hold."""
    flat = np.arange(np.prod(shape)).reshape(shape)
    seen = np.unravel_index(module._picked(flat, 0), shape)
    assert seen[0].size <= module.LOOKED_AT
    for axis in range(1, len(shape)):
        assert np.unique(seen[axis]).size == shape[axis]
