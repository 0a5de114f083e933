"""The rules agree with JAX's own to rounding, to second order, in every combination of modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec_mtl.network.derivatives import matmul, tanh

RANDOM = np.random.default_rng(0)
X, W, A, B = (RANDOM.normal(size=shape) for shape in [(7, 3), (3, 5), (7, 3), (3, 5)])
PAIRS = {
    "matmul": (matmul, jnp.matmul),
    "tanh of matmul": (lambda x, w: tanh(matmul(x, w)), lambda x, w: jnp.tanh(x @ w)),
}


def second_derivatives(function):
    """Value, gradient, product and form by all nestings of forward and reverse mode."""

    def total(x, w):
        return (function(x, w) ** 3).sum()

    def slope(x, w):
        return jax.jvp(total, (x, w), (A, B))[1]

    def reverse(f):
        return jax.grad(f, argnums=(0, 1))

    return {
        "value": function(X, W),
        "gradient": reverse(total)(X, W),
        "forward over reverse": jax.jvp(reverse(total), (X, W), (A, B))[1],
        "reverse over forward": reverse(slope)(X, W),
        "reverse over reverse": jax.jacrev(reverse(total))(X, W),
        "forward over forward": jax.jvp(slope, (X, W), (A, B))[1],
        "mapped": jax.vmap(reverse(total), in_axes=(None, 0))(X, jnp.stack([W, B])),
        "linearized": jax.linearize(reverse(total), X, W)[1](A, B),
    }


@pytest.mark.parametrize("name", PAIRS)
def test_all_derivatives_are_those_of_jax(name):
    with jax.enable_x64(True):
        ours, theirs = (jax.jit(lambda f=f: second_derivatives(f))() for f in PAIRS[name])
        for kind, expected in theirs.items():
            for a, b in zip(jax.tree.leaves(ours[kind]), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=kind)


def test_the_gradient_of_a_wide_matrix_is_contracted_into_its_own_shape():
    """The reason for the rule: JAX's own makes a 5 by 3 array and transposes it."""

    def text(function):
        gradient = jax.grad(lambda w: (function(jnp.asarray(X), w) ** 2).sum())
        return jax.jit(gradient).lower(jnp.asarray(W)).as_text()

    assert "tensor<5x3" in text(jnp.matmul)
    assert "tensor<5x3" not in text(matmul)
