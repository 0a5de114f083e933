"""Batches keep every node, edge and graph, in order, and padding touches none of them."""

import jax
import jraph
import numpy as np
import pytest

from hessspec_mtl.graphs import (
    GraphBatch,
    MultiGraph,
    Padding,
    balanced_batches,
    balanced_groups,
    batch_graphs,
    padding_for,
    target_weights,
    with_any_target,
)


def random_graph(rng: np.random.Generator, num_nodes: int, num_edges: int) -> MultiGraph:
    ends = rng.integers(0, num_nodes, size=(2, num_edges))
    return MultiGraph(
        nodes=rng.standard_normal((num_nodes, 3)),
        edges=rng.standard_normal((num_edges, 2)),
        senders=ends[0],
        receivers=ends[1],
    )


def random_graphs(sizes: list[tuple[int, int]]) -> list[MultiGraph]:
    rng = np.random.default_rng(0)
    return [random_graph(rng, n, e) for n, e in sizes]


def test_unbatching_a_padded_batch_gives_back_the_graphs():
    graphs = random_graphs([(3, 7), (1, 0), (4, 2)])
    batch = batch_graphs(graphs, np.ones((3, 2)), pad_to=Padding(12, 15, 6))
    parts = jraph.unbatch_np(jraph.unpad_with_graphs(batch.graph))
    assert len(parts) == 3
    for part, graph in zip(parts, graphs, strict=True):
        np.testing.assert_array_equal(part.nodes, graph.nodes.astype(np.float32))
        np.testing.assert_array_equal(part.edges, graph.edges.astype(np.float32))
        np.testing.assert_array_equal(part.senders, graph.senders)
        np.testing.assert_array_equal(part.receivers, graph.receivers)


def test_padding_edges_touch_padding_nodes_only():
    graphs = random_graphs([(3, 7), (4, 2)])
    batch = batch_graphs(graphs, np.ones((2, 1)), pad_to=Padding(10, 14, 4))
    assert (batch.graph.senders[9:] == 7).all()
    assert (batch.graph.receivers[9:] == 7).all()
    assert batch.graph.n_node.tolist() == [3, 4, 3, 0]
    assert batch.graph.n_edge.tolist() == [7, 2, 5, 0]
    assert batch.mask.tolist() == [1, 1, 0, 0]
    assert (batch.targets[2:] == 0).all()
    assert batch.num_graphs == 2
    assert batch.padding == Padding(10, 14, 4)


def test_a_batch_is_a_pytree_of_arrays_of_fixed_dtype():
    batch = batch_graphs(random_graphs([(3, 7)]), np.ones((1, 2)))
    mapped = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(0), batch)
    assert isinstance(mapped, GraphBatch)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(batch)} == {"float32", "int32"}


def test_padding_for_holds_any_choice_of_graphs():
    graphs = random_graphs([(3, 7), (1, 0), (4, 2), (2, 9)])
    padding = padding_for(graphs, 2)
    assert padding == Padding.holding(3 + 4, 7 + 9, 2)
    for i in range(4):
        for j in range(i):
            batch_graphs([graphs[i], graphs[j]], np.ones((2, 1)), pad_to=padding)


