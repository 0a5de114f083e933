"""Partial losses: from a trained state to the vector of task losses whose Hessians are studied.

The shared parameters theta_sh vary; the heads theta_1 .. theta_T are held constant:

    loss = partial_losses(config)
    H = hessspec.HessianOperator(loss, params, data=batches, where=is_shared)

with `batches = hessspec.Batches(list_of_graph_batches, sizes=[b.num_graphs for b in ...])`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from hessspec_mtl.graphs import GraphBatch
from hessspec_mtl.network.model import NetworkConfig, Params, predict

PartialLosses = Callable[[Params, GraphBatch], Float[Array, " tasks"]]


def standardised_errors(
    predictions: Float[Array, "graphs tasks"], batch: GraphBatch
) -> Float[Array, "graphs tasks"]:
    """Prediction minus target, in standard deviations; 0 in the rows of padding."""
    targets = jnp.asarray(batch.targets, predictions.dtype)
    mask = jnp.asarray(batch.mask, predictions.dtype)[:, None]
    return mask * (predictions - targets)


def weighted_sums(
    values: Float[Array, "graphs tasks"], batch: GraphBatch
) -> Float[Array, " tasks"]:
    """Sums of `values` over the graphs, each counted with its weight for the task.

    Over the number of graphs of the whole set, the sums of all its batches add up to the mean over
    the graphs that have the target. A batch in which none has it adds 0.
    """
    if batch.weights is not None:
        values = jnp.asarray(batch.weights, values.dtype) * values
    return values.sum(axis=0)


@cache
def partial_losses(config: NetworkConfig) -> PartialLosses:
    """L_1 .. L_T: each task's mean squared standardised error over the real graphs of a batch.

    The paper writes the sum over examples and calls it a mean; this is the mean, so that traces
    and eigenvalues do not grow with the number of graphs. The same config gives the same function
    object, so a new checkpoint or a new batch of the same shape meets a compiled program.

    Where targets are missing, each error counts with the weight of its task (`GraphBatch.weights`)
    and the mean is still over all graphs of the batch. So the mean over batches by their numbers of
    graphs, that of `sizes` above, is for each task the exact mean over the n_t examples of the set
    that have its target. A mean of each batch's own means would be another number, and none at all
    for a batch in which no example has the target.
    """

    def losses(params: Params, batch: GraphBatch) -> Float[Array, " tasks"]:
        return losses_of_predictions(predict(params, batch, config), batch)

    return losses


def losses_of_predictions(
    predictions: Float[Array, "graphs tasks"], batch: GraphBatch
) -> Float[Array, " tasks"]:
    """The second half of `partial_losses`, convex: what is between predictions and losses."""
    errors = standardised_errors(predictions, batch)
    return weighted_sums(jnp.square(errors), batch) / jnp.asarray(batch.mask, errors.dtype).sum()


@cache
def predictions_of(
    config: NetworkConfig,
) -> Callable[[Params, GraphBatch], Float[Array, "graphs tasks"]]:
    """The first half of `partial_losses`; the same function for the same config."""

    def predictions(params: Params, batch: GraphBatch) -> Float[Array, "graphs tasks"]:
        return predict(params, batch, config)

    return predictions


def is_shared(path: str, leaf: Any) -> bool:
    """Whether a leaf belongs to theta_sh: the `where` of the tasks' Hessians."""
    del leaf
    return path.startswith("shared/")
