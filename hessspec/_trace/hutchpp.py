"""Hutch++: the dominant space of a sketch exactly, Hutchinson's mean for the rest."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Keep, Resumable, never
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import PILOT
from hessspec._krylov.blocks import orthonormal_rows, rescaled, spherical, without
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, Guarded, finite_forms, guarded_products
from hessspec._trace.strata import Strata

SKETCH_STREAM = 0x5EED  # keeps the vectors of a basis apart from the probes, which use the key


class HutchPlusPlus(Resumable):
    """tr H = tr QHQᵀ + E vᵀHv over probes v orthogonal to Q, Q an orthonormal basis of HΩ.

    A third of the first budget each for HΩ, for HQᵀ and for probes; all that is added later goes
    to probes. Tasks have their own Q and common probes. Given directions (orthonormal rows)
    stand in Q beside HΩ. Groups of batches have probes of their own where the first samples find
    that this pays (`Strata`).

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
        self.strata = Strata(operator, key)
        # A sample is a product of each task.
        self.strata.costs = replace(self.strata.costs, form=float(len(self.tasks)))
        self.parted = [self._in_parts(t) for t in range(len(self.tasks))]
        self.symmetries = [Symmetry(task) for task in self.tasks]
        self.bases: list[Float[Array, "r dim"]] = []
        self.norms: list[float] = []
        self.systematic = np.zeros(len(self.tasks))
        self.exact = np.zeros((len(self.strata.parts), len(self.tasks)))  # of each group of batches
        self.exact_square = np.zeros(len(self.tasks))
        self.squares: list[list[np.ndarray]] = [[] for _ in self.tasks]
        self.spent = 0  # products of each task
        self.num_matvecs = 0
        self.drawn = 0

    def _in_parts(self, t: int) -> AbstractOperator | Parted:
        """Task t's operator, group by group if there are several."""
        if not self.strata.several:
            return self.tasks[t]
        parts = self.strata.parts
        own = parts if self.operator.num_tasks is None else [part.task(t) for part in parts]
        return Parted(self.tasks[t], own)

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
        """The estimate from at most `budget` products with each task's H in all."""
        del keep  # its bases are not among what can be kept
        if not self.bases:
            given = 0 if self.directions is None else self.directions.shape[0]
            self._sketch((budget - given) // 3, bar)
        while (left := budget - self.spent) > 0:
            if self.strata.samples and not self.strata.is_decided:
                self.strata.decide(left, self.bases[0].shape[0])
            size = min(left, BLOCK_ROWS if self.strata.is_decided else PILOT)
            self._sample(size)
            self.num_matvecs += size * len(self.tasks)
            self.spent += size
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
            found = guarded_products(self.parted[t], basis, self.symmetries[t], norm)
            self.systematic[t] = SURE * max(sketch.asymmetry, found.whole_asymmetry)
            self.bases.append(basis)
            self.norms.append(found.scale * found.size)
            self.exact[:, t] = self._by_group(t, found).sum(axis=-1)
            self.exact_square[t] = found.squares.sum() * found.scale**2
            self.num_matvecs += size + basis.shape[0]
        self.spent += size + self.bases[0].shape[0]
        bar.update(self.spent)

    def _random(self, key: PRNGKeyArray, first: int, count: int) -> Float[Array, "k dim"]:
        operator = self.operator
        return spherical(key, first, count, operator.dim, operator.dtype, operator.mesh)

    def _by_group(self, t: int, found: Guarded) -> Float[np.ndarray, "B k"]:
        """Forms of each group of batches, of the rows multiplied last with task t."""
        parted = self.parted[t]
        if isinstance(parted, Parted):
            return parted.forms
        return np.diagonal(found.forms)[None] * found.scale

    def _sample(self, size: int) -> None:
        """Forms of all tasks, each beside its own basis."""
        found = self._own(size) if self.strata.own else self._common(size)
        by_task = np.stack(found, axis=1)
        self.strata.samples.append(
            by_task if self.operator.num_tasks is not None else by_task[:, 0]
        )

    def _common(self, size: int) -> list[Float[np.ndarray, "B k"]]:
        dim = self.operator.dim
        probes = self._random(self.key, self.drawn, size)
        self.drawn += size
        forms = []
        for t, (basis, parted) in enumerate(zip(self.bases, self.parted, strict=True)):
            inside = rescaled(without(basis, probes), (dim - basis.shape[0]) ** 0.5)
            found = guarded_products(parted, inside, self.symmetries[t], self.norms[t])
            forms.append(self._by_group(t, found))
            self.squares[t].append(found.squares * found.scale**2)
        return forms

    def _own(self, size: int) -> list[Float[np.ndarray, "B k"]]:
        signs = self.strata.by_part(size)
        forms = []
        for basis, parted in zip(self.bases, self.parted, strict=True):
            assert isinstance(parted, Parted)
            pairs = zip(parted.parts, signs, strict=True)
            forms.append(np.stack([finite_forms(p, without(basis, rows)) for p, rows in pairs]))
        return forms

    def _estimate(self) -> TraceEstimate:
        scalar = self.operator.num_tasks is None
        exact = self.exact[:, 0] if scalar else self.exact
        square = self._record(
            np.stack([np.concatenate(part) for part in self.squares]), self.exact_square, None
        )
        samples = np.concatenate(self.strata.samples, axis=-1).sum(axis=0)
        found = self._record(np.atleast_2d(samples), np.atleast_1d(exact.sum(axis=0)), square)
        return replace(
            found,
            systematic=self.systematic[0] if scalar else self.systematic,
            probes=self.strata.words,
            **self.strata.record(exact),
        )

    def _record(
        self, samples: np.ndarray, exact: np.ndarray, square: TraceEstimate | None
    ) -> TraceEstimate:
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
