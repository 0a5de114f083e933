"""A network of 24 parameters with a loss for each of its two outputs, for tests of operators."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

X = jnp.asarray(np.random.default_rng(0).normal(size=(11, 3)))
Y = jnp.asarray(np.random.default_rng(1).normal(size=(11, 2)))


def scalar_loss(params, batch):
    return vector_loss(params, batch).sum()


def vector_loss(params, batch):
    x, y = batch
    outputs = jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"]
    return ((outputs - y) ** 2).mean(0)


def network_params():
    rng = np.random.default_rng(2)
    return {
        "w1": jnp.asarray(rng.normal(size=(3, 4))),
        "b1": jnp.asarray(rng.normal(size=4)),
        "w2": jnp.asarray(rng.normal(size=(4, 2))),
    }


def dense_hessian(operator, loss, *arguments):
    """The Hessian by two reverse and forward passes of JAX over the flat parameters."""

    def flat(x):
        return loss(eqx.combine(operator.space.unflatten(x), operator.held), *arguments)

    return np.asarray(jax.jit(jax.hessian(flat))(operator.space.flatten(operator.chosen)))


def close(actual, expected, units=100.0):
    """Equal up to `units` of rounding in the dtype of `actual`, relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    eps = np.finfo(actual.dtype).eps
    scale = max(np.abs(expected).max(initial=0.0), np.finfo(actual.dtype).tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=units * eps * scale)
