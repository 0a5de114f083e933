"""Confidence intervals for the mean of a few quadratic forms."""

import numpy as np
from jaxtyping import Float
from scipy import stats


def mean_interval(
    samples: Float[np.ndarray, "*tasks n"],
    level: float,
    inflation: Float[np.ndarray, "*tasks"] | float = 1.0,
) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    """Ends of an interval for the mean of independent samples, by Student's t.

    `inflation` multiplies the standard error of the mean, for samples that are not independent.
    """
    n = samples.shape[-1]
    mean = samples.mean(axis=-1)
    if n == 1:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    error = samples.std(axis=-1, ddof=1) / n**0.5 * inflation
    quantile = stats.t.ppf(0.5 + level / 2, n - 1)
    return mean - quantile * error, mean + quantile * error
