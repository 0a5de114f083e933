"""What a weighting of tasks is: a state, and pure functions from what the tasks tell to weights.

With losses L_1 .. L_T of the same parameters and their gradients g_1 .. g_T, every method here
moves along a direction d = Σ_t w_t g_t: that of PCGrad, of CAGrad or of the smallest norm lies in
the span of the gradients too. So a method is a map from losses and the T x T Gramian
M_st = g_s'g_t to the T weights, and nothing of the size of the parameters is ever kept by it.

    weighting = nash_mtl()
    state = weighting.init(num_tasks)
    losses, gradients = task_gradients(loss_fn, params, batch)     # leaves (T, ...)
    weights, state = weighting.update(losses, state, gramian(gradients))
    direction = combined(weights, gradients)                        # for any optax optimiser

`as_optax` makes one an optax transformation. All of it works under `jit`, `vmap` and `scan`.

Scale: equal weights are 1, and where a paper's weights sum to 1, ours sum to T. Adam does not see
a common factor that stays; where it changes from step to step, it does.

Rules for all methods: a task whose gradient is exactly 0 (a batch without its target, say) is left
out, which means that the others are weighted as if it were not there; methods that see losses alone
go by a loss of exactly 0. Gradients are known by their squares: in float32 one shorter than 1e-19
counts as 0, and one longer than 1e19 as not finite. If what the tasks tell is not
finite, the weights are NaN, which no optimiser hides, and the state stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

State = Any
"""A tree of arrays, which an optimiser's state may hold and a checkpoint keep."""

Weighed = tuple[Float[Array, " T"], State]
Where = Callable[[str, Any], bool]


def _stays(before: Array, after: Array, state: State) -> State:
    del before, after
    return state


@dataclass(frozen=True)
class Weighting:
    """A method: how its state begins, and what becomes of it and of the weights.

    Attributes:
        name: of the method.
        start: number of tasks -> state.
        weigh: (losses, gramian, state) -> (weights, state), all of them finite.
        seen: (losses before a step, losses after it on the same data, state) -> state, for methods
            that look again (FAMO).
        measured: (curvatures, their relative errors, state) -> state, for methods that are told of
            curvature now and then.
        needs_gramian: whether `weigh` reads the Gramian; it is None otherwise.
        looks_again: whether `seen` changes anything, so that the losses after a step are needed.
        needs_curvature: whether `measured` changes anything.
        weighs_heads: whether parameters of one task alone go with its weight too, as under a
            weighted sum of losses. Otherwise each follows its own task's loss, as papers that
            combine gradients of shared parameters have it.
    """

    name: str
    start: Callable[[int], State]
    weigh: Callable[[Array, Any, State], Weighed]
    seen: Callable[[Array, Array, State], State] = _stays
    measured: Callable[[Array, Array, State], State] = _stays
    needs_gramian: bool = False
    looks_again: bool = False
    needs_curvature: bool = False
    weighs_heads: bool = False

    def init(self, num_tasks: int) -> State:
        """The state before the first step.

        Raises:
            ValueError: if there is no task, or the method is made for another number of them.
        """
        if num_tasks < 1:
            raise ValueError(f"`num_tasks` must be at least 1, got {num_tasks}.")
        return self.start(num_tasks)

    def update(
        self, losses: Float[Array, " T"], state: State, gramian: Float[Array, "T T"] | None = None
    ) -> Weighed:
        """The weights of this step, and the state after it.

        Raises:
            ValueError: if `losses` are no vector, or `gramian` is missing or of another size.
        """
        if losses.ndim != 1:
            raise ValueError(f"`losses` must have shape (tasks,), got {losses.shape}.")
        told = jnp.isfinite(losses).all()
        if self.needs_gramian:
            if gramian is None:
                raise ValueError(
                    f"`gramian` is what {self.name} weighs by: pass `gramian(gradients)` of the "
                    "tasks' gradients."
                )
            if gramian.shape != (losses.size, losses.size):
                raise ValueError(
                    f"`gramian` must have shape {(losses.size, losses.size)} for {losses.size} "
                    f"losses, got {gramian.shape}."
                )
            told = told & jnp.isfinite(gramian).all()
            gramian = jnp.where(told, gramian, 1).astype(losses.dtype)
        weights, new = self.weigh(jnp.where(told, losses, 1), gramian, state)
        return jnp.where(told, weights, jnp.nan), kept_unless(told, new, state)

    def after(self, before: Float[Array, " T"], losses: Float[Array, " T"], state: State) -> State:
        """The state once the losses after the step are known, on the data of the step."""
        told = jnp.isfinite(before).all() & jnp.isfinite(losses).all()
        first, second = (jnp.where(told, given, 1) for given in (before, losses))
        return kept_unless(told, self.seen(first, second, state), state)

    def told_curvature(
        self, curvature: Float[Array, " T"], error: Float[Array, " T"], state: State
    ) -> State:
        """The state once a curvature of each task was measured, each with its relative error.

        One that is not finite or not positive says nothing: its error counts as infinite.
        """
        sound = jnp.isfinite(curvature) & (curvature > 0) & ~jnp.isnan(error)
        values = jnp.where(sound, curvature, 1)
        return self.measured(values, jnp.where(sound, error, jnp.inf), state)


