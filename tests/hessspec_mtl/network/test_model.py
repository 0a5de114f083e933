"""The network computes the paper's equations, on multigraphs, whatever the numbering or padding."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.graphs import GraphBatch, MultiGraph, Padding, batch_graphs, with_incidence
from hessspec_mtl.network.model import NetworkConfig, init_params, num_shared, predict

CONFIG = NetworkConfig(
    node_features=3, edge_features=2, tasks=("b", "a"), num_steps=2, width=3, head_width=4
)


def random_params(config: NetworkConfig, seed: int = 0):
    """Float64 parameters none of which is 0 or 1, so that each of them matters."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.7 * rng.standard_normal(leaf.shape), shapes)


def multigraphs() -> list[MultiGraph]:
    """Parallel edges, a self-edge, an isolated node; a graph without edges; an ordinary one."""
    rng = np.random.default_rng(1)

    def graph(num_nodes: int, ends: list[tuple[int, int]]) -> MultiGraph:
        senders, receivers = np.array(ends, int).reshape(-1, 2).T
        nodes, edges = rng.standard_normal((num_nodes, 3)), rng.standard_normal((len(ends), 2))
        # What a batch stores: both sides of a comparison then see the same numbers.
        nodes, edges = nodes.astype(np.float32), edges.astype(np.float32)
        return MultiGraph(nodes, edges, senders, receivers)

    return [
        graph(4, [(0, 1), (0, 1), (1, 0), (2, 2), (2, 0), (0, 1)]),
        graph(1, []),
        graph(3, [(0, 1), (1, 2), (2, 0), (0, 2)]),
    ]


TARGETS = np.arange(6.0).reshape(3, 2)


PADDING = Padding(31, 29, 7)


def batch(graphs=None, pad_to: Padding = PADDING) -> GraphBatch:
    return batch_graphs(multigraphs() if graphs is None else graphs, TARGETS, pad_to=pad_to)


@jax.jit
def predictions_and_derivatives(params, vector, graph_batch):
    """Predictions, the loss's gradient and its Hessian times a vector: one compiled program."""

    def loss(params):
        predicted = predict(params, graph_batch, CONFIG)
        errors = predicted - graph_batch.targets
        return (graph_batch.mask[:, None] * errors**2).sum(), predicted[:3]

    gradient = jax.grad(loss, has_aux=True)
    (slope, predicted), (product, _) = jax.jvp(gradient, (params,), (vector,))
    return predicted, slope, product


def predictions(params, graph_batch):
    return np.asarray(predictions_and_derivatives(params, params, graph_batch)[0])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def transcribed_prediction(params, graph: MultiGraph, config: NetworkConfig) -> list[float]:
    """The equations of the paper's section 2.2, one node and one edge at a time, in NumPy."""
    cat, tanh = np.concatenate, np.tanh

    def phi(p, c):
        first = tanh(c @ p["layer_1"]["kernel"] + p["layer_1"]["bias"])
        second = tanh(first @ p["layer_2"]["kernel"] + p["layer_2"]["bias"])
        start = c if config.skip == "input" else first
        return (second + start) @ p["output"]["kernel"] + p["output"]["bias"]

    def layer_norm(p, a):
        return (a - a.mean()) / np.sqrt(a.var() + 1e-6) * p["scale"] + p["bias"]

    shared = params["shared"]
    x = [node @ shared["embed_nodes"]["kernel"] for node in graph.nodes.astype(float)]
    e = [edge @ shared["embed_edges"]["kernel"] for edge in graph.edges.astype(float)]
    u = np.ones(config.width)
    ends = list(zip(graph.senders, graph.receivers, strict=True))
    for m in range(config.num_steps):
        p = shared[f"step_{m + 1}"]
        raw_e = [
            phi(p["edge_update"], cat([e[j], x[v], x[w], u])) + e[j]
            for j, (v, w) in enumerate(ends)
        ]
        e = [layer_norm(p["edge_norm"], one) for one in raw_e]
        zero = np.zeros(config.width)
        out = [sum([e[j] for j, (v, _) in enumerate(ends) if v == n], zero) for n in range(len(x))]
        into = [sum([e[j] for j, (_, w) in enumerate(ends) if w == n], zero) for n in range(len(x))]
        raw_x = [
            phi(p["node_update"], cat([out[n], into[n], x[n], u])) + x[n] for n in range(len(x))
        ]
        x = [layer_norm(p["node_norm"], one) for one in raw_x]
        c = cat([sum(e, zero), sum(x, zero), u])
        u = phi(p["global_update"], c) + u
        if config.carried == "raw":
            x, e = raw_x, raw_e
        else:
            u = layer_norm(p["global_norm"], u)
    predicted = []
    for task in config.tasks:
        head, z = params["heads"][task], u
        for layer in range(config.head_layers):
            z = tanh(z @ head[f"layer_{layer + 1}"]["kernel"] + head[f"layer_{layer + 1}"]["bias"])
        predicted.append(float((z @ head["output"]["kernel"] + head["output"]["bias"])[0]))
    return predicted


@pytest.mark.parametrize(
    "reading", [{}, {"head_layers": 2, "skip": "hidden"}, {"head_layers": 0, "carried": "raw"}]
)
def test_the_network_is_the_papers_equations_in_each_reading(reading):
    config = replace(CONFIG, **reading)
    params = random_params(config)
    expected = [transcribed_prediction(params, graph, config) for graph in multigraphs()]
    tight = Padding.holding(8, 10, 3)
    predicted = jax.jit(lambda p, b: predict(p, b, config))(params, batch(pad_to=tight))
    assert predicted.dtype == jnp.float64
    np.testing.assert_allclose(predicted[:3], expected, rtol=1e-12)


