"""Batches of an epoch: every example once, padded to few shapes."""

import jax
import numpy as np

from hessspec_mtl.graphs import padding_for
from hessspec_mtl.training.batches import epoch_batches, padding_ladder
from tests.toy_training import graph


def test_an_epoch_takes_every_example_once_in_an_order_of_its_own():
    key = jax.random.key(0)
    first, second = (epoch_batches(key, epoch, 30, 8) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [8, 8, 8, 6]
    assert sorted(np.concatenate(first)) == list(range(30))
    assert not np.array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[2], epoch_batches(key, 1, 30, 8)[2])


def test_every_batch_fits_the_ladder_and_most_fit_its_lower_rungs():
    rng = np.random.default_rng(3)
    graphs = [graph(rng) for _ in range(200)]
    ladder = padding_ladder(graphs, 16)
    assert 1 < len(ladder) <= 3
    assert list(ladder) == sorted(ladder)
    assert ladder[-1] == padding_for(graphs, 16)
    fits = np.zeros(len(ladder))
    for epoch in range(20):
        for members in epoch_batches(jax.random.key(0), epoch, 200, 16)[:-1]:
            chosen = [graphs[i] for i in members]
            real = sum(g.num_nodes for g in chosen), sum(g.num_edges for g in chosen), 16
            fits += [padding.holds(*real) for padding in ladder]
    # Of nodes and of edges 77 % of a normal variable fit the first rung, and all but 3e-6 the next.
    assert 0.77**2 * 240 - 3 * 6.7 < fits[0] < 0.77 * 240 + 3 * 6.7
    assert fits[-2] == fits[-1] == 240
