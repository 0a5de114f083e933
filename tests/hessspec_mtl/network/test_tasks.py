"""Partial losses: means over real graphs, of the shared parameters, one function per network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from hessspec_mtl.graphs import MultiGraph, Padding, batch_graphs
from hessspec_mtl.network.model import NetworkConfig, init_params, predict
from hessspec_mtl.network.tasks import is_shared, partial_losses

CONFIG = NetworkConfig(
    node_features=2, edge_features=2, tasks=("b", "a"), num_steps=1, width=2, head_width=3
)


def graphs(count: int) -> list[MultiGraph]:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 3, size=(count, 2, 4))
    return [
        MultiGraph(rng.standard_normal((3, 2)), rng.standard_normal((4, 2)), s, r) for s, r in ends
    ]


TARGETS = np.random.default_rng(1).standard_normal((3, 2))


def test_a_partial_loss_is_the_mean_squared_error_over_real_graphs():
    params = init_params(jax.random.key(0), CONFIG)
    batch = batch_graphs(graphs(3), TARGETS, pad_to=Padding(12, 20, 6))
    errors = np.asarray(predict(params, batch, CONFIG))[:3] - TARGETS
    losses = partial_losses(CONFIG)(params, batch)
    np.testing.assert_allclose(losses, (errors**2).mean(axis=0), rtol=1e-5)


def test_the_same_network_has_the_same_loss_function():
    """What lets a new checkpoint run through the program compiled for the last one."""
    assert partial_losses(CONFIG) is partial_losses(replace(CONFIG))
    assert partial_losses(CONFIG) is not partial_losses(replace(CONFIG, tasks=("a", "b")))


def test_a_task_alone_has_the_loss_it_has_among_others():
    params = init_params(jax.random.key(0), CONFIG)
    alone = {"shared": params["shared"], "heads": {"a": params["heads"]["a"]}}
    losses = partial_losses(CONFIG)(params, batch_graphs(graphs(3), TARGETS))
    loss = partial_losses(replace(CONFIG, tasks=("a",)))(
        alone, batch_graphs(graphs(3), TARGETS[:, 1:])
    )
    np.testing.assert_allclose(loss, losses[1:], rtol=1e-6)


def test_the_hessians_of_the_tasks_are_those_of_the_shared_parameters_alone():
    """Each H_t of the operator, over two batches, against `jax.hessian` of its loss."""
    params = init_params(jax.random.key(0), CONFIG)
    batches = [
        batch_graphs(graphs(3)[:2], TARGETS[:2], pad_to=Padding(8, 8, 4)),
        batch_graphs(graphs(3)[2:], TARGETS[2:], pad_to=Padding(8, 8, 4)),
    ]
    data = hessspec.Batches(batches, sizes=[batch.num_graphs for batch in batches])
    operator = hessspec.HessianOperator(partial_losses(CONFIG), params, data=data, where=is_shared)
    assert operator.dim == sum(leaf.size for leaf in jax.tree.leaves(params["shared"]))
    flat, unflatten = jax.flatten_util.ravel_pytree(params["shared"])

    def losses(flat, batch):
        return partial_losses(CONFIG)({**params, "shared": unflatten(flat)}, batch)

    dense = jax.jit(jax.hessian(losses))
    expected = (2 * dense(flat, batches[0]) + dense(flat, batches[1])) / 3
    scale = float(jnp.abs(expected).max())
    rows = operator.rows(jnp.eye(operator.dim, dtype=operator.dtype)[:5])
    np.testing.assert_allclose(rows, expected[:, :5], atol=2e-5 * scale)
