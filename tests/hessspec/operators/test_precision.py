"""Off a CPU, products of matrices are in float32 proper unless the user says otherwise."""

import jax
import jax.numpy as jnp
import pytest

from hessspec import HessianOperator

HIGHEST = "precision=(Precision.HIGHEST, Precision.HIGHEST)"
PARAMS = jnp.ones(3)
MATRIX = jnp.ones((4, 3))

pytestmark = pytest.mark.any_dtype


def products(loss) -> tuple[int, int]:
    """How many products of arrays a product with the Hessian takes, and how many in full."""
    text = str(jax.make_jaxpr(HessianOperator(loss, PARAMS).matvec)(PARAMS))
    return text.count("dot_general["), text.count(HIGHEST)


def quartic(precision=None):
    return lambda x: jnp.sum(jnp.dot(MATRIX, x, precision=precision) ** 4)


@jax.custom_jvp
def squared_length(x):
    return jnp.sum(x**2)


@squared_length.defjvp
def _(primals, tangents):
    return squared_length(*primals), 2 * jnp.dot(primals[0], tangents[0])


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("loss", [quartic(), squared_length])
def test_products_are_in_full_precision_in_the_loss_and_in_rules_of_its_derivatives(loss):
    count, full = products(loss)
    assert count == full > 0


@pytest.mark.usefixtures("accelerator")
def test_what_the_user_set_stays():
    count, full = products(quartic())
    own = count - products(lambda x: jnp.sum(x**4))[0]  # the others are of the weights of tasks
    with jax.default_matmul_precision("tensorfloat32"):
        assert products(quartic()) == (count, full - own)
    assert products(quartic(jax.lax.Precision.HIGH)) == (count, full - own)


def test_on_a_cpu_nothing_is_said_of_the_products_in_a_loss():
    count, full = products(quartic())
    assert full < count
