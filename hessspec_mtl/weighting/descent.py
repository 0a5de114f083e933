"""Directions that lower every loss if any direction does: the shortest, the averse, the bargain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessspec_mtl.weighting.conflicts import correlation
from hessspec_mtl.weighting.simplex import simplex_minimum
from hessspec_mtl.weighting.transformation import State, Weighed, Weighting, has_gradient

_MOST_STEPS = 100


def mgda() -> Weighting:
    """T times the shortest vector in the convex hull of the gradients; w >= 0, Σ_t w_t = T.

    For that d, g_t'd >= |d|²/T for every task, and d = 0 only where no direction lowers all losses.
    For two tasks w_1/2 = (g_2 - g_1)'g_2 / |g_1 - g_2|², within [0, 1].

    Source: Sener and Koltun (2018), by the authors' code `isl-org/MultiObjectiveOptimization`
    (`multi_task/min_norm_solvers.py`), which solves the same problem by other means; times T as in
    AvivNavon/nash-mtl. Interior point here, see `simplex`.
    """

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        del losses
        counted = has_gradient(gramian)
        scaled = _scaled(gramian)
        shares = simplex_minimum(lambda x: (_times(scaled, x), scaled), counted, gramian.dtype)
        return _in_all(shares, counted), state

    return Weighting("MGDA", lambda num_tasks: (), weigh, needs_gramian=True)


def cagrad(*, c: float = 0.4) -> Weighting:
    """T times the direction that most lowers the worst task, at most c|g_0| from the mean g_0.

    The dual problem is over the simplex: with g_x = Σ x_t g_t, x minimises g_x'g_0 + c |g_0| |g_x|,
    and d/T = (g_0 + c |g_0| g_x / |g_x|) / (1 + c²). c = 0 is the mean of the gradients. The factor
    1 / (1 + c²) is the authors' code's; equal gradients have weights (1 + c) / (1 + c²).

    Args:
        c: 0 or more, below 1; the authors' code takes 0.4 for most problems.

    Raises:
        ValueError: if `c` is not in [0, 1).

    Source: Liu et al. (2021), arXiv 2110.14048, by the authors' procedure as in AvivNavon/nash-mtl
    (`methods/weight_methods.py`, CAGrad, rescale 1), where SLSQP solves what an interior point
    method solves here.
    """
    if not 0 <= c < 1:
        raise ValueError(f"`c` must lie in [0, 1), got {c}.")

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        del losses
        counted = has_gradient(gramian)
        scaled, number = _scaled(gramian), jnp.maximum(counted.sum(), 1).astype(gramian.dtype)
        mean = counted.astype(gramian.dtype) / number
        with_mean = _times(scaled, mean)
        radius = c * jnp.sqrt(jnp.maximum(mean @ with_mean, 0))
        least = 10 * jnp.finfo(gramian.dtype).eps

        def derivatives(x: Array) -> tuple[Array, Array]:
            with_x = _times(scaled, x)
            length = jnp.sqrt(jnp.maximum(x @ with_x, 0) + least)
            curved = scaled / length - with_x[:, None] * with_x[None, :] / length**3
            return with_mean + radius * with_x / length, radius * curved

        shares = simplex_minimum(derivatives, counted, gramian.dtype)
        length = jnp.sqrt(jnp.maximum(shares @ _times(scaled, shares), 0) + least)
        weights = number * (mean + radius / length * shares) / (1 + c**2)
        return jnp.where(counted, weights, 1), state

    return Weighting("CAGrad", lambda num_tasks: (), weigh, needs_gramian=True)


def nash_mtl() -> Weighting:
    """The bargain among the tasks: M w = m / w for the Gramian M, w > 0, m = mean |g_t|².

    Its direction maximises Σ log g_t'd over |d| of one length, and lowers every loss: g_t'd =
    m / w_t > 0. Such w minimises ½ w'Mw/m - Σ log w_t, which is strictly convex and
    self-concordant, so that damped Newton steps find it from anywhere; the authors solve a sequence
    of convex approximations. Orthogonal gradients of one length have weights 1. Multiplying a loss
    by a constant changes d by a factor alone. As |d|² = T m, d does not become short near a point
    that cannot be improved for all: there the learning rate must.

    Where no direction lowers every loss (opposite gradients) there is no such w; a ridge of 100 eps
    on the cosines then keeps it finite, and d is nearly 0.

    Source: Navon et al. (2022), arXiv 2202.01017, by the authors' code AvivNavon/nash-mtl
    (`methods/weight_methods.py`, NashMTL), whose stopping rule is ‖M α - 1/α‖ for M scaled to norm
    1, where ours is scaled by m; its clipping of the direction is left to the optimiser.
    """

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        del losses
        counted = has_gradient(gramian)
        cosines, lengths = correlation(gramian)
        ridge = 100 * jnp.finfo(gramian.dtype).eps
        cosines = cosines + ridge * jnp.eye(len(gramian), dtype=gramian.dtype)
        number = jnp.maximum(counted.sum(), 1).astype(gramian.dtype)
        size = jnp.sqrt(jnp.where(counted, jnp.diagonal(gramian), 0).sum() / number)
        # In units of each gradient's length the problem is that of the cosines.
        return jnp.where(counted, bargain(cosines) / lengths * size, 1), state

    return Weighting("Nash-MTL", lambda num_tasks: (), weigh, needs_gramian=True)


def bargain(matrix: Float[Array, "T T"]) -> Float[Array, " T"]:
    """The positive solution of C β = 1 / β for a positive definite C, by damped Newton steps.

    A step is divided by 1 + δ while the Newton decrement δ exceeds ¼, which keeps β positive and
    lowers the function by a fixed amount each time; then δ is squared from step to step.
    """
    tolerance = 4 * jnp.finfo(matrix.dtype).eps

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        beta, _, count = state
        gradient = jnp.matmul(matrix, beta, precision="highest") - 1 / beta
        # In units of β, where the Hessian is β C β + 1.
        scaled = matrix * beta[:, None] * beta[None, :]
        hessian = scaled + jnp.eye(len(beta), dtype=beta.dtype)
        change = -jnp.linalg.solve(hessian, beta * gradient)
        decrement = jnp.sqrt(jnp.maximum(-jnp.sum(change * beta * gradient), 0))
        length = jnp.where(decrement > 0.25, 1 / (1 + decrement), 1)
        return beta * (1 + length * change), decrement, count + 1

    def goes_on(state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        return (state[1] > tolerance) & (state[2] < _MOST_STEPS)

    start = jnp.full(len(matrix), len(matrix) ** -0.5, matrix.dtype)
    infinite = jnp.full((), jnp.inf, matrix.dtype)
    beta, _, _ = jax.lax.while_loop(goes_on, step, (start, infinite, jnp.zeros((), jnp.int32)))
    return beta


def _scaled(gramian: Float[Array, "T T"]) -> Float[Array, "T T"]:
    """The Gramian over its largest entry of the diagonal, so that numbers are of the size of 1."""
    most = jnp.max(jnp.diagonal(gramian))
    return gramian / jnp.where(most > 0, most, 1)


def _times(matrix: Float[Array, "T T"], x: Float[Array, " T"]) -> Float[Array, " T"]:
    return jnp.matmul(matrix, x, precision="highest")


def _in_all(shares: Float[Array, " T"], counted: Bool[Array, " T"]) -> Float[Array, " T"]:
    """Shares of the tasks that count, as weights whose mean over these is 1."""
    return jnp.where(counted, shares * counted.sum().astype(shares.dtype), 1)
