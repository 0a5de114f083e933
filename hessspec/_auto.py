"""The default trace estimator: deflate a Krylov space, as far as that pays, then sample."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._block_krylov import (
    DIAGONAL_SHARE,
    PILOT,
    WIDTH,
    KrylovBasis,
    diagonal_share,
    growth_pays,
    off_diagonal,
)
from hessspec._blocks import gram, rescaled, spherical
from hessspec._hutchinson import Hutchinson, finite_forms, guarded_products, row_lengths
from hessspec._hutchpp import SKETCH_STREAM
from hessspec._operators import AbstractOperator
from hessspec._progress import ProgressBar
from hessspec._trace_estimate import TraceEstimate


class Deflated:
    """tr H = tr QHQᵀ + E vᵀHv, with a Krylov basis Q and probes v orthogonal to it.

    One scalar operator. Eight probes are multiplied first; with Q they then tell, without a
    further product, what the variance is at every size of Q (their residual forms rᵢᵀHrⱼ,
    i ≠ j, have mean square ‖H_rest‖²_F). The basis grows while that drop is worth more than the
    samples it costs. If the eight show that H is all but diagonal, random signs take over:
    the diagonal costs them no variance.
    """

    method = "auto"

    def __init__(
        self, operator: AbstractOperator, key: PRNGKeyArray, max_rank: int = 1 << 30
    ) -> None:
        self.operator, self.key, self.max_rank = operator, key, max_rank
        self.krylov = KrylovBasis(operator, jax.random.fold_in(key, SKETCH_STREAM))
        self.pilot = spherical(key, 0, PILOT, operator.dim, operator.dtype)
        self.spent = 0
        self.drawn = PILOT
        self.fixed = False
        self.forms = np.zeros((0, 0))
        self.signs: Hutchinson | None = None
        self.samples: list[np.ndarray] = []
        self.squares: list[np.ndarray] = []
        self.variances: list[tuple[int, float]] = []

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate from at most `budget` products in all."""
        if self.spent == 0:
            self.products, self.product_scale, self.forms = guarded_products(
                self.operator, self.pilot
            )
            self._spend(PILOT, bar)
            share = diagonal_share(self.pilot, self.products)
            self.signs = Hutchinson(self.operator, self.key) if share > DIAGONAL_SHARE else None
        if self.signs is not None:
            estimate = self.signs.advance(max(budget - PILOT, 1), bar)
            return replace(estimate, method=self.method, num_matvecs=estimate.num_matvecs + PILOT)
        while not self.fixed and self._worth_growing(budget):
            self._spend(self.krylov.grow(), bar)
        self.fixed = True
        while budget - self.spent > 0:
            self._sample(min(PILOT, budget - self.spent), bar)
        return self._estimate()

    def _spend(self, count: int, bar: ProgressBar) -> None:
        self.spent += count
        bar.update(count)

    def _worth_growing(self, budget: int) -> bool:
        if self.krylov.full or self.krylov.rank + WIDTH > self.max_rank:
            return False
        _, variance = self._pilot_forms()
        self.variances.append((self.krylov.rank, variance))
        # Forms that are nothing but the rounding of what was subtracted from them.
        rounding = 8 * np.finfo(self.operator.dtype).eps * np.abs(self.forms).max()
        if variance <= (rounding * self.product_scale) ** 2:
            return False
        return growth_pays(self.variances, budget - self.spent, PILOT)

    def _pilot_forms(self) -> tuple[np.ndarray, float]:
        """rᵢᵀHrᵢ of the pilot probes at this basis, and the variance of such samples."""
        dim, rank = self.operator.dim, self.krylov.rank
        forms = self.forms * self.product_scale
        forms = (forms + forms.T) / 2
        lengths = np.full(PILOT, float(dim))
        if rank:
            inside = self.krylov.basis.components(self.pilot)
            images = self.krylov.basis.components(self.products) * self.product_scale
            cross = inside.T @ images
            compressed = inside.T @ self.krylov.compressed @ inside * self.krylov.scale
            forms = forms - cross - cross.T + compressed
            lengths = dim - np.sum(inside**2, axis=0)
        factor = np.sqrt((dim - rank) / lengths)
        forms = forms * factor[:, None] * factor[None, :]
        return np.diagonal(forms).copy(), 2.0 * off_diagonal(forms)

    def _sample(self, count: int, bar: ProgressBar) -> None:
        dim = self.operator.dim
        probes = spherical(self.key, self.drawn, count, dim, self.operator.dtype)
        self.drawn += count
        inside = rescaled(self.krylov.basis.without(probes), (dim - self.krylov.rank) ** 0.5)
        norm = self.krylov.size * self.krylov.scale
        rows, scale, forms = guarded_products(self.operator, inside, norm)
        self.samples.append(np.diagonal(forms) * scale)
        self.squares.append(row_lengths(rows) ** 2 * scale**2)
        self._spend(count, bar)

    def _pilot_squares(self) -> np.ndarray:
        """|Hrᵢ|² of the pilot probes, from Hr = Hv - QᵀT(Qv) - NᵀB(Qv), the last block's part."""
        krylov, dim = self.krylov, self.operator.dim
        own = row_lengths(self.products) ** 2 * self.product_scale**2
        if krylov.rank == 0:
            return own
        inside = krylov.basis.components(self.pilot)
        images = krylov.basis.components(self.products) * self.product_scale
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
        common = {"method": self.method, "dim": self.operator.dim, "num_matvecs": self.spent}
        square = TraceEstimate.from_samples(
            np.concatenate([self._pilot_squares(), *self.squares]),
            exact=known * krylov.scale**2,
            **common,
        )
        return TraceEstimate.from_samples(
            np.concatenate([first, *self.samples]),
            exact=np.trace(krylov.compressed) * krylov.scale,
            square=square,
            **common,
        )


