"""haiku: transformed functions, with the state of batch normalisation and with keys as data."""

import jax
import jax.numpy as jnp
import pytest

import hessspec

hk = pytest.importorskip("haiku", reason="needs dm-haiku")

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jnp.sin(X.sum(axis=1))


@hk.transform_with_state
def network(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(1, name="head")(jnp.tanh(x))[:, 0]


def loss(params, batch, is_training=True):
    outputs, _ = network.apply(params, batch["state"], batch["key"], batch["x"], is_training)
    return ((outputs - batch["y"]) ** 2).mean()


def evaluated(params, batch):
    return loss(params, batch, is_training=False)


@pytest.mark.parametrize("loss", [loss, evaluated])
def test_state_and_key_are_data(loss, dense, close):
    params, state = network.init(jax.random.key(1), X, True)
    batch = {"x": X, "y": Y, "state": state, "key": jax.random.key(2)}
    operator = hessspec.HessianOperator(loss, params, data=batch)
    assert operator.space.paths[:3] == ("batch_norm/offset", "batch_norm/scale", "head/b")
    close(operator.dense(), dense(loss, params, batch))
    head = hessspec.HessianOperator(
        loss, params, data=batch, where=lambda path, leaf: path.startswith("head/")
    )
    close(head.dense(), dense(loss, params, batch)[8:13, 8:13])
