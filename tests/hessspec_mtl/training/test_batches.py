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
    fits = 0
    for members in epoch_batches(jax.random.key(0), 1, 200, 16)[:-1]:
        chosen = [graphs[i] for i in members]
        real = sum(g.num_nodes for g in chosen), sum(g.num_edges for g in chosen), 16
        assert ladder[-1].holds(*real)
        fits += ladder[-2].holds(*real)
    assert fits >= 10
