"""One-hot encodings of elements, bond types and deciles, fitted on a training split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.graphs import MultiGraph

NUM_DECILES = 10


def one_hot(indices: Int[np.ndarray, " n"], num: int) -> Float[np.ndarray, "n num"]:
    """Rows of the `num` x `num` identity, in float32; an index outside [0, num) is an error."""
    if indices.size and (indices.min() < 0 or indices.max() >= num):
        raise ValueError(
            f"`indices` must lie in [0, {num - 1}] for {num} categories, "
            f"got {indices.min()} .. {indices.max()}."
        )
    encoded = np.zeros((indices.shape[0], num), np.float32)
    encoded[np.arange(indices.shape[0]), indices] = 1.0
    return encoded


def decile_boundaries(values: Float[np.ndarray, "e a"]) -> Float[np.ndarray, "a 9"]:
    """The nine inner deciles of each column, by linear interpolation between order statistics."""
    if values.shape[0] == 0:
        raise ValueError("`values` has no rows: deciles need at least one edge to be fitted on.")
    levels = np.arange(1, NUM_DECILES) / NUM_DECILES
    return np.quantile(values, levels, axis=0).T


def decile_index(
    values: Float[np.ndarray, "e a"], boundaries: Float[np.ndarray, "a 9"]
) -> Int[np.ndarray, "e a"]:
    """Number of boundaries at or below each value: 0 for the lowest decile, 9 for the highest.

    Values beyond those that the boundaries were fitted on fall into the first or last decile.
    """
    columns = [
        np.searchsorted(inner, column, side="right")
        for inner, column in zip(boundaries, values.T, strict=True)
    ]
    return np.stack(columns, axis=1) if columns else np.zeros(values.shape, np.int64)


@dataclass(frozen=True, eq=False)
class GraphEncoder:
    """The map from a `RawGraph` to the one-hot features that enter the network.

    Attributes:
        elements: atomic numbers that have a node feature, in the order of the features.
        num_bond_types: number of edge features if edges carry a bond type, else None.
        boundaries: inner deciles of each edge attribute if edges carry numbers, else None.
    """

    elements: tuple[int, ...]
    num_bond_types: int | None
    boundaries: Float[np.ndarray, "a 9"] | None

    @property
    def node_features(self) -> int:
        return len(self.elements)

    @property
    def edge_features(self) -> int:
        if self.boundaries is not None:
            return self.boundaries.shape[0] * NUM_DECILES
        return self.num_bond_types or 0

    def encode(self, graph: RawGraph) -> MultiGraph:
        """The graph with one-hot nodes and edges in float32; edges keep their order.

        Raises:
            ValueError: for an element without a feature, or edges of the other kind.
        """
        return MultiGraph(
            nodes=one_hot(self._element_index(graph.atomic_numbers), self.node_features),
            edges=self._edges(graph.edge_attributes),
            senders=graph.senders.astype(np.int32),
            receivers=graph.receivers.astype(np.int32),
        )

    def _element_index(self, atomic_numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        position = np.full(max(self.elements) + 1, -1)
        position[list(self.elements)] = np.arange(len(self.elements))
        unknown = ~np.isin(atomic_numbers, self.elements)
        if unknown.any():
            raise ValueError(
                f"`atomic_numbers` holds Z = {sorted(set(atomic_numbers[unknown].tolist()))}, "
                f"which have no node feature; the encoder knows {list(self.elements)}."
            )
        return position[atomic_numbers]

    def _edges(
        self, attributes: Int[np.ndarray, " e"] | Float[np.ndarray, "e a"]
    ) -> Float[np.ndarray, "e f"]:
        if self.boundaries is None:
            return one_hot(attributes, self.edge_features)
        deciles = decile_index(attributes, self.boundaries)
        # Block a of the features holds attribute a: deciles a*10 .. a*10 + 9.
        encoded = np.zeros((deciles.shape[0], self.edge_features), np.float32)
        columns = deciles + NUM_DECILES * np.arange(deciles.shape[1])[None, :]
        np.put_along_axis(encoded, columns, 1.0, axis=1)
        return encoded


def fit_bond_encoder(elements: Sequence[int], num_bond_types: int) -> GraphEncoder:
    """Encoder of molecules: nothing is fitted, the categories are given."""
    return GraphEncoder(tuple(elements), num_bond_types, None)


def fit_decile_encoder(elements: Sequence[int], training: Sequence[RawGraph]) -> GraphEncoder:
    """Encoder of crystals: deciles over all edges of the training graphs together."""
    attributes = np.concatenate([graph.edge_attributes for graph in training])
    return GraphEncoder(tuple(elements), None, decile_boundaries(attributes))
