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
    For two tasks w_1/2 = (g_2 - g_1)'g_2 / |g_1 - g_2|², within [0, 1]. |d|² is within about 1e-6
    (float32) of the shortest gradient's, however long the others are.

    Source: Sener and Koltun (2018), by the authors' code `isl-org/MultiObjectiveOptimization`
    (`multi_task/min_norm_solvers.py`), which solves the same problem by other means; times T as in
    AvivNavon/nash-mtl. Interior point here, see `simplex`.
    """

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        del losses
        counted, cosines, _, prices = _hull(gramian)
        y = simplex_minimum(lambda y: (_times(cosines, y), cosines), counted, gramian.dtype, prices)
        number = counted.sum().astype(gramian.dtype)
        return jnp.where(counted, number * prices * y, 1), state

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
        counted, cosines, lengths, prices = _hull(gramian)
        number = jnp.maximum(counted.sum(), 1).astype(gramian.dtype)
        eps = jnp.finfo(gramian.dtype).eps
        # The mean gradient in multiples of the longest one; then |g_0| is divided out.
        longest = jnp.max(jnp.where(counted, lengths, 0))
        mean = jnp.where(counted, lengths / jnp.where(longest > 0, longest, 1), 0) / number
        norm = jnp.sqrt(jnp.maximum(mean @ _times(cosines, mean), eps * (mean @ mean)))
        with_mean = _times(cosines, mean / jnp.where(norm > 0, norm, 1))

        def length_of(y: Array) -> Array:
            return jnp.sqrt(jnp.maximum(y @ _times(cosines, y), 0) + 10 * eps)

        def derivatives(y: Array) -> tuple[Array, Array]:
            with_y, length = _times(cosines, y), length_of(y)
            curved = cosines / length - with_y[:, None] * with_y[None, :] / length**3
            return with_mean + c * with_y / length, c * curved

        y = simplex_minimum(derivatives, counted, gramian.dtype, prices)
        turned = c * norm * y / length_of(y) / jnp.where(counted, mean, 1)
        return jnp.where(counted, (1 + turned) / (1 + c**2), 1), state

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


def _hull(gramian: Float[Array, "T T"]) -> tuple[Bool[Array, " T"], Array, Array, Array]:
    """What counts, cosines, lengths, and prices: the shortest length over each.

    A point of the hull in multiples of the shortest gradient's length, Σ y_t g_t/|g_t| with y >= 0,
    has prices'y = 1. In these coordinates an error is one of the shortest gradient; in shares x it
    would be one of the longest, beside which a shortest vector may be nothing.
    """
    counted = has_gradient(gramian)
    cosines, lengths = correlation(gramian)
    shortest = jnp.min(jnp.where(counted, lengths, jnp.inf))
    return counted, cosines, lengths, jnp.where(counted, shortest / lengths, 1)


def _times(matrix: Float[Array, "T T"], x: Float[Array, " T"]) -> Float[Array, " T"]:
    return jnp.matmul(matrix, x, precision="highest")
