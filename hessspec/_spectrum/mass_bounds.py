"""Bounds on the measure that a start sees: all that its Lanczos coefficients determine.

T fixes the first 2m moments of the measure μ of a start and no more. All measures with these
moments have μ(-∞, x] between two values, reached by the quadrature rule that has a node at x
(Chebyshev, Markov, Stieltjes).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Distance from a node, relative to the operator, at which the rule with a node at x is no longer
# evaluated: its entry 1 / (θ - x) would cost the digits of the rest.
_NODE_GUARD = 1e-13
# A Ritz value whose residual is below this, relative to the operator, is taken for a node of every
# rule.
_NEGLIGIBLE_SHAFT = 1e-9
_RIDDERS_ROUNDS = 40
_GRID_BLOCK = 32


def mass_bounds(
    nodes: Float[np.ndarray, " m"],
    weights: Float[np.ndarray, " m"],
    residuals: Float[np.ndarray, " m"],
    x: Float[np.ndarray, " g"],
    blur: float = 0.0,
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Bounds on μ(-∞, x] of every measure with these Lanczos coefficients.

    Extend T by one row, coupled by β_m, whose diagonal entry makes x an eigenvalue. The rule of
    the extended matrix matches the moments up to degree 2m, and the mass that it puts below x,
    and up to x, are the bounds. All that it takes of T is its Gauss rule: the eigenvectors s of
    a Jacobi matrix have first and last components whose product alternates in sign from one
    eigenvalue to the next, and weights and residuals are s₁² and |β_m s_m|.

    Args:
        nodes, weights, residuals: of the Gauss rule, nodes ascending.
        x: points at which to bound, any order, infinite ones included.
        blur: positions are uncertain by this much, in the units of H: the lower bound is taken
            at x - blur and the upper at x + blur.
    """
    finite = np.isfinite(x)
    low, high = np.where(x > 0, 1.0, 0.0), np.where(x > 0, 1.0, 0.0)
    if finite.any():
        low[finite], high[finite] = _at_points(_Rule(nodes, weights, residuals), x[finite], blur)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


