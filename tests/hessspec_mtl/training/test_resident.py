"""Batches gathered on the device are those that the host puts together."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.graphs import MultiGraph, Padding, batch_graphs, target_weights, with_incidence
from hessspec_mtl.training.resident import ResidentGraphs

RANDOM = np.random.default_rng(0)


def graph(num_nodes: int, num_edges: int) -> MultiGraph:
    return MultiGraph(
        RANDOM.normal(size=(num_nodes, 3)),
        RANDOM.normal(size=(num_edges, 2)),
        RANDOM.integers(0, num_nodes, num_edges),
        RANDOM.integers(0, num_nodes, num_edges),
    )


GRAPHS = [graph(n, e) for n, e in [(3, 5), (1, 0), (4, 9), (2, 2), (5, 4), (1, 3)]]
TARGETS = RANDOM.normal(size=(6, 2))
LACKING = np.where(RANDOM.random((6, 2)) < 0.3, np.nan, TARGETS)
PADDING = Padding(12, 19, 4)
MEMBERS = [4, 1, 2]


@pytest.mark.parametrize("targets", [TARGETS, LACKING], ids=["complete", "lacking"])
@pytest.mark.parametrize("incidence", [False, True])
def test_a_full_batch_is_that_of_the_host_in_every_number(targets, incidence):
    weights = target_weights(targets)
    resident = ResidentGraphs.of(GRAPHS, targets, weights, incidence=incidence)
    expected = batch_graphs(
        [GRAPHS[i] for i in MEMBERS], targets[MEMBERS], pad_to=PADDING, weights=weights
    )
    if incidence:
        (expected,) = with_incidence([expected])
    batch = jax.jit(lambda members: resident.batch(members, PADDING))(jnp.array(MEMBERS))
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    for name in ("leaving", "entering", "nodes"):  # lists may be longer than this batch needs
        if incidence:
            found, short = (getattr(b.incidence, name) for b in (batch, expected))
            none = PADDING.n_node if name == "nodes" else PADDING.n_edge
            np.testing.assert_array_equal(found[:, : short.shape[1]], short)
            assert (found[:, short.shape[1] :] == none).all()
            expected = replace(expected, incidence=replace(expected.incidence, **{name: found}))
    for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs, ours.dtype))
        assert ours.dtype in (jnp.float32, jnp.int32)


def test_places_that_nobody_takes_are_graphs_without_nodes_and_edges():
    resident = ResidentGraphs.of(GRAPHS, LACKING, target_weights(LACKING), incidence=True)
    batch = jax.jit(lambda members: resident.batch(members, PADDING))(jnp.array([2, 6, 6]))
    assert batch.graph.n_node.tolist() == [4, 0, 0, 8]
    assert batch.graph.n_edge.tolist() == [9, 0, 0, 10]
    assert batch.mask.tolist() == [1, 0, 0, 0]
    assert not batch.targets[1:].any()
    assert not batch.weights[1:].any()
    assert (batch.graph.senders[9:] == 4).all()
    assert (batch.incidence.nodes[1:] == 12).all()
    assert (batch.incidence.leaving[4:] == 19).all()


def test_the_order_and_the_data_are_arguments_of_one_program():
    """Other members and another set of the same sizes do not compile anew."""
    traces = []

    @jax.jit
    def total(resident, members):
        traces.append(members)
        batch = resident.batch(members, PADDING)
        return batch.graph.nodes.sum()

    for graphs in (GRAPHS, GRAPHS[::-1]):
        resident = ResidentGraphs.of(graphs, TARGETS, None, incidence=False)
        for members in (MEMBERS, [0, 1, 3]):
            expected = sum(graphs[i].nodes.sum() for i in members)
            np.testing.assert_allclose(total(resident, jnp.array(members)), expected, rtol=1e-5)
    assert len(traces) == 1
