"""A data set that lies on the device, from which batches are gathered there.

On a GPU a step takes a few milliseconds, less than the host needs to put a batch together. So all
graphs are sent once, one after the other, with no padding in between; a batch is a choice of rows,
made on the device from the numbers of its examples alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int

from hessspec_mtl.graphs import GraphBatch, Incidence, MultiGraph, Padding, listed


class Offsets(eqx.Module):
    """Rows of all graphs, one graph after the other: graph i has `counts[i]` from `first[i]` on."""

    first: Int[Array, " graphs"]
    counts: Int[Array, " graphs"]

    @classmethod
    def of(cls, counts: Sequence[int]) -> Offsets:
        sizes = np.array(counts, np.int32)
        return cls(jnp.asarray(np.cumsum(sizes) - sizes), jnp.asarray(sizes))


class Place(eqx.Module):
    """Where the rows of a batch come from.

    Attributes:
        source: for each row of the batch its number among the rows of the whole set.
        slot: for each row which of the batch's graphs it is of; their number for padding.
        start: for each graph of the batch its first row, then the first row of padding.
    """

    source: Int[Array, " rows"]
    slot: Int[Array, " rows"]
    start: Int[Array, " graphs"]

    @classmethod
    def of(cls, offsets: Offsets, members: Int[Array, " batch"], length: int) -> Place:
        """`length` rows: those of `members`, in order, then padding."""
        counts = offsets.counts.at[members].get(mode="fill", fill_value=0)
        ends = jnp.cumsum(counts)
        rows = jnp.arange(length, dtype=jnp.int32)
        slot = (ends[None, :] <= rows[:, None]).sum(axis=1, dtype=jnp.int32)
        start = jnp.concatenate([ends - counts, ends[-1:]])
        first = offsets.first.at[members].get(mode="fill", fill_value=0)
        first = jnp.concatenate([first, jnp.zeros_like(first[:1])])
        return cls((first - start)[slot] + rows, slot, start)

    def take(self, rows: Array, padding: Any) -> Array:
        """The batch's rows of `rows`, and `padding` (one row, or a number) after them."""
        real = (self.slot < len(self.start) - 1).reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.where(real, rows.at[self.source].get(mode="clip"), padding)


class ResidentGraphs(eqx.Module):
    """All graphs of a split on the device, with their targets.

    Ends of edges are counted within each graph, and so are the entries of the lists (`Incidence`),
    where -1 names none. `lists` is None where sums go by segments.
    """

    nodes: Float[Array, "all_nodes node_features"]
    edges: Float[Array, "all_edges edge_features"]
    senders: Int[Array, " all_edges"]
    receivers: Int[Array, " all_edges"]
    node_offsets: Offsets
    edge_offsets: Offsets
    targets: Float[Array, "graphs tasks"]
    weights: Float[Array, "graphs tasks"] | None
    lists: tuple[Int[Array, "all_nodes most"], Int[Array, "all_nodes most"]] | None
    most_nodes: int = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        graphs: Sequence[MultiGraph],
        targets: Float[np.ndarray, "graphs tasks"],
        weights: Float[np.ndarray, " tasks"] | None,
        *,
        incidence: bool,
    ) -> ResidentGraphs:
        """Send `graphs` to the device, once; `targets` and `weights` as in `batch_graphs`."""
        n_node, n_edge = ([getattr(g, n) for g in graphs] for n in ("num_nodes", "num_edges"))
        present = ~np.isnan(targets)
        senders, receivers = (
            np.concatenate([getattr(g, end) for g in graphs]).astype(np.int32)
            for end in ("senders", "receivers")
        )

        def lists(ends: Int[np.ndarray, " all_edges"]) -> Int[Array, "all_nodes most"]:
            first_node = np.repeat(np.cumsum(n_node) - n_node, n_edge)
            found = listed(ends + first_node, sum(n_node))
            first_edge = np.repeat(np.cumsum(n_edge) - n_edge, n_node)[:, None]
            return jnp.asarray(np.where(found < len(ends), found - first_edge, -1), jnp.int32)

        return cls(
            nodes=jnp.asarray(np.concatenate([g.nodes for g in graphs]), jnp.float32),
            edges=jnp.asarray(np.concatenate([g.edges for g in graphs]), jnp.float32),
            senders=jnp.asarray(senders),
            receivers=jnp.asarray(receivers),
            node_offsets=Offsets.of(n_node),
            edge_offsets=Offsets.of(n_edge),
            targets=jnp.asarray(np.where(present, targets, 0.0), jnp.float32),
            weights=None if weights is None else jnp.asarray(present * weights[None], jnp.float32),
            lists=(lists(senders), lists(receivers)) if incidence else None,
            most_nodes=max(n_node),
        )

    def batch(self, members: Int[Array, " batch"], padding: Padding) -> GraphBatch:
        """The padded batch of the examples `members`; the number of all examples names none.

        Where a batch is full, it is that of `batch_graphs`. It must fit `padding`, which cannot be
        seen here.
        """
        node = Place.of(self.node_offsets, members, padding.n_node)
        edge = Place.of(self.edge_offsets, members, padding.n_edge)
        first_node = node.start[edge.slot]
        counts = [
            jnp.diff(place.start, append=jnp.int32(length))
            for place, length in ((node, padding.n_node), (edge, padding.n_edge))
        ]
        arrays: dict[str, Any] = {
            "nodes": node.take(self.nodes, 0.0),
            "edges": edge.take(self.edges, 0.0),
            "senders": edge.take(self.senders, 0) + first_node,
            "receivers": edge.take(self.receivers, 0) + first_node,
            "n_node": counts[0],
            "n_edge": counts[1],
        }

        def of_graphs(rows: Array) -> Array:
            taken = rows.at[members].get(mode="fill", fill_value=0.0)
            return jnp.concatenate([taken, jnp.zeros_like(taken[:1])])

        return GraphBatch(
            graph=jraph.GraphsTuple(**arrays, globals=None),
            targets=of_graphs(self.targets),
            mask=of_graphs(jnp.ones(len(self.targets), jnp.float32)),
            weights=None if self.weights is None else of_graphs(self.weights),
            incidence=self._incidence(node, edge, padding),
        )

    def _incidence(self, node: Place, edge: Place, padding: Padding) -> Incidence | None:
        if self.lists is None:
            return None
        first_edge = edge.start[node.slot][:, None]

        def of_edges(rows: Array) -> Array:
            taken = node.take(rows, -1)
            return jnp.where(taken < 0, padding.n_edge, taken + first_edge)

        start = node.start[:-1, None]
        of_nodes = start + jnp.arange(self.most_nodes, dtype=jnp.int32)[None, :]
        of_nodes = jnp.where(of_nodes < node.start[1:, None], of_nodes, padding.n_node)
        none = jnp.full((1, self.most_nodes), padding.n_node, jnp.int32)
        return Incidence(
            leaving=of_edges(self.lists[0]),
            entering=of_edges(self.lists[1]),
            nodes=jnp.concatenate([of_nodes, none]),
            graph_of_node=node.slot,
        )
