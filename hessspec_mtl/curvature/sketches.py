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
from hessspec_mtl.graphs import GraphBatch, MultiGraph, balanced_groups
from hessspec_mtl.network.model import NetworkConfig, Params, predict

# Two less than two blocks of forms: the probes that tell how sure forms are stand beside them.
RANK = 14
# Groups of batches that a trace tells apart, at most.
GROUPS = 8
# Batches may have so many times the edges of the fewest batches possible, padding included: eight
# groups have .74 to .95 of the variance of four.
MOST_PADDED = 1.15
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


def size_for_groups(graphs: Sequence[MultiGraph], batch_size: int) -> int:
    """Graphs in a batch of a trace: so many that there are as many batches as it tells apart.

    Eight groups with probes of their own have less variance than four. But all batches have the
    shape of the largest: few crystals with most of the edges would have all others padded to that,
    and then fewer batches pay. One batch stays one, for devices that want all graphs at once.
    """
    count = len(graphs)
    fewest = math.ceil(count / batch_size)
    if fewest == 1:
        return batch_size
    least = _padded_edges(graphs, batch_size)
    for groups in range(GROUPS, fewest, -1):
        size = math.ceil(count / groups)
        if _padded_edges(graphs, size) <= MOST_PADDED * least:
            return size
    return batch_size


def _padded_edges(graphs: Sequence[MultiGraph], batch_size: int) -> int:
    """Of all batches together, each as large as the largest."""
    groups = balanced_groups(graphs, batch_size)
    return len(groups) * max(sum(graphs[i].num_edges for i in group) for group in groups)
