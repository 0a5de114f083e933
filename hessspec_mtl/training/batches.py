"""Which examples make a batch in which epoch, and the few shapes that batches come in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from hessspec_mtl.graphs import GraphBatch, MultiGraph, Padding, batch_graphs, padding_for


def epoch_batches(
    key: PRNGKeyArray, epoch: int, num_examples: int, batch_size: int
) -> list[Int[np.ndarray, " batch"]]:
    """Which examples make each batch of `epoch`: a random partition, from key and epoch alone."""
    order = jax.device_get(_order(key, jax.device_put(np.int32(epoch)), num_examples))
    return np.array_split(order, range(batch_size, num_examples, batch_size))


@partial(jax.jit, static_argnames="num_examples")
def _order(
    key: PRNGKeyArray, epoch: Int[Array, ""], num_examples: int
) -> Int[Array, " num_examples"]:
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def epoch_members(
    key: PRNGKeyArray, epoch: Int[Array, ""], num_examples: int, batch_size: int
) -> Int[Array, "batches batch"]:
    """`epoch_batches` as one array, on the device; the last batch is filled up by `num_examples`,
    which is the number of no example."""
    order = _order(key, epoch, num_examples)
    spare = -num_examples % batch_size
    filled = jnp.pad(order, (0, spare), constant_values=num_examples)
    return filled.reshape(-1, batch_size)


@partial(jax.jit, static_argnames="batch_size")
def largest_batches(
    key: PRNGKeyArray,
    epochs: Int[Array, " epochs"],
    sizes: Int[Array, "examples 2"],
    batch_size: int,
) -> Int[Array, "epochs 2"]:
    """The most nodes and the most edges that a batch of each epoch has: columns of `sizes`."""

    def largest(epoch: Int[Array, ""]) -> Int[Array, " 2"]:
        members = epoch_members(key, epoch, len(sizes), batch_size)
        return sizes.at[members].get(mode="fill", fill_value=0).sum(axis=1).max(axis=0)

    return jax.lax.map(largest, epochs)


def padding_ladder(graphs: Sequence[MultiGraph], batch_size: int) -> tuple[Padding, ...]:
    """A few batch shapes, small to large, of which the last holds every batch of these graphs.

    One shape for all batches must hold the unluckiest one and be mostly empty for the others. The
    sum of `batch_size` sizes drawn at random has mean m and deviation s: the rungs are m + 3/4 s
    (three batches in four fit), m + 4.5 s and the largest possible sum. Rungs that would save less
    than 5 % against the next are left out, since each costs a compilation: and the last one does
    not, unless a batch in ten thousand comes along. With m + s/2 and m + 2 s all three are met in
    any run, for 2 to 3 % less padding.
    """
    count = min(batch_size, len(graphs))
    sizes = np.array([(g.num_nodes, g.num_edges) for g in graphs], float)
    # Drawn without replacement: the variance of the sum shrinks to 0 when all are taken.
    spread = np.sqrt(count * (1 - count / len(graphs))) * sizes.std(axis=0)
    ladder = [padding_for(graphs, batch_size)]
    for deviations in (4.5, 0.75):
        n_node, n_edge = np.ceil(count * sizes.mean(axis=0) + deviations * spread).astype(int)
        rung = Padding.holding(int(n_node), int(n_edge), count)
        if rung.n_node + rung.n_edge < 0.95 * (ladder[0].n_node + ladder[0].n_edge):
            ladder.insert(0, rung)
    return tuple(ladder)


def padded_batch(
    graphs: Sequence[MultiGraph],
    targets: np.ndarray,
    ladder: Sequence[Padding],
    weights: np.ndarray | None = None,
) -> GraphBatch:
    """The batch in the smallest shape of `ladder` that holds it; `weights` as in `batch_graphs`."""
    real = sum(g.num_nodes for g in graphs), sum(g.num_edges for g in graphs), len(graphs)
    shape = next(padding for padding in ladder if padding.holds(*real))
    return batch_graphs(graphs, targets, pad_to=shape, weights=weights)
