"""Quadratic forms of all tasks: right for every kind of loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._operators.products import task_forms
from hessspec._operators.traces import inner_traces

DIM = 6
RNG = np.random.default_rng(0)
MATRIX, OTHER, BLOCK = (jnp.asarray(RNG.normal(size=(5, DIM))) for _ in range(3))
POINT = jnp.asarray(RNG.normal(size=DIM))


@jax.custom_jvp
def softened(a):
    return jnp.tanh(a)


@softened.defjvp
def _(primals, tangents):
    h = softened(*primals)
    return h, (1 - h * h) * tangents[0]


@jax.jit
def inner(x):
    return jnp.sin(MATRIX @ x)


def scanned(x):
    """A recurrent network."""

    def step(state, row):
        return jnp.tanh(state + row @ x), jnp.sum(state * x[0])

    state, history = jax.lax.scan(step, x[0], MATRIX)
    return jnp.stack([state, history.sum()])


LOSSES = {
    "plain": lambda x: jnp.stack([jnp.sum(jnp.tanh(MATRIX @ x) ** 2), jnp.sum(x**3)]),
    "inner jit": lambda x: jnp.stack([jnp.sum(inner(x) ** 2), inner(2 * x)[0]]),
    "custom rule": lambda x: jnp.stack([softened(MATRIX @ x).sum(), softened(x).prod()]),
    "scan": scanned,
    "branches": lambda x: jax.lax.cond(x[0] > 0, lambda y: y[:2] ** 3, lambda y: y[1:3] ** 4, x),
    "quadratic": lambda x: jnp.stack([x @ x, x[0] * x[1]]),
    "linear": lambda x: MATRIX @ x,
    "constant": lambda x: jnp.ones(2, x.dtype),
}


@pytest.mark.parametrize("name", LOSSES)
def test_forms_of_a_block_are_those_of_the_dense_hessians(name):
    hessians = np.asarray(jax.hessian(LOSSES[name])(POINT))
    expected = np.einsum("kp,tpq,kq->tk", BLOCK, hessians, BLOCK)
    size = max(np.abs(hessians).max() * float(jnp.sum(BLOCK**2)), 1.0)
    forms = jax.jit(lambda block: task_forms(LOSSES[name], POINT, block))
    for block in (BLOCK, BLOCK[:1]):
        found = forms(block)
        bound = 20 * np.finfo(found.dtype).eps * size
        np.testing.assert_allclose(found, expected[:, : len(block)], rtol=0, atol=bound)


def count(trace, name):
    """How many equations of that name there are, those of inner functions included."""
    inner = sum(count(body, name) for e in trace.eqns for body in inner_traces(e))
    return inner + sum(equation.primitive.name == name for equation in trace.eqns)


def test_both_derivatives_share_the_first_tangent():
    """A layer h = tanh(a), a = x W takes five products: xW, ẋW, xẆ, ẍW and ẋẆ."""

    def loss(x):
        first, second = x[:4].reshape(2, 2), x[2:6].reshape(2, 2)
        return jnp.sum(softened(softened(MATRIX[:, :2] @ first) @ second), axis=0)

    traced = jax.make_jaxpr(lambda block: task_forms(loss, POINT, block))(BLOCK)
    # The first layer's input is data: xW and xẆ only.
    assert count(traced, "dot_general") == 2 + 5