def test_the_shared_parameters_are_as_many_as_in_the_paper():
    def count(node_features: int, edge_features: int) -> int:
        config = NetworkConfig(node_features, edge_features, ("t",))
        shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
        return num_shared(shapes)

    assert count(9, 4) == 1_915_392
    assert count(112, 40) == 1_924_288


def test_numbering_does_not_matter():
    """Nodes, edges and graphs may stand in any order."""
    rng = np.random.default_rng(2)
    params = random_params(CONFIG)
    shuffled = []
    for graph in multigraphs():
        node_order, edge_order = rng.permutation(graph.num_nodes), rng.permutation(graph.num_edges)
        new_number = np.argsort(node_order)
        shuffled.append(
            MultiGraph(
                graph.nodes[node_order],
                graph.edges[edge_order],
                new_number[graph.senders][edge_order],
                new_number[graph.receivers][edge_order],
            )
        )
    order = [2, 0, 1]
    renumbered = predictions(params, batch([shuffled[i] for i in order]))
    np.testing.assert_allclose(renumbered[:3], predictions(params, batch())[order], rtol=1e-12)


def test_direction_and_multiplicity_of_edges_matter():
    """Otherwise the multigraph would be a simple graph, and the two sums of edges one."""
    params, graph = random_params(CONFIG), multigraphs()[0]
    reference = predictions(params, batch([graph] * 3))[0]
    reversed_ = replace(graph, senders=graph.receivers, receivers=graph.senders)
    fewer = MultiGraph(graph.nodes, graph.edges[1:], graph.senders[1:], graph.receivers[1:])
    for other in (reversed_, fewer):
        assert np.abs(predictions(params, batch([other] * 3))[0] - reference).max() > 1e-3


def test_what_stands_in_the_padding_matters_neither_to_values_nor_to_derivatives():
    """Padding nodes and edges full of numbers, and edges among them, against empty padding."""
    params, vector = random_params(CONFIG), random_params(CONFIG, seed=3)
    rng = np.random.default_rng(4)
    empty = batch()
    graph, (n_node, n_edge) = empty.graph, (8, 10)
    filled = {name: np.array(getattr(graph, name)) for name in ("nodes", "edges")}
    filled["nodes"][n_node:] = rng.standard_normal(filled["nodes"][n_node:].shape)
    filled["edges"][n_edge:] = rng.standard_normal(filled["edges"][n_edge:].shape)
    for name in ("senders", "receivers"):
        filled[name] = np.array(getattr(graph, name))
        filled[name][n_edge:] = rng.integers(n_node, 31, 29 - n_edge)
    full = eqx.tree_at(lambda b: b.graph, empty, graph._replace(**filled))
    plain = predictions_and_derivatives(params, vector, empty)
    other = predictions_and_derivatives(params, vector, full)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_sums_by_lists_are_sums_by_segments_in_values_and_derivatives():
    params, vector = random_params(CONFIG), random_params(CONFIG, seed=3)
    by_segments = predictions_and_derivatives(params, vector, batch())
    (listed,) = with_incidence([batch()])
    by_lists = predictions_and_derivatives(params, vector, listed)
    for a, b in zip(jax.tree.leaves(by_segments), jax.tree.leaves(by_lists), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_the_amount_of_padding_does_not_matter():
    params = random_params(CONFIG)
    more = jax.jit(lambda p, b: predict(p, b, CONFIG))(params, batch(pad_to=Padding(9, 64, 4)))
    np.testing.assert_allclose(more[:3], predictions(params, batch()), rtol=1e-12)


def test_the_hessian_exists():
    """A product with it is the derivative of the gradient, by central differences."""
    params, vector = random_params(CONFIG), random_params(CONFIG, seed=3)

    def gradient(step: float):
        moved = jax.tree.map(lambda p, v: p + step * v, params, vector)
        return predictions_and_derivatives(moved, vector, batch())[1]

    step = 1e-5
    product = predictions_and_derivatives(params, vector, batch())[2]
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), gradient(step), gradient(-step))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(product))
    for a, b in zip(jax.tree.leaves(product), jax.tree.leaves(difference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * scale)


def test_float32_agrees_with_float64_to_its_rounding():
    params = random_params(CONFIG)
    rounded = jax.tree.map(np.float32, params)
    single = jax.jit(lambda p, b: predict(p, b, CONFIG))(rounded, batch())
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single[:3], predictions(params, batch()), rtol=2e-4, atol=2e-5)


def test_networks_for_one_task_and_for_several_start_alike():
    key = jax.random.key(3)
    several, one = init_params(key, CONFIG), init_params(key, replace(CONFIG, tasks=("a",)))
    jax.tree.map(np.testing.assert_array_equal, one["shared"], several["shared"])
    jax.tree.map(np.testing.assert_array_equal, one["heads"]["a"], several["heads"]["a"])
    heads = several["heads"]
    assert np.abs(heads["a"]["output"]["kernel"] - heads["b"]["output"]["kernel"]).max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "`width` must be at least 1, got 0"),
        ({"head_layers": -1}, "`head_layers` must be at least 0"),
        ({"tasks": ()}, "`tasks` must name at least one"),
        ({"tasks": ("a", "a")}, "each once"),
        ({"initializer": "ones"}, "`initializer` must be one of"),
        ({"skip": "hiden"}, "`skip` must be one of .* got 'hiden' .did you mean 'hidden'"),
        ({"carried": "both"}, "`carried` must be one of"),
    ],
)
def test_an_impossible_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
