"""The graph of a molecule or a crystal before any encoding: what the chemistry package found."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


class FeaturisationError(ValueError):
    """A structure that has no graph; the message says why and what to do."""


@dataclass(frozen=True)
class NoGraph:
    """What stands in the place of the graph of a structure that has none."""

    reason: str


@dataclass(frozen=True, eq=False)
class RawGraph:
    """A directed multigraph of atoms, independent of any data set or split.

    Every undirected bond or face stands twice, once in each direction, with the same attributes;
    parallel edges and edges from a node to itself are kept.

    Attributes:
        atomic_numbers: element Z of each node.
        edge_attributes: one bond-type index an edge (molecules, see
            `featurize.molecules.BOND_TYPES`), or one row of numbers an edge (crystals, see
            `featurize.crystals.FACE_ATTRIBUTES`, in powers of angstrom and steradian).
        senders: node that each edge leaves.
        receivers: node that each edge enters.
    """

    atomic_numbers: Int[np.ndarray, " n"]
    edge_attributes: Int[np.ndarray, " e"] | Float[np.ndarray, "e a"]
    senders: Int[np.ndarray, " e"]
    receivers: Int[np.ndarray, " e"]

    @property
    def num_nodes(self) -> int:
        return self.atomic_numbers.shape[0]

    @property
    def num_edges(self) -> int:
        """Directed edges: twice the number of bonds or faces."""
        return self.senders.shape[0]