def test_balanced_batches_hold_every_graph_once_in_one_shape_with_little_padding():
    rng = np.random.default_rng(1)
    sizes = [(int(n), int(2 * n + 1)) for n in rng.integers(5, 27, size=70)]
    graphs = random_graphs(sizes)
    targets = np.arange(70.0)[:, None] + 1
    batches = balanced_batches(graphs, targets, 16)
    assert [b.num_graphs for b in batches] == [14] * 5
    assert len({b.padding for b in batches}) == 1
    seen = np.concatenate([b.targets[:14, 0] for b in batches])
    assert sorted(seen) == list(range(1, 71))
    used = sum(g.num_edges for g in graphs)
    assert used > 0.95 * sum(b.padding.n_edge for b in batches)
    assert all((np.diff(group) > 0).all() for group in balanced_groups(graphs, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": np.zeros((0, 3))}, "at least one node"),
        ({"edges": np.zeros(4)}, "`edges` must have shape"),
        ({"senders": np.zeros(3, int)}, "`senders` must have one entry for each of 4 edges"),
        ({"receivers": np.full(4, 2)}, r"`receivers` must lie in \[0, 2\)"),
    ],
)
def test_an_impossible_graph_is_refused(change, message):
    good = {
        "nodes": np.zeros((2, 3)),
        "edges": np.zeros((4, 2)),
        "senders": np.zeros(4, int),
        "receivers": np.ones(4, int),
    }
    MultiGraph(**good)
    with pytest.raises(ValueError, match=message):
        MultiGraph(**{**good, **change})


def test_batches_that_cannot_be_are_refused():
    graphs = random_graphs([(3, 7), (4, 2)])
    with pytest.raises(ValueError, match="at least one graph"):
        batch_graphs([], np.ones((0, 1)))
    with pytest.raises(ValueError, match=r"`targets` must have shape \(2, tasks\)"):
        batch_graphs(graphs, np.ones((3, 1)))
    with pytest.raises(ValueError, match="`pad_to` must have room for 7 nodes, 9 edges"):
        batch_graphs(graphs, np.ones((2, 1)), pad_to=Padding(7, 9, 3))
    other = MultiGraph(np.zeros((1, 4)), np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(ValueError, match="same numbers of node and edge features"):
        batch_graphs([graphs[0], other], np.ones((2, 1)))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        padding_for(graphs, 0)


NAN = np.nan
LACKING = np.array([[1.0, NAN], [NAN, 2.0], [3.0, NAN], [NAN, NAN]])


def test_what_a_target_counts_is_all_graphs_over_those_that_have_it():
    np.testing.assert_array_equal(target_weights(LACKING), [2.0, 4.0])
    assert target_weights(np.ones((3, 2))) is None
    assert with_any_target(LACKING).tolist() == [0, 1, 2]


def test_a_missing_target_is_zero_with_weight_zero_and_never_nan():
    graphs = random_graphs([(3, 7), (1, 0), (4, 2), (2, 2)])
    batch = batch_graphs(
        graphs, LACKING, pad_to=Padding(12, 15, 6), weights=target_weights(LACKING)
    )
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(batch))
    np.testing.assert_array_equal(batch.targets[:4], [[1, 0], [0, 2], [3, 0], [0, 0]])
    np.testing.assert_array_equal(batch.weights[:4], [[2, 0], [0, 4], [2, 0], [0, 0]])
    assert (batch.weights[4:] == 0).all()
    assert batch.num_graphs == 4


def test_batches_of_a_set_that_lacks_targets_all_have_its_weights():
    """Also the batch that lacks none, and the one that has none of a task: they share a program."""
    graphs = random_graphs([(3, 4)] * 6)
    targets = np.array([[1.0, 1.0], [1.0, NAN], [1.0, NAN], [1.0, NAN], [1.0, 1.0], [1.0, 1.0]])
    batches = balanced_batches(graphs, targets, 2)
    np.testing.assert_array_equal(sum(b.weights.sum(axis=0) for b in batches), [6.0, 6.0])
    assert {b.weights.shape for b in batches} == {(3, 2)}
    complete = balanced_batches(graphs, np.ones((6, 2)), 2)
    assert all(batch.weights is None for batch in complete)


def test_missing_targets_are_refused_where_nothing_tells_how_many_there_are():
    graphs = random_graphs([(3, 7)] * 4)
    with pytest.raises(ValueError, match=r"`targets` lack 5 numbers \(NaN\).*`target_weights"):
        batch_graphs(graphs, LACKING)
    with pytest.raises(ValueError, match=r"at least one number .* got none in columns \[1\]"):
        balanced_batches(graphs, np.array([[1.0, NAN]] * 4), 2)
