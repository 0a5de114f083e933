"""Confidence intervals for the mean of a few quadratic forms."""

import numpy as np
from jaxtyping import Float

from hessspec._base.arguments import real_number
from hessspec._base.later import special

# Calibrated by simulation, to one digit: the smallest multiple for which the interval covers as
# stated for every member of the family below, n from 10 to 256 and levels from 0.8 to 0.998.
SECOND_ORDER = 6.0


def check_level(level: float) -> None:
    """The probability with which an interval shall hold must lie between 0 and 1.

    Raises:
        ValueError: unless 0 < level < 1.
        TypeError: if `level` is no number.
    """
    if not 0.0 < real_number("level", level) < 1.0:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}")


def mean_interval(
    samples: Float[np.ndarray, "*tasks n"],
    level: float,
    inflation: Float[np.ndarray, "*tasks"] | float = 1.0,
) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    r"""Ends of an interval for the mean μ of `n` samples of vᵀHv, skewed or not.

    The samples are Σ λᵢ zᵢ² with zᵢ near normal. If many eigenvalues share the variance they are
    normal and Student's t is right. If one dominates they are ±χ²₁, of skewness ±√8, and the
    samples that come out small understate mean and spread together: Student's t at 95 % covers
    83 to 92 %. With γ the skewness, the Studentised mean T = √n (x̄ - μ)/S has, to first order,

        P(T <= x) = Φ(x) + γ (2x² + 1) φ(x) / (6 √n),

    so its lower quantile moves out by γ (2t² + 1) / (6 √n) and with it the upper end for μ. The
    upper quantile moves in by as much, which we do not use: the sample skewness g, all there
    is, can have the wrong size. It is too small exactly where the tail was not seen; factors of
    order t²/n make up for that:

        upper end = x̄ + [t + (1 + 6 t²/n) (2t² + 1)/(6 √n) · max(g, 0)] S/√n,

    and the lower end the same with max(-g, 0). The number 6 is the only one not derived: with
    it the interval covers at least as stated if the samples follow ±χ²_ν for any ν >= 1, the
    family between one dominant eigenvalue and a normal law, from n = 10 on (from 8 at 95 %).

    Args:
        samples: along the last axis; below 3 they show no skewness, below 8 the interval is not
            to be relied on (its coverage is tabulated in the documentation). One sample gives
            the whole line.
        level: the probability of covering μ.
        inflation: multiplies the standard error of the mean, for samples that are dependent.
    """
    n = samples.shape[-1]
    mean = samples.mean(axis=-1)
    if n == 1:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    skewness = sample_skewness(samples) / n**0.5
    error = samples.std(axis=-1, ddof=1) / n**0.5 * inflation
    return _ends(mean, error, n - 1.0, np.maximum(-skewness, 0), np.maximum(skewness, 0), level)


def sum_interval(
    value: Float[np.ndarray, "*tasks"],
    samples: list[Float[np.ndarray, "*tasks n"]],
    errors: Float[np.ndarray, "runs *tasks"],
    level: float,
) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    r"""Ends of an interval for the mean of a sum of independent means, as `mean_interval` has them.

    With eₖ the error that run k brings in, the squared error is E² = Σ eₖ² with Welch's degrees of
    freedom E⁴ / Σ eₖ⁴/(nₖ - 1), and third cumulants add: the skewness of the sum is
    Σ (gₖ/√nₖ) eₖ³ / E³. Both take the place that n - 1 and g/√n have for one run, which a sum of
    one run has. Skewness to one side is not set off against that to the other: either may be wrong.

    Args:
        value: the sum.
        samples: of each run, at least two.
        errors: eₖ.
        level: the probability of covering the truth.
    """
    total = np.linalg.norm(errors, axis=0)
    safe = np.where(total > 0, total, 1.0)
    shares = errors / safe
    counts = np.array([run.shape[-1] for run in samples], float)
    lost = np.tensordot(1.0 / (counts - 1.0), shares**4, axes=1)
    freedom = np.where(total > 0, 1.0 / np.where(lost > 0, lost, 1.0), counts.sum() - counts.size)
    skewness = np.stack([sample_skewness(run) / run.shape[-1] ** 0.5 for run in samples])
    down, up = (np.sum(np.maximum(s * skewness, 0.0) * shares**3, axis=0) for s in (-1, 1))
    return _ends(value, total, freedom, down, up, level)


def _ends(
    value: Float[np.ndarray, "*tasks"],
    error: Float[np.ndarray, "*tasks"],
    freedom: Float[np.ndarray, "*tasks"] | float,
    down: Float[np.ndarray, "*tasks"],
    up: Float[np.ndarray, "*tasks"],
    level: float,
) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    """Student's interval, moved out by the skewness of the estimate, `down` or `up`."""
    t = special.stdtrit(freedom, 0.5 + level / 2)  # Student's quantile
    correction = (1.0 + SECOND_ORDER * t**2 / (freedom + 1.0)) * (2.0 * t**2 + 1.0) / 6.0
    return value - (t + correction * down) * error, value + (t + correction * up) * error


def sample_skewness(samples: Float[np.ndarray, "*tasks n"]) -> Float[np.ndarray, "*tasks"]:
    """Third central moment over the 3/2 power of the second; 0 for samples that are all equal."""
    deviations = samples - samples.mean(axis=-1, keepdims=True)
    # Scaled first: third powers of 1e-120 vanish and those of 1e120 overflow.
    largest = np.abs(deviations).max(axis=-1, keepdims=True)
    deviations = deviations / np.where(largest > 0, largest, 1.0)
    second = np.mean(deviations**2, axis=-1)
    third = np.mean(deviations**3, axis=-1)
    return np.where(second > 0, third / np.where(second > 0, second, 1.0) ** 1.5, 0.0)
