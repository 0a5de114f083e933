"""The default trace estimator: deflate a Krylov space, as far as that pays, then sample."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import (
    DIAGONAL_SHARE,
    ON_TRUST,
    PILOT,
    WIDTH,
    KrylovBasis,
    diagonal_share,
    growth_pays,
    off_diagonal,
)
from hessspec._krylov.blocks import gram, rescaled, spherical, without
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import (
    LOOKS,
    SURE,
    disagreement,
    finite_forms,
    guarded_products,
    row_lengths,
)
from hessspec._trace.hutchinson import Hutchinson
from hessspec._trace.hutchpp import SKETCH_STREAM


class Deflated:
    """tr H = tr QHQᵀ + E vᵀHv, with a Krylov basis Q and probes v orthogonal to it.

    One scalar operator. Eight probes are multiplied first; with Q they then tell, without a
    further product, what the variance is at every size of Q (their residual forms rᵢᵀHrⱼ,
    i ≠ j, have mean square ‖H_rest‖²_F). The basis grows while that drop is worth more than the
    samples it costs. If the eight show that H is all but diagonal, random signs take over:
    the diagonal costs them no variance.
    """

    method = "auto"

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, room: int) -> None:
        self.operator, self.key = operator.linearised(PILOT, room // 2), key
        self.max_rank = _rows_in(room, self.operator)
        self.symmetry = Symmetry(self.operator)
        sketch_key = jax.random.fold_in(key, SKETCH_STREAM)
        self.krylov = KrylovBasis(self.operator, sketch_key, self.symmetry)
        self.pilot = spherical(key, 0, PILOT, operator.dim, operator.dtype)
        self.inside = np.zeros((0, PILOT))  # inner products of the basis with the pilot probes
        self.images = np.zeros((0, PILOT))  # and with their products
        self.spent = 0
        self.drawn = PILOT
        self.forms = np.zeros((0, 0))
        self.size, self.asymmetry = 0.0, 0.0
        self.signs: Hutchinson | None = None
        self.samples: list[np.ndarray] = []
        self.squares: list[np.ndarray] = []
        self.variances: list[tuple[int, float]] = []

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate from at most `budget` products in all."""
        if self.spent == 0:
            found = guarded_products(self.operator, self.pilot, self.symmetry)
            self.products, self.product_scale, self.forms, self.size = found
            self.asymmetry = found.asymmetry
            self._spend(PILOT, bar)
            share = diagonal_share(self.pilot, self.products)
            self.signs = Hutchinson(self.operator, self.key) if share > DIAGONAL_SHARE else None
        if self.signs is not None:
            estimate = self.signs.advance(max(budget - PILOT, 1), bar)
            return replace(estimate, method=self.method, num_matvecs=estimate.num_matvecs + PILOT)
        while self._worth_growing(budget):
            self._grow(bar)
        while budget - self.spent > 0:
            self._sample(min(PILOT, budget - self.spent), bar)
        return self._estimate()

    def _spend(self, count: int, bar: ProgressBar) -> None:
        self.spent += count
        bar.update(count)

    def _grow(self, bar: ProgressBar) -> None:
        # Samples belong to the basis that they are orthogonal to.
        self.samples, self.squares = [], []
        self._spend(self.krylov.grow(), bar)
        block = self.krylov.previous
        self.inside = np.concatenate([self.inside, gram(block, self.pilot)])
        images = gram(block, self.products) * self.product_scale
        self.images = np.concatenate([self.images, images])

    def _worth_growing(self, budget: int) -> bool:
        if self.krylov.full or self.krylov.rank + WIDTH > self.max_rank:
            return False
        _, variance = self._pilot_forms()
        if not self.variances or self.variances[-1][0] < self.krylov.rank:
            self.variances.append((self.krylov.rank, variance))
        # Forms that are nothing but the rounding of what was subtracted from them.
        largest = max(float(np.abs(self.forms).max()), self.size * self.operator.dim**0.5)
        rounding = 8 * np.finfo(self.operator.dtype).eps * largest
        if variance <= (rounding * self.product_scale) ** 2:
            return False
        lost = sum(map(len, self.samples))
        return growth_pays(self.variances, budget - self.spent, PILOT, lost=lost)

    def _pilot_forms(self) -> tuple[np.ndarray, float]:
        """rᵢᵀHrᵢ of the pilot probes at this basis, and the variance of such samples."""
        dim, rank = self.operator.dim, self.krylov.rank
        forms = self.forms * self.product_scale
        forms = (forms + forms.T) / 2
        cross = self.inside.T @ self.images
        compressed = self.inside.T @ self.krylov.compressed @ self.inside * self.krylov.scale
        forms = forms - cross - cross.T + compressed
        lengths = dim - np.sum(self.inside**2, axis=0)
        factor = np.sqrt((dim - rank) / lengths)
        forms = forms * factor[:, None] * factor[None, :]
        return np.diagonal(forms).copy(), 2.0 * off_diagonal(forms)

    def _sample(self, count: int, bar: ProgressBar) -> None:
        dim = self.operator.dim
        probes = spherical(self.key, self.drawn, count, dim, self.operator.dtype)
        self.drawn += count
        # One pass: what it leaves is rounding, squared in the form.
        outside, _ = self.krylov.basis.split(probes)
        outside = rescaled(outside, (dim - self.krylov.rank) ** 0.5)
        norm = self.krylov.size * self.krylov.scale
        rows, scale, forms, _ = guarded_products(self.operator, outside, self.symmetry, norm)
        self.samples.append(np.diagonal(forms) * scale)
        self.squares.append(row_lengths(rows) ** 2 * scale**2)
        self._spend(count, bar)

    def _pilot_squares(self) -> np.ndarray:
        """|Hrᵢ|² of the pilot probes, from Hr = Hv - QᵀT(Qv) - NᵀB(Qv), the last block's part."""
        krylov, dim = self.krylov, self.operator.dim
        own = row_lengths(self.products) ** 2 * self.product_scale**2
        if krylov.rank == 0:
            return own
        inside, images = self.inside, self.images
        within = krylov.compressed @ inside * krylov.scale
        beyond = krylov.coupling @ inside[krylov.rank - krylov.coupling.shape[1] :] * krylov.scale
        outside = gram(krylov.next, self.products) * self.product_scale
        cross = np.sum(images * within, axis=0) + np.sum(outside * beyond, axis=0)
        whole = np.sum(within**2, axis=0) + np.sum(beyond**2, axis=0)
        lengths = dim - np.sum(inside**2, axis=0)
        return np.maximum(own - 2 * cross + whole, 0.0) * (dim - krylov.rank) / lengths

    def _estimate(self) -> TraceEstimate:
        krylov = self.krylov
        first, _ = self._pilot_forms()
        known = np.sum(krylov.compressed**2) + np.sum(krylov.coupling**2)  # Σ |Hqᵢ|²
        spent = self.spent + self.symmetry.num_matvecs
        common = {"method": self.method, "dim": self.operator.dim, "num_matvecs": spent}
        square = TraceEstimate.from_samples(
            np.concatenate([self._pilot_squares(), *self.squares]),
            exact=known * krylov.scale**2,
            **common,
        )
        return TraceEstimate.from_samples(
            np.concatenate([first, *self.samples]),
            exact=np.trace(krylov.compressed) * krylov.scale,
            square=square,
            systematic=np.asarray(SURE * max(self.asymmetry, krylov.asymmetry)),
            **common,
        )


