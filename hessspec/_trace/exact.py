"""The diagonal of H and its trace without sampling, from P products or forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.checks import MOST_ASYMMETRY, asymmetric, check_finite
from hessspec._base.kept import Keep, Resumable, never
from hessspec._base.probes import rademacher
from hessspec._base.progress import ProgressBar
from hessspec._krylov.blocks import gram, unit_scale
from hessspec._operators.algebra import AbstractOperator
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import (
    LOOKS,
    SURE,
    block_sizes,
    disagreement,
    finite_forms,
    row_lengths,
    tasks_counted,
)

_SIGNS = 8  # vectors by which the asymmetry of a whole matrix is seen


class ExactDiagonal(NamedTuple):
    """H_ii for all i and tasks; how far their sum may be off, if told; and the products it took."""

    entries: Float[np.ndarray, "*T dim"]
    systematic: Float[np.ndarray, "*T"] | None
    num_matvecs: int


class ExactRun(Resumable):
    """H_ii = eᵢᵀHeᵢ by P products, or P forms of all tasks with a product and a form or two more.

    Block after block; it can go on after any of them.
    """

    changing = ("done", "scale", "squares", "entries", "transposed", "applied")

    def __init__(self, operator: AbstractOperator) -> None:
        self.operator = operator
        self.done = 0  # blocks
        self.scale, self.squares = 0.0, 0.0
        self.entries: list[np.ndarray] = []
        self.transposed: list[np.ndarray] = []
        self.applied = np.zeros((0, 0))

    def advance(self, bar: ProgressBar, keep: Keep = never) -> ExactDiagonal:
        """What it ends with.

        Raises:
            ValueError: if a product is not finite, or H is not symmetric to 1 %: below that the
                disagreement is in the error.
        """
        if self.operator.num_tasks is None and self.operator.has_products:
            return self._from_columns(bar, keep)
        return self._from_forms(bar, keep)

    def _from_columns(self, bar: ProgressBar, keep: Keep) -> ExactDiagonal:
        """The columns also give H v and Hᵀ v for a few vectors of signs, at no further product.

        |(H - Hᵀ) v|² has mean ‖H - Hᵀ‖²_F, the sum over i, j of (E_ij - E_ji)² for the errors E of
        the entries: if those on the diagonal are as large as others and of one sign, their sum is
        so too.
        """
        dim, dtype = self.operator.dim, self.operator.dtype
        signs = rademacher(jax.random.key(0), jnp.arange(_SIGNS), dim, jnp.dtype(dtype))
        if not self.done:
            self.applied = np.zeros((_SIGNS, dim), dtype)
        for start, size in _blocks(dim)[self.done :]:
            self._column(signs, start, size)
            self.done += 1
            bar.update(size)
            keep()
        gaps = np.asarray(self.applied, np.float64) - np.concatenate(self.transposed, axis=1)
        asymmetry = float(np.sqrt(np.mean(np.sum(gaps**2, axis=1))))
        if asymmetry > MOST_ASYMMETRY * np.sqrt(self.squares):
            share = asymmetry / np.sqrt(self.squares)
            raise asymmetric(f"|H - H'| is {share:.1e} of |H|", share, dtype)
        whole = np.concatenate(self.entries).astype(np.float64) * self.scale
        return ExactDiagonal(whole, np.asarray(SURE * self.scale * asymmetry), dim)

    def _column(self, signs: Float[Array, "n dim"], start: int, size: int) -> None:
        dim, dtype = self.operator.dim, self.operator.dtype
        block = jnp.asarray(np.eye(size, dim, start, dtype=dtype))
        rows, parts = self.operator.measured_rows(block)
        self.scale = self.scale or unit_scale(rows)
        rows = rows / jnp.asarray(self.scale, rows.dtype)
        lengths = row_lengths(rows)
        if not np.isfinite(lengths).all():
            check_finite(rows, self.operator.space, "the product H v")
        if parts is not None:
            lengths = np.asarray(parts, np.float64) / self.scale
        own = np.asarray(rows[:, start : start + size])
        self.entries.append(np.diagonal(own, axis1=0, axis2=1))
        self.transposed.append(gram(signs, rows))
        self.applied = self.applied + np.asarray(_combined(signs[:, start : start + size], rows))
        self.squares += float(np.sum(lengths**2))

    def _from_forms(self, bar: ProgressBar, keep: Keep) -> ExactDiagonal:
        operator, dim, dtype = self.operator, self.operator.dim, self.operator.dtype
        looks = LOOKS if operator.has_products else 0
        signs = rademacher(jax.random.key(0), jnp.arange(looks), dim, jnp.dtype(dtype))
        for start, size in _blocks(dim + looks)[self.done :]:  # the signs fill up the last block
            block = jnp.asarray(np.eye(size, dim, start, dtype=dtype))
            block = _filled(block, signs, start + size - dim, looks)
            self.entries.append(finite_forms(operator, block))
            self.done += 1
            bar.update(size)
            keep()
        whole = np.concatenate(self.entries, axis=-1)
        entries, forms = whole[..., :dim], whole[..., dim:]
        systematic = disagreement(operator, signs, forms) if looks else None
        return ExactDiagonal(entries, systematic, tasks_counted(operator) * (dim + 2 * looks))


def exact_trace(run: ExactRun, method: str, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
    """tr H = Σᵢ eᵢᵀHeᵢ without sampling, by P quadratic forms for each task."""
    found = run.advance(bar, keep)
    total = found.entries.sum(axis=-1)
    return TraceEstimate.from_samples(
        np.zeros((*total.shape, 0)),
        exact=total,
        systematic=found.systematic,
        method=method,
        dim=run.operator.dim,
        num_matvecs=found.num_matvecs,
    )


def _blocks(count: int) -> list[tuple[int, int]]:
    """Where each block of rows begins, and how many it has."""
    sizes = block_sizes(count)
    return list(zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False))


@jax.jit
def _combined(signs: Float[Array, "n k"], rows: Float[Array, "k dim"]) -> Float[Array, "n dim"]:
    return jnp.einsum("nk,kp->np", signs, rows, precision="highest")


def _filled(block: Array, signs: Array, used: int, looks: int) -> Array:
    """`block` with the first `used` vectors of signs in its last rows, less those before it."""
    size = block.shape[0]
    if used <= 0:
        return block
    first = max(used - size, 0)
    rows = signs[first:used]
    return block.at[size - rows.shape[0] :].set(rows)
