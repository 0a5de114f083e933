"""The trace that a spectral density holds, with an error read off the spectrum itself."""

import os
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Never

import numpy as np
from jaxtyping import Array, Float

from hessspec._base.intervals import check_level
from hessspec._base.later import special
from hessspec._base.origin import Origin, record_tree
from hessspec._base.records import load_record, record_parts, save_record
from hessspec._spectrum.rows import Rows
from hessspec._trace.estimate import TraceEstimate

_KIND = "SpectralTrace"
_MIN_SHARING = 8.0
# Fewer eigenvalues than this in a node are rounding.
_DUST = 1e-6


@record_tree
@dataclass(frozen=True, repr=False)
class SpectralTrace(TraceEstimate):
    """tr H = Σ of the atoms + P_b times the mean of the bulk, as a few probes see it.

    `samples` has one entry a probe, too few to show their own spread; the spectrum shows it. A
    Gaussian start of full length gives dᵢ eigenvalues near θᵢ a squared component that is
    chi-squared with dᵢ degrees of freedom, so the bulk's sample is Σ δᵢ nᵢ off, where δᵢ is θᵢ
    minus the bulk's mean, nᵢ = P wᵢ estimates dᵢ, and Var nᵢ = 2 dᵢ.

    Attributes:
        offsets: δ of every node of the bulk, all probes, in the units of H.
        counts: n of the same nodes, P times their weights.
        unseen: what Σ δ⁴ n of the nodes lacks where two of them stand for a whole bulk; infinite
            if a single one does.
    """

    offsets: Float[Array | np.ndarray, "*tasks nodes"] | None = None
    counts: Float[Array | np.ndarray, "*tasks nodes"] | None = None
    unseen: Float[Array | np.ndarray, "*tasks"] | None = None

    @property
    def standard_error(self) -> Float[np.ndarray, "*tasks"]:
        """Standard deviation of `value` over probes, (2 Σ δ² d)^(1/2) over their number.

        d is taken as n + 1/2, the middle of the interval for d at one standard deviation: a
        node that a start happened to miss still stands for an eigenvalue.
        """
        if self.offsets is None or self.counts is None:
            return super().standard_error
        d = np.where(np.asarray(self.counts) > 0, np.asarray(self.counts) + 0.5, 0.0)
        variance = 2.0 * (np.asarray(self.offsets) ** 2 * d).sum(axis=-1)
        return np.sqrt(variance) / max(self.num_samples, 1)

    @property
    def num_sharing(self) -> Float[np.ndarray, "*tasks"]:
        """How many eigenvalues share the error, those of all probes: (Σ δ² n)² / Σ δ⁴ n.

        0 if a single Lanczos step leaves it open.
        """
        if self.offsets is None or self.counts is None:
            return np.asarray(float(self.num_samples))
        squares, counts = np.asarray(self.offsets) ** 2, np.asarray(self.counts)
        second = (squares * counts).sum(axis=-1)
        fourth = (squares**2 * counts).sum(axis=-1) + self._unseen()
        shared = np.full(np.shape(second), np.inf)
        np.divide(second**2, fourth, out=shared, where=fourth > 0)
        return shared

    @property
    def reliable(self) -> bool:
        """Whether the interval holds its level: at least 8 eigenvalues share the error.

        One Lanczos step shows how large the error is, not what shares it: not reliable.
        """
        return bool(np.all(self.num_sharing >= _MIN_SHARING))

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
        """Ends of an interval that covers tr H with probability `level`, for each task.

        The largest and smallest Σ δᵢ dᵢ over all d that the data do not contradict,
        Σ (nᵢ - dᵢ)² / 2dᵢ <= z². The variance is that at d, not at n: where a few eigenvalues
        carry the trace, a start that missed them would otherwise claim a small error as well.

        Raises:
            ValueError: unless 0 < level < 1.
            TypeError: if `level` is no number.
        """
        if self.offsets is None or self.counts is None:
            return super().confidence_interval(level)
        check_level(level)
        z = float(special.ndtri(0.5 + level / 2))
        offsets, counts = np.asarray(self.offsets), np.asarray(self.counts)
        ends = np.zeros((2, *offsets.shape[:-1]))
        for index in np.ndindex(*offsets.shape[:-1]):
            used = counts[index] > 0
            ends[(1, *index)] = _largest_shift(offsets[index][used], counts[index][used], z)
            ends[(0, *index)] = -_largest_shift(-offsets[index][used], counts[index][used], z)
        low, high = ends / max(self.num_samples, 1)
        return self.value + low, self.value + high

    def difference(self, i: int, j: int) -> "SpectralTrace":
        """tr H_i - tr H_j from the paired samples.

        The spectra of H_i and H_j do not determine that of their difference. The error is the sum
        of both, an upper bound whatever the two have in common.
        """
        plain = super().difference(i, j)
        if self.offsets is None or self.counts is None:
            return plain  # type: ignore[return-value]
        offsets, counts = np.asarray(self.offsets), np.asarray(self.counts)
        errors = self.standard_error[[i, j]]
        together = float(np.hypot(*errors))
        widened = float(errors.sum()) / together if together > 0 else 1.0
        return replace(  # type: ignore[return-value]
            plain,
            offsets=widened * np.concatenate([offsets[i], -offsets[j]]),  # type: ignore[call-arg]
            counts=np.concatenate([counts[i], counts[j]]),
            unseen=widened**4 * (self._unseen()[i] + self._unseen()[j]),
        )

    def merge(self, other: Any) -> Never:
        """Not for the trace of a density: merge the densities.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "the trace of a density is merged with the density, whose probes it rests on: "
            "`density.merge(other).trace()`."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays, meta = record_parts(self, leave_out=("square", "runs"))
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralTrace":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        origin = Origin.read(meta.pop("origin", None))
        return cls(**arrays, **meta, origin=origin)

    def _reliability(self) -> str:
        if self.offsets is None or self.counts is None:
            return super()._reliability()
        few = f"NOT reliable: fewer than {_MIN_SHARING:.0f} eigenvalues share the error"
        return "reliable" if self.reliable else few

    def _unseen(self) -> Float[np.ndarray, "*tasks"]:
        return np.zeros(np.shape(self.exact)) if self.unseen is None else np.asarray(self.unseen)


class TraceParts(NamedTuple):
    """Fields of a `SpectralTrace`: `exact` is the atoms' mean trace, the rest is beside it."""

    samples: np.ndarray
    exact: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    unseen: np.ndarray


