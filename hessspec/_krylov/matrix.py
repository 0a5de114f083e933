"""Eigenpairs of a small H, from all its columns."""

import math

import jax.numpy as jnp
import numpy as np

from hessspec._base.checks import check_finite
from hessspec._base.kept import Keep, KeptRun, Resumable, resumed
from hessspec._base.progress import ProgressBar
from hessspec._krylov.lockstep import RowOperator
from hessspec._krylov.restarted import FoundPairs, Which, wanted_first
from hessspec._operators.symmetry import Symmetry

_DENSE_CHUNK = 64


def dense_products(dim: int) -> int:
    """Products that the matrix takes: P, or a few more to fill blocks of one shape."""
    blocks = math.ceil(dim / _DENSE_CHUNK)
    return blocks * math.ceil(dim / blocks)


class _Columns(Resumable):
    """A small H, by its P columns.

    Attributes:
        matrix: those that are known, in the place of rows.
        known: how many.
        parts: largest length of the parts that products are sums of.
    """

    changing = ("matrix", "known", "parts")

    def __init__(self, operator: RowOperator) -> None:
        self.operator = operator
        self.matrix = np.zeros((operator.dim, operator.dim))
        self.known, self.parts = 0, 0.0

    def fill(self, bar: ProgressBar, keep: Keep) -> None:
        """Multiply all unit vectors that have not been multiplied yet."""
        dim, dtype = self.operator.dim, np.dtype(self.operator.dtype)
        chunk = dense_products(dim) // math.ceil(dim / _DENSE_CHUNK)
        while self.known < dim:
            # The last block is moved back, so that all have one shape.
            begin = min(self.known, dim - chunk)
            block = jnp.asarray(np.eye(chunk, dim, begin, dtype))
            rows, lengths = self.operator.measured_rows(block)
            if lengths is not None:
                self.parts = max(self.parts, float(jnp.max(lengths)))
            check_finite(rows, self.operator.space, "a product with the operator")
            self.matrix[begin : begin + chunk] = np.asarray(rows, np.float64)
            self.known = begin + chunk
            bar.update(chunk)
            keep()


def dense_pairs(
    operator: RowOperator, k: int, which: Which, bar: ProgressBar, kept: KeptRun | None = None
) -> FoundPairs:
    """The pairs of a small H, from its P columns."""
    columns = _Columns(operator)
    columns.fill(*resumed(columns, kept, bar))
    dim, dtype = operator.dim, np.dtype(operator.dtype)
    matrix, parts, total = columns.matrix, columns.parts, dense_products(dim)
    size = max(float(np.linalg.norm(matrix, 2)), parts)
    symmetry = Symmetry(operator)
    symmetry.check_matrix(matrix, size)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    chosen = wanted_first(values, which)[:k]
    rows = vectors[:, chosen].T.astype(dtype)
    rounded = rows.astype(np.float64)
    residuals = np.linalg.norm(rounded @ matrix.T - values[chosen, None] * rounded, axis=1)
    return FoundPairs(
        values=values[chosen],
        rows=jnp.asarray(rows),
        residuals=residuals,
        norm=max(float(np.abs(values).max()), parts),
        num_matvecs=total + symmetry.num_matvecs,
    )