def kept_unless(told: Bool[Array, ""], new: State, old: State) -> State:
    """`new` if `told`, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(told, a, b), new, old)


def task_gradients(
    loss_fn: Callable[..., Float[Array, " T"]], params: PyTree, *arguments: Any
) -> tuple[Float[Array, " T"], PyTree]:
    """Losses and gradients of `loss_fn(params, *arguments)`, whose value has shape (T,).

    Leaves of the gradients have a leading axis of tasks. Cost: one pass forward and T back, one
    after the other: side by side they are slower where a sum over edges is a scatter.
    """
    losses, back = jax.vjp(lambda params: loss_fn(params, *arguments), params)
    return losses, jax.lax.map(lambda one: back(one)[0], jnp.eye(losses.size, dtype=losses.dtype))


def gramian(gradients: PyTree, where: Where | None = None) -> Float[Array, "T T"]:
    """M_st = g_s'g_t over the leaves that `where(path, leaf)` chooses, by default all.

    Raises:
        ValueError: if no leaf is chosen.
    """
    rows = [leaf.reshape(len(leaf), -1) for _, leaf, is_in in _chosen(gradients, where) if is_in]
    if not rows:
        raise ValueError("`where` must choose at least one leaf of the gradients, it chose none.")
    products = [jnp.matmul(row, row.T, precision="highest") for row in rows]
    return sum(products[1:], products[0])


def combined(
    weights: Float[Array, " T"], gradients: PyTree, *, where: Where | None = None
) -> PyTree:
    """Σ_t w_t g_t for each leaf that `where` chooses, Σ_t g_t for the others.

    The parameters of a head have a gradient for their own task alone; so the heads follow their
    own losses if `where` chooses the shared parameters, and the weighted ones if it is None.
    """
    leaves = []
    for _, leaf, is_in in _chosen(gradients, where):
        factors = weights if is_in else jnp.ones_like(weights)
        leaves.append(jnp.tensordot(factors.astype(leaf.dtype), leaf, 1, precision="highest"))
    return jax.tree.unflatten(jax.tree.structure(gradients), leaves)


def as_optax(
    weighting: Weighting, num_tasks: int, *, where: Where | None = None
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from gradients of all tasks, leaves (T, ...), to one direction.

        optimizer = optax.chain(as_optax(cagrad(), 2), optax.adam(1e-3))
        updates, state = optimizer.update(gradients, state, params, losses=losses)

    Args:
        weighting: the method.
        num_tasks: T.
        where: the shared parameters; the Gramian is theirs, and whether the others are weighted
            says `Weighting.weighs_heads`.

    Raises:
        ValueError: if a method is given that looks again at the losses after a step or is told of
            curvature: an optax transformation hears of neither.
    """
    if weighting.looks_again or weighting.needs_curvature:
        raise ValueError(
            f"`weighting` {weighting.name} is told of more than gradients and losses; call its "
            "`update`, and `after` or `told_curvature`, in your own step."
        )

    def update(
        updates: PyTree, state: State, params: PyTree = None, *, losses: Array, **extra: Any
    ) -> tuple[PyTree, State]:
        del params, extra
        products = gramian(updates, where) if weighting.needs_gramian else None
        weights, state = weighting.update(losses, state, products)
        shared = None if weighting.weighs_heads else where
        return combined(weights, updates, where=shared), state

    return optax.GradientTransformationExtraArgs(lambda _: weighting.init(num_tasks), update)


def _chosen(tree: PyTree, where: Where | None) -> list[tuple[str, Array, bool]]:
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append((name, leaf, where is None or where(name, leaf)))
    return found


def has_gradient(gramian: Float[Array, "T T"]) -> Bool[Array, " T"]:
    """Which tasks have a gradient that is not 0."""
    return jnp.diagonal(gramian) > 0


def unit_mean(
    values: Float[Array, " T"], counted: Bool[Array, " T"] | None = None
) -> Float[Array, " T"]:
    """`values` over their mean over the tasks that are counted; 1 for the others."""
    counted = jnp.ones(values.shape, bool) if counted is None else counted
    number = jnp.maximum(counted.sum(), 1).astype(values.dtype)
    mean = jnp.where(counted, values, 0).sum() / number
    return jnp.where(counted, values / jnp.where(mean == 0, 1, mean), 1)
