"""Directions that take the conflict out of the gradients: projected, impartial, aligned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from hessspec_mtl.weighting.fixed import Draws, draws, next_draw
from hessspec_mtl.weighting.transformation import (
    State,
    Weighed,
    Weighting,
    has_gradient,
    unit_mean,
)


def pcgrad(key: PRNGKeyArray) -> Weighting:
    """d = Σ_t of each gradient, projected onto the normal plane of every other it conflicts with.

    From g_t, for the others u in random order: if the rest has a negative product with g_u, its
    share along g_u is taken away. For two tasks with g_1'g_2 < 0, w_1 = 1 - g_1'g_2 / |g_1|², and
    likewise w_2: then d has no negative product with either. With three tasks or more it may.

    Args:
        key: of the orders, drawn anew for each task and step.

    Source: Yu et al. (2020), arXiv 2001.06782, by the authors' code `tianheyu927/PCGrad`
    (`PCGrad_tf.py`), which goes through the others in a fixed order (it does not use what it
    shuffles); the random ones are those of AvivNavon/nash-mtl (`methods/weight_methods.py`,
    PCGrad). The projections are done on coefficients, by the Gramian.
    """

    def weigh(losses: Array, gramian: Array, state: Draws) -> Weighed:
        now, state = next_draw(state)
        tasks = jnp.arange(losses.size, dtype=jnp.int32)
        orders = jax.vmap(lambda one: jax.random.permutation(one, tasks))(
            jax.random.split(now, losses.size)
        )
        return jax.vmap(lambda t, order: _projected(gramian, t, order))(tasks, orders).sum(0), state

    return Weighting("PCGrad", lambda num_tasks: draws(key), weigh, needs_gramian=True)


def _projected(gramian: Array, task: Array, order: Array) -> Float[Array, " T"]:
    """Coefficients of g_t after its conflicts with the others were taken out, one by one."""

    def take_out(rest: Array, other: Array) -> tuple[Array, None]:
        square = gramian[other, other]
        product = jnp.matmul(rest, gramian[other], precision="highest")
        conflicts = (product < 0) & (other != task) & (square > 0)
        share = jnp.where(conflicts, product / jnp.where(square > 0, square, 1), 0)
        return rest.at[other].add(-share), None

    start = jax.nn.one_hot(task, len(gramian), dtype=gramian.dtype)
    rest, _ = jax.lax.scan(take_out, start, order)
    return rest


def imtl_g() -> Weighting:
    """The d whose projections onto all g_t/|g_t| are equal, with Σ_t w_t = T.

    With the cosines C and w_t = β_t / |g_t|, the projections are Cβ; so Cβ = 1 but for a factor.
    For two tasks w_t ∝ 1 / |g_t|. With three or more a weight may be negative, and all are large
    where the β_t/|g_t| nearly cancel. It depends on the scales of losses by a common factor alone.

    No descent is promised: the common projection has the sign of Σ_t β_t/|g_t|, and where that is
    negative (a short gradient whose β_t is), d raises every loss. It is so in both codes below.

    Parallel gradients make C singular; its ridge of 10 √T eps then shares the weight evenly.

    Source: Liu et al. (2021), "Towards impartial multi-task learning", ICLR, whose abstract states
    the property; closed forms read in AvivNavon/nash-mtl (`methods/weight_methods.py`, IMTLG) and
    TorchJD (`aggregation/_imtl_g.py`: M⁺ √diag M over its sum), which this one equals.
    """

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        counted = has_gradient(gramian)
        cosines, lengths = correlation(gramian)
        ridge = 10 * losses.size**0.5 * jnp.finfo(losses.dtype).eps
        identity = jnp.eye(losses.size, dtype=losses.dtype)
        shares = jnp.linalg.solve(cosines + ridge * identity, jnp.ones_like(losses))
        return unit_mean(shares / lengths, counted), state

    return Weighting("IMTL-G", lambda num_tasks: (), weigh, needs_gramian=True)


def correlation(gramian: Float[Array, "T T"]) -> tuple[Float[Array, "T T"], Float[Array, " T"]]:
    """Cosines between the gradients, and their lengths; 1 stands for lengths of 0, and such a
    gradient counts as orthogonal to all."""
    counted = has_gradient(gramian)
    lengths = jnp.sqrt(jnp.where(counted, jnp.diagonal(gramian), 1))
    cosines = gramian / lengths[:, None] / lengths[None, :]
    identity = jnp.eye(len(gramian), dtype=gramian.dtype)
    off = jnp.where((identity > 0) | ~_pairs(counted), 0, cosines)
    return jnp.clip(off, -1, 1) + identity, lengths


def _pairs(counted: Bool[Array, " T"]) -> Bool[Array, "T T"]:
    return counted[:, None] & counted[None, :]


def aligned_mtl() -> Weighting:
    """w = B 1 with B = √λ_min V Λ^(-1/2) V', M = V Λ V': gradients made orthogonal, of one length.

    The columns of G B have the Gramian B M B = λ_min V V', the identity times the smallest
    eigenvalue of M where M has full rank: condition number 1. Eigenvalues up to T eps λ_max count
    as 0 and are left out: in float32 a gradient some 1,500 times shorter than the longest has next
    to no weight, and a slightly longer one has the largest.

    Source: Senushkin et al. (2023), arXiv 2305.19000, by the authors' code `SamsungLabs/MTL`
    (`code/optim/aligned/solver.py`, scale "min").
    """

    def weigh(losses: Array, gramian: Array, state: State) -> Weighed:
        counted = has_gradient(gramian)
        values, vectors = jnp.linalg.eigh(gramian)
        scale = jnp.finfo(losses.dtype).eps * losses.size
        is_in = (values > scale * jnp.max(values)) & (values > 0)
        least = jnp.min(jnp.where(is_in, values, jnp.inf))
        factors = jnp.where(is_in, jnp.sqrt(least / jnp.where(is_in, values, 1)), 0)
        weights = jnp.matmul(vectors * factors[None, :], vectors.sum(axis=0), precision="highest")
        return jnp.where(counted, weights, 1), state

    return Weighting("Aligned-MTL", lambda num_tasks: (), weigh, needs_gramian=True)
