"""What a network says of examples, and how far off it is: one compiled program for all splits.

Errors on the training split before the first step, on the test split after each epoch, and what is
said of each test example at the end take the same batches through the same program. Each further
one would be compiled for longer than it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec_mtl.graphs import GraphBatch, MultiGraph, Padding, balanced_batches, balanced_padding
from hessspec_mtl.network.model import NetworkConfig, Params, predict
from hessspec_mtl.network.tasks import standardised_errors, weighted_sums

EVALUATION_BATCH = 64

Split = tuple[Sequence[MultiGraph], Float[np.ndarray, "examples tasks"]]
"""Graphs of a split and their targets, one column a task of the network."""


def error_sums(
    predictions: Float[Array, "graphs tasks"], batch: GraphBatch
) -> Float[Array, "metrics tasks"]:
    """Sums over the graphs of a batch of squared and absolute errors, weighted where targets are
    missing."""
    errors = standardised_errors(predictions, batch)
    return jnp.stack([weighted_sums(e, batch) for e in (jnp.square(errors), jnp.abs(errors))])


# As many as `programs` keeps, and for the same reason.
@lru_cache(maxsize=8)
def evaluation(
    network: NetworkConfig,
) -> Callable[
    [Params, GraphBatch], tuple[Float[Array, "graphs tasks"], Float[Array, "metrics tasks"]]
]:
    """(params, batch) -> predictions of all tasks, and `error_sums`: compiled when first called."""

    @jax.jit
    def evaluated(
        params: Params, batch: GraphBatch
    ) -> tuple[Float[Array, "graphs tasks"], Float[Array, "metrics tasks"]]:
        predictions = predict(params, batch, network)
        return predictions, error_sums(predictions, batch)

    return evaluated


def evaluation_batches(splits: Mapping[str, Split], split: str) -> list[GraphBatch]:
    """All examples of `split` in batches, of the one shape that those of all `splits` have."""
    paddings = (balanced_padding(graphs, EVALUATION_BATCH) for graphs, _ in splits.values())
    return balanced_batches(*splits[split], EVALUATION_BATCH, reduce(Padding.and_of, paddings))
