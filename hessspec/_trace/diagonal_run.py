"""The samples behind `diagonal`: v ∘ Hv beside a basis, for one task."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.checks import check_finite
from hessspec._base.kept import Keep, Long, Resumable, never
from hessspec._base.meshes import over_devices
from hessspec._base.probes import rademacher_on
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import (
    DIAGONAL_SHARE,
    PILOT,
    WIDTH,
    KrylovBasis,
    Measured,
    diagonal_share,
    growth_pays,
    off_diagonal,
)
from hessspec._krylov.blocks import combine
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.guards import SURE, guarded_products
from hessspec._trace.hutchpp import SKETCH_STREAM
from hessspec._trace.strata import Strata, own_pays


class _DiagonalBasis(KrylovBasis):
    """A Krylov basis that keeps Σ qᵢ ∘ Hqᵢ."""

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, symmetry: Symmetry) -> None:
        super().__init__(operator, key, symmetry)
        self.crossed = over_devices(operator.mesh, jnp.zeros(operator.dim, operator.dtype))

    def state(self) -> dict[str, Any]:
        """With the sum that it keeps."""
        return {**super().state(), "crossed": Long(lambda: self.crossed[None])}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up the basis and its sum."""
        super().resume(state)
        self.crossed = state["crossed"].rows()[0]

    def _observe(self, block: Float[Array, "k dim"], products: Float[Array, "k dim"]) -> None:
        self.crossed = _add_products(self.crossed, block, products)

    def known(self) -> Float[Array, " dim"]:
        """diag of QᵀQH + HQᵀQ - QᵀTQ, in the units of H."""
        total = 2 * self.crossed
        for first in range(0, self.rank, BLOCK_ROWS):
            rows = self.basis.rows(first, BLOCK_ROWS)
            images = self.basis.combine(self._columns(first))
            total = _add_products(total, -rows, images)
        return total * jnp.asarray(self.scale, total.dtype)

    def _columns(self, first: int) -> Float[np.ndarray, "rank 16"]:
        columns = self.compressed[:, first : first + BLOCK_ROWS]
        return np.pad(columns, ((0, 0), (0, BLOCK_ROWS - columns.shape[1])))


