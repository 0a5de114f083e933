"""A loss of three parameters and what newcomers make of it, for tests of wrong calls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from hessspec import FunctionOperator, GaussNewtonOperator, HessianOperator

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
BATCH = (X, X.sum(axis=1))
PARAMS = {"w": jnp.ones(3, X.dtype)}
density = partial(hessspec.density, progress=False)
trace = partial(hessspec.trace, progress=False)


def loss(params, batch):
    x, y = batch
    return ((jnp.tanh(x @ params["w"]) - y) ** 2).mean()


def alone(params):
    return loss(params, BATCH)


def tasks(params):
    return jnp.stack([alone(params), 2 * alone(params)])


class Loader:
    """What holds batches and is no sequence."""

    def __iter__(self):
        return iter([BATCH, BATCH])


def with_auxiliary(params, batch):
    return loss(params, batch), {"outputs": outputs(params, batch)}


def several(params, batch):
    return {"first": loss(params, batch), "second": loss(params, batch)}


def identity(size=3, **kwargs):
    return FunctionOperator(lambda v: v, jnp.zeros(size), **kwargs)


def hessian():
    return HessianOperator(alone, PARAMS)


def gauss_newton(model, outer):
    return GaussNewtonOperator(model, outer, PARAMS, BATCH)


def outputs(params, batch):
    return batch[0] @ params["w"]


def outer(z, batch):
    return ((z - batch[1]) ** 2).mean()
