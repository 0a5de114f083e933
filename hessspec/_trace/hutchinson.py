"""Hutchinson's estimator: the mean of vᵀHv over random signs v."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.probes import rademacher
from hessspec._base.progress import ProgressBar
from hessspec._krylov.blocks import row_forms
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import (
    LOOKS,
    SURE,
    block_sizes,
    disagreement,
    exact_diagonal,
    finite_forms,
    guarded_products,
)


class Hutchinson:
    """Samples vᵀHv, as many as asked for; more can be added.

    A scalar operator is multiplied, so that ‖Hv‖² comes with vᵀHv and symmetry is checked. With
    T tasks, `forms` is several times cheaper than T products; two products of the first probes
    tell whether these are what forms stand for.
    """

    method = "hutchinson"

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray) -> None:
        self.operator, self.key = operator, key
        self.samples: list[Float[np.ndarray, "*T k"]] = []
        self.squares: list[Float[np.ndarray, " k"]] = []
        self.drawn = 0
        self.symmetry = Symmetry(operator)
        self.looks = 0  # products for each task that tell how sure forms are
        self.asymmetry: list[float] = []
        self.systematic: Float[np.ndarray, "*T"] | None = None

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate from `budget` products with each task's H in all."""
        if not self.samples and not self._multiplies() and self.operator.has_products:
            self.looks = min(LOOKS, budget // 2)
        for probes in self._probes(budget - self.drawn - self.looks):
            self._sample(probes)
            bar.update(probes.shape[0])
        tasks = self.operator.num_tasks or 1
        common = {"method": self.method, "dim": self.operator.dim}
        spent = (self.drawn + self.looks + self.symmetry.num_matvecs) * tasks
        count = {"num_matvecs": spent, "matvecs_per_sample": float(tasks)}
        square = None
        if self.squares:
            square = TraceEstimate.from_samples(np.concatenate(self.squares), **common, **count)
        if self.asymmetry:
            self.systematic = np.asarray(SURE * np.sqrt(np.mean(np.square(self.asymmetry))))
        return TraceEstimate.from_samples(
            np.concatenate(self.samples, axis=-1),
            square=square,
            systematic=self.systematic,
            **common,
            **count,
        )

    def _probes(self, count: int) -> Iterator[Float[Array, "k dim"]]:
        for size in block_sizes(count, self.operator.block_rows):
            indices = jnp.arange(self.drawn, self.drawn + size)
            self.drawn += size
            dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
            yield rademacher(self.key, indices, dim, dtype)

    def _multiplies(self) -> bool:
        return self.operator.num_tasks is None and self.operator.has_products

    def _sample(self, probes: Float[Array, "k dim"]) -> None:
        if self._multiplies():
            found = guarded_products(self.operator, probes, self.symmetry)
            self.samples.append(np.diagonal(found.forms) * found.scale)
            lengths = np.asarray(row_forms(found.rows, found.rows), np.float64)
            self.squares.append(lengths * found.scale**2)
            if probes.shape[0] > 1:
                self.asymmetry.append(found.asymmetry)
            return
        forms = finite_forms(self.operator, probes)
        if self.systematic is None and self.looks:
            self.looks = min(self.looks, probes.shape[0])
            first = slice(self.looks)
            self.systematic = disagreement(
                self.operator, probes[first], forms[..., first], self.symmetry
            )
        self.samples.append(forms)


def exact_trace(operator: AbstractOperator, method: str, bar: ProgressBar) -> TraceEstimate:
    """tr H = Σᵢ eᵢᵀHeᵢ without sampling, by P quadratic forms for each task."""
    found = exact_diagonal(operator, bar)
    total = found.entries.sum(axis=-1)
    return TraceEstimate.from_samples(
        np.zeros((*total.shape, 0)),
        exact=total,
        systematic=found.systematic,
        method=method,
        dim=operator.dim,
        num_matvecs=found.num_matvecs,
    )
