"""How products with a Hessian are computed from a loss: linearise once, apply to a block.

Everything here works on flat vectors and on `losses(x) -> (T,)`, the T losses at x. The unit of
work is a block of k vectors (rows), because the gradient is linearised once for all of them. So
many of them go abreast, in one vectorised pass, as `abreast` says, and one such pass follows the
other. On a CPU it is one: the activations of one product are alive at a time, and scattered sums
(graphs, embeddings) stay fast. `plan.py` chooses.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hessspec._operators.modes import FORWARD_OVER_REVERSE, REVERSE_OVER_REVERSE
from hessspec._operators.repeats import without_repeats

Losses = Callable[[Float[Array, " dim"]], Float[Array, " T"]]
Gradient = Callable[[Float[Array, " dim"]], Float[Array, "*T dim"]]


def weighted_gradient(losses: Losses, weights: Float[Array, " T"]) -> Gradient:
    """∇(w · L) as a function."""
    return jax.grad(lambda y: jnp.vdot(weights, losses(y), precision="highest"))


def map_rows(
    function: Callable[[Array], Array],
    rows: Float[Array, "k *row"],
    abreast: int,
    used: Int[Array, ""] | None = None,
) -> Array:
    """`function` of each row, stacked: `abreast` rows in a vectorised pass, then the next ones.

    Of rows that go one by one only the first `used`, if that is given: the others get zeros, and
    cost nothing. (The loop then has no reverse mode.)
    """
    if abreast == 1 and used is not None:
        shape = jax.eval_shape(function, rows[0])
        zeros = jnp.zeros((rows.shape[0], *shape.shape), shape.dtype)
        return jax.lax.fori_loop(0, used, lambda i, out: out.at[i].set(function(rows[i])), zeros)
    if abreast == 1:
        return jax.lax.map(function, rows)
    if abreast >= rows.shape[0]:
        return jax.vmap(function)(rows)
    return jax.lax.map(function, rows, batch_size=abreast)


def task_gradients(losses: Losses, num_tasks: int, dtype: jnp.dtype, abreast: int = 1) -> Gradient:
    """∇L_t of all tasks as a function; their forward pass and its tangents are shared."""
    units = jnp.eye(num_tasks, dtype=dtype)

    def gradients(y: Float[Array, " dim"]) -> Float[Array, "T dim"]:
        _, pullback = jax.vjp(losses, y)
        return map_rows(lambda unit: pullback(unit)[0], units, abreast)

    return gradients


def block_products(
    gradient: Gradient,
    x: Float[Array, " dim"],
    block: Float[Array, "k dim"],
    rematerialize: bool = False,
    order: str = FORWARD_OVER_REVERSE,
    abreast: int = 1,
) -> Float[Array, "k *T dim"]:
    """The derivative of `gradient` at x along each row, by linearising it once for all rows.

    Cost: one gradient and, for each row, its tangent. With `rematerialize`, or for one row, the
    gradient is computed again with each tangent, and what it leaves behind need not be kept.
    In reverse over reverse it is the pullback of the gradient, one of a single task, which is its
    derivative since H = H'.
    """
    along, linearised = _ORDERS[order]
    if block.shape[0] == 1:
        return along(gradient, x, block[0])[None]
    if rematerialize:
        return map_rows(lambda v: _afresh(along, gradient, x, v), block, abreast)
    return map_rows(linearised(gradient, x), block, abreast)


def _afresh(along: Callable[..., Array], gradient: Gradient, x: Array, v: Array) -> Array:
    # The barrier ties x to v, or a compiler may move what depends on x alone out of the loop.
    return along(gradient, *jax.lax.optimization_barrier((x, v)))


_ORDERS: dict[str, tuple[Callable[..., Array], Callable[..., Callable[[Array], Array]]]] = {
    FORWARD_OVER_REVERSE: (
        lambda gradient, x, v: jax.jvp(gradient, (x,), (v,))[1],
        lambda gradient, x: jax.linearize(gradient, x)[1],
    ),
    REVERSE_OVER_REVERSE: (
        lambda gradient, x, v: jax.vjp(gradient, x)[1](v)[0],
        lambda gradient, x: _pullback(gradient, x),
    ),
}


def _pullback(function: Callable[[Array], Array], x: Array) -> Callable[[Array], Array]:
    _, pull = jax.vjp(function, x)
    return lambda v: pull(v)[0]


def task_forms(
    losses: Losses,
    x: Float[Array, " dim"],
    block: Float[Array, "k dim"],
    abreast: int = 1,
    used: Int[Array, ""] | None = None,
) -> Float[Array, "T k"]:
    """v'H_t v for all tasks and rows, forward over forward: d²/dε² L_t(x + εv) at ε = 0.

    No reverse pass, so all tasks together cost about 5 forward passes a row, where a product
    with one task's Hessian costs about 8. One of the 5 is the loss at x itself, which a compiler
    moves out of the loop over rows.
    """

    def form(y: Float[Array, " dim"], v: Float[Array, " dim"]) -> Float[Array, " T"]:
        def slope(z: Float[Array, " dim"]) -> Float[Array, " T"]:
            return jax.jvp(losses, (z,), (v,))[1]

        return jax.jvp(slope, (y,), (v,))[1]

    # Both derivatives go along v, so the first derivative of everything stands there twice.
    once = without_repeats(form, x, block[0])
    return map_rows(lambda v: once(x, v), block, abreast, used).T


def gauss_newton_products(
    model: Callable[[Float[Array, " dim"]], Array],
    outer: Callable[[Array], Float[Array, ""]],
    x: Float[Array, " dim"],
    block: Float[Array, "k dim"],
    rematerialize: bool = False,
    order: str = FORWARD_OVER_REVERSE,
    abreast: int = 1,
) -> Float[Array, "k dim"]:
    """J'(∇²outer)J v for each row v: the Hessian of outer(model(x)) without the model's curvature.

    Positive semidefinite if `outer` is convex in the outputs. Without forward mode, J is the
    pullback of the pullback of the model, which is linear.
    """
    if rematerialize and block.shape[0] > 1:

        def product(v: Float[Array, " dim"]) -> Float[Array, " dim"]:
            y, v = jax.lax.optimization_barrier((x, v))
            return gauss_newton_products(model, outer, y, v[None], order=order)[0]

        return map_rows(product, block, abreast)
    if order == REVERSE_OVER_REVERSE:
        outputs, pull = jax.vjp(model, x)
        push = _pullback(lambda cotangent: pull(cotangent)[0], jnp.zeros_like(outputs))
    else:
        outputs, push = jax.linearize(model, x)
        pull = jax.linear_transpose(push, x)
    curve = _ORDERS[order][1](jax.grad(outer), outputs)
    return map_rows(lambda v: pull(curve(push(v)))[0], block, abreast)
