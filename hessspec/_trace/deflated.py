"""The default trace estimator: deflate a Krylov space, as far as that pays, then sample."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Keep, Long, Resumable, never
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
    rows_in,
)
from hessspec._krylov.blocks import gram, rescaled, spherical
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted, skips_zeros
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.choice import Choice
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, guarded_products, row_lengths
from hessspec._trace.hutchinson import Hutchinson
from hessspec._trace.hutchpp import SKETCH_STREAM
from hessspec._trace.strata import Strata, halved


class Deflated(Resumable):
    """tr H = tr QHQᵀ + E vᵀHv, with a Krylov basis Q and probes v orthogonal to it.

    One scalar operator. Eight probes are multiplied first; with Q they then tell, without a
    further product, what the variance is at every size of Q (their residual forms rᵢᵀHrⱼ,
    i ≠ j, have mean square ‖H_rest‖²_F). The basis grows while that drop is worth more than the
    samples it costs. If the eight show that H is all but diagonal, random signs take over:
    the diagonal costs them no variance.

    Directions that are given (orthonormal rows, none or some) stand first in Q. What Q leaves is
    sampled with common probes or, where the first samples find that this pays, with probes of
    their own for groups of batches (`Strata`).
    """

    method = "auto"
    changing = (
        *("strata", "exact_of_groups", "symmetry", "krylov", "inside", "images", "given_squares"),
        *("spent", "drawn", "forms", "size", "asymmetry", "samples", "squares", "variances"),
        *("product_scale", "grown_for"),
    )

    def __init__(
        self,
        operator: AbstractOperator,
        key: PRNGKeyArray,
        room: int,
        directions: Float[Array, "r dim"] | None = None,
    ) -> None:
        self.directions, self.room = directions, room
        self.key, self.strata = key, Strata(operator, key)
        whole = Parted(operator, self.strata.parts) if self.strata.several else operator
        self.operator = whole.linearised(PILOT, room // 2)
        self.operator.validate()  # here, since what is linearised has met the losses on the way
        self.exact_of_groups = np.zeros(len(self.strata.parts))
        self.max_rank = rows_in(room, self.operator)
        self.symmetry = Symmetry(self.operator)
        sketch_key = jax.random.fold_in(key, SKETCH_STREAM)
        self.krylov = KrylovBasis(self.operator, sketch_key, self.symmetry)
        self.pilot = spherical(key, 0, PILOT, operator.dim, operator.dtype, operator.mesh)
        self.inside = np.zeros((0, PILOT))  # inner products of the basis with the pilot probes
        self.images = np.zeros((0, PILOT))  # and with their products
        self.given_squares = 0.0  # Σ |Hqᵢ|² of the given rows
        self.spent = 0
        self.drawn = PILOT
        self.forms = np.zeros((0, 0))
        self.size, self.asymmetry, self.product_scale = 0.0, 0.0, 1.0
        self.signs: Hutchinson | None = None
        self.samples: list[np.ndarray] = []
        self.squares: list[np.ndarray] = []
        self.variances: Measured = []
        self.grown_for = 0  # the budget for which the basis has been let grow

    def state(self) -> dict[str, Any]:
        """With the products of the pilot, and the random signs where they took over."""
        signs = None if self.signs is None else self.signs.state()
        products = Long(lambda: self.products, "pilot")
        return {**super().state(), "products": products, "signs": signs}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up where all that was multiplied stands."""
        super().resume(state)
        self.products = state["products"].rows()
        if state["signs"] is not None:
            self.signs = self._random_signs()
            self.signs.resume(state["signs"])

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
        """The estimate from at most `budget` products in all."""
        if self.spent == 0:
            found = guarded_products(self.operator, self.pilot, self.symmetry)
            self.products, self.product_scale, self.forms, self.size, _ = found
            self.asymmetry = found.asymmetry
            self._note_groups(is_exact=False)
            self._spend(PILOT, bar)
            if self.directions is not None:
                self._take(self.directions, bar)
            elif diagonal_share(self.pilot, self.products) > DIAGONAL_SHARE:
                self.signs = self._random_signs()
            keep()
        if self.signs is not None:
            estimate = self.signs.advance(max(budget - PILOT, 1), bar, keep)
            return replace(estimate, method=self.method, num_matvecs=estimate.num_matvecs + PILOT)
        while self.grown_for != budget and self._worth_growing(budget):
            self._grow(bar)
            keep()
        self.grown_for = budget
        while (left := budget - self.spent) > 0:
            if self.strata.samples and not self.strata.is_decided:
                # Beside a basis the pilot's forms are not by group.
                rank = self.krylov.rank
                self.strata.decide(left, rank, beside=PILOT if rank else 0)
            self._sample(min(PILOT, left), bar)
            keep()
        return self._estimate()

    def _random_signs(self) -> Hutchinson:
        source = self.operator
        whole = source.operator if isinstance(source, Parted) else source
        return Hutchinson(whole, self.key, self.room)

    def _note_groups(self, *, is_exact: bool, count: int | None = None) -> None:
        """What groups of batches have of the rows multiplied last."""
        if isinstance(self.operator, Parted):
            if is_exact:
                self.exact_of_groups = self.exact_of_groups + self.operator.forms.sum(axis=-1)
            else:
                self.strata.samples.append(self.operator.forms[:, :count])

    def _spend(self, count: int, bar: ProgressBar) -> None:
        self.spent += count
        bar.update(count)

    def _take(self, rows: Float[Array, "r dim"], bar: ProgressBar) -> None:
        """The given rows into Q, at a product each."""
        self._measure()
        if rows.shape[0] == 0:
            return
        found = guarded_products(self.operator, rows, self.symmetry)
        self.strata.begin_again()
        self._note_groups(is_exact=True)
        self._spend(rows.shape[0], bar)
        self.krylov.begin_with(rows, found.forms, found.scale, found.size)
        self.given_squares = float(found.squares.sum()) * found.scale**2
        self._see(rows)

    def _see(self, block: Float[Array, "k dim"]) -> None:
        """What the pilot and its products have along new rows of Q."""
        self.inside = np.concatenate([self.inside, gram(block, self.pilot)])
        images = gram(block, self.products) * self.product_scale
        self.images = np.concatenate([self.images, images])

    def _measure(self) -> float:
        """The variance of a sample at this rank, noted once."""
        _, variance = self._pilot_forms()
        if not self.variances or self.variances[-1][0] < self.krylov.rank:
            self.variances.append((self.krylov.rank, variance, self._fall()))
        return variance

    def _fall(self) -> float:
        """By how much the last rows of Q made that variance, 2 ‖H_rest‖²_F, smaller."""
        krylov = self.krylov
        if krylov.rank > krylov.given:
            return 2 * krylov.fall
        # As of a block, but the products of given rows G are known by their lengths alone.
        corner = float(np.sum(krylov.compressed**2)) * krylov.scale**2  # ‖GHGᵀ‖²
        return 2 * (2 * self.given_squares - corner)

    def _grow(self, bar: ProgressBar) -> None:
        # Samples belong to the basis that they are orthogonal to.
        self.samples, self.squares = [], []
        self.strata.begin_again()
        self._spend(self.krylov.grow(), bar)
        self._note_groups(is_exact=True)
        self._see(self.krylov.previous)

    def _worth_growing(self, budget: int) -> bool:
        if self.krylov.full or self.krylov.rank + WIDTH > self.max_rank:
            return False
        variance = self._measure()
        # Forms that are nothing but the rounding of what was subtracted from them.
        largest = max(float(np.abs(self.forms).max()), self.size * self.operator.dim**0.5)
        rounding = 8 * np.finfo(self.operator.dtype).eps * largest
        if variance <= (rounding * self.product_scale) ** 2:
            return False
        lost = sum(map(len, self.samples))
        left, costs = budget - self.spent, self.strata.costs
        return growth_pays(self.variances, left, PILOT, lost=lost, costs=costs)

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
        if self.strata.own:
            assert isinstance(self.operator, Parted)
            parts = self.operator.parts
            found = self.strata.draw(count, lambda rows: self.krylov.basis.split(rows)[0], parts)
            self.strata.samples.append(found)
            self.samples.append(found.sum(axis=0))
            self._spend(count, bar)
            return
        dim = self.operator.dim
        dtype, mesh = self.operator.dtype, self.operator.mesh
        # Filled up with zeros where these cost nothing: a last, smaller block is no new program.
        room = PILOT if skips_zeros(self.operator) else 0
        probes = spherical(self.key, self.drawn, count, dim, dtype, mesh, room)
        self.drawn += count
        # One pass: what it leaves is rounding, squared in the form.
        outside, _ = self.krylov.basis.split(probes)
        outside = rescaled(outside, (dim - self.krylov.rank) ** 0.5)
        norm = self.krylov.size * self.krylov.scale
        found = guarded_products(self.operator, outside, self.symmetry, norm)
        self._note_groups(is_exact=False, count=count)
        self.samples.append(np.diagonal(found.forms)[:count] * found.scale)
        self.squares.append(found.squares[:count] * found.scale**2)
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
        # Σ |Hqᵢ|², of the Krylov blocks from T and what lies beyond it.
        grown = np.sum(krylov.compressed[:, krylov.given :] ** 2) + np.sum(krylov.coupling**2)
        spent = self.spent + self.symmetry.num_matvecs
        common = {"method": self.method, "dim": self.operator.dim, "num_matvecs": spent}
        # Beyond given rows their products have parts that are not kept, so the pilot is left out.
        squares = [*([] if krylov.given else [self._pilot_squares()]), *self.squares]
        square = None
        if squares:
            square = TraceEstimate.from_samples(
                np.concatenate(squares),
                exact=self.given_squares + grown * krylov.scale**2,
                quantity="tr H²",
                **common,
            )
        return TraceEstimate.from_samples(
            np.concatenate(self._all_samples(first)),
            probes=self.strata.words,
            choice=self._choice(),
            **self.strata.record(self.exact_of_groups),
            exact=np.trace(krylov.compressed) * krylov.scale,
            square=square,
            systematic=np.asarray(SURE * max(self.asymmetry, krylov.asymmetry)),
            **common,
        )

    def _all_samples(self, first: np.ndarray) -> list[np.ndarray]:
        """Those of the pilot and all further ones; pairs where they were looked at for `Strata`."""
        if not self.strata.several:
            return [first, *self.samples]
        by_group = [found.sum(axis=0) for found in self.strata.samples]
        if self.krylov.rank == 0:
            return by_group  # with the pilot among them
        return [halved(first) if self.strata.looked else first, *by_group]

    def _choice(self) -> Choice:
        costs, rank, groups = self.strata.costs, self.krylov.rank, self.strata.groups
        found = Choice.of(costs, rank, self.krylov.given, groups, 0.0)
        further = max(self.spent - PILOT - rank, 0)  # beside the pilot's
        whole = PILOT * costs.sample(0) + rank * found.direction + further * found.sample
        return replace(found, predicted=whole)
