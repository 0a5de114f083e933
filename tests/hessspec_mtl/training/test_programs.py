"""What a step minimises: squared or absolute errors, as a mean or a sum over the batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from hessspec_mtl.graphs import MultiGraph, batch_graphs
from hessspec_mtl.network.model import NetworkConfig, init_params, predict
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.programs import Optimization, programs

NETWORK = NetworkConfig(
    node_features=1, edge_features=1, tasks=("a", "b"), num_steps=1, width=2, head_layers=0
)
NONE = np.zeros(0, int)
GRAPHS = [MultiGraph(np.full((1, 1), n), np.zeros((0, 1)), NONE, NONE) for n in range(3)]
BATCH = jax.device_put(batch_graphs(GRAPHS, np.array([[3.0, 1.0], [-2.0, 0.5], [1.0, 4.0]])))
SGD = TrainConfig(optimizer="sgd", learning_rate=0.5, num_epochs=2, batch_size=3)


def test_a_step_of_plain_descent_goes_along_the_gradient_of_the_loss():
    def of(params):
        errors = abs(predict(params, BATCH, NETWORK)[:3] - BATCH.targets[:3])
        return errors.sum()

    config = replace(SGD, loss="absolute", reduction="sum")
    compiled = programs(NETWORK, Optimization.of(config, 3))
    params = init_params(jax.random.key(0), NETWORK)
    wanted = jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.jit(jax.grad(of))(params))
    found, _, _ = compiled.step(params, compiled.init(params), BATCH, None, jnp.float32(0.5))
    assert of(wanted) != of(init_params(jax.random.key(0), NETWORK))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5),
        found,
        wanted,
    )
