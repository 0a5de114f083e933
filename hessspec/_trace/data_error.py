"""How much a trace varies over the data, from forms of groups of batches."""

import numpy as np
from jaxtyping import Float


def data_variance(
    by_group: Float[np.ndarray, "*T n B"],
    exact: Float[np.ndarray, "*T B"],
    shares: Float[np.ndarray, "*T B"],
) -> Float[np.ndarray, "*T"]:
    """The variance of tr H as an estimate of its mean over the population, never below 0.

    Group b holds the share w_b of the items; its trace t_b varies around that of the population
    with variance σ²/w_b. So Σ w_b (t_b - Σ w_c t_c)² has mean (B - 1) σ², and σ² is the variance
    of tr H = Σ w_b t_b. What is seen of t_b is a mean of n forms: the same sum over the deviations
    of single samples from that mean says what probes add to it, be they common or not, and is
    subtracted.

    Args:
        by_group: the part w_b v'H_b v of each sample.
        exact: the part of each group's trace without sampling error, times w_b.
        shares: w_b, summing to 1.
    """
    n, groups = by_group.shape[-2:]
    means = (by_group.mean(axis=-2) + exact) / shares
    seen = _scatter(means, shares)
    added = 0.0
    if n > 1:
        single = (by_group - by_group.mean(axis=-2, keepdims=True)) / shares[..., None, :]
        added = _scatter(single, shares[..., None, :]).sum(axis=-1) / (n * (n - 1))
    return np.maximum(seen - added, 0.0) / (groups - 1)


def _scatter(
    values: Float[np.ndarray, "*lead B"], shares: Float[np.ndarray, "*lead B"]
) -> Float[np.ndarray, "*lead"]:
    """Σ w_b (t_b - Σ w_c t_c)²."""
    middle = np.sum(shares * values, axis=-1, keepdims=True)
    return np.sum(shares * (values - middle) ** 2, axis=-1)
