"""An operator as other tools take it: a matrix of numbers, or scipy's operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.memory import require_memory

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from hessspec._operators.algebra import AbstractOperator


def dense_matrix(operator: AbstractOperator, budget: int) -> Float[Array, "*T dim dim"]:
    """All P columns, multiplied in blocks of one shape."""
    tasks, dim = operator.num_tasks or 1, operator.dim
    require_memory(
        2 * tasks * dim**2 * operator.dtype.itemsize,
        budget,
        f"the dense matrix of {dim:,} parameters",
        "`density`, `trace` and `eigenpairs` answer most questions without it; or let "
        "`where` choose fewer parameters",
    )
    chunk = min(dim, 4 * operator.block_rows)
    identity = np.eye(chunk, dtype=operator.dtype)
    parts = []
    for start in range(0, dim, chunk):
        block = np.zeros((chunk, dim), operator.dtype)
        size = min(chunk, dim - start)
        block[:size, start : start + size] = identity[:size, :size]
        parts.append(operator.rows(jnp.asarray(block))[..., :size, :])
    return jnp.concatenate(parts, axis=-2)


def scipy_operator(operator: AbstractOperator) -> LinearOperator:
    """A scalar operator that takes and gives columns of numpy."""
    from scipy.sparse.linalg import LinearOperator

    if operator.num_tasks is not None:
        raise ValueError("`as_scipy` needs one task; call it on `operator.task(t)`")

    def matmat(columns: np.ndarray) -> np.ndarray:
        block = jnp.asarray(np.atleast_2d(columns.T), dtype=operator.dtype)
        return np.asarray(operator.rows(block)).T

    def matvec(column: np.ndarray) -> np.ndarray:
        return matmat(column.reshape(-1, 1))[:, 0]

    return LinearOperator(  # pyright: ignore[reportCallIssue]
        shape=(operator.dim, operator.dim),
        matvec=matvec,  # pyright: ignore[reportCallIssue]
        rmatvec=matvec,  # pyright: ignore[reportCallIssue]
        matmat=matmat,  # pyright: ignore[reportCallIssue]
        rmatmat=matmat,  # pyright: ignore[reportCallIssue]
        dtype=operator.dtype,
    )