def trace_parts(rows: Rows) -> TraceParts:
    """What one spectrum says of its trace: a sample of each probe, and the bulk's spread."""
    nodes, counts = rows.nodes, rows.bulk
    if rows.exact:
        # Nothing was sampled: the mean of the rows, without samples of its own.
        whole = (rows.counts * nodes).sum(axis=1)
        nothing = np.zeros(nodes.size + rows.num_probes)
        exact = np.asarray(whole.mean())
        return TraceParts(whole * 0, exact, nothing, nothing, np.asarray(0.0))
    atoms, bulk = (rows.known * nodes).sum(axis=1), (counts * nodes).sum(axis=1)
    sizes = rows.dim - rows.known.sum(axis=1)
    centre = bulk.sum() / sizes.sum()
    # A direction uniform on the sphere of `size` dimensions varies a little less than a
    # Gaussian vector of that mean length.
    shorter = (sizes / (sizes + 2.0)) ** 0.5
    offsets = (nodes - centre) * shorter[:, None]
    # What is left of an eigenspace of which k - 1 vectors are known, d dimensions, has the
    # correlation 1/(d + 3) between probes: its size is that of a start's part beside the
    # others' parts, and a volume is shared by all.
    shared = 1.0 + (rows.num_probes - 1) / (counts + 3.0)
    offsets = np.where(rows.known > 0, offsets * shared**0.5, offsets)
    exact = np.asarray(atoms.mean())
    residuals = rows.residuals * shorter[:, None]
    residuals = np.where(residuals > rows.resolution, residuals, 0.0)
    return TraceParts(bulk + atoms - exact, exact, *_spread(offsets, counts, residuals))


def _spread(
    offsets: Float[np.ndarray, "probes m"],
    counts: Float[np.ndarray, "probes m"],
    residuals: Float[np.ndarray, "probes m"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets from the bulk's mean, numbers of eigenvalues there, and Σ δ⁴ d that they lack.

    n nodes of a Gauss rule have the moments of their measure up to degree 2n - 1; of the next
    they lack β₁²...βₙ², whatever its centre. Variance and fourth moment need three nodes. Two
    lack β₁²β₂² of the fourth, where β₁² = w₁w₂ (θ₁ - θ₂)² and β₂² is the sum of the squared
    residuals. One lacks its squared residual β₁² of the variance: half of its eigenvalues are
    put a residual below it and half, in the row's last slot, as far above. Which eigenvalues
    carry that variance it cannot tell, so the fourth moment has no bound.
    """
    offsets, counts = (np.pad(column, ((0, 0), (0, 1))) for column in (offsets, counts))
    lacking = 0.0
    for offset, count, residual in zip(offsets, counts, residuals, strict=True):
        used = np.flatnonzero(count > _DUST)
        number, squares = count[used], residual[used] ** 2
        if used.size == 1 and residual[used[0]] > 0:
            ends = [int(used[0]), -1]
            offset[ends] = offset[ends[0]] + np.array([-1.0, 1.0]) * residual[used]
            count[ends] = number / 2
            lacking = np.inf
        elif used.size == 2:
            first = np.prod(number) / number.sum() * np.diff(offset[used]) ** 2
            lacking += float(first[0] * squares.sum())
    return offsets.ravel(), counts.ravel(), np.asarray(lacking)


def _largest_shift(offsets: np.ndarray, counts: np.ndarray, z: float) -> float:
    """max Σ δ (d - n) over Σ (n - d)² / 2d <= z².

    A Lagrange multiplier gives d = n (1 - δ/μ)^(-1/2) with μ beyond every positive δ, and the
    constraint fixes μ: its left side falls from infinity to 0 as μ grows.
    """
    largest = float(np.max(np.abs(offsets), initial=0.0))
    if largest == 0.0 or not np.any(counts > 0):
        return 0.0
    offsets = offsets / largest
    top = max(float(offsets.max()), 0.0)

    def d(gap: float) -> np.ndarray:
        return counts * np.sqrt((top + gap) / (top - offsets + gap))

    def excess(log_gap: float) -> float:
        at = d(float(np.exp(log_gap)))
        return float(((counts - at) ** 2 / (2 * at)).sum()) - z**2

    low, high = -60.0, 60.0
    if excess(low) <= 0:
        high = low
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    log_gap = 0.5 * (low + high)
    return largest * float((offsets * (d(float(np.exp(log_gap))) - counts)).sum())
