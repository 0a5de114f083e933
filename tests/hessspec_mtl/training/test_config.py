"""Settings of a training: the rate of each epoch, and what cannot be."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.programs import Optimization, programs

NETWORK = NetworkConfig(node_features=1, edge_features=1, tasks=("a",), num_steps=1, width=2)


def test_the_learning_rate_is_that_of_the_paper():
    config = TrainConfig()
    rates = [config.learning_rate_at(epoch) for epoch in (1, 256, 257, 512)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 0.997e-3, 0.997**256 * 1e-3])


def test_the_learning_rate_warms_up_in_proportion():
    schedule = Optimization.of(
        TrainConfig(warmup_steps=10, num_epochs=8, batch_size=4), 18
    ).schedule
    start = jnp.float32(1e-3)
    rates = [float(schedule(start, jnp.int32(count))) for count in (0, 4, 9, 10, 19, 20)]
    np.testing.assert_allclose(rates, [1e-4, 5e-4, 1e-3, 1e-3, 1e-3, 0.997e-3], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "`num_epochs` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0"),
        ({"optimizer": "lamb"}, r"`optimizer` must be one of \['adam', 'adamw', 'sgd'\]"),
        ({"matmul_precision": "half"}, r"`matmul_precision` must be one of .* got 'half'"),
        ({"checkpoint_seconds": -1.0}, "`checkpoint_seconds` must be at least 0, got -1.0"),
        ({"loss": "huber"}, r"`loss` must be one of \['squared', 'absolute'\], got 'huber'"),
        ({"reduction": "none"}, "`reduction` must be one of"),
        (
            {"loss": "absolute", "weighting": "sharpness"},
            "the curvature of squared errors",
        ),
        ({"keep_epochs": (600,)}, r"`keep_epochs` must lie in \[0, 512\]"),
    ],
)
def test_an_impossible_training_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_trainings_that_differ_in_rate_and_seed_share_their_programs():
    configs = (TrainConfig(learning_rate=rate, seed=seed) for rate, seed in ((1e-3, 0), (4e-3, 1)))
    first, second = (Optimization.of(config, 18) for config in configs)
    assert first == second


def test_programs_of_many_trainings_are_let_go():
    """A process may hold the maps of memory of a few dozens of them and no more."""

    def made(decay_rate: float):
        return programs(NETWORK, Optimization.of(TrainConfig(decay_rate=decay_rate), 18))

    first = weakref.ref(made(0.5))
    assert made(0.5) is first()
    for number in range(20):
        made(0.6 + 0.01 * number)
    gc.collect()
    assert first() is None
