"""Pull-backs of random signs, against the dense Jacobian of a reduced network."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec_mtl.curvature.sketches import pull_backs, size_for_groups
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.graphs import MultiGraph, balanced_batches
from hessspec_mtl.network.model import NetworkConfig, init_params, predict

TASKS, COUNT = 2, 3


@pytest.fixture(scope="module")
def setting():
    dataset = load_molecules(num_examples=12, seed=0)
    encoded = dataset.encode(dataset.split(0))
    names = tuple(task.name for task in encoded.tasks[:TASKS])
    network = NetworkConfig(
        encoded.node_features, encoded.edge_features, names, num_steps=1, width=2, head_width=3
    )
    targets = encoded.train.targets[:6, :TASKS].copy()
    targets[2, 1] = np.nan
    return network, init_params(jax.random.key(0), network), encoded.train.graphs[:6], targets


def test_they_are_sums_over_graphs_and_tasks_of_signed_derivatives(setting):
    """Each row is Jᵀe with |e| the root of the weight of its target, 0 where that is missing."""
    network, params, graphs, targets = setting
    key, batches = jax.random.key(1), balanced_batches(graphs, targets, 3)
    found = np.asarray(pull_backs(params, network, batches, COUNT, key), np.float64)
    wanted = 0.0
    for number, batch in enumerate(batches):

        def predictions(shared, batch=batch):
            return predict({**params, "shared": shared}, batch, network)

        leaves = jax.tree.leaves(jax.jacrev(predictions)(params["shared"]))
        rows = [np.reshape(leaf, (*leaf.shape[:2], -1)) for leaf in leaves]
        dense = np.concatenate(rows, axis=-1)
        size = dense.shape[0] * TASKS
        own = jax.random.fold_in(key, number)
        signs = hessspec.rademacher(own, jnp.arange(COUNT), size, jnp.dtype("float32"))
        scale = np.asarray(batch.mask)[:, None] * np.sqrt(batch.weights)
        scaled = scale * np.reshape(signs, (COUNT, -1, TASKS))
        wanted = wanted + np.einsum("kgt,gtp->kp", scaled, dense.astype(np.float64))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    missing = sum(float(np.sum(np.asarray(batch.weights) == 0)) for batch in batches)
    assert missing >= 1


def chains(sizes: Sequence[int]) -> list[MultiGraph]:
    """Graphs with one node and so many edges from it to itself."""
    ends = [np.zeros(size, np.int32) for size in sizes]
    return [MultiGraph(np.ones((1, 1)), np.ones((len(at), 1)), at, at) for at in ends]


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("count", "batch_size", "size"),
    [(128, 32, 16), (1024, 128, 128), (100, 32, 13), (256, 256, 256), (128, 8, 8)],
)
def test_graphs_are_cut_into_the_groups_that_a_trace_tells_apart(count, batch_size, size):
    """One batch stays one."""
    assert size_for_groups(chains([3] * count), batch_size) == size


@pytest.mark.any_dtype
def test_few_graphs_with_most_of_the_edges_leave_fewer_groups():
    """Two of 14 edges among 30 of 4 make 148; in 2, 4 and 8 batches of equally many graphs, each
    padded to the largest, they are 148, 168 and 208."""
    assert size_for_groups(chains([14, 14, *[4] * 30]), 31) == 8
    assert size_for_groups(chains([0] * 32), 31) == 4, "no edges cost nothing"
