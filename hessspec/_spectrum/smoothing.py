"""Densities made smooth: weighted nodes spread to Gaussians, as wide as the sample suggests."""

import numpy as np
from jaxtyping import Float


def gaussian_mixture(
    points: Float[np.ndarray, "..."],
    centres: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    bandwidth: float | None,
) -> Float[np.ndarray, "..."]:
    """Σ of the weights times Gaussians around the centres, at each point.

    Raises:
        ValueError: if `bandwidth` is not positive.
    """
    width = rule_of_thumb(centres, weights) if bandwidth is None else float(bandwidth)
    if not width > 0:
        raise ValueError(f"`bandwidth` must be positive, got {bandwidth}")
    scaled = (points[..., None] - centres) / width
    return np.exp(-0.5 * scaled**2) / (width * (2 * np.pi) ** 0.5) @ weights


def rule_of_thumb(centres: np.ndarray, weights: np.ndarray) -> float:
    """The rule of thumb 0.9 min(σ, IQR / 1.34) n^(-1/5) of a weighted sample."""
    order = np.argsort(centres)
    centres, weights = centres[order], weights[order] / weights.sum()
    mean = float(weights @ centres)
    deviation = float(weights @ (centres - mean) ** 2) ** 0.5
    cumulative = np.cumsum(weights)
    quartiles = centres[np.minimum(np.searchsorted(cumulative, [0.25, 0.75]), centres.size - 1)]
    spread = float(quartiles[1] - quartiles[0]) / 1.34
    spread = min(deviation, spread) if spread > 0 else deviation
    if spread > 0:
        return 0.9 * spread * centres.size**-0.2
    largest = float(np.max(np.abs(centres)))
    return 0.01 * largest if largest > 0 else 1.0
