"""One product, and what is said where there is none."""

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.arguments import check_key
from hessspec._operators.hessian import HessianOperator
from hessspec._operators.hvp import hvp
from hessspec._operators.verbs import Call
from tests.networks import X, Y, close, dense_hessian, network_params, scalar_loss, vector_loss

RANDOM = np.random.default_rng(9)


def test_hvp_equals_the_dense_product():
    params = network_params()
    product = hvp(vector_loss, params, params, data=(X, Y))
    operator = HessianOperator(vector_loss, params, data=(X, Y))
    flat = np.asarray(operator.space.flatten(params))
    dense = dense_hessian(operator, vector_loss, (X, Y))
    close(operator.rows(flat[None])[:, 0], dense @ flat)
    assert product["w1"].shape == (2, 3, 4)
    np.testing.assert_array_equal(product["w1"], hvp(operator, vector=params)["w1"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hvp(scalar_loss, network_params()), TypeError, "`vector` is missing"),
        (
            lambda: hvp(HessianOperator(jnp.sum, jnp.ones(2)), jnp.ones(2), jnp.ones(2)),
            TypeError,
            r"an operator already holds its parameters.*`params`",
        ),
        (lambda: hvp(3, jnp.ones(2), jnp.ones(2)), TypeError, "must be a loss function"),
        (lambda: hvp(jnp.sum, None, jnp.ones(2)), TypeError, "`params` is missing"),
        (lambda: hvp(jnp.sum, jnp.ones(2), jnp.ones(3)), ValueError, "shape of its parameter"),
        (lambda: hvp(jnp.sum, jnp.ones(2), {"a": jnp.ones(2)}), ValueError, "must be a tree"),
        (
            lambda: hvp(lambda p: jnp.log(p - 1).sum(), jnp.ones(2), jnp.ones(2)),
            ValueError,
            "the loss is -inf",
        ),
        (
            lambda: hvp(lambda p: jnp.sqrt(p["a"]).sum(), {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}),
            ValueError,
            "not finite in `a`",
        ),
        (
            lambda: HessianOperator(lambda p: (p * RANDOM.normal()).sum(), jnp.ones(3)),
            ValueError,
            "the loss is random",
        ),
        (
            lambda: HessianOperator(jnp.sum, jnp.ones(2), where=lambda path, leaf: False),
            ValueError,
            "nothing was chosen; the leaves are: params",
        ),
        (lambda: HessianOperator(jnp.sum, {"n": 3}), ValueError, "holds no float array"),
        (lambda: HessianOperator(jnp.sum, jnp.ones(2, jnp.complex64)), ValueError, "must be real"),
        (
            lambda: HessianOperator(lambda p: p, jnp.ones((3, 2))),
            ValueError,
            r"one float scalar, or shape \(T,\)",
        ),
        (
            lambda: HessianOperator(jnp.sum, jnp.ones(4, jnp.float32)).dense(memory_budget=100),
            MemoryError,
            "dense matrix of 4 parameters needs 128 bytes, `memory_budget` allows 100 bytes",
        ),
        (lambda: Call(jnp.sum, jnp.ones(2), verb="trace").resolve(), TypeError, "`key`"),
        (lambda: check_key(0), TypeError, "got int 0"),
    ],
)
def test_bad_calls_name_the_argument_and_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()
