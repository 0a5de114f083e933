"""One spectrum as its probes see it: rows of nodes, what is known in each and what is estimated."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Rows:
    """The rules of all probes for one spectrum, on the host.

    Attributes:
        nodes, residuals: eigenvalue estimates, and how far an eigenvalue is from each at most.
        counts: P times the weights, numbers of eigenvalues.
        known: how many eigenvectors at the node are known.
        dim: P.
        resolution: an eigenvalue smaller than this cannot be told from 0.
        exact: whether the rows are the spectrum itself.
        proved: rows of several runs whose atoms hold for all rows as numbers; None for one run,
            whose rows share what they know.
    """

    nodes: Float[np.ndarray, "probes steps"]
    residuals: Float[np.ndarray, "probes steps"]
    counts: Float[np.ndarray, "probes steps"]
    known: Int[np.ndarray, "probes steps"]
    dim: int
    resolution: float
    exact: bool
    proved: Bool[np.ndarray, " probes"] | None = None

    @property
    def num_probes(self) -> int:
        """Number of rows."""
        return self.nodes.shape[0]

    @property
    def bulk(self) -> Float[np.ndarray, "probes steps"]:
        """The eigenvalues that each weight stands for beside the eigenvectors that are known."""
        return np.maximum(self.counts - self.known, 0.0)