class _Rule(NamedTuple):
    nodes: Float[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    residuals: Float[np.ndarray, " m"]

    def mirrored(self) -> "_Rule":
        """The rule of -H."""
        return _Rule(-self.nodes[::-1], self.weights[::-1], self.residuals[::-1])


def _at_points(
    rule: _Rule, x: Float[np.ndarray, " g"], blur: float
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """The bounds at finite points."""
    norm = float(np.max(np.abs(rule.nodes)))
    if np.max(rule.residuals) <= np.finfo(float).eps * norm or norm == 0.0:
        # Exhausted: the measure is the rule itself.
        cumulative = np.concatenate([[0.0], np.cumsum(rule.weights)])
        low = cumulative[np.searchsorted(rule.nodes, x - blur, side="right")]
        return low, cumulative[np.searchsorted(rule.nodes, x + blur, side="right")]
    guard = _NODE_GUARD * norm
    low = _mass_below(rule, _clear_of(rule.nodes, x - blur, -guard))
    above = _clear_of(rule.nodes, x + blur, guard)
    return low, 1.0 - _mass_below(rule.mirrored(), -above)


def _clear_of(nodes: np.ndarray, x: np.ndarray, step: float) -> np.ndarray:
    """x, moved on by `step` until it keeps that distance from every node."""
    for _ in range(nodes.size):
        nearest = nodes[np.argmin(np.abs(nodes[None] - x[:, None]), axis=1)]
        close = np.abs(nearest - x) < abs(step) * (1 - 1e-6)
        if not close.any():
            break
        x = np.where(close, nearest + step, x)
    return x


def _mass_below(rule: _Rule, x: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
    """Mass strictly below x of the rule with a node at x.

    In the eigenvector basis of T the extended matrix is an arrow with shaft b = β_m s_m. Having x
    as an eigenvalue, its others are the roots z of

        1 + Σ bᵢ² / ((z - θᵢ) (x - θᵢ)) = 0,

    one below each θᵢ < x; the weight of z is (Σ s₁ᵢ bᵢ / (z - θᵢ))² / (1 + Σ bᵢ² / (z - θᵢ)²).
    Where bᵢ is negligible, θᵢ has converged and is itself a node with its own weight.
    """
    shaft = rule.residuals * (-1.0) ** np.arange(rule.nodes.size)
    norm = float(np.max(np.abs(rule.nodes)) + np.linalg.norm(shaft))
    free = rule.residuals > _NEGLIGIBLE_SHAFT * norm
    # A converged node within its residual of x may lie on either side: the smaller mass counts.
    fixed = ((rule.nodes + rule.residuals)[None] < x[:, None]) & ~free[None]
    mass = (fixed * rule.weights[None]).sum(axis=1)
    theta, b, first = rule.nodes[free], shaft[free], np.sqrt(rule.weights[free])
    if theta.size == 0:
        return mass
    order = np.argsort(x)
    for begin in range(0, x.size, _GRID_BLOCK):
        block = order[begin : begin + _GRID_BLOCK]
        mass[block] += _free_mass_below(theta, b, first, x[block])
    return mass


def _free_mass_below(
    theta: np.ndarray, b: np.ndarray, first: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """The part of `_mass_below` in nodes that are not those of T."""
    below = np.searchsorted(theta, x)
    roots = int(below.max(initial=0))
    if roots == 0:
        return np.zeros(x.size)
    pull = b**2 / (x[:, None] - theta[None])
    width = float(theta[-1] - theta[0]) or float(np.abs(theta[0])) or 1.0
    # Copies of an eigenvalue can agree to the last digit.
    least = 1e-18 * max(float(np.max(np.abs(theta))), width)
    top = theta[None, :roots]
    gaps = np.diff(theta[:roots], prepend=np.nan)[None]

    def offsets(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of z from θᵢ above and θᵢ₋₁ below it, for t in (0, 1)."""
        to_top = np.where(np.isnan(gaps), width * t / (1 - t), gaps * t)
        return to_top, np.where(np.isnan(gaps), width / (1 - t), gaps * (1 - t))

    def distances(t: np.ndarray) -> np.ndarray:
        """z - θ for all θ, those to the ends of z's interval free of cancellation."""
        to_top, to_bottom = offsets(t)
        distance = (top - to_top)[..., None] - theta
        i = np.arange(roots)
        distance[:, i, i] = -to_top
        distance[:, i[1:], i[:-1]] = to_bottom[:, 1:]
        return np.where(np.abs(distance) < least, np.copysign(least, distance), distance)

    def cleared(t: np.ndarray) -> np.ndarray:
        """The secular function without its poles at the ends of the interval of z."""
        terms = (pull[:, None] / distances(t)).sum(axis=-1)
        return (1.0 + terms) * np.where(np.isnan(gaps), t, t * (1 - t))

    shape = (x.size, roots)
    t = _ridders(cleared, np.full(shape, 1e-15), np.full(shape, 1 - 1e-15))
    ratio = b / distances(t)
    weights = (first * ratio).sum(axis=-1) ** 2 / (1.0 + (ratio**2).sum(axis=-1))
    return np.where(np.arange(roots)[None] < below[:, None], weights, 0.0).sum(axis=1)


def _ridders(
    function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Roots bracketed by `low` and `high`, elementwise, by Ridders' method.

    An exponential factor that would make the function linear through three points is removed;
    the bracket at least halves in every round, and near a simple root the error is squared.
    """
    f_low, f_high = function(low), function(high)
    # No change of sign: the root is closer to an end than the bracket, at the smaller value.
    outside = np.sign(f_low) == np.sign(f_high)
    nearest = np.where(np.abs(f_low) < np.abs(f_high), low, high)
    low, high = np.where(outside, nearest, low), np.where(outside, nearest, high)
    root = 0.5 * (low + high)
    for _ in range(_RIDDERS_ROUNDS):
        last = root
        middle = 0.5 * (low + high)
        f_middle = function(middle)
        scale = np.sqrt(np.maximum(f_middle**2 - f_low * f_high, 0.0))
        step = (middle - low) * np.sign(f_low - f_high) * f_middle
        root = np.where(scale > 0, middle + step / np.where(scale > 0, scale, 1.0), middle)
        root = np.clip(root, low, high)
        f_root = function(root)
        points = np.stack([low, np.minimum(middle, root), np.maximum(middle, root), high])
        values = np.stack(
            [
                f_low,
                np.where(middle <= root, f_middle, f_root),
                np.where(middle <= root, f_root, f_middle),
                f_high,
            ]
        )
        # The first of the three parts in which the sign changes.
        changes = np.sign(values[1:]) != np.sign(values[:1])
        part = np.argmax(changes, axis=0)[None]
        low = np.take_along_axis(points, part, axis=0)[0]
        f_low = np.take_along_axis(values, part, axis=0)[0]
        high = np.take_along_axis(points, part + 1, axis=0)[0]
        f_high = np.take_along_axis(values, part + 1, axis=0)[0]
        if np.all(np.abs(root - last) <= 1e-13 * np.minimum(root, 1 - root)):
            break
    return root
