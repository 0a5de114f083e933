"""How far two spectra are apart, and how two dominant eigenspaces lie to each other."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.arguments import check_kind
from hessspec._base.printing import Facts, Printed, one_number, with_error
from hessspec._base.records import load_record, save_record
from hessspec._base.signatures import called_as
from hessspec._base.tasks import task_words
from hessspec._krylov.blocks import gram, orthonormal_rows, without
from hessspec._krylov.eigenpairs import EigenPairs
from hessspec._spectrum.record import SpectralDensity

_KIND = "SpectralDistance"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class SpectralDistance(Printed):
    """A distance between two estimated spectra, with the part of it that probes alone can make.

    Attributes:
        value: the distance between the two estimates, exact for these discrete measures.
        error: root mean square of |value - truth| that the random starts cause, or more: by the
            triangle inequality it is at most the distance between each estimate and its mean,
            and this is what is estimated. Two equal spectra are about `error` apart, so a value
            below 2 or 3 times `error` shows no difference. Infinite for a single probe.
        kind: "wasserstein1" (in the units of H) or "kolmogorov_smirnov" (a share, at most 1).
    """

    value: Float[Array | np.ndarray, "*tasks"]
    error: Float[Array | np.ndarray, "*tasks"]
    kind: str = field(metadata={"static": True})

    def __float__(self) -> float:
        return one_number(self, self.value)

    def __format__(self, spec: str) -> str:
        if spec and np.ndim(self.value) == 0:
            return with_error(self.value, self.error, spec)
        return format(str(self), spec)

    def _facts(self) -> Facts:
        value, error = np.asarray(self.value), np.asarray(self.error)
        shape, kind = value.shape, self.kind
        if not shape:
            return Facts(f"SpectralDistance: {kind} {with_error(value, error)}")
        rows = [
            (f"task {' and '.join(map(str, place))}", with_error(value[place], error[place]))
            for place in np.ndindex(*shape)
            if len(shape) == 1 or place[0] < place[-1]
        ]
        return Facts(f"SpectralDistance: {kind} of {shape[0]} tasks", rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays = {"value": np.asarray(self.value), "error": np.asarray(self.error)}
        save_record(path, _KIND, arrays, {"kind": self.kind})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralDistance":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        return cls(arrays["value"], arrays["error"], meta["kind"])


def wasserstein1(a: SpectralDensity, b: SpectralDensity | None = None) -> SpectralDistance:
    """∫ |F_a - F_b| dλ: how far eigenvalues must be moved, on average, to turn a into b.

    In the units of H. It satisfies W1(ca, cb) = |c| W1(a, b), and for spectra of equal size it
    is the mean of |λᵢ - μᵢ| over eigenvalues in order. What m Lanczos steps leave open about the
    bulk is not part of `error`; more steps show it. Cost: no product.

    Args:
        a: a density. With a task axis and without `b`, all its tasks are compared with each
            other, and their common probes make the errors of the differences smaller.
        b: another density, with the same task axis or none; tasks are compared in pairs.

    Returns:
        The distance, of shape (), (T,), or (T, T) without `b`.

    Raises:
        ValueError: if the task axes do not fit, or `b` is missing and `a` has no tasks.
        TypeError: if one of them is no density.

    Source: the integral form as in the notes of `scipy.stats.wasserstein_distance`; the error,
    from contrasts between probes, is derived here.
    """
    return _distance("wasserstein1", lambda p, q, blur: _area(p, q), a, b)


def kolmogorov_smirnov(a: SpectralDensity, b: SpectralDensity | None = None) -> SpectralDistance:
    """sup |F_a - F_b|: the largest difference in the share of eigenvalues below any one point.

    Positions are known up to `resolution` only, and equal atoms that rounding moved apart must
    not count as different. So the curves are compared with that much tolerance in λ: the
    largest F_a(x) - F_b(x + r), or F_b(x) - F_a(x + r), with r the sum of both resolutions.
    Invariant to any common stretching of both spectra. Cost: no product.

    Args, Returns, Raises: as for `wasserstein1`, of `a` and `b`.

    Source: derived here from the definition, with the tolerance in position.
    """
    return _distance("kolmogorov_smirnov", _largest_gap, a, b)


@called_as("principal_angles(a, b)", "principal_angles(pairs.task(0), pairs.task(1))")
def principal_angles(a: EigenPairs, b: EigenPairs) -> Float[np.ndarray, "*tasks k"]:
    """Angles between the spans of two sets of eigenvectors, in radians, rising.

    With orthonormal bases A and B, the cosines are the singular values of A Bᵀ and the sines
    those of B - (B Aᵀ) A. Small angles are read off the sines and large ones off the cosines, so
    that both are accurate to rounding: a cosine near 1 would lose all angles below √eps. All
    zero if one span holds the other, π/2 for directions that are foreign to it. Cost: no product.

    An eigenvector turns by up to its residual over the gap to the next eigenvalue; a span moves
    only by that over the gap at its end. So cut where the spectrum has a gap.

    Args:
        a: pairs found for one task or checkpoint (use `pairs.task(t)` for one of several).
        b: pairs of the same parameters; min(k_a, k_b) angles come back. If both have a task
            axis, tasks are compared in pairs.

    Raises:
        ValueError: if the parameters or the task axes differ.
        TypeError: if one of them is no `EigenPairs`.

    Source: derived here; checked against prescribed angles in
    `tests/hessspec/spectrum/test_compare.py`.
    """
    for name, pairs in (("a", a), ("b", b)):
        check_kind(name, pairs, EigenPairs)
    if a.num_tasks != b.num_tasks:
        raise ValueError(
            f"`a` and `b` must have the same task axis, got {task_words(a)} and "
            f"{task_words(b)}; choose one with `pairs.task(t)`."
        )
    if a.num_tasks is not None:
        return np.stack([principal_angles(a.task(t), b.task(t)) for t in range(a.num_tasks)])
    left, right = a.rows, b.rows
    if a.dim != b.dim or left.dtype != right.dtype:
        raise ValueError(
            f"`a` and `b` must be eigenpairs of the same parameters, got {a.dim} of {left.dtype} "
            f"and {b.dim} of {right.dtype}"
        )
    if left.shape[0] < right.shape[0]:
        left, right = right, left
    # Rows of an EigenPairs are orthonormal up to rounding and to the cast to their leaves.
    left, right = orthonormal_rows(left)[0], orthonormal_rows(right)[0]
    rest = without(left, right)
    _, factor = orthonormal_rows(rest)
    sines = np.linalg.svd(factor, compute_uv=False)[::-1]
    cosines = np.linalg.svd(gram(left, right), compute_uv=False)
    return np.where(
        cosines**2 >= 0.5,
        np.arcsin(np.clip(sines, 0.0, 1.0)),
        np.arccos(np.clip(cosines, 0.0, 1.0)),
    )


@dataclass(frozen=True)
class _Measure:
    """Point masses, not necessarily normalised."""

    nodes: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]

    def up_to(self, points: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
        """Mass at or below each point."""
        order = np.argsort(self.nodes, kind="stable")
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights[order])])
        return cumulative[np.searchsorted(self.nodes[order], points, side="right")]


Between = Callable[[_Measure, _Measure, float], float]


def _area(p: _Measure, q: _Measure) -> float:
    """∫ |F_p - F_q| for measures of equal mass: a sum over the gaps between neighbouring nodes."""
    nodes = np.sort(np.concatenate([p.nodes, q.nodes]))
    return float(np.abs(p.up_to(nodes) - q.up_to(nodes))[:-1] @ np.diff(nodes))


def _largest_gap(p: _Measure, q: _Measure, blur: float) -> float:
    """The larger of sup F_p(x) - F_q(x + blur) and sup F_q(x) - F_p(x + blur), at nodes."""
    up = np.max(p.up_to(p.nodes) - q.up_to(p.nodes + blur))
    down = np.max(q.up_to(q.nodes) - p.up_to(q.nodes + blur))
    return max(float(up), float(down), 0.0)


def _distance(
    kind: str, between: Between, a: SpectralDensity, b: SpectralDensity | None
) -> SpectralDistance:
    check_kind("a", a, SpectralDensity)
    if b is not None:
        check_kind("b", b, SpectralDensity)
        if a.num_tasks != b.num_tasks:
            raise ValueError(
                f"`a` and `b` must have the same task axis, got {task_words(a)} and "
                f"{task_words(b)}; choose one with `density.task(t)`."
            )
        if a.num_tasks is None:
            value, error = _unpaired(between, a, b)
            return SpectralDistance(np.asarray(value), np.asarray(error), kind)
        both = [_unpaired(between, a.task(t), b.task(t)) for t in range(a.num_tasks)]
        values, errors = np.array(both).T
        return SpectralDistance(values, errors, kind)
    if a.num_tasks is None:
        raise ValueError(
            "`b` is missing: one density is compared with another, or, if its loss has several "
            "tasks, the tasks with each other."
        )
    tasks = [a.task(t) for t in range(a.num_tasks)]
    values, errors = np.zeros((2, len(tasks), len(tasks)))
    for i in range(len(tasks)):
        for j in range(i):
            values[i, j], errors[i, j] = _paired(between, tasks[i], tasks[j])
    return SpectralDistance(values + values.T, errors + errors.T, kind)


def _unpaired(between: Between, a: SpectralDensity, b: SpectralDensity) -> tuple[float, float]:
    """Distance and error for probes that have nothing to do with each other."""
    blur = float(a.resolution) + float(b.resolution)
    value = between(_mean(a), _mean(b), blur)
    return value, float(np.hypot(_own_error(between, a), _own_error(between, b)))


def _own_error(between: Between, density: SpectralDensity) -> float:
    """Root mean square distance of an estimate from its mean."""
    if bool(density.exact):
        return 0.0
    if density.num_probes == 1:
        return np.inf
    blur = 2 * float(density.resolution)
    squares = [between(p, q, blur) ** 2 for p, q in _contrasts([density])]
    return float(np.mean(squares)) ** 0.5


def _paired(between: Between, a: SpectralDensity, b: SpectralDensity) -> tuple[float, float]:
    """Distance and error for spectra seen by the same probes."""
    blur = float(a.resolution) + float(b.resolution)
    value = between(_mean(a), _mean(b), blur)
    if a.num_probes == 1 or bool(a.exact) or bool(b.exact):
        return _unpaired(between, a, b)
    squares = [between(p, q, 2 * blur) ** 2 for p, q in _contrasts([a, b])]
    return value, float(np.mean(squares)) ** 0.5


def _mean(density: SpectralDensity) -> _Measure:
    weights = np.asarray(density.weights) / density.num_probes
    return _Measure(np.asarray(density.nodes).ravel(), weights.ravel())


def _contrasts(densities: list[SpectralDensity]) -> list[tuple[_Measure, _Measure]]:
    """Pairs of measures whose difference is distributed like an error of the mean over probes.

    Let F_i = F + e_i be what probe i shows, with independent errors of one law. The error of the
    mean is Σ e_i / n. With weights c_i of sum 0 and Σ c_i² = 1/n, Σ c_i F_i = Σ c_i e_i: the truth
    drops out, and mean and covariance are those of the error of the mean. n probes have n - 1
    such contrasts, orthogonal to each other (a Helmert matrix). Positive and negative weights go
    into different measures. With two densities the contrasts are those of F_i - G_i.
    """
    n = densities[0].num_probes
    pairs = []
    for j in range(1, n):
        c = np.zeros(n)
        c[:j], c[j] = 1.0, -j
        c /= (n * (j + j**2)) ** 0.5
        signed = [
            (np.asarray(d.nodes).ravel(), (sign * c[:, None] * np.asarray(d.weights)).ravel())
            for d, sign in zip(densities, (1.0, -1.0), strict=False)
        ]
        nodes, weights = (np.concatenate(parts) for parts in zip(*signed, strict=True))
        pairs.append(
            (
                _Measure(nodes[weights > 0], weights[weights > 0]),
                _Measure(nodes[weights < 0], -weights[weights < 0]),
            )
        )
    return pairs


__all__ = ["SpectralDistance", "kolmogorov_smirnov", "principal_angles", "wasserstein1"]
