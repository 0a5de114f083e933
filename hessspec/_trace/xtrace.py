"""XTrace: every test vector serves the sketch, and in turn is left out of it to be a sample."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.checks import check_finite
from hessspec._base.kept import Keep, Resumable, never
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import off_diagonal
from hessspec._krylov.blocks import (
    combine,
    gram,
    orthonormal_rows,
    row_forms,
    spherical,
    unit_scale,
    without,
)
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, block_sizes

_ASKED = 8  # test vectors that are asked what is rounding


@dataclass(frozen=True)
class LeaveOneOut:
    """Samples Xᵢ, and Dᵢⱼ: how Xᵢ changes when vector j leaves the sketch too."""

    samples: Float[np.ndarray, " k"]
    influence: Float[np.ndarray, "k k"]

    def times(self, scale: float) -> "LeaveOneOut":
        """The same for an operator that is `scale` times as large."""
        return LeaveOneOut(self.samples * scale, self.influence * scale)


def leave_one_out(
    dim: int,
    directions: Float[np.ndarray, "r k"],
    components: Float[np.ndarray, "r k"],
    compressed: Float[np.ndarray, "r r"],
    sketched: Float[np.ndarray, "r k"],
    forms: Float[np.ndarray, " k"],
) -> LeaveOneOut:
    r"""Leave-one-out samples of tr A from inner products alone.

    With Q the orthonormal basis (r rows) of the sketch, the space of the sketch without vector i
    is Q less one direction sᵢ, and without i and j less span(sᵢ, sⱼ). For a basis Q₋ of what is
    left, the remainder ρ = (I - Q₋ᵀQ₋)ωᵢ is independent of Q₋ and

        Xᵢ = tr(Q₋ A Q₋ᵀ) + ρᵀAρ · (P - rank Q₋) / |ρ|²

    is an unbiased sample of tr A: ρ/|ρ| is uniform on the sphere of the complement.

    Args:
        dim: P.
        directions: sᵢ in the basis Q, of length 1; zero where leaving i out loses no direction.
        components: Qωᵢ, with |ωᵢ|² = P.
        compressed: Q A Qᵀ.
        sketched: Q A ωᵢ.
        forms: ωᵢᵀAωᵢ.
    """
    r = compressed.shape[0]
    lost = np.sum(directions**2, axis=0)  # 1, or 0 where no direction is lost
    s_w = directions.T @ components
    s_y = directions.T @ sketched
    s_t = directions.T @ compressed
    s_tw = s_t @ components
    s_ts = s_t @ directions
    cosines = directions.T @ directions
    # What ωᵢ gives with nothing left out of Q.
    full = forms - 2 * np.sum(components * sketched, axis=0)
    full = full + np.sum(components * (compressed @ components), axis=0)
    inside = np.sum(components**2, axis=0)
    total = np.trace(compressed)

    def sample(trace, form, b_squared, rank):
        length = dim - inside + b_squared
        return trace + form * (dim - rank) / length

    own_w, own_y, own_tw = (np.diagonal(m) for m in (s_w, s_y, s_tw))
    own_ts = np.diagonal(s_ts)
    one_trace = total - own_ts
    one_form = full + 2 * own_w * own_y - 2 * own_w * own_tw + own_w**2 * own_ts
    samples = sample(one_trace, one_form, own_w**2, r - lost)

    # Row i, column j: the second direction is tᵢⱼ, the part of sⱼ orthogonal to sᵢ.
    sines = np.sqrt(np.maximum(1.0 - cosines**2, 0.0))
    usable = (lost[:, None] > 0) & (lost[None, :] > 0) & (sines > 1e-6)
    np.fill_diagonal(usable, False)
    safe = np.where(usable, sines, 1.0)

    def second(of_j: np.ndarray, of_i: np.ndarray) -> np.ndarray:
        """The value at tᵢⱼ of what is linear in the direction."""
        return (of_j - cosines * of_i) / safe

    t_w = second(s_w.T, own_w[:, None])
    t_y = second(s_y.T, own_y[:, None])
    t_tw = second(s_tw.T, own_tw[:, None])
    s_tt = second(s_ts, own_ts[:, None])  # sᵢ'T tᵢⱼ
    t_tt = (own_ts[None, :] - 2 * cosines * s_ts + cosines**2 * own_ts[:, None]) / safe**2
    two_trace = one_trace[:, None] - t_tt
    two_form = one_form[:, None] + (
        2 * t_w * t_y - 2 * t_w * t_tw + t_w**2 * t_tt + 2 * own_w[:, None] * t_w * s_tt
    )
    b_squared = own_w[:, None] ** 2 + t_w**2
    length = dim - inside[:, None] + b_squared
    two = two_trace + two_form * (dim - (r - 2)) / length
    return LeaveOneOut(samples, np.where(usable, samples[:, None] - two, 0.0))


def pair_covariance(
    influences: list[Float[np.ndarray, "k k"]],
) -> Float[np.ndarray, "T T"]:
    """The covariance of Xᵢ and Xⱼ, i ≠ j, for every pair of tasks: the mean of Dᵢⱼ Dⱼᵢ.

    Given the other vectors, Xᵢ - tr A has mean 0 over ωᵢ whatever the rest is. Write
    Xᵢ = Xᵢ⁽ʲ⁾ + Dᵢⱼ, where Xᵢ⁽ʲ⁾ leaves j out as well and so does not depend on ωⱼ: of the four
    terms of E (Xᵢ - tr A)(Xⱼ - tr A) three have mean 0, and E Dᵢⱼ Dⱼᵢ is left.
    """
    k = influences[0].shape[0]
    pairs = max(k * (k - 1), 1)
    return np.array([[np.sum(a * b.T) / pairs for b in influences] for a in influences])


class XTrace(Resumable):
    """XTrace for each task, with common test vectors; more of them can be added.

    Source: Epperly, Tropp, Webber (2024) [epperly2024xtrace], abstract, for leave-one-out over
    an exchangeable sketch; the formulas from inner products, the rank rule and the covariance of
    the samples are derived here.
    """

    method = "xtrace"

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray) -> None:
        self.operator, self.key = operator, key
        self.probes: Float[Array, "k dim"] | None = None
        self.num_matvecs = 0
        tasks = operator.num_tasks
        self.sketches = [
            _Sketch(operator if tasks is None else operator.task(t)) for t in range(tasks or 1)
        ]

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
        """The estimate from at most `budget` products with each task's H in all."""
        del keep  # nothing is whole before all are done
        done = 0 if self.probes is None else self.probes.shape[0]
        more = budget // 2 - done
        if more > 0:
            dim, dtype, mesh = self.operator.dim, self.operator.dtype, self.operator.mesh
            new = spherical(self.key, done, more, dim, dtype, mesh)
            self.probes = new if self.probes is None else jnp.concatenate([self.probes, new])
            self.num_matvecs += more * len(self.sketches)
            products, parts = self._products(new)
            bar.update(more)
            # By number: an array that other processes have a part of is not iterated over.
            for t, sketch in enumerate(self.sketches):
                self.num_matvecs += sketch.extend(new, products[t], float(np.max(parts[t])))
            bar.update(more)
        return self._estimate()

    def _products(
        self, probes: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "T k dim"], Float[np.ndarray, "T k"]]:
        """Products, and the lengths of the parts that they are sums of (0 where there are none)."""
        found, lengths, start = [], [], 0
        for size in block_sizes(probes.shape[0]):
            rows, parts = self.operator.measured_rows(probes[start : start + size])
            found.append(rows)
            lengths.append(np.zeros(rows.shape[:-1]) if parts is None else np.asarray(parts))
            start += size
        rows, parts = jnp.concatenate(found, axis=-2), np.concatenate(lengths, axis=-1)
        return (rows[None], parts[None]) if self.operator.num_tasks is None else (rows, parts)

    def _estimate(self) -> TraceEstimate:
        both = [sketch.leave_one_out() for sketch in self.sketches]
        square = self._record([second for _, second in both], None)
        systematic = np.array([SURE * sketch.asymmetry for sketch in self.sketches])
        if self.operator.num_tasks is None:
            systematic = systematic[0]
        return replace(self._record([first for first, _ in both], square), systematic=systematic)

    def _record(self, parts: list[LeaveOneOut], square: TraceEstimate | None) -> TraceEstimate:
        samples = np.stack([part.samples for part in parts])
        covariance = pair_covariance([part.influence for part in parts])
        if self.operator.num_tasks is None:
            samples, covariance = samples[0], covariance[0, 0]
        return TraceEstimate.from_samples(
            samples,
            pair_covariance=covariance,
            square=square,
            quantity="tr H²" if square is None else "tr H",
            method=self.method,
            dim=self.operator.dim,
            num_matvecs=self.num_matvecs + sum(s.symmetry.num_matvecs for s in self.sketches),
            matvecs_per_sample=2.0 * len(self.sketches),
        )


