"""Sums by lists are sums by segments, to second order in every combination of modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.graphs import MultiGraph, Padding, batch_graphs, listed, with_incidence
from hessspec_mtl.network.ways import Ways, by_lists, by_segments, listed_sums, named_rows

RANDOM = np.random.default_rng(0)
NAMES = np.array([2, 0, 2, 4, 2, 0, 1])  # nobody names 3
LISTS = listed(NAMES, 5)
X, A = RANDOM.normal(size=(2, 5, 3))
Y, B = RANDOM.normal(size=(2, 7, 3))


def test_lists_name_each_once_and_then_nobody():
    none = len(NAMES)
    assert LISTS.tolist() == [
        [1, 5, none],
        [6, none, none],
        [0, 2, 4],
        [none] * 3,
        [3, none, none],
    ]
    assert listed(np.zeros(0, int), 2).tolist() == [[0], [0]]
    assert listed(np.array([-1, 1, -1]), 2).tolist() == [[3], [1]]


PAIRS = {
    "rows": (lambda x: named_rows(x, NAMES, LISTS), lambda x: x[NAMES], X, A),
    "sums": (
        lambda y: listed_sums(y, NAMES, LISTS),
        lambda y: jax.ops.segment_sum(y, NAMES, 5),
        Y,
        B,
    ),
}


def derivatives(function, x, v):
    """Value, gradient, product and form by all nestings of forward and reverse mode."""

    def total(x):
        return (function(x) ** 3).sum()

    def slope(x):
        return jax.jvp(total, (x,), (v,))[1]

    return {
        "value": function(x),
        "gradient": jax.grad(total)(x),
        "forward over reverse": jax.jvp(jax.grad(total), (x,), (v,))[1],
        "reverse over forward": jax.grad(slope)(x),
        "reverse over reverse": jax.jacrev(jax.grad(total))(x),
        "forward over forward": jax.jvp(slope, (x,), (v,))[1],
        "mapped": jax.vmap(jax.grad(total), in_axes=2, out_axes=2)(jnp.stack([x, v], axis=2)),
        "gradient of mapped": jax.grad(lambda x: jax.vmap(total)(jnp.stack([x, v])).sum())(x),
        "linearized": jax.linearize(jax.grad(total), x)[1](v),
    }


@pytest.mark.parametrize("name", PAIRS)
def test_all_derivatives_are_those_of_segments(name):
    ours, theirs, x, v = PAIRS[name]
    with jax.enable_x64(True):
        ours, theirs = (jax.jit(lambda f=f: derivatives(f, x, v))() for f in (ours, theirs))
        for kind, expected in theirs.items():
            np.testing.assert_allclose(ours[kind], expected, rtol=1e-12, err_msg=kind)


@pytest.mark.parametrize("name", PAIRS)
def test_no_derivative_adds_to_where_another_thread_may_add(name):
    """The reason for the lists: a scatter is where a GPU's sums depend on the order of threads."""
    ours, theirs, x, v = PAIRS[name]

    def text(function):
        return str(jax.make_jaxpr(lambda: derivatives(function, x, v))())

    assert "scatter" in text(theirs)
    lowered = jax.jit(lambda: derivatives(ours, x, v)).lower().as_text()
    assert "scatter" not in text(ours) + lowered


def test_names_that_are_mapped_over_too_are_followed():
    names = np.stack([NAMES, NAMES[::-1]])
    lists = np.stack([LISTS, np.where(LISTS < 7, 6 - LISTS, 7)])
    rows = jax.vmap(named_rows, in_axes=(None, 0, 0))(X, names, lists)
    np.testing.assert_array_equal(rows, X.astype(rows.dtype)[names])
    sums = jax.vmap(listed_sums, in_axes=(None, 0, 0))(Y, names, lists)
    expected = [jax.ops.segment_sum(Y.astype(rows.dtype), each, 5) for each in names]
    np.testing.assert_allclose(sums, np.stack(expected), rtol=1e-5)


def test_both_ways_agree_on_what_belongs_to_graphs():
    """On multigraphs with self-edges, isolated nodes and no edges at all, and with padding."""

    def graph(num_nodes: int, ends: list[tuple[int, int]]) -> MultiGraph:
        senders, receivers = np.array(ends, int).reshape(-1, 2).T
        return MultiGraph(np.zeros((num_nodes, 1)), np.zeros((len(ends), 1)), senders, receivers)

    graphs = [graph(4, [(0, 1), (0, 1), (1, 0), (2, 2), (0, 1)]), graph(1, []), graph(2, [(1, 0)])]
    batches = [
        batch_graphs(some, np.zeros((len(some), 1)), pad_to=Padding(11, 9, 6))
        for some in (graphs, graphs[1:])
    ]
    listed_batches = with_incidence(batches)
    assert len({tuple(leaf.shape for leaf in jax.tree.leaves(b)) for b in listed_batches}) == 1
    of_nodes, of_edges, of_graphs = (RANDOM.normal(size=(n, 3)).astype("f4") for n in (11, 9, 6))
    for batch, lists in zip(batches, listed_batches, strict=True):
        real = batch.num_graphs
        nodes, edges = (int(n[:real].sum()) for n in (batch.graph.n_node, batch.graph.n_edge))
        ours, theirs = by_lists(batch.graph, lists.incidence), by_segments(batch.graph)
        kinds = {"at_sender": (of_nodes, edges), "at_receiver": (of_nodes, edges)}
        kinds |= {"graph_of_edge": (of_graphs, edges), "graph_of_node": (of_graphs, nodes)}
        kinds |= {"leaving": (of_edges, nodes), "entering": (of_edges, nodes)}
        kinds |= {"over_edges": (of_edges, real), "over_nodes": (of_nodes, real)}
        assert set(kinds) == set(Ways.__dataclass_fields__)
        for name, (rows, count) in kinds.items():
            found, expected = (getattr(ways, name)(jnp.asarray(rows)) for ways in (ours, theirs))
            assert found.shape == expected.shape
            np.testing.assert_allclose(found[:count], expected[:count], rtol=1e-6, err_msg=name)
