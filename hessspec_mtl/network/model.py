"""The paper's graph network and its per-task heads, in flax.

Notation: a node v has features x_v, an edge e_j runs from s(j) to r(j), a graph has a global
feature u. With c = cat(...) of the inputs, every update network is

    h = tanh(W2 tanh(W1 c + b1) + b2) + c,        phi(c) = W3 h + b3,

and one message-passing step is

    e_j <- LayerNorm(phi_E(cat(e_j, x_s(j), x_r(j), u)) + e_j)
    x_v <- LayerNorm(phi_V(cat(sum of e_j leaving v, sum of e_j entering v, x_v, u)) + x_v)
    u   <- LayerNorm(phi_U(cat(sum of all e_j, sum of all x_v, u)) + u).

It starts from x = W_V (node features), e = W_E (edge features) and u = 1, and each step has weights
of its own. The hidden sizes are the sizes of the concatenations (4 and 3 widths), which is what
lets the skip connection start at c. Source: the paper's section 2.2 and appendix A; the skip's
start and where the normalised features are used are our reading of it.

How it is computed: a part of c that belongs to nodes or graphs is multiplied by its rows of W1
before it is copied to the edges, since copying rows and multiplying them from the right commute.
That saves about a fifth of all operations and changes neither the function nor its parameters.
`tanh` and `matmul` have derivative rules of their own, of the same value: see `derivatives`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.arguments import did_you_mean
from hessspec_mtl.graphs import GraphBatch, Incidence, MultiGraph, batch_graphs
from hessspec_mtl.network.derivatives import matmul, tanh
from hessspec_mtl.network.ways import Ways, by_lists, by_segments

Params = dict[str, Any]
"""`{"shared": ..., "heads": {task: ...}}`: what all tasks use, and what each uses alone."""

INITIALIZERS: dict[str, Callable[..., Any]] = {
    "lecun_normal": nn.initializers.lecun_normal(),
    "glorot_normal": nn.initializers.glorot_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
    # PyTorch's default of a linear layer: uniform within 1 / sqrt(inputs), a variance of a third.
    "torch_uniform": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
SKIPS = ("input", "hidden")
CARRIED = ("normalised", "raw")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network. The defaults are the paper's where it states them.

    Attributes:
        node_features: features of a node: 9 for QM8, 112 for Materials Project.
        edge_features: features of an edge: 4 for QM8, 40 for Materials Project.
        tasks: names of the targets, in the order of the columns of a batch's targets.
        num_steps: message-passing steps, each with weights of its own.
        width: size of x_v, e_j and u; hidden layers have 4 (phi_E, phi_V) and 3 (phi_U) times it.
        head_width: hidden size of a head. The paper does not state it.
        head_layers: hidden layers of a head; 0 makes it affine. The paper does not state it.
        initializer: of every matrix, one of `INITIALIZERS`; biases start at 0. The paper does not
            state it; "lecun_normal" (variance 1 / inputs) is flax's own default.
        skip: where the skip connection of an update network starts: at its "input" c, or at its
            first "hidden" layer, tanh(W1 c + b1). Our reading is the first.
        carried: what goes on to the next step and to the heads: the "normalised" features, or the
            "raw" ones, those normalised serving the later updates of their own step alone. Our
            reading is the first.
    """

    node_features: int
    edge_features: int
    tasks: tuple[str, ...]
    num_steps: int = 5
    width: int = 64
    head_width: int = 64
    head_layers: int = 1
    initializer: str = "lecun_normal"
    skip: str = "input"
    carried: str = "normalised"

    def __post_init__(self) -> None:
        for name in ("node_features", "edge_features", "num_steps", "width", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.head_layers < 0:
            raise ValueError(f"`head_layers` must be at least 0, got {self.head_layers}.")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(
                f"`tasks` must name at least one target and each once, got {self.tasks}."
            )
        known = {"initializer": sorted(INITIALIZERS), "skip": SKIPS, "carried": CARRIED}
        for name, options in known.items():
            if (given := getattr(self, name)) not in options:
                raise ValueError(
                    f"`{name}` must be one of {list(options)}, got {given!r}"
                    f"{did_you_mean(given, options)}."
                )


def copied(rows: Array) -> Array:
    """The identity: these rows already stand where they are needed."""
    return rows


Part = tuple[Array, Callable[[Array], Array]]
"""Features, and the linear map that copies their rows to where they are needed."""


class PartsDense(nn.Module):
    """cat(copy_1(x_1), ..., copy_n(x_n)) W + b, each part multiplied before it is copied."""

    features: int
    kernel_init: Callable[..., Any]

    @nn.compact
    def __call__(self, parts: Sequence[Part]) -> Float[Array, "rows features"]:
        sizes = [x.shape[-1] for x, _ in parts]
        kernel = self.param("kernel", self.kernel_init, (sum(sizes), self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        blocks = jnp.split(kernel, np.cumsum(sizes)[:-1].tolist())
        products = [copy(matmul(x, block)) for (x, copy), block in zip(parts, blocks, strict=True)]
        return sum(products[1:], products[0]) + bias[None, :]


class Update(nn.Module):
    """phi(c) = W3 h + b3 with h = tanh(W2 tanh(W1 c + b1) + b2) + c, c = cat of the parts.

    Or with + tanh(W1 c + b1), where the skip starts at the first hidden layer.
    """

    width: int
    kernel_init: Callable[..., Any]
    skip: str

    @nn.compact
    def __call__(self, parts: Sequence[Part]) -> Float[Array, "rows width"]:
        skip = jnp.concatenate([copy(x) for x, copy in parts], axis=-1)
        dense = partial(nn.Dense, kernel_init=self.kernel_init)
        first = tanh(PartsDense(skip.shape[-1], self.kernel_init, name="layer_1")(parts))
        start = skip if self.skip == "input" else first
        hidden = tanh(dense(skip.shape[-1], name="layer_2")(first)) + start
        return dense(self.width, name="output")(hidden)


class MessagePassing(nn.Module):
    """One step of the network: edges, then nodes, then the global feature, each normalised."""

    width: int
    kernel_init: Callable[..., Any]
    skip: str
    carried: str

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple, ways: Ways) -> jraph.GraphsTuple:
        arrays: Any = graph  # jraph's fields may be trees; ours are single arrays
        x, e, u = arrays.nodes, arrays.edges, arrays.globals
        update = partial(Update, self.width, self.kernel_init, self.skip)
        # The variance as a mean of squared deviations: the difference of two means that flax takes
        # by default cancels, and its second derivative more so.
        norm = partial(nn.LayerNorm, use_fast_variance=False)

        parts: list[Part] = [(e, copied), (x, ways.at_sender), (x, ways.at_receiver)]
        raw_e = update(name="edge_update")([*parts, (u, ways.graph_of_edge)]) + e
        e = norm(name="edge_norm")(raw_e)

        parts = [(ways.leaving(e), copied), (ways.entering(e), copied), (x, copied)]
        raw_x = update(name="node_update")([*parts, (u, ways.graph_of_node)]) + x
        x = norm(name="node_norm")(raw_x)

        parts = [(ways.over_edges(e), copied), (ways.over_nodes(x), copied), (u, copied)]
        raw_u = update(name="global_update")(parts) + u
        if self.carried == "raw":
            return graph._replace(nodes=raw_x, edges=raw_e, globals=raw_u)
        return graph._replace(nodes=x, edges=e, globals=norm(name="global_norm")(raw_u))


class GraphNetwork(nn.Module):
    """z(g; theta_sh): the global feature u_M of each graph after all steps."""

    num_steps: int
    width: int
    kernel_init: Callable[..., Any]
    skip: str
    carried: str

    @nn.compact
    def __call__(
        self, graph: jraph.GraphsTuple, incidence: Incidence | None = None
    ) -> Float[Array, "graphs width"]:
        embed = partial(nn.Dense, self.width, use_bias=False, kernel_init=self.kernel_init)
        nodes = embed(name="embed_nodes")(graph.nodes)
        edges = embed(name="embed_edges")(graph.edges)
        ones = jnp.ones((len(graph.n_node), self.width), nodes.dtype)
        graph = graph._replace(nodes=nodes, edges=edges, globals=ones)
        ways = by_segments(graph) if incidence is None else by_lists(graph, incidence)
        for step in range(self.num_steps):
            passing = MessagePassing(
                self.width, self.kernel_init, self.skip, self.carried, name=f"step_{step + 1}"
            )
            graph = passing(graph, ways)
        return jnp.asarray(graph.globals)


class Head(nn.Module):
    """f_t(u; theta_t): one task's feed-forward network, from u_M to one number."""

    width: int
    num_layers: int
    kernel_init: Callable[..., Any]

    @nn.compact
    def __call__(self, u: Float[Array, "graphs width"]) -> Float[Array, " graphs"]:
        for layer in range(self.num_layers):
            u = tanh(
                nn.Dense(self.width, kernel_init=self.kernel_init, name=f"layer_{layer + 1}")(u)
            )
        return nn.Dense(1, kernel_init=self.kernel_init, name="output")(u)[:, 0]


def _modules(config: NetworkConfig) -> tuple[GraphNetwork, Head]:
    kernel_init = INITIALIZERS[config.initializer]
    return (
        GraphNetwork(config.num_steps, config.width, kernel_init, config.skip, config.carried),
        Head(config.head_width, config.head_layers, kernel_init),
    )


def init_params(key: PRNGKeyArray, config: NetworkConfig) -> Params:
    """Fresh float32 parameters `{"shared": ..., "heads": {task: ...}}`.

    Matrices are drawn by `config.initializer`, each from the key and its own path in the tree;
    biases are 0 and the scales of layer normalisation 1. So the shared part does not depend on the
    tasks, and networks for one task and for several start from the same weights.
    """
    network, head = _modules(config)
    one_node = MultiGraph(
        np.zeros((1, config.node_features)),
        np.zeros((0, config.edge_features)),
        np.zeros(0, int),
        np.zeros(0, int),
    )
    graph = batch_graphs([one_node], np.zeros((1, len(config.tasks)))).graph
    shapes = {
        "shared": jax.eval_shape(network.init, key, graph)["params"],
        "heads": {
            task: jax.eval_shape(head.init, key, jnp.zeros((1, config.width)))["params"]
            for task in config.tasks
        },
    }
    kernel_init = jax.jit(INITIALIZERS[config.initializer], static_argnums=(1, 2))

    def initial(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        match path[-1].key:
            case "kernel":
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
                return kernel_init(leaf_key, leaf.shape, jnp.float32)
            case "scale":
                return jnp.ones(leaf.shape, jnp.float32)
            case _:
                return jnp.zeros(leaf.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(initial, shapes)


def predict(
    params: Params, batch: GraphBatch, config: NetworkConfig
) -> Float[Array, "graphs tasks"]:
    """Predictions of all tasks, standardised, in the dtype of the parameters.

    Rows of padding graphs are finite and mean nothing. Cost: one forward pass, about 75 Mflop a
    molecule of QM8 before the saving described at the top of this file.
    """
    network, head = _modules(config)
    dtype = params["shared"]["embed_nodes"]["kernel"].dtype
    nodes, edges = jnp.asarray(batch.graph.nodes, dtype), jnp.asarray(batch.graph.edges, dtype)
    graph = batch.graph._replace(nodes=nodes, edges=edges)
    u = network.apply({"params": params["shared"]}, graph, batch.incidence)
    columns: list[Any] = [head.apply({"params": params["heads"][task]}, u) for task in config.tasks]
    return jnp.stack(columns, axis=1)


def num_shared(params: Params) -> int:
    """P, the number of shared parameters: 1,915,392 for QM8's and 1,924,288 for MP's features."""
    return sum(leaf.size for leaf in jax.tree.leaves(params["shared"]))