class _Sketch:
    """Y = AΩ, its orthonormal basis Q, and the products AQ, for one task; all in units of A/s."""

    def __init__(self, operator: AbstractOperator) -> None:
        self.operator = operator
        self.symmetry = Symmetry(operator)
        self.scale = 0.0
        self.basis: Float[Array, "r dim"]
        self.images: Float[Array, "r dim"]
        self.probes: Float[Array, "k dim"]
        self.factor = np.zeros((0, 0))  # yᵢ = Σ_j factor[j, i] basis[j]
        self.parts = 0.0  # length of what the products are sums of
        self.asymmetry = 0.0  # estimate of ‖A - Aᵀ‖_F, in the units of A

    def extend(
        self, probes: Float[Array, "k dim"], rows: Float[Array, "k dim"], parts: float
    ) -> int:
        """Add test vectors and their products; returns how many products that took.

        `parts` is the length of what the products are sums of, whose rounding they carry.
        """
        if self.scale == 0.0:
            self.scale = unit_scale(rows)
        self.parts = max(self.parts, parts / self.scale)
        rows = rows / jnp.asarray(self.scale, rows.dtype)
        old = self.factor.shape[0]
        if old == 0:
            basis, factor = orthonormal_rows(rows)
            self.probes = probes
        else:
            self.probes = jnp.concatenate([self.probes, probes])
            inside = gram(self.basis, rows)
            basis, corner = orthonormal_rows(without(self.basis, rows))
            left = np.concatenate([self.factor, np.zeros((corner.shape[0], self.factor.shape[1]))])
            factor = np.concatenate([left, np.concatenate([inside, corner])], axis=1)
        if not np.isfinite(factor).all():
            check_finite(rows, self.operator.space, "the product H v")
        basis, factor = _reduced(basis, factor, old, self.operator.dtype)
        self.factor = factor
        images = self._products(basis)
        if old == 0:
            self.basis, self.images = basis, images
        elif basis.shape[0]:
            self.basis = jnp.concatenate([self.basis, basis])
            self.images = jnp.concatenate([self.images, images])
        return basis.shape[0]

    def leave_one_out(self) -> tuple[LeaveOneOut, LeaveOneOut]:
        """The samples of tr A, and those of tr A² from the same products."""
        k = self.factor.shape[1]
        dim = self.operator.dim
        if self.factor.shape[0] == 0:
            nothing = LeaveOneOut(np.zeros(k), np.zeros((k, k)))
            return nothing, nothing
        components = gram(self.basis, self.probes)
        compressed = gram(self.basis, self.images)
        products = components.T @ self.factor
        lengths = dim**0.5 * np.maximum(np.sqrt(np.sum(self.factor**2, axis=0)), self.parts)
        size = self.scale * float(np.max(lengths)) / dim  # lengths are |ωᵢ| |Aωᵢ|
        allowed = np.maximum(lengths[:, None], lengths)
        self.symmetry.check(products, products.T, allowed, self.probes[:_ASKED], size)
        found = off_diagonal(products - products.T) ** 0.5
        within = float(np.linalg.norm(compressed - compressed.T))
        self.asymmetry = self.scale * max(found, within)
        compressed = (compressed + compressed.T) / 2
        directions = _directions(self.factor)
        first = leave_one_out(
            dim, directions, components, compressed, self.factor, np.diagonal(products)
        )
        # The same for A²: Q A²ω = Q A y, y being in the span of Q, and ωᵀA²ω = |y|².
        second = leave_one_out(
            dim,
            directions,
            components,
            gram(self.images, self.images),
            compressed @ self.factor,
            np.sum(self.factor**2, axis=0),
        )
        return first.times(self.scale), second.times(self.scale**2)

    def _products(self, basis: Float[Array, "r dim"]) -> Float[Array, "r dim"]:
        if basis.shape[0] == 0:
            return basis
        parts, start = [], 0
        for size in block_sizes(basis.shape[0]):
            parts.append(self.operator.rows(basis[start : start + size]))
            start += size
        rows = jnp.concatenate(parts)
        images = rows / jnp.asarray(self.scale, rows.dtype)
        if not np.isfinite(np.asarray(row_forms(images, images))).all():
            check_finite(rows, self.operator.space, "the product H v")
        return images


