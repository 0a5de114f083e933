"""Directions that cost next to nothing: pull-backs of random signs over graphs and tasks.

The Gauss-Newton part of the tasks' Hessians is Jᵀ W_t J, with J the derivatives of all predictions.
Jᵀe for signs e is a sketch of it with half a power: along what is sharp it is long. A basis made of
a few of them leaves a trace after training as little to sample as a Krylov basis of that size, at a
reverse pass in place of a product each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import hessspec
from hessspec_mtl.graphs import GraphBatch
from hessspec_mtl.network.model import NetworkConfig, Params, predict

# Two less than two blocks of forms: the probes that tell how sure forms are stand beside them.
RANK = 14
# Groups of batches that a trace tells apart, at most.
GROUPS = 8
# Below, they and the pilot would leave hardly a sample; `trace` has another method there.
LEAST_MATVECS = 48


def pull_backs(
    params: Params,
    network: NetworkConfig,
    batches: Sequence[GraphBatch],
    count: int,
    key: PRNGKeyArray,
) -> Float[Array, "count dim"]:
    """Jᵀe for `count` random e, over all graphs and tasks, as `directions` of their traces.

    Rows are flat, in the order of the leaves of theta_sh. A target that is missing counts with its
    weight, 0. Cost: a forward pass and `count` reverse passes.
    """
    tasks = len(network.tasks)
    total: Array | None = None
    for number, batch in enumerate(batches):
        graphs = len(batch.mask)
        own = jax.random.fold_in(key, number)
        signs = hessspec.rademacher(own, jnp.arange(count), graphs * tasks, jnp.dtype("float32"))
        rows = _pull_backs(network, params, batch, signs.reshape(count, graphs, tasks))
        total = rows if total is None else total + rows
    assert total is not None
    return total


@partial(jax.jit, static_argnums=0)
def _pull_backs(
    network: NetworkConfig,
    params: Params,
    batch: GraphBatch,
    signs: Float[Array, "count graphs tasks"],
) -> Float[Array, "count dim"]:
    def predictions(shared: Params) -> Float[Array, "graphs tasks"]:
        return predict({**params, "shared": shared}, batch, network)

    found, pull = jax.vjp(predictions, params["shared"])
    scale = jnp.asarray(batch.mask, found.dtype)[:, None]
    if batch.weights is not None:
        scale = scale * jnp.sqrt(jnp.asarray(batch.weights, found.dtype))

    def row(one: Float[Array, "graphs tasks"]) -> Float[Array, " dim"]:
        (along,) = pull(scale * one.astype(found.dtype))
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(along)])

    return jax.lax.map(row, signs)


def size_for_groups(num_graphs: int, batch_size: int) -> int:
    """Graphs in a batch of a trace: so many that there are as many batches as it tells apart.

    Eight groups with probes of their own have less variance than four. One batch stays one, for
    devices that want all graphs at once.
    """
    if batch_size >= num_graphs:
        return batch_size
    return min(batch_size, math.ceil(num_graphs / GROUPS))
