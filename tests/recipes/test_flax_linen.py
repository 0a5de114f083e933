"""flax linen: collections that change with a call, and the state of an optimiser."""

import jax
import jax.numpy as jnp
import pytest

import hessspec

nn = pytest.importorskip("flax.linen", reason="flax is part of the extra `mtl`")
optax = pytest.importorskip("optax", reason="optax is part of the extra `mtl`")

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jnp.sin(X.sum(axis=1, keepdims=True))


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        x = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(1)(x)


MODEL = Network()


def variables():
    found = MODEL.init(jax.random.key(1), X, train=False)
    return found["params"], found["batch_stats"]


def loss_in_training(params, batch):
    outputs, _ = MODEL.apply(
        {"params": params, "batch_stats": batch["stats"]},
        batch["x"],
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": batch["key"]},
    )
    return ((outputs - batch["y"]) ** 2).mean()


def loss_in_evaluation(params, batch):
    outputs = MODEL.apply({"params": params, "batch_stats": batch["stats"]}, batch["x"], False)
    return ((outputs - batch["y"]) ** 2).mean()


@pytest.mark.parametrize("loss", [loss_in_training, loss_in_evaluation])
def test_changing_collections_are_data(loss, dense, close):
    params, stats = variables()
    batch = {"x": X, "y": Y, "stats": stats, "key": jax.random.key(2)}
    operator = hessspec.HessianOperator(loss, params, data=batch)
    assert operator.space.paths[:2] == ("BatchNorm_0/bias", "BatchNorm_0/scale")
    close(operator.dense(), dense(loss, params, batch))


def test_of_a_whole_training_state_only_the_parameters_are_chosen(dense, close):
    """A state holds Adam's moments and running statistics, which are floats as well."""
    params, stats = variables()
    state = {"params": params, "stats": stats, "opt_state": optax.adam(1e-3).init(params)}

    def loss(state, batch):
        return loss_in_evaluation(state["params"], {**batch, "stats": state["stats"]})

    batch = {"x": X, "y": Y}
    everything = hessspec.HessianOperator(loss, state, data=batch)
    assert repr(everything).startswith(
        "HessianOperator of 95 parameters (opt_state 58, params 29, stats 8), one batch of data:"
    )
    chosen = {"params": True, "stats": False, "opt_state": False}
    operator = hessspec.HessianOperator(loss, state, data=batch, where=chosen)
    close(operator.dense(), dense(loss_in_evaluation, params, {**batch, "stats": stats}))