def _reduced(
    basis: Float[Array, "k dim"],
    factor: Float[np.ndarray, "r k"],
    old: int,
    dtype: np.dtype,
) -> tuple[Float[Array, "r dim"], Float[np.ndarray, "r k"]]:
    """Drop directions of the new part of the sketch that are rounding.

    Rank is judged relative to the largest singular value of the whole sketch, at the backward
    error of its QR factorisation, k eps: the same for every scale of H.
    """
    corner = factor[old:, old:]
    left, singular, _ = np.linalg.svd(corner)
    largest = np.linalg.norm(factor, 2) if factor.size else 0.0
    rank = int(np.sum(singular > factor.shape[1] * np.finfo(dtype).eps * largest))
    if rank == corner.shape[0]:
        return basis, factor
    turn = left[:, :rank].T
    reduced = combine(jnp.asarray(turn, basis.dtype), basis)
    return reduced, np.concatenate([factor[:old], turn @ factor[old:]])


def _directions(factor: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "r k"]:
    """sᵢ: the unit vector in the sketch's span orthogonal to every yⱼ, j ≠ i.

    It is column i of the transposed pseudo-inverse, scaled. Where the others span yᵢ too (its
    leverage is below 1, as for a sketch of smaller rank than it has vectors) there is none.
    """
    left, singular, right = np.linalg.svd(factor, full_matrices=False)
    leverage = np.sum(right**2, axis=0)
    raw = left @ (right / singular[:, None])
    lengths = np.linalg.norm(raw, axis=0)
    unique = leverage > 1.0 - 1e-6
    return np.where(unique, raw / np.where(lengths > 0, lengths, 1), 0.0)
