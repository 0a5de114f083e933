"""Hessians and Gauss-Newton matrices against the dense ones that JAX gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec._operators.batches import Batches
from hessspec._operators.hessian import GaussNewtonOperator, HessianOperator
from tests.networks import X, Y, close, dense_hessian, network_params, scalar_loss, vector_loss


@pytest.mark.parametrize("loss", [scalar_loss, vector_loss])
def test_dense_is_the_hessian_of_jax(loss):
    operator = HessianOperator(loss, network_params(), data=(X, Y))
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


@pytest.mark.parametrize("loss", [scalar_loss, vector_loss])
def test_gradients_are_those_of_jax_over_batches_too(loss):
    params = network_params()
    halves = Batches([(X[:4], Y[:4]), (X[4:], Y[4:])])
    operator = HessianOperator(loss, params, data=halves)
    truth = jax.jacrev(loss)(params, (X, Y))
    lead = () if operator.num_tasks is None else (operator.num_tasks,)
    flat = [np.reshape(leaf, (*lead, -1)) for leaf in jax.tree.leaves(truth)]
    close(operator.gradients(), np.concatenate(flat, axis=-1))


def test_a_flax_model_is_a_loss_like_any_other():
    nn = pytest.importorskip("flax.linen")
    model = nn.Dense(2, param_dtype=X.dtype)
    params = model.init(jax.random.key(0), X)

    def loss(params, batch):
        return ((model.apply(params, batch[0]) - batch[1]) ** 2).mean()

    operator = HessianOperator(loss, params, data=(X, Y))
    assert operator.space.paths == ("params/bias", "params/kernel")
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


def test_an_equinox_module_keeps_its_functions_out_of_the_hessian():
    model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def loss(model, batch):
        return ((jax.vmap(model)(batch[0]) - batch[1]) ** 2).mean()

    operator = HessianOperator(loss, model, data=(X, Y))
    assert operator.dim == 3 * 4 + 4 + 4 * 2 + 2
    close(operator.dense(), dense_hessian(operator, loss, (X, Y)))


def test_haiku_style_dicts_and_a_bare_array_are_parameter_trees():
    params = {"linear": {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, "unused": {}}

    def loss(params):
        return jnp.sin(X @ params["linear"]["w"] + params["linear"]["b"][None]).sum()

    operator = HessianOperator(loss, params)
    close(operator.dense(), dense_hessian(operator, loss))
    bare = HessianOperator(lambda x: (x**3).sum(), jnp.arange(4.0))
    close(bare.dense(), np.diag(6.0 * np.arange(4.0)))
    assert bare.space.paths == ("params",)


@pytest.mark.parametrize("narrow", [jnp.float16, jnp.bfloat16])
def test_mixed_dtypes_compute_in_the_widest_and_return_their_own(narrow):
    """The Hessian is that of the same point in float32: symmetric, and its verbs go through."""
    params = {"half": network_params()["w1"].astype(narrow), "single": jnp.ones(3, jnp.float32)}

    def loss(params):
        hidden = jnp.tanh(X.astype(jnp.float32) @ params["half"].astype(jnp.float32))
        return jnp.mean(hidden[:, :3] @ params["single"]) ** 2

    operator = HessianOperator(loss, params)
    assert operator.dtype == np.float32
    assert operator.matvec(params)["half"].dtype == narrow
    wide = HessianOperator(loss, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))
    np.testing.assert_array_equal(operator.dense(), wide.dense())
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        hessspec.trace(operator, key=key, num_matvecs=12).value,
        hessspec.trace(wide, key=key, num_matvecs=12).value,
    )
    found = hessspec.eigenpairs(operator, key=key, k=2)
    assert found.vectors["half"].dtype == narrow
    assert np.all(found.converged)


def test_where_restricts_the_hessian_to_its_block():
    params = network_params()
    whole = HessianOperator(scalar_loss, params, data=(X, Y))
    part = HessianOperator(
        scalar_loss, params, data=(X, Y), where=lambda path, leaf: path != "b1" and leaf.ndim == 2
    )
    assert part.space.paths == ("w1", "w2")
    assert f"w1: {X.dtype}[3, 4]" in repr(part)
    chosen, held = repr(part).split("held constant:")
    assert "b1" not in chosen
    assert "b1: " in held
    close(part.dense(), np.asarray(whole.dense())[4:, 4:])  # b1 comes first in the tree's order
    assert part.matvec(part.chosen)["b1"] is None


def test_unused_parameters_have_zero_rows():
    params = network_params() | {"head_of_another_task": jnp.ones(3)}
    operator = HessianOperator(scalar_loss, params, data=(X, Y))
    dense = np.asarray(operator.dense())
    start = operator.space.sizes[0]
    assert operator.space.paths[1] == "head_of_another_task"
    np.testing.assert_array_equal(dense[start : start + 3], 0.0)


def test_gauss_newton_is_jacobian_curvature_jacobian():
    params = network_params()

    def model(params, batch):
        return jnp.tanh(batch[0] @ params["w1"] + params["b1"][None]) @ params["w2"]

    def outer(outputs, batch):
        return ((outputs - batch[1]) ** 4).mean(0)

    data = Batches([(X[:6], Y[:6]), (X[6:], Y[6:])])
    operator = GaussNewtonOperator(model, outer, params, data)
    dense = np.zeros((2, operator.dim, operator.dim))
    x = operator.space.flatten(operator.chosen)
    jacobian = np.asarray(jax.jacobian(lambda x: model(operator.space.unflatten(x), (X, Y)))(x))
    outputs = np.asarray(model(params, (X, Y)))
    for task in range(2):
        second = 12 * (outputs[:, task] - Y[:, task]) ** 2 / len(X)
        dense[task] = jacobian[:, task].T @ (second[:, None] * jacobian[:, task])
    close(operator.dense(), dense)
    close(operator.task(1).dense(), dense[1])
    block = np.random.default_rng(3).normal(size=(3, operator.dim))
    close(operator.forms(block), np.einsum("kp,tpq,kq->tk", block, dense, block))


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    params = {"w": jnp.ones((3, 2))}

    def outer(outputs, batch):
        return ((outputs - batch[1]) ** 2).mean()

    def model(params, batch):
        return batch[0] @ params["w"]

    gauss_newton = GaussNewtonOperator(model, outer, params, (X, Y))
    hessian = HessianOperator(lambda p, b: outer(model(p, b), b), params, data=(X, Y))
    close(gauss_newton.dense(), hessian.dense())
    with pytest.raises(ValueError, match="`data` is required"):
        GaussNewtonOperator(model, outer, params, None)


def test_the_hessian_is_taken_at_the_parameters_given():
    """A closed form: logistic regression has H = X' diag(s(1 - s)) X / n at these weights."""
    weights = jnp.asarray([0.3, -1.0, 2.0])
    labels = jnp.asarray(Y[:, 0] > 0, X.dtype)

    def loss(w):
        logits = X @ w
        return (jnp.logaddexp(0.0, logits) - labels * logits).mean()

    for scale in (1.0, 3.0):
        s = 1 / (1 + np.exp(-X @ np.asarray(scale * weights)))
        expected = X.T @ ((s * (1 - s))[:, None] * X) / len(X)
        close(HessianOperator(loss, scale * weights).dense(), expected)
