"""Hutchinson's estimator: the mean of vᵀHv over random signs v."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Keep, Resumable, never
from hessspec._base.probes import rademacher_on
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import PILOT
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted, skips_zeros
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import (
    LOOKS,
    SURE,
    disagreement,
    guarded_products,
    tasks_counted,
)
from hessspec._trace.strata import Strata, first_rows
from hessspec._trace.task_by_task import TaskByTask


class Hutchinson(Resumable):
    """Samples vᵀHv, as many as asked for; more can be added.

    A scalar operator is multiplied, so that ‖Hv‖² comes with vᵀHv and symmetry is checked. With
    T tasks, `forms` is several times cheaper than T products; two products of the first probes
    tell whether these are what forms stand for. Groups of batches have probes of their own where
    the first samples find that this pays (`Strata`).

    Where forms go one by one, all blocks have `PILOT` rows, the last one filled up by zeros: one
    program, and that of `auto`.

    Args:
        room: bytes for what the products of a task have in common.
    """

    method = "hutchinson"
    changing = ("strata", "squares", "drawn", "symmetry", "looks", "asymmetry", "systematic")

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, room: int) -> None:
        self.operator, self.key, self.room = operator, key, room
        self.strata = Strata(operator, key)
        self.parted = Parted(operator, self.strata.parts) if self.strata.several else operator
        self.fills = not self._multiplies() and all(map(skips_zeros, self.strata.parts))
        self.squares: list[Float[np.ndarray, " k"]] = []
        self.drawn = 0
        self.symmetry = Symmetry(operator)
        self.looks = 0  # products for each task that tell how sure forms are
        self.asymmetry: list[float] = []
        self.systematic: Float[np.ndarray, "*T"] | None = None

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
        """The estimate from `budget` products with each task's H in all."""
        if not self.drawn and not self._multiplies() and self.operator.has_products:
            self.looks = min(LOOKS, budget // 2)
        while (more := budget - self.spent) > 0:
            if not self.strata.is_decided and self.drawn >= PILOT:
                self.strata.decide(more)
            # The pilot in one block; without groups, full blocks from the beginning.
            full = self.strata.is_decided and not self.fills
            size = min(more, self.operator.block_rows if full else PILOT)
            self._sample(size)
            bar.update(size)
            keep()
        tasks = tasks_counted(self.operator)
        common = {"method": self.method, "dim": self.operator.dim}
        spent = (self.spent + self.symmetry.num_matvecs) * tasks
        count = {"num_matvecs": spent, "matvecs_per_sample": float(tasks)}
        square = None
        if self.squares:
            square = TraceEstimate.from_samples(
                np.concatenate(self.squares), quantity="tr H²", **common, **count
            )
        if self.asymmetry:
            self.systematic = np.asarray(SURE * np.sqrt(np.mean(np.square(self.asymmetry))))
        return TraceEstimate.from_samples(
            np.concatenate(self.strata.samples, axis=-1).sum(axis=0),
            square=square,
            systematic=self.systematic,
            probes=self.strata.words,
            **self.strata.record(None),
            **common,
            **count,
        )

    @property
    def spent(self) -> int:
        """Products, or forms of all tasks, that samples and looks took."""
        return self.drawn + self.strata.drawn + self.looks

    def _probes(self, size: int) -> Float[Array, "k dim"]:
        """The next ones; where blocks are filled up, with zeros behind them."""
        rows = PILOT if self.fills else size
        indices = np.arange(self.drawn, self.drawn + rows)
        self.drawn += size
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        probes = rademacher_on(self.key, indices, dim, dtype, self.operator.mesh)
        return probes if rows == size else first_rows(probes, size)

    def _multiplies(self) -> bool:
        return self.operator.num_tasks is None and self.operator.has_products

    def _sample(self, size: int) -> None:
        if self.strata.own:
            self.strata.samples.append(self.strata.draw(size, lambda rows: rows))
            return
        probes = self._probes(size)
        if self._multiplies():
            self.strata.samples.append(self._guarded(probes))
            return
        forms = self.strata.common(probes)[..., :size]
        if self.systematic is None and self.looks:
            self.looks = min(self.looks, size)
            first = slice(self.looks)
            several = self.operator.num_tasks is not None
            products = TaskByTask(self.operator, self.room) if several else self.operator
            self.systematic = disagreement(
                products, probes[first], forms.sum(axis=0)[..., first], self.symmetry
            )
        self.strata.samples.append(forms)

    def _guarded(self, probes: Float[Array, "k dim"]) -> Float[np.ndarray, "B k"]:
        """Forms of each group from products, whose squares and symmetry come along."""
        found = guarded_products(self.parted, probes, self.symmetry)
        self.squares.append(found.squares * found.scale**2)
        if probes.shape[0] > 1:
            self.asymmetry.append(found.asymmetry)
        if isinstance(self.parted, Parted):
            return self.parted.forms
        return np.diagonal(found.forms)[None] * found.scale
