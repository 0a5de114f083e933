"""Multigraphs, and batches of them as one padded `jraph.GraphsTuple`.

A batch is one big graph whose parts are not connected. Its arrays are padded to a chosen shape, so
that batches of different molecules or crystals run through one compiled program. Padding follows
jraph's convention: at least one graph of padding stands at the end, owns all padding nodes, and
every padding edge is a self-edge of the first padding node. Nothing that belongs to a real graph
ever touches it.

A table of targets may lack some: NaN stands there, up to this module. A batch holds a 0 in its
place and a weight of 0 beside it, since not even a product with 0 takes NaN out of a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import equinox as eqx
import jraph
import numpy as np
from jaxtyping import Float, Int, Shaped


@dataclass(frozen=True)
class MultiGraph:
    """A directed multigraph with features: parallel edges and self-edges are kept.

    Edge j runs from node `senders[j]` to node `receivers[j]`. An undirected bond or face is two
    edges with the same features, one in each direction. A graph may have no edges.
    """

    nodes: Float[np.ndarray, "n node_features"]
    edges: Float[np.ndarray, "e edge_features"]
    senders: Int[np.ndarray, " e"]
    receivers: Int[np.ndarray, " e"]

    def __post_init__(self) -> None:
        if self.nodes.ndim != 2 or len(self.nodes) == 0:
            raise ValueError(
                "`nodes` must have shape (nodes, node features) with at least one node, "
                f"got {self.nodes.shape}."
            )
        if self.edges.ndim != 2:
            raise ValueError(
                f"`edges` must have shape (edges, edge features), got {self.edges.shape}; "
                "a graph without edges has shape (0, edge features)."
            )
        for name, ends in (("senders", self.senders), ("receivers", self.receivers)):
            if ends.shape != self.edges.shape[:1]:
                raise ValueError(
                    f"`{name}` must have one entry for each of {len(self.edges)} edges, "
                    f"got shape {ends.shape}."
                )
            if len(ends) and (ends.min() < 0 or ends.max() >= len(self.nodes)):
                raise ValueError(
                    f"`{name}` must lie in [0, {len(self.nodes)}), the nodes of this graph, "
                    f"got values from {ends.min()} to {ends.max()}."
                )

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @property
    def num_edges(self) -> int:
        return len(self.edges)


@dataclass(frozen=True, order=True)
class Padding:
    """The shape of a padded batch: nodes, edges and graphs, padding included.

    Room for one node and one graph of padding is always needed: see `Padding.holding`.
    """

    n_node: int
    n_edge: int
    n_graph: int

    @classmethod
    def holding(cls, n_node: int, n_edge: int, n_graph: int) -> Padding:
        """The smallest padding for so many real nodes, edges and graphs."""
        return cls(n_node + 1, n_edge, n_graph + 1)

    def holds(self, n_node: int, n_edge: int, n_graph: int) -> bool:
        """Whether so many real nodes, edges and graphs fit."""
        return n_node < self.n_node and n_edge <= self.n_edge and n_graph < self.n_graph

    def and_of(self, other: Padding) -> Padding:
        """The smallest padding that holds all that either does."""
        mine, theirs = astuple(self), astuple(other)
        return Padding(*map(max, mine, theirs))


class Incidence(eqx.Module):
    """Which edges leave and enter each node, and which nodes each graph has, as padded lists.

    Row v of `leaving` holds the edges j with senders[j] = v, in order, and then the number of edges
    of the batch, which names none; `entering` and `nodes` likewise. Nothing of padding is in a
    list. They say no more than senders, receivers and n_node do, in the form in which a GPU can
    form sums (`hessspec_mtl.network.ways`).
    """

    leaving: Int[Any, "nodes most_leaving"]
    entering: Int[Any, "nodes most_entering"]
    nodes: Int[Any, "graphs most_nodes"]
    graph_of_node: Int[Any, " nodes"]


class GraphBatch(eqx.Module):
    """Padded graphs with their targets: a pytree of arrays, one unit of work.

    `mask` is 1 for a real graph and 0 for padding; the targets of padding are 0. Real graphs come
    first, in the order in which they were given.

    `weights` says how much each target counts: N / n_t where it is there, n_t of the N graphs of
    the whole set having it, and 0 where it is not. So (1/N) Σ over the set is the mean over the
    graphs that have the target, whatever batch they are in. None stands for weights of 1, those of
    a set that lacks nothing.

    `incidence` are lists for the sums over edges and nodes; None sums them by segments.
    """

    graph: jraph.GraphsTuple
    targets: Float[Any, "graphs tasks"]
    mask: Float[Any, " graphs"]
    weights: Float[Any, "graphs tasks"] | None = None
    incidence: Incidence | None = None

    @property
    def num_graphs(self) -> int:
        """The number of real graphs, as a Python int (so not inside a traced function)."""
        return int(np.asarray(self.mask).sum())

    @property
    def padding(self) -> Padding:
        """The shape of this batch, padding included."""
        arrays: Any = self.graph
        return Padding(len(arrays.nodes), len(arrays.edges), len(arrays.n_node))


def batch_graphs(
    graphs: Sequence[MultiGraph],
    targets: Shaped[np.ndarray, "graphs tasks"],
    *,
    pad_to: Padding | None = None,
    weights: Float[np.ndarray, " tasks"] | None = None,
) -> GraphBatch:
    """One padded batch (NumPy arrays, float32 and int32) of `graphs`, in the given order.

    Args:
        graphs: at least one graph, all with the same numbers of features.
        targets: one row for each graph, NaN where a graph has no such target.
        pad_to: the shape of the batch; by default the smallest that holds these graphs.
        weights: `target_weights` of the set that these graphs are of; needed where targets are
            missing, since one batch does not tell how many the set has.

    Raises:
        ValueError: if the graphs do not fit `pad_to`, or disagree with each other or `targets`, or
            targets are missing and there are no `weights`.
    """
    if not graphs:
        raise ValueError("`graphs` must hold at least one graph, got none.")
    if targets.ndim != 2 or len(targets) != len(graphs):
        raise ValueError(
            f"`targets` must have shape ({len(graphs)}, tasks), one row for each graph, "
            f"got {targets.shape}."
        )
    features = {(g.nodes.shape[1], g.edges.shape[1]) for g in graphs}
    if len(features) > 1:
        raise ValueError(
            "`graphs` must all have the same numbers of node and edge features, "
            f"got (node, edge) = {sorted(features)}."
        )
    present = ~np.isnan(targets)
    if weights is None and not present.all():
        raise ValueError(
            f"`targets` lack {np.count_nonzero(~present)} numbers (NaN), so `weights` must say how "
            "much the others count; pass `target_weights(targets)` of all graphs of the set."
        )
    n_node = np.array([g.num_nodes for g in graphs])
    n_edge = np.array([g.num_edges for g in graphs])
    real = (int(n_node.sum()), int(n_edge.sum()), len(graphs))
    padding = Padding.holding(*real) if pad_to is None else pad_to
    if not padding.holds(*real):
        raise ValueError(
            f"`pad_to` must have room for {real[0]} nodes, {real[1]} edges and {real[2]} graphs "
            f"and one node and one graph of padding, got {padding}; "
            "take `padding_for(graphs, batch_size)` or fewer graphs."
        )
    first_node = np.repeat(np.cumsum(n_node) - n_node, n_edge)
    spare_node, spare_edge = padding.n_node - real[0], padding.n_edge - real[1]
    no_graphs = (0,) * (padding.n_graph - real[2] - 1)

    def rows(parts: list[np.ndarray], length: int) -> np.ndarray:
        stacked = np.concatenate(parts).astype(np.float32)
        return np.pad(stacked, [(0, length - len(stacked)), (0, 0)])

    def ends(parts: list[np.ndarray]) -> np.ndarray:
        stacked = np.concatenate(parts) + first_node
        return np.pad(stacked, (0, spare_edge), constant_values=real[0]).astype(np.int32)

    # jraph annotates its fields as jax arrays; NumPy ones keep a data set off the device.
    arrays: dict[str, Any] = {
        "nodes": rows([g.nodes for g in graphs], padding.n_node),
        "edges": rows([g.edges for g in graphs], padding.n_edge),
        "senders": ends([g.senders for g in graphs]),
        "receivers": ends([g.receivers for g in graphs]),
        "n_node": np.array([*n_node, spare_node, *no_graphs], np.int32),
        "n_edge": np.array([*n_edge, spare_edge, *no_graphs], np.int32),
    }
    return GraphBatch(
        graph=jraph.GraphsTuple(**arrays, globals=None),
        targets=rows([np.where(present, targets, 0.0)], padding.n_graph),
        mask=np.pad(np.ones(real[2], np.float32), (0, padding.n_graph - real[2])),
        weights=None
        if weights is None
        else np.pad(present * weights[None, :], [(0, padding.n_graph - real[2]), (0, 0)]),
    )


def with_incidence(batches: Sequence[GraphBatch]) -> list[GraphBatch]:
    """The same batches (of NumPy arrays) with their `Incidence`; all lists of a kind as long.

    Batches of one shape still have one shape. Where a crystal's atoms have many neighbours, lists
    are as long as the longest.
    """
    found = [_lists(batch) for batch in batches]
    depths = [max(each.shape[1] for each in kind) for kind in zip(*found, strict=True)]

    def incidence(batch: GraphBatch, lists: Sequence[np.ndarray]) -> Incidence:
        padding = batch.padding
        nones = (padding.n_edge, padding.n_edge, padding.n_node)
        deep = [
            np.pad(each, [(0, 0), (0, depth - each.shape[1])], constant_values=none)
            for each, depth, none in zip(lists, depths, nones, strict=True)
        ]
        return Incidence(*deep, graph_of_node=_graph_of_node(batch))

    return [
        replace(batch, incidence=incidence(batch, lists))
        for batch, lists in zip(batches, found, strict=True)
    ]


def _graph_of_node(batch: GraphBatch) -> Int[np.ndarray, " nodes"]:
    n_node: Any = batch.graph.n_node
    return np.repeat(np.arange(len(n_node), dtype=np.int32), n_node)


def _lists(batch: GraphBatch) -> tuple[Int[np.ndarray, "count depth"], ...]:
    """Edges that leave and enter each node, and nodes of each graph, those of padding left out."""
    arrays: Any = batch.graph
    num_nodes, num_edges = (
        int(n[: batch.num_graphs].sum()) for n in (arrays.n_node, arrays.n_edge)
    )

    def real(ends: np.ndarray, count: int) -> np.ndarray:
        return np.where(np.arange(len(ends)) < count, ends, -1)

    return (
        listed(real(arrays.senders, num_edges), len(arrays.nodes)),
        listed(real(arrays.receivers, num_edges), len(arrays.nodes)),
        listed(real(_graph_of_node(batch), num_nodes), len(arrays.n_node)),
    )


def listed(ends: Int[np.ndarray, " m"], count: int) -> Int[np.ndarray, "count depth"]:
    """Row i holds the j with ends[j] = i, in order, then m. The longest decides the depth.

    Ends below 0 are in no row.
    """
    order = np.argsort(ends, kind="stable")
    order = order[ends[order] >= 0]
    lengths = np.bincount(ends[order], minlength=count)
    place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    lists = np.full((count, lengths.max(initial=1)), len(ends), np.int32)
    lists[ends[order], place] = order
    return lists


def target_weights(
    targets: Shaped[np.ndarray, "graphs tasks"],
) -> Float[np.ndarray, " tasks"] | None:
    """N / n_t for each target: N rows, of which n_t have it (no NaN). None if none lacks any.

    Raises:
        ValueError: if a target is in no row.
    """
    present = ~np.isnan(targets)
    if present.all():
        return None
    counts = present.sum(axis=0)
    if not counts.all():
        raise ValueError(
            "`targets` must hold at least one number in each column, got none in columns "
            f"{np.flatnonzero(counts == 0).tolist()}; leave these targets out."
        )
    return len(targets) / counts


def with_any_target(targets: Shaped[np.ndarray, "graphs tasks"]) -> Int[np.ndarray, " n"]:
    """The rows that have at least one target: the others say nothing of these tasks."""
    return np.flatnonzero(~np.isnan(targets).all(axis=1))


def padding_for(graphs: Sequence[MultiGraph], batch_size: int) -> Padding:
    """The smallest padding that holds every batch of at most `batch_size` of these graphs.

    It is set by the `batch_size` largest graphs, so it wastes much where sizes differ much;
    `balanced_batches` wastes little.
    """
    _require_positive("batch_size", batch_size)
    largest = min(batch_size, len(graphs))
    nodes = sorted((g.num_nodes for g in graphs), reverse=True)[:largest]
    edges = sorted((g.num_edges for g in graphs), reverse=True)[:largest]
    return Padding.holding(sum(nodes), sum(edges), largest)


def balanced_groups(graphs: Sequence[MultiGraph], batch_size: int) -> list[np.ndarray]:
    """Indices of `graphs` in groups of at most `batch_size`, with nearly equal numbers of edges.

    Greedy: from the largest graph to the smallest, each goes to the group that has the fewest edges
    and still has room. Groups are as equal in number of graphs as they can be. Within a group the
    order is that of `graphs`.
    """
    _require_positive("batch_size", batch_size)
    num_groups = -(-len(graphs) // batch_size)
    room = [len(graphs) // num_groups + (i < len(graphs) % num_groups) for i in range(num_groups)]
    load = [0] * num_groups
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for index in sorted(range(len(graphs)), key=lambda i: -graphs[i].num_edges):
        open_groups = (i for i in range(num_groups) if len(groups[i]) < room[i])
        chosen = min(open_groups, key=lambda i: load[i])
        groups[chosen].append(index)
        load[chosen] += graphs[index].num_edges
    return [np.array(sorted(group)) for group in groups]


def balanced_batches(
    graphs: Sequence[MultiGraph],
    targets: Shaped[np.ndarray, "graphs tasks"],
    batch_size: int,
    padding: Padding | None = None,
) -> list[GraphBatch]:
    """All of `graphs` in batches of one shape, with little padding: for evaluation and curvature.

    Which graphs share a batch follows `balanced_groups`, so it depends on sizes alone. Hand
    `sizes=[batch.num_graphs for batch in batches]` to whatever averages over the batches. Where
    targets are missing (NaN) each batch has the weights of the whole set. The shape is the smallest
    (`balanced_padding`), or `padding`, for whoever has other batches of that shape.
    """
    groups = balanced_groups(graphs, batch_size)
    padding = padding or _holding(graphs, groups)
    weights = target_weights(targets)
    return [
        batch_graphs([graphs[i] for i in group], targets[group], pad_to=padding, weights=weights)
        for group in groups
    ]


def balanced_padding(graphs: Sequence[MultiGraph], batch_size: int) -> Padding:
    """The shape of `balanced_batches` of these graphs."""
    return _holding(graphs, balanced_groups(graphs, batch_size))


def _holding(graphs: Sequence[MultiGraph], groups: Sequence[np.ndarray]) -> Padding:
    return Padding.holding(
        max(sum(graphs[i].num_nodes for i in group) for group in groups),
        max(sum(graphs[i].num_edges for i in group) for group in groups),
        max(map(len, groups)),
    )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")