class SharedDeflation:
    """One basis Q for all T tasks: tr H_t = Σᵢ qᵢᵀH_t qᵢ + E vᵀH_t v, v orthogonal to Q.

    Q is a Krylov basis of one weighted sum of the task Hessians, each divided by its own spread,
    at one scalar product a direction; all the rest is quadratic forms, all tasks in each pass.
    """

    method = "auto"

    def __init__(
        self, operator: AbstractOperator, key: PRNGKeyArray, max_rank: int = 1 << 30
    ) -> None:
        self.operator, self.key, self.max_rank = operator, key, max_rank
        self.tasks = operator.num_tasks or 1
        self.krylov: KrylovBasis | None = None
        self.exact = np.zeros(self.tasks)
        self.cost = 0.0
        self.passes = 0
        self.num_matvecs = 0
        self.drawn = 0
        self.fixed = False
        self.samples: list[np.ndarray] = []
        self.variances: list[tuple[int, np.ndarray]] = []

    def advance(self, budget: int, bar: ProgressBar) -> TraceEstimate:
        """The estimate at no more than the cost of `budget` forms of all tasks."""
        allowed = budget * self.operator.form_cost
        if self.krylov is None:
            self._sample(PILOT, bar)
            self._note_variance()
            self.krylov = self._start()
        while not self.fixed and self._worth_growing(allowed):
            self._grow(bar)
        self.fixed = True
        while (more := int((allowed - self.cost) / self.operator.form_cost + 1e-9)) > 0:
            self._sample(min(PILOT, more), bar)
        return self._estimate()

    def _start(self) -> KrylovBasis:
        key = jax.random.fold_in(self.key, SKETCH_STREAM)
        spread = np.sqrt(self.variances[0][1])
        # Positive and unequal: tasks that share a direction add up, and no two cancel for sure.
        weights = np.asarray(jax.random.uniform(key, (self.tasks,)), np.float64) + 0.5
        weights = weights * np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        largest = weights.max() if weights.max() > 0 else 1.0
        return KrylovBasis(self.operator.weighted(jnp.asarray(weights / largest)), key)

    def _worth_growing(self, allowed: float) -> bool:
        if self.krylov is None or self.krylov.full or self.krylov.rank + PILOT > self.max_rank:
            return False
        form = self.operator.form_cost
        left = int((allowed - self.cost) / form)
        price = (1.0 + form) / form
        # The next step is whole, and after it the pilot probes are measured again.
        if left < PILOT * (price + 1.0):
            return False
        # Tasks differ in scale: their geometric mean falls if most of them fall.
        means = [(rank, _geometric_mean(v)) for rank, v in self.variances]
        return means[-1][1] > 0 and growth_pays(means, left, 0, price)

    def _grow(self, bar: ProgressBar) -> None:
        assert self.krylov is not None
        old = self.krylov.rank
        while self.krylov.rank < old + PILOT and not self.krylov.full:
            products = self.krylov.grow()
            self.cost += products
            self.num_matvecs += products
        count = self.krylov.rank - old
        new = self.krylov.basis.rows(old, PILOT)
        self.exact = self.exact + self._forms(new, bar, count).sum(axis=-1)
        # The same probes as before, so that what is compared is the basis and not the probes.
        self.samples, self.drawn = [], 0
        self._sample(PILOT, bar)
        self._note_variance()

    def _note_variance(self) -> None:
        spread = np.concatenate(self.samples, axis=-1).var(axis=-1, ddof=1)
        self.variances.append((self._rank(), spread))

    def _sample(self, count: int, bar: ProgressBar) -> None:
        dim = self.operator.dim
        probes = spherical(self.key, self.drawn, count, dim, self.operator.dtype)
        self.drawn += count
        if self.krylov is not None:
            inside = self.krylov.basis.without(probes)
            probes = rescaled(inside, (dim - self.krylov.rank) ** 0.5)
        self.samples.append(self._forms(probes, bar, count))

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
            method=self.method,
            dim=self.operator.dim,
            num_matvecs=self.num_matvecs,
            matvecs_per_sample=float(self.tasks),
        )


def _geometric_mean(values: Float[np.ndarray, " T"]) -> float:
    held = values[values > 0]
    return float(np.exp(np.mean(np.log(held)))) if held.size else 0.0
