"""equinox: modules whole, partitioned or partly frozen, with state and with keys."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import hessspec

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jnp.sin(X.sum(axis=1))


def network():
    return eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(1))


def mean_squares(model, batch):
    return ((jax.vmap(model)(batch[0]) - batch[1]) ** 2).mean()


def test_a_module_whole_or_partitioned_or_frozen_but_for_its_head(dense, close):
    model = network()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, batch):
        return mean_squares(eqx.combine(params, static), batch)

    truth = dense(loss, params, (X, Y))
    close(hessspec.HessianOperator(mean_squares, model, data=(X, Y)).dense(), truth)
    close(hessspec.HessianOperator(loss, params, data=(X, Y)).dense(), truth)
    frozen = jax.tree.map(lambda _: False, model)
    head = eqx.tree_at(lambda m: m.layers[-1].weight, frozen, True)
    operator = hessspec.HessianOperator(mean_squares, model, data=(X, Y), where=head)
    assert operator.space.paths == ("layers/1/weight",)
    rows = slice(3 * 4 + 4, 3 * 4 + 4 + 4)
    close(operator.dense(), truth[rows, rows])


class Normalised(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.hidden = eqx.nn.Linear(3, 4, key=first)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(4, "scalar", key=second)

    def __call__(self, x, state, key):
        x, state = self.norm(self.hidden(x), state)
        return self.head(self.dropout(jnp.tanh(x), key=key)), state


def test_state_and_keys_are_data_and_rates_are_no_parameters(dense, close):
    model, state = eqx.nn.make_with_state(Normalised)(jax.random.key(1))

    def loss(model, batch):
        keys = jax.random.split(batch["key"], len(batch["x"]))
        outputs, _ = jax.vmap(model, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")(
            batch["x"], batch["state"], keys
        )
        return ((outputs - batch["y"]) ** 2).mean()

    batch = {"x": X, "y": Y, "state": state, "key": jax.random.key(2)}
    operator = hessspec.HessianOperator(loss, model, data=batch)
    assert operator.dim == 3 * 4 + 4 + 4 + 4 + 4 + 1
    assert "dropout/p: float 0.5" in repr(operator)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    truth = dense(lambda p, b: loss(eqx.combine(p, static), b), params, batch)
    close(operator.dense(), truth)
    still = eqx.nn.inference_mode(model)
    quiet = hessspec.HessianOperator(loss, still, data=batch)
    params, static = eqx.partition(still, eqx.is_inexact_array)
    close(quiet.dense(), dense(lambda p, b: loss(eqx.combine(p, static), b), params, batch))
    assert not np.allclose(quiet.dense(), truth)