class SharedDeflation:
    """One basis Q for all T tasks: tr H_t = Σᵢ qᵢᵀH_t qᵢ + E vᵀH_t v, v orthogonal to Q.

    Q is a Krylov basis of one weighted sum of the task Hessians, each divided by its own spread,
    at one scalar product a direction; all the rest is quadratic forms, all tasks in each pass.
    """

    method = "auto"

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, room: int) -> None:
        self.operator, self.key, self.room = operator, key, room
        self.max_rank = 0
        self.tasks = operator.num_tasks or 1
        self.krylov: KrylovBasis | None = None
        self.pilot = spherical(key, 0, PILOT, operator.dim, operator.dtype)
        self.symmetry = Symmetry(operator)
        self.exact = np.zeros(self.tasks)
        self.systematic = np.zeros(self.tasks)
        self.cost = 0.0
        self.num_matvecs = 0
        self.drawn = PILOT
        self.samples: list[np.ndarray] = []
        self.variances: list[tuple[int, np.ndarray]] = []

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate at no more than the cost of `budget` forms of all tasks."""
        allowed = budget * self.operator.form_cost
        if self.krylov is None:
            self._measure_pilot(bar)
            self.krylov = self._start()
        while self._worth_growing(allowed):
            self._grow(bar)
        while (more := int((allowed - self.cost) / self.operator.form_cost + 1e-9)) > 0:
            self._sample(min(PILOT, more), bar)
        return self._estimate()

    def _start(self) -> KrylovBasis:
        key = jax.random.fold_in(self.key, SKETCH_STREAM)
        spread = np.sqrt(self.variances[0][1])
        # Forms that differ by rounding alone, as those of c times the identity, need no basis.
        rounding = 8 * np.finfo(self.operator.dtype).eps * np.abs(self.samples[0]).max(axis=-1)
        spread = np.where(spread > rounding, spread, 0.0)
        # Positive and unequal: tasks that share a direction add up, and no two cancel for sure.
        weights = np.asarray(jax.random.uniform(key, (self.tasks,)), np.float64) + 0.5
        weights = weights * np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        largest = weights.max() if weights.max() > 0 else 1.0
        weights = weights / largest
        scalar = self.operator.weighted(jnp.asarray(weights))
        scalar = scalar.linearised(WIDTH, self.room // 2)
        self.symmetry = Symmetry(scalar)
        self._compare(scalar, weights)
        self.max_rank = _rows_in(self.room, scalar)
        return KrylovBasis(scalar, key, self.symmetry)

    def _compare(self, scalar: AbstractOperator, weights: Float[np.ndarray, " T"]) -> None:
        """Forms of the tasks beside products with their sum, by the program that grows the basis.

        What is found of the sum is put to the account of each task in turn.
        """
        forms = weights @ self.samples[0][:, :LOOKS]
        found = disagreement(scalar, self.pilot[:LOOKS], forms, self.symmetry)
        self.systematic = np.divide(found, weights, out=self.systematic, where=weights > 0)
        self.cost += LOOKS
        self.num_matvecs += LOOKS

    def _worth_growing(self, allowed: float) -> bool:
        if self.krylov is None or self.krylov.full:
            return False
        step = self._next_step()
        form = self.operator.form_cost
        left = int((allowed - self.cost) / form)
        price = (1.0 + form) / form
        # The next step is whole, and after it the pilot probes are measured again.
        if left < step * price + PILOT or self.krylov.rank + step > self.max_rank:
            return False
        # Tasks differ in scale: their geometric mean falls if most of them fall.
        means = [(rank, _geometric_mean(v)) for rank, v in self.variances]
        drawn = sum(forms.shape[-1] for forms in self.samples)
        return means[-1][1] > 0 and growth_pays(means, left, 0, price, lost=drawn)

    def _next_step(self) -> int:
        # The first directions are taken on trust, so nothing is measured within them.
        return ON_TRUST if self._rank() == 0 else PILOT

    def _grow(self, bar: ProgressBar) -> None:
        assert self.krylov is not None
        old, step = self.krylov.rank, self._next_step()
        while self.krylov.rank < old + step and not self.krylov.full:
            products = self.krylov.grow()
            self.cost += products
            self.num_matvecs += products
        for first in range(old, self.krylov.rank, PILOT):
            new = self.krylov.basis.rows(first, PILOT)
            count = min(PILOT, self.krylov.rank - first)
            self.exact = self.exact + self._forms(new, bar, count).sum(axis=-1)
            # The same probes as before, so that what is compared is the basis and not the probes.
            self.pilot = without(new, self.pilot)
        self._measure_pilot(bar)

    def _measure_pilot(self, bar: ProgressBar) -> None:
        """The variance at this rank. The forms are samples too, until the basis grows again."""
        self.samples = [self._residual_forms(self.pilot, bar)]
        self.variances.append((self._rank(), self.samples[0].var(axis=-1, ddof=1)))

    def _sample(self, count: int, bar: ProgressBar) -> None:
        assert self.krylov is not None
        probes = spherical(self.key, self.drawn, count, self.operator.dim, self.operator.dtype)
        self.drawn += count
        # One pass: what it leaves is rounding, squared in the form.
        self.samples.append(self._residual_forms(self.krylov.basis.split(probes)[0], bar))

    def _residual_forms(self, rows: Float[Array, "k dim"], bar: ProgressBar) -> np.ndarray:
        """Forms of rows orthogonal to the basis, each brought to the length that it has there."""
        length = (self.operator.dim - self._rank()) ** 0.5
        return self._forms(rescaled(rows, length), bar, rows.shape[0])

    def _rank(self) -> int:
        return 0 if self.krylov is None else self.krylov.rank

    def _forms(self, rows: Float[Array, "k dim"], bar: ProgressBar, count: int) -> np.ndarray:
        """Forms of the first `count` rows; the others are zero and cost no further program."""
        forms = finite_forms(self.operator, rows)
        self.cost += rows.shape[0] * self.operator.form_cost
        self.num_matvecs += rows.shape[0] * self.tasks
        bar.update(rows.shape[0])
        return forms[..., :count]

    def _estimate(self) -> TraceEstimate:
        return TraceEstimate.from_samples(
            np.concatenate(self.samples, axis=-1),
            exact=self.exact,
            systematic=self.systematic,
            method=self.method,
            dim=self.operator.dim,
            num_matvecs=self.num_matvecs + self.symmetry.num_matvecs,
            matvecs_per_sample=float(self.tasks),
        )


def _rows_in(room: int, operator: AbstractOperator) -> int:
    """How many rows of a basis fit into `room` bytes beside the products and the probes."""
    row = operator.dim * operator.dtype.itemsize
    return (room - operator.product_bytes(PILOT)) // row - 4 * BLOCK_ROWS


def _geometric_mean(values: Float[np.ndarray, " T"]) -> float:
    held = values[values > 0]
    return float(np.exp(np.mean(np.log(held)))) if held.size else 0.0
