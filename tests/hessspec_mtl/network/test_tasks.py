"""Partial losses: means over real graphs, of the shared parameters, one function per network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

import hessspec
from hessspec_mtl.graphs import MultiGraph, Padding, balanced_batches, batch_graphs
from hessspec_mtl.network.model import NetworkConfig, init_params, predict
from hessspec_mtl.network.tasks import is_shared, partial_losses, weighted_sums

CONFIG = NetworkConfig(
    node_features=2, edge_features=2, tasks=("b", "a"), num_steps=1, width=2, head_width=3
)


def graphs(count: int) -> list[MultiGraph]:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 3, size=(count, 2, 4))
    return [
        MultiGraph(rng.standard_normal((3, 2)), rng.standard_normal((4, 2)), s, r) for s, r in ends
    ]


PREDICT = jax.jit(predict, static_argnames="config")
TARGETS = np.random.default_rng(1).standard_normal((3, 2))


def test_a_partial_loss_is_the_mean_squared_error_over_real_graphs():
    params = init_params(jax.random.key(0), CONFIG)
    batch = batch_graphs(graphs(3), TARGETS, pad_to=Padding(12, 20, 6))
    errors = np.asarray(PREDICT(params, batch, config=CONFIG))[:3] - TARGETS
    losses = jax.jit(partial_losses(CONFIG))(params, batch)
    np.testing.assert_allclose(losses, (errors**2).mean(axis=0), rtol=1e-5)


def test_the_same_network_has_the_same_loss_function():
    """What lets a new checkpoint run through the program compiled for the last one."""
    assert partial_losses(CONFIG) is partial_losses(replace(CONFIG))
    assert partial_losses(CONFIG) is not partial_losses(replace(CONFIG, tasks=("a", "b")))


def test_a_task_alone_has_the_loss_it_has_among_others():
    params = init_params(jax.random.key(0), CONFIG)
    alone = {"shared": params["shared"], "heads": {"a": params["heads"]["a"]}}
    losses = jax.jit(partial_losses(CONFIG))(params, batch_graphs(graphs(3), TARGETS))
    loss = jax.jit(partial_losses(replace(CONFIG, tasks=("a",))))(
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


def lacking(*present: int) -> np.ndarray:
    """Twelve rows of targets; task t is known of the last `present[t]` of them alone."""
    targets = np.random.default_rng(2).standard_normal((12, len(present)))
    for task, count in enumerate(present):
        targets[: 12 - count, task] = np.nan
    return targets


def linear_losses(coefficients, batch):
    """Each task's mean squared error of x'w_t, x the sum of a graph's node features."""
    of_node = jnp.repeat(
        jnp.arange(len(batch.graph.n_node)),
        batch.graph.n_node,
        total_repeat_length=len(batch.graph.nodes),
    )
    x = jraph.segment_sum(jnp.asarray(batch.graph.nodes), of_node, len(batch.graph.n_node))
    errors = jnp.asarray(batch.mask)[:, None] * (x @ coefficients - jnp.asarray(batch.targets))
    return weighted_sums(jnp.square(errors), batch) / jnp.asarray(batch.mask).sum()


@pytest.mark.parametrize("present", [(8, 3), (1, 12), (3,)], ids=str)
def test_the_hessian_of_a_linear_model_is_that_of_the_examples_with_the_target(present):
    """H_t = 2/n_t X_t'X_t, in batches of three of which most lack some task altogether."""
    members, targets = graphs(12), lacking(*present)
    batches = balanced_batches(members, targets, 3)
    absent = [(batch.weights == 0).all(axis=0).any() for batch in batches]
    assert sum(absent) > 0
    data = hessspec.Batches(batches, sizes=[batch.num_graphs for batch in batches])
    zero = jnp.zeros((2, len(present)))
    dense = np.asarray(hessspec.HessianOperator(linear_losses, zero, data=data).dense())
    x = np.stack([g.nodes.astype(np.float32).sum(axis=0, dtype=np.float64) for g in members])
    for task, count in enumerate(present):
        expected = np.zeros((2, len(present), 2, len(present)))
        expected[:, task, :, task] = 2 / count * x[-count:].T @ x[-count:]
        got = dense.reshape(-1, 2 * len(present), 2 * len(present))[task]
        np.testing.assert_allclose(
            got, expected.reshape(got.shape), rtol=2e-6, atol=2e-6 * expected.max()
        )


def test_partial_losses_are_means_over_the_examples_with_the_target_in_any_batches():
    params = init_params(jax.random.key(0), CONFIG)
    members, targets = graphs(12), lacking(9, 2)
    (whole,) = balanced_batches(members, targets, 12)
    errors = np.asarray(PREDICT(params, whole, config=CONFIG))[:12] - targets
    expected = np.nanmean(errors**2, axis=0)
    batches = balanced_batches(members, targets, 3)
    losses = [jax.jit(partial_losses(CONFIG))(params, batch) for batch in batches]
    np.testing.assert_allclose(np.mean(losses, axis=0), expected, rtol=1e-5)
    assert any((batch.weights[:, 1] == 0).all() for batch in batches)


def test_the_hessians_of_tasks_with_missing_targets_are_those_of_the_masked_means():
    """The network's own, over batches one of which has no example of task "a", against dense.

    The rows are those of largest diagonal; layer normalisation of two features, as in `CONFIG`,
    would leave three digits in float32.
    """
    config = replace(CONFIG, width=3)
    params = init_params(jax.random.key(0), config)
    members, targets = graphs(6), lacking(5, 2)[6:]
    batches = balanced_batches(members, targets, 2)
    assert any((batch.weights[:, 1] == 0).all() for batch in batches)
    data = hessspec.Batches(batches, sizes=[batch.num_graphs for batch in batches])
    operator = hessspec.HessianOperator(partial_losses(config), params, data=data, where=is_shared)
    flat, unflatten = jax.flatten_util.ravel_pytree(params["shared"])
    whole, known = batch_graphs(members, np.zeros((6, 2))), ~np.isnan(targets)

    def losses(flat):
        errors = predict({**params, "shared": unflatten(flat)}, whole, config)[:6]
        squares = jnp.square(errors - np.where(known, targets, 0.0))
        return (known * squares).sum(axis=0) / known.sum(axis=0)

    expected = np.asarray(jax.jit(jax.hessian(losses))(flat))
    for task in range(2):
        largest = np.argsort(-np.abs(np.diagonal(expected[task])))[:4]
        rows = operator.task(task).rows(jnp.eye(operator.dim, dtype=operator.dtype)[largest])
        scale = np.abs(expected[task][largest]).max()
        np.testing.assert_allclose(rows, expected[task][largest], atol=1e-4 * scale)
