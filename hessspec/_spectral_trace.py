"""The trace that a spectral density holds, with an error read off the spectrum itself."""

import os
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from hessspec._records import load_record, save_record
from hessspec._trace_estimate import TraceEstimate

_KIND = "SpectralTrace"
_MIN_SHARING = 8.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralTrace(TraceEstimate):
    """tr H = Σ of the atoms + P_b times the mean of the bulk, as a few probes see it.

    `samples` has one entry a probe, too few to show their own spread. The spectrum shows it: for
    a start uniform on the sphere of the bulk's P_b directions, the sample is Σ δᵢ (zᵢ² - 1) off,
    with δᵢ the bulk's eigenvalues about their mean and z normal, up to O(1/P_b); its variance is
    2 Σ δᵢ² and its third cumulant 8 Σ δᵢ³, and the same rule gives both sums.

    Attributes:
        power_sums: Σ δᵢ^j for j = 2, 3, 4, the bulk's moments about its mean.
    """

    power_sums: Float[Array | np.ndarray, "*tasks 3"] | None = None

    @property
    def standard_error(self) -> Float[np.ndarray, "*tasks"]:
        """Standard deviation of `value` over probes, by the measured second moment."""
        if self.power_sums is None:
            return super().standard_error
        second = np.asarray(self.power_sums, np.float64)[..., 0]
        return np.sqrt(2.0 * second / max(self.num_samples, 1))

    @property
    def num_sharing(self) -> Float[np.ndarray, "*tasks"]:
        """How many eigenvalues share the error, probes counted: n (Σ δ²)² / Σ δ⁴."""
        if self.power_sums is None:
            return np.asarray(float(self.num_samples))
        sums = np.asarray(self.power_sums, np.float64)
        second, fourth = sums[..., 0], sums[..., 2]
        shared = np.full(np.shape(second), np.inf)
        np.divide(self.num_samples * second**2, fourth, out=shared, where=fourth > 0)
        return shared

    @property
    def reliable(self) -> bool:
        """Whether the interval holds its level: at least 8 eigenvalues share the error."""
        return bool(np.all(self.num_sharing >= _MIN_SHARING))

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
        """Ends of an interval that covers tr H with probability `level`, for each task.

        The quantiles of Σ δᵢ (zᵢ² - 1) are those of a normal variable corrected for skewness and
        kurtosis by the Cornish-Fisher expansion.

        Raises:
            ValueError: unless 0 < level < 1.
        """
        if self.power_sums is None:
            return super().confidence_interval(level)
        if not 0.0 < level < 1.0:
            raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}")
        n = max(self.num_samples, 1)
        sums = np.asarray(self.power_sums, np.float64)
        error = self.standard_error
        safe = np.where(error > 0, error, 1.0)
        skewness = np.where(error > 0, 8.0 * sums[..., 1] / n**2 / safe**3, 0.0)
        kurtosis = np.where(error > 0, 48.0 * sums[..., 2] / n**3 / safe**4, 0.0)
        low, high = (
            _cornish_fisher(special.ndtri(p), skewness, kurtosis)
            for p in ((1 - level) / 2, (1 + level) / 2)
        )
        # A sample that lies high means a trace that lies low: the quantiles change sides.
        return self.value - high * error, self.value - low * error

    def difference(self, i: int, j: int) -> "SpectralTrace":
        """tr H_i - tr H_j from the paired samples.

        The spectra of H_i and H_j do not determine that of their difference, so the error is the
        sum of the two: an upper bound whatever they share.
        """
        plain = super().difference(i, j)
        if self.power_sums is None:
            return plain  # type: ignore[return-value]
        sums = np.asarray(self.power_sums, np.float64)
        second = (sums[i, 0] ** 0.5 + sums[j, 0] ** 0.5) ** 2
        # Skewness and tail as if one direction carried what the heavier task's worst does.
        third = sums[i, 1] - sums[j, 1]
        fourth = (sums[i, 2] ** 0.25 + sums[j, 2] ** 0.25) ** 4
        return replace(plain, power_sums=np.array([second, third, fourth]))  # type: ignore

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays, meta = {}, {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("static"):
                meta[field.name] = value
            elif value is not None and field.name != "square":
                arrays[field.name] = np.asarray(value)
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralTrace":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        known: dict[str, Any] = {**arrays, **meta}
        return cls(**known)


def _cornish_fisher(z: float, skewness: np.ndarray, kurtosis: np.ndarray) -> np.ndarray:
    """Quantile of a standardised variable with these cumulants, near normal."""
    return (
        z
        + skewness * (z**2 - 1) / 6
        + kurtosis * (z**3 - 3 * z) / 24
        - skewness**2 * (2 * z**3 - 5 * z) / 36
    )
