"""Hutchinson's estimator: the mean of vᵀHv over random signs v."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.checks import check_finite, check_symmetric
from hessspec._base.probes import rademacher
from hessspec._base.progress import ProgressBar
from hessspec._krylov.blocks import gram, row_forms, unit_scale
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._trace.estimate import TraceEstimate


def block_sizes(count: int, rows: int = BLOCK_ROWS) -> list[int]:
    """`count` rows as full blocks and one remainder: two shapes, so two compiled programs."""
    return [rows] * (count // rows) + [count % rows] * (count % rows > 0)


def guarded_products(
    operator: AbstractOperator, probes: Float[Array, "k dim"], norm: float = 0.0
) -> tuple[Float[Array, "k dim"], float, Float[np.ndarray, "k k"]]:
    """H v for each row of a scalar operator, divided by a power of two; that power; vᵢᵀHvⱼ.

    The last is in the same units. `norm` is a lower bound of ‖H‖, for probes that were made
    orthogonal to the dominant space: what is left of H v may be nothing but rounding of H.

    Raises:
        ValueError: if a product is not finite, or vᵢᵀHvⱼ and vⱼᵀHvᵢ differ by more than rounding.
    """
    rows = operator.rows(probes)
    scale = unit_scale(rows)
    rows = rows / jnp.asarray(scale, rows.dtype)
    forms = gram(probes, rows)
    if not np.isfinite(forms).all():
        check_finite(rows, operator.space, "the product H v")
    images, lengths = row_lengths(rows), row_lengths(probes)
    size = max(float(np.max(images / np.maximum(lengths, 1e-30))), norm / scale)
    check_symmetric(forms, forms.T, size * lengths[:, None] * lengths, operator.dtype)
    return rows, scale, forms


def row_lengths(rows: Float[Array, "k dim"]) -> Float[np.ndarray, " k"]:
    """Euclidean length of each row, on the host."""
    return np.sqrt(np.asarray(row_forms(rows, rows), np.float64))


class Hutchinson:
    """Samples vᵀHv, as many as asked for; more can be added.

    A scalar operator is multiplied, so that ‖Hv‖² comes with vᵀHv and symmetry is checked. With
    T tasks, `forms` is several times cheaper than T products and does not need them.
    """

    method = "hutchinson"

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray) -> None:
        self.operator, self.key = operator, key
        self.samples: list[Float[np.ndarray, "*T k"]] = []
        self.squares: list[Float[np.ndarray, " k"]] = []
        self.drawn = 0

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate from `budget` products with each task's H in all."""
        for probes in self._probes(budget - self.drawn):
            self._sample(probes)
            bar.update(probes.shape[0])
        tasks = self.operator.num_tasks or 1
        common = {"method": self.method, "dim": self.operator.dim}
        count = {"num_matvecs": self.drawn * tasks, "matvecs_per_sample": float(tasks)}
        square = None
        if self.squares:
            square = TraceEstimate.from_samples(np.concatenate(self.squares), **common, **count)
        return TraceEstimate.from_samples(
            np.concatenate(self.samples, axis=-1), square=square, **common, **count
        )

    def _probes(self, count: int) -> Iterator[Float[Array, "k dim"]]:
        for size in block_sizes(count, self.operator.block_rows):
            indices = jnp.arange(self.drawn, self.drawn + size)
            self.drawn += size
            dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
            yield rademacher(self.key, indices, dim, dtype)

    def _sample(self, probes: Float[Array, "k dim"]) -> None:
        if self.operator.num_tasks is None:
            rows, scale, forms = guarded_products(self.operator, probes)
            self.samples.append(np.diagonal(forms) * scale)
            self.squares.append(np.asarray(row_forms(rows, rows), np.float64) * scale**2)
        else:
            self.samples.append(finite_forms(self.operator, probes))


def finite_forms(
    operator: AbstractOperator, probes: Float[Array, "k dim"]
) -> Float[np.ndarray, "*T k"]:
    """vᵀHv for each row, on the host.

    Raises:
        ValueError: if one is not finite, naming the parameters that cause it.
    """
    forms = np.asarray(operator.forms(probes), np.float64)
    if not np.isfinite(forms).all():
        rows = operator.rows(probes[:1])
        check_finite(rows, operator.space, "the product H v")
        raise ValueError("v'Hv is not finite although H v is: it overflows; scale the loss down.")
    return forms


def exact_trace(operator: AbstractOperator, method: str, bar: ProgressBar) -> TraceEstimate:
    """tr H = Σᵢ eᵢᵀHeᵢ without sampling, by P quadratic forms for each task."""
    dim, dtype, tasks = operator.dim, operator.dtype, operator.num_tasks or 1
    total = np.zeros(() if operator.num_tasks is None else (tasks,))
    start = 0
    for size in block_sizes(dim):
        block = jnp.asarray(np.eye(size, dim, start, dtype=dtype))
        total = total + finite_forms(operator, block).sum(axis=-1)
        start += size
        bar.update(size)
    return TraceEstimate.from_samples(
        np.zeros((*total.shape, 0)),
        exact=total,
        method=method,
        dim=dim,
        num_matvecs=dim * tasks,
    )
