"""A training of seconds: random graphs with two node features, a narrow network, four epochs."""

import numpy as np

from hessspec_mtl.graphs import MultiGraph
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.config import TrainConfig

NETWORK = NetworkConfig(
    node_features=2, edge_features=1, tasks=("size", "bonds"), num_steps=1, width=4, head_width=4
)
CONFIG = TrainConfig(num_epochs=4, batch_size=8, learning_rate=1e-2, decay_start=2)


def graph(rng: np.random.Generator) -> MultiGraph:
    num_nodes = int(rng.integers(2, 6))
    num_edges = int(rng.integers(1, 3)) * num_nodes
    return MultiGraph(
        nodes=np.eye(2)[rng.integers(0, 2, num_nodes)],
        edges=np.ones((num_edges, 1)),
        senders=rng.integers(0, num_nodes, num_edges),
        receivers=rng.integers(0, num_nodes, num_edges),
    )
