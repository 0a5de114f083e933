"""Smooth convex functions of a few variables, minimised over a simplex: small, exact, jittable.

A primal-dual interior point method. On x >= 0, b'x = 1 the conditions for a minimum of f are
∇f(x) + νb - s = 0 with s >= 0 and x_i s_i = 0. They are solved with x_i s_i = μ in place of 0 by
Newton's method while μ falls by a fixed factor; each step is one system of the size of x. With
hundreds of thousands of parameters and a handful of tasks it is the gradients that cost.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Derivatives = Callable[[Float[Array, " n"]], tuple[Float[Array, " n"], Float[Array, "n n"]]]

_STEPS = 40
# Of each step: how far μ is to fall, and how close to the boundary one may go.
_CENTRING, _FRACTION = 0.2, 0.9


def simplex_minimum(
    derivatives: Derivatives,
    counted: Bool[Array, " n"],
    dtype: jnp.dtype,
    prices: Float[Array, " n"] | None = None,
) -> Array:
    """Where f is smallest among x >= 0 with b'x = 1 and x_i = 0 for variables not counted.

    f is to be of the size of 1, and its gradient too. `derivatives` gives ∇f and ∇²f; b is
    `prices`, in (0, 1], by default all 1. The value is within about n μ of the smallest, μ = 1e-7
    in float32 and 1e-12 in float64.
    """
    number = jnp.maximum(counted.sum(), 1).astype(dtype)
    ones = counted.astype(dtype)
    cost = ones if prices is None else prices * ones
    floor = jnp.asarray(1e-7 if jnp.finfo(dtype).bits < 64 else 1e-12, dtype)
    both = ones[:, None] * ones[None, :]

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, s, nu = state
        gradient, hessian = derivatives(x * ones)
        gradient, hessian = gradient * ones, hessian * both
        mu = jnp.maximum(_CENTRING * jnp.sum(x * s * ones) / number, floor)
        # (H + s/x) dx + b dν = -(∇f + νb - s) + μ/x - s, and b'dx = 1 - b'x.
        left = jnp.block(
            [[hessian + jnp.diag(s / x), cost[:, None]], [cost[None, :], jnp.zeros((1, 1), dtype)]]
        )
        right = jnp.append(-(gradient + nu * cost) + mu / x, 1 - jnp.sum(x * cost))
        # What is not counted stays at x = s = 1.
        left = left + jnp.diag(jnp.append(jnp.where(counted, 0, 1e6), 0).astype(dtype))
        right = right * jnp.append(ones, 1)
        solution = jnp.linalg.solve(left, right)
        dx, dnu = solution[:-1] * ones, solution[-1]
        ds = (mu / x - s - s / x * dx) * ones
        length = jnp.minimum(_room(x, dx), _room(s, ds))
        return x + length * dx, s + length * ds, nu + length * dnu

    x = jnp.where(counted, 1 / number, 1).astype(dtype)
    start = (x, jnp.ones_like(x), jnp.zeros((), dtype))
    x, _, _ = jax.lax.fori_loop(0, _STEPS, step, start)
    x = jnp.maximum(x * ones, 0)
    return x / jnp.maximum(jnp.sum(x * cost), floor)


def _room(values: Float[Array, " n"], change: Float[Array, " n"]) -> Float[Array, ""]:
    """The longest step, 1 at most, that leaves every value positive."""
    limit = jnp.where(change < 0, -values / jnp.where(change < 0, change, -1), jnp.inf)
    return jnp.minimum(1, _FRACTION * jnp.min(limit)).astype(values.dtype)
