"""Hutch++: the dominant space of a sketch exactly, Hutchinson's mean for the rest."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.progress import ProgressBar
from hessspec._krylov.blocks import orthonormal_rows, rescaled, row_forms, spherical, without
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, block_sizes, guarded_products

SKETCH_STREAM = 0x5EED  # keeps the vectors of a basis apart from the probes, which use the key


class HutchPlusPlus:
    """tr H = tr QHQᵀ + E vᵀHv over probes v orthogonal to Q, Q an orthonormal basis of HΩ.

    A third of the first budget each for HΩ, for HQᵀ and for probes; all that is added later goes
    to probes. Tasks have their own Q and common probes. Given directions (orthonormal rows)
    stand in Q beside HΩ.

    Source: Hutch++, algorithm 1 of Meyer, Musco, Musco, Woodruff (2021) [meyer2021hutchpp], as
    restated in the documentation of `pylops.utils.estimators.trace_hutchpp`; probes on the
    sphere of the complement instead of signs are ours.
    """

    method = "hutch++"

    def __init__(
        self,
        operator: AbstractOperator,
        key: PRNGKeyArray,
        directions: Float[Array, "r dim"] | None = None,
    ) -> None:
        self.operator, self.key = operator, key
        self.directions = directions
        count = operator.num_tasks
        self.tasks = [operator] if count is None else [operator.task(t) for t in range(count)]
        self.symmetries = [Symmetry(task) for task in self.tasks]
        self.bases: list[Float[Array, "r dim"]] = []
        self.norms: list[float] = []
        self.systematic = np.zeros(len(self.tasks))
        self.exact = np.zeros(len(self.tasks))
        self.exact_square = np.zeros(len(self.tasks))
        self.samples: list[list[np.ndarray]] = [[] for _ in self.tasks]
        self.squares: list[list[np.ndarray]] = [[] for _ in self.tasks]
        self.spent = 0  # products of each task
        self.num_matvecs = 0
        self.drawn = 0

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate from at most `budget` products with each task's H in all."""
        if not self.bases:
            given = 0 if self.directions is None else self.directions.shape[0]
            self._sketch((budget - given) // 3, bar)
        for size in block_sizes(budget - self.spent):
            probes = self._random(self.key, self.drawn, size)
            self.drawn += size
            self.spent += size
            for t in range(len(self.tasks)):
                self._sample(t, probes)
            bar.update(size)
        return self._estimate()

    def _sketch(self, size: int, bar: ProgressBar) -> None:
        tests = self._random(jax.random.fold_in(self.key, SKETCH_STREAM), 0, size)
        for t, task in enumerate(self.tasks):
            sketch = guarded_products(task, tests, self.symmetries[t])
            norm = sketch.scale * sketch.size
            rows = sketch.rows
            if self.directions is not None and self.directions.shape[0]:
                rows = jnp.concatenate([self.directions, without(self.directions, rows)])
            basis, _ = orthonormal_rows(rows)
            found = guarded_products(task, basis, self.symmetries[t], norm)
            images, scale, forms, largest = found
            self.systematic[t] = SURE * max(sketch.asymmetry, found.whole_asymmetry)
            self.bases.append(basis)
            self.norms.append(scale * largest)
            self.exact[t] = np.trace(forms) * scale
            squares = np.asarray(row_forms(images, images), np.float64)
            self.exact_square[t] = squares.sum() * scale**2
            self.num_matvecs += size + basis.shape[0]
        self.spent += size + self.bases[0].shape[0]
        bar.update(self.spent)

    def _random(self, key: PRNGKeyArray, first: int, count: int) -> Float[Array, "k dim"]:
        operator = self.operator
        return spherical(key, first, count, operator.dim, operator.dtype, operator.mesh)

    def _sample(self, t: int, probes: Float[Array, "k dim"]) -> None:
        basis, dim = self.bases[t], self.operator.dim
        inside = rescaled(without(basis, probes), (dim - basis.shape[0]) ** 0.5)
        rows, scale, forms, _ = guarded_products(
            self.tasks[t], inside, self.symmetries[t], self.norms[t]
        )
        self.samples[t].append(np.diagonal(forms) * scale)
        self.squares[t].append(np.asarray(row_forms(rows, rows), np.float64) * scale**2)
        self.num_matvecs += probes.shape[0]

    def _estimate(self) -> TraceEstimate:
        square = self._record(self.squares, self.exact_square, None)
        found = self._record(self.samples, self.exact, square)
        scalar = self.operator.num_tasks is None
        return replace(found, systematic=self.systematic[0] if scalar else self.systematic)

    def _record(
        self, parts: list[list[np.ndarray]], exact: np.ndarray, square: TraceEstimate | None
    ) -> TraceEstimate:
        samples = np.stack([np.concatenate(part) for part in parts])
        scalar = self.operator.num_tasks is None
        return TraceEstimate.from_samples(
            samples[0] if scalar else samples,
            exact=exact[0] if scalar else exact,
            square=square,
            quantity="tr H²" if square is None else "tr H",
            method=self.method,
            dim=self.operator.dim,
            num_matvecs=self.num_matvecs + sum(s.num_matvecs for s in self.symmetries),
            matvecs_per_sample=float(len(self.tasks)),
        )
