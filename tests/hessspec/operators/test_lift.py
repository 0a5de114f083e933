"""Which losses share a compiled program: those that trace alike, rules of derivatives included."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import HessianOperator
from hessspec._operators.rows import compiled_rows
from tests.networks import X, Y, close, dense_hessian


def squares(factor, *, hidden: bool):
    """Σ x² with a rule that multiplies its derivative, and so the Hessian 2·1, by `factor`."""
    held = jnp.asarray(factor)

    @jax.custom_jvp
    def square(x):
        return x**2

    @square.defjvp
    def _rule(primals, tangents):
        (x,), (v,) = primals, tangents
        return x**2, 2 * x * v * (held if hidden else factor)

    return lambda x: jnp.sum(square(x))


@pytest.mark.parametrize("hidden", [False, True], ids=["a number", "an array"])
def test_losses_with_other_derivative_rules_are_other_programs(hidden):
    """Their values, and so their traces, are the same."""
    x = jnp.ones(3)
    for factor in (1.0, 3.0, 1.0):
        hessian = HessianOperator(squares(factor, hidden=hidden), x)
        np.testing.assert_allclose(hessian.rows(x[None])[0], 2 * factor * np.ones(3))


def test_a_loss_defined_anew_reuses_the_compiled_program_but_not_its_old_arrays():
    """Closed-over arrays are lifted, so a fresh closure is the same program on other data."""

    def operator_for(data):
        return HessianOperator(lambda p: ((data @ p) ** 4).sum(), jnp.ones(3))

    first = operator_for(X)
    first.rows(jnp.ones((2, 3)))
    size = compiled_rows._cached._cache_size()
    second = operator_for(2 * X)
    close(second.rows(jnp.ones((2, 3))), 16 * np.asarray(first.rows(jnp.ones((2, 3)))))
    assert compiled_rows._cached._cache_size() == size


def test_arrays_closed_over_inside_jit_are_lifted_too():
    inner = jax.jit(lambda p: ((X @ p) ** 2).sum())
    operator = HessianOperator(jax.jit(lambda p: inner(p) + (Y.sum() * p**3).sum()), jnp.ones(3))
    shapes = [constant.shape for constant in operator.chunks[0].functions[0].constants]
    assert X.shape in shapes
    close(operator.dense(), dense_hessian(operator, lambda p: inner(p) + (Y.sum() * p**3).sum()))


def test_a_changed_global_is_not_served_from_a_stale_program():
    factor = 2.0

    def loss(p):
        return factor * (p**2).sum()

    assert np.asarray(HessianOperator(loss, jnp.ones(2)).dense())[0, 0] == 4.0
    factor = 3.0
    assert np.asarray(HessianOperator(loss, jnp.ones(2)).dense())[0, 0] == 6.0


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.softplus, jax.nn.silu])
def test_a_loss_defined_anew_with_library_activations_reuses_its_program(activation):
    def at(seed: int) -> HessianOperator:
        x = jax.random.normal(jax.random.key(seed), (4,))
        return HessianOperator(lambda y: jnp.sum(activation(y) ** 3), x)

    programs = {at(seed).chunks[0].functions[0].program for seed in range(3)}
    assert len(programs) == 1


def test_a_program_that_is_remembered_keeps_no_data_alive():
    """Programs are kept for as long as the process lives; what a loss closed over is not."""

    def hessian(data) -> HessianOperator:
        return HessianOperator(lambda x: jnp.sum(x * x * data), jnp.ones(4))

    data = jax.random.normal(jax.random.key(0), (4,))
    kept = weakref.ref(data)
    program = hessian(data).chunks[0].functions[0].program
    del data
    gc.collect()
    assert kept() is None
    again = hessian(jnp.arange(4.0))
    assert again.chunks[0].functions[0].program is program
    np.testing.assert_allclose(again.rows(jnp.ones((1, 4)))[0], 2 * np.arange(4.0))