class Run(Resumable):
    """The diagonal of one task's H.

    What it does is done in three turns, with other tasks in between. In each the gradient is
    linearised once, and what that keeps is given up again: no two tasks hold it at a time.
    """

    changing = (
        *("symmetry", "basis", "strata", "count", "samples", "drawn", "spent", "asymmetry"),
        *("forms", "size", "variances", "is_grown", "has_pilot", "ratio"),
    )

    def __init__(
        self, operator: AbstractOperator, key: PRNGKeyArray, room: int, tasks: int
    ) -> None:
        self.operator, self.key, self.room, self.tasks = operator, key, room, tasks
        self.is_validated = False
        # The entries' errors say nothing of asymmetry.
        self.symmetry = Symmetry(operator, is_stated=False)
        sketch_key = jax.random.fold_in(key, SKETCH_STREAM)
        self.basis = _DiagonalBasis(operator, sketch_key, self.symmetry)
        zeros = over_devices(operator.mesh, jnp.zeros(operator.dim, operator.dtype))
        self.count, self.mean, self.spread = 0, zeros, zeros
        self.strata = Strata(operator, key)
        self.forms, self.size = np.zeros((0, 0)), 0.0  # of the pilot
        self.variances: Measured = []
        self.is_grown = False  # whether the basis has its size
        self.has_pilot = False  # whether the pilot is among the samples
        # How variances of common and own probes compare; then samples were looked at, and count
        # half.
        self.ratio: float | None = None
        self.samples: list[np.ndarray] = []
        self.drawn = 0
        self.spent = 0
        self.asymmetry = 0.0

    def state(self) -> dict[str, Any]:
        """With the pilot and the sums over samples; nothing before the pilot was multiplied."""
        if not self.spent:
            return {}
        known = {"rows": Long(lambda: self.rows, "pilot")}
        known |= {"mean": Long(lambda: self.mean[None]), "spread": Long(lambda: self.spread[None])}
        if self.is_grown:
            known["pilot"] = Long(lambda: self.pilot_samples, "outside")
        return {**super().state(), **known}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up where all that was multiplied stands."""
        if not state:
            return
        self.pilot = self._probes(state["forms"].shape[0])
        super().resume(state)
        self.rows = state["rows"].rows()
        self.mean, self.spread = state["mean"].rows()[0], state["spread"].rows()[0]
        if self.is_grown:
            self.pilot_samples = state["pilot"].rows()

    def deflate(self, budget: int, bar: ProgressBar, keep: Keep = never) -> None:
        """Multiply the pilot, and grow the basis as far as that pays with `budget` products."""
        if not self.is_grown:
            with self._linearised() as kept:
                self._deflate(kept, budget, bar, keep)

    def _deflate(
        self, operator: AbstractOperator | Parted, budget: int, bar: ProgressBar, keep: Keep
    ) -> None:
        self.basis.operator, max_rank = operator, self._max_rank(operator)
        if not self.spent:
            self._multiply_pilot(operator, min(PILOT, budget), bar)
            keep()
        if budget >= 3 * PILOT and diagonal_share(self.pilot, self.rows) < DIAGONAL_SHARE:
            largest = max(float(np.abs(self.forms).max()), self.size * self.operator.dim**0.5)
            rounding = 8 * np.finfo(self.operator.dtype).eps * largest
            while (
                not self.basis.full
                and self.basis.rank + WIDTH <= max_rank
                and self.variances[-1][1] > rounding**2
                and growth_pays(self.variances, budget - self.spent, PILOT)
            ):
                self._spend(self.basis.grow(), bar)
                left = self._left(self.pilot, self.rows, self.forms)
                self.variances.append((self.basis.rank, off_diagonal(left), self.basis.fall))
                keep()
        self.pilot_samples = self.pilot * self._outside(self.pilot, self.rows)
        self.is_grown = True

    def _multiply_pilot(
        self, operator: AbstractOperator | Parted, count: int, bar: ProgressBar
    ) -> None:
        self.pilot = self._probes(count)
        found = guarded_products(operator, self.pilot, self.symmetry)
        self.rows = found.rows * jnp.asarray(found.scale, self.pilot.dtype)
        self.forms, self.size = found.forms * found.scale, found.size * found.scale
        self.asymmetry = found.asymmetry
        self._spend(count, bar)
        self.variances = [(0, off_diagonal(self.forms), 0.0)]

    def look(self, bar: ProgressBar, keep: Keep = never) -> float:
        """log of the variance of a sample, common probes over own ones, both summed over entries.

        From one more block of common probes, multiplied group by group. What was looked at counts
        half, as in `Strata`.
        """
        if self.ratio is not None:
            return self.ratio
        own = 0.0
        probes = self._probes(PILOT)

        def see(rows: Float[Array, "k dim"]) -> None:
            nonlocal own
            own += float(_total_variance(probes, self.basis.basis.without(rows)))

        with self._linearised() as kept:
            assert isinstance(kept, Parted)
            images = self._common(Parted(kept.operator, kept.parts, see), probes)
        self._spend(PILOT, bar)
        common = float(_total_variance(probes, images))
        self._add(_in_pairs(self.pilot_samples))
        self._add(_in_pairs(probes * images))
        self.has_pilot = True
        self.ratio = float(np.log(common / own)) if common > 0 and own > 0 else -np.inf
        keep()
        return self.ratio

    def sample(self, budget: int, bar: ProgressBar, keep: Keep = never, *, own: bool) -> None:
        """Spend what is left of `budget` on samples."""
        if not self.has_pilot:
            self._add(self.pilot_samples)
            self.has_pilot = True
        self.strata.groups = len(self.strata.parts) if own else 1
        if self.spent == budget:
            return
        with self._linearised() as kept:
            while (more := min(PILOT, budget - self.spent)) > 0:
                if own:
                    self._add(self._own(kept, more))
                else:
                    probes = self._probes(more)
                    self._add(probes * self._common(kept, probes))
                self._spend(more, bar)
                keep()

    @contextmanager
    def _linearised(self) -> Iterator[AbstractOperator | Parted]:
        """The operator with its gradient linearised, by groups of batches if there are several.

        Products of all kinds then go through the same programs.
        """
        several = self.strata.several
        whole = Parted(self.operator, self.strata.parts) if several else self.operator
        kept = whole.linearised(PILOT, self.room // 2)
        if not self.is_validated:
            kept.validate()  # here, since what is linearised has met the losses on the way
            self.is_validated = True
        self.symmetry.operator = kept
        yield kept
        self.symmetry.operator = self.basis.operator = self.operator  # so that it can go

    def _max_rank(self, operator: AbstractOperator | Parted) -> int:
        """Rows that the basis may have, beside those of the other tasks."""
        row = self.operator.row_bytes
        # The vectors of a product are counted already.
        kept = max(0, operator.product_bytes(PILOT) - 4 * BLOCK_ROWS * row)
        return (self.room - kept) // row // self.tasks

    def _common(
        self, operator: AbstractOperator | Parted, probes: Float[Array, "k dim"]
    ) -> Float[Array, "k dim"]:
        """ΠHΠv of each row."""
        norm = self.basis.size * self.basis.scale
        left = self.basis.basis.without(probes)
        images, scale, *_ = guarded_products(operator, left, self.symmetry, norm)
        return self.basis.basis.without(images) * jnp.asarray(scale, images.dtype)

    def _own(self, kept: AbstractOperator | Parted, count: int) -> Float[Array, "k dim"]:
        """Σ_b v_b ∘ ΠH_bΠv_b, another v_b for each group of batches."""
        assert isinstance(kept, Parted)
        total: Any = 0.0
        for part, signs in zip(kept.parts, self.strata.by_part(count), strict=True):
            images = self.basis.basis.without(part.rows(self.basis.basis.without(signs)))
            check_finite(images, self.operator.space, "the product H v")
            total = total + signs * images
        return total

    @property
    def rounding(self) -> float:
        """How far rounding may have moved the sum of the diagonal."""
        return SURE * max(self.asymmetry, self.basis.asymmetry)

    def _spend(self, count: int, bar: ProgressBar) -> None:
        self.spent += count
        bar.update(count)

    def _probes(self, count: int) -> Float[Array, "k dim"]:
        indices = np.arange(self.drawn, self.drawn + count)
        self.drawn += count
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        return rademacher_on(self.key, indices, dim, dtype, self.operator.mesh)

    def _left(
        self, pilot: Float[Array, "k dim"], rows: Float[Array, "k dim"], forms: np.ndarray
    ) -> Float[np.ndarray, "k k"]:
        """vᵢᵀΠHΠvⱼ of the pilot probes, without a further product."""
        inside = self.basis.basis.components(pilot)
        cross = inside.T @ self.basis.basis.components(rows)
        compressed = inside.T @ self.basis.compressed @ inside
        return forms - cross - cross.T + compressed * self.basis.scale

    def _outside(
        self, pilot: Float[Array, "k dim"], rows: Float[Array, "k dim"]
    ) -> Float[Array, "k dim"]:
        """ΠHΠv of the pilot probes: ΠHv less NᵀB(Qv), the part of ΠHQᵀQv that leaves the span."""
        outside = self.basis.basis.without(rows)
        last = self.basis.coupling.shape[1]
        if last == 0:
            return outside
        inside = self.basis.basis.components(pilot)[-last:]
        weights = (self.basis.coupling @ inside).T * self.basis.scale
        return outside - combine(jnp.asarray(weights, rows.dtype), self.basis.next)

    def _add(self, samples: Float[Array, "k dim"]) -> None:
        self.samples.append(np.asarray(_sums(samples), np.float64))
        count = jnp.asarray(self.count, samples.dtype)
        self.mean, self.spread = _updated(count, self.mean, self.spread, samples)
        self.count += samples.shape[0]

    def result(self) -> tuple[Array, Array]:
        """The diagonal and the error of each entry."""
        value = self.mean + self.basis.known() if self.basis.rank else self.mean
        if self.count < 2:
            return value, jnp.full_like(value, jnp.inf)
        pairs = jnp.asarray(self.count * (self.count - 1), value.dtype)
        return value, jnp.sqrt(self.spread / pairs)


@jax.jit
def _updated(
    count: Float[Array, ""],
    mean: Float[Array, " dim"],
    spread: Float[Array, " dim"],
    samples: Float[Array, "k dim"],
) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """Running mean and sum of squared deviations, a block more (Chan's update)."""
    k = jnp.asarray(samples.shape[0], samples.dtype)
    block = samples.mean(axis=0)
    within = jnp.sum((samples - block[None]) ** 2, axis=0)
    shift = block - mean
    total = count + k
    return mean + shift * (k / total), spread + within + shift**2 * (count * k / total)


@jax.jit
def _add_products(
    total: Float[Array, " dim"], left: Float[Array, "k dim"], right: Float[Array, "k dim"]
) -> Float[Array, " dim"]:
    return total + jnp.einsum("kp,kp->p", left, right, precision="highest")


@jax.jit
def _total_variance(
    probes: Float[Array, "k dim"], images: Float[Array, "k dim"]
) -> Float[Array, ""]:
    return jnp.sum(jnp.var(probes * images, axis=0, ddof=1))


@jax.jit
def _sums(samples: Float[Array, "k dim"]) -> Float[Array, " k"]:
    return jnp.sum(samples, axis=1)


@jax.jit
def _in_pairs(samples: Float[Array, "k dim"]) -> Float[Array, "half dim"]:
    return (samples[0::2] + samples[1::2]) / 2


class DiagonalRun(Resumable):
    """The diagonals of all tasks, one after the other in each of three stages.

    Deflate, look whether groups of batches shall have probes of their own, and sample.
    """

    changing = ("own",)

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.own: bool | None = None  # whether they have; None while that is not decided

    def state(self) -> dict[str, Any]:
        """Of all tasks."""
        return {**super().state(), "runs": [run.state() for run in self.runs]}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up all tasks where they stand."""
        super().resume(state)
        for run, known in zip(self.runs, state["runs"], strict=True):
            run.resume(known)

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> None:
        """Spend `budget` products on each task."""
        for run in self.runs:
            run.deflate(budget, bar, keep)
        if self.own is None:
            self.own = self._own_probes_pay(budget, bar, keep)
        for run in self.runs:
            run.sample(budget, bar, keep, own=self.own)

    def _own_probes_pay(self, budget: int, bar: ProgressBar, keep: Keep) -> bool:
        """Whether groups of batches have probes of their own: one decision for all tasks.

        It takes a block of products of each, and is not asked where no more than half as many are
        left beside that. With pilot samples, 2 `PILOT` are looked at.
        """
        looked = [PILOT * (run.ratio is not None) for run in self.runs]
        spent = (run.spent - count for run, count in zip(self.runs, looked, strict=True))
        left = min(budget - count for count in spent) - PILOT
        if left < PILOT // 2 or not all(run.strata.several for run in self.runs):
            return False
        ratio = float(np.exp(np.mean([run.look(bar, keep) for run in self.runs])))
        return own_pays(ratio, 2 * PILOT, left)
