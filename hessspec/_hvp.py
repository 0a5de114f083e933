"""How products with a Hessian are computed from a loss: linearise once, apply to a block.

Everything here works on flat vectors and on `losses(x) -> (T,)`, the T losses at x. The unit of
work is a block of k vectors (rows), because the gradient is linearised once for all of them. The
rows are mapped over, not vectorised: the activations of one product are alive at a time, and
scattered sums (graphs, embeddings) stay fast on a CPU.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Losses = Callable[[Float[Array, " dim"]], Float[Array, " T"]]


def weighted_products(
    losses: Losses,
    weights: Float[Array, " T"],
    x: Float[Array, " dim"],
    block: Float[Array, "k dim"],
) -> Float[Array, "k dim"]:
    """H_w v for each row v, H_w = Σ_t w_t H_t, by linearising ∇(w · L) at x once.

    Cost: one gradient and, for each row, its tangent.
    """
    gradient = jax.grad(lambda y: jnp.vdot(weights, losses(y)))
    _, tangent = jax.linearize(gradient, x)
    return jax.lax.map(tangent, block)


def task_products(
    losses: Losses, num_tasks: int, x: Float[Array, " dim"], block: Float[Array, "k dim"]
) -> Float[Array, "T k dim"]:
    """H_t v for each task t and each row v; the forward tangent of a row is shared by its tasks."""
    dtype = jax.eval_shape(losses, x).dtype
    units = jnp.eye(num_tasks, dtype=dtype)

    def gradients(y: Float[Array, " dim"]) -> Float[Array, "T dim"]:
        _, pullback = jax.vjp(losses, y)
        return jax.lax.map(lambda unit: pullback(unit)[0], units)

    _, tangent = jax.linearize(gradients, x)
    return jnp.swapaxes(jax.lax.map(tangent, block), 0, 1)


def task_forms(
    losses: Losses, x: Float[Array, " dim"], block: Float[Array, "k dim"]
) -> Float[Array, "T k"]:
    """v'H_t v for all tasks and rows, forward over forward: d²/dε² L_t(x + εv) at ε = 0.

    No reverse pass, so all tasks together cost about 5 forward passes a row, where a product
    with one task's Hessian costs about 8.
    """

    def form(v: Float[Array, " dim"]) -> Float[Array, " T"]:
        def slope(y: Float[Array, " dim"]) -> Float[Array, " T"]:
            return jax.jvp(losses, (y,), (v,))[1]

        return jax.jvp(slope, (x,), (v,))[1]

    return jax.lax.map(form, block).T


def gauss_newton_products(
    model: Callable[[Float[Array, " dim"]], Array],
    outer: Callable[[Array], Float[Array, ""]],
    x: Float[Array, " dim"],
    block: Float[Array, "k dim"],
) -> Float[Array, "k dim"]:
    """J'(∇²outer)J v for each row v: the Hessian of outer(model(x)) without the model's curvature.

    Positive semidefinite if `outer` is convex in the outputs.
    """
    outputs, push = jax.linearize(model, x)
    pull = jax.linear_transpose(push, x)
    _, curve = jax.linearize(jax.grad(outer), outputs)
    return jax.lax.map(lambda v: pull(curve(push(v)))[0], block)
