"""The table of estimates beside the truth: it holds for what is right and fails what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator, HessianOperator
from hessspec._operators.algebra import AbstractOperator
from hessspec._verify import MAX_DIM, verify


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def losses(params, batch):
    inputs, targets = batch
    outputs = jnp.tanh(inputs @ params["hidden"]) @ params["out"]
    return ((outputs - targets) ** 2).mean(axis=0)


def network() -> HessianOperator:
    rng = np.random.default_rng(0)
    hidden, out, inputs, targets = (
        jnp.asarray(rng.normal(size=shape).astype(dtype()))
        for shape in ((8, 6), (6, 2), (40, 8), (40, 2))
    )
    return HessianOperator(losses, {"hidden": hidden, "out": out}, data=(inputs, targets))


class WrongForms(AbstractOperator):
    """Its quadratic forms are not those of its products."""

    operator: AbstractOperator

    def __init__(self, operator):
        self.operator = operator

    @property
    def space(self):
        return self.operator.space

    @property
    def num_tasks(self):
        return self.operator.num_tasks

    def rows(self, block):
        return self.operator.rows(block)

    def forms(self, block):
        forms = self.operator.forms(block)
        return forms + jnp.asarray(60.0, forms.dtype)

    def _weighted(self, weights):
        return self.operator.weighted(weights)


def test_every_estimator_holds_on_a_network_of_two_tasks():
    found = verify(network(), key=jax.random.key(0))
    assert found.ok, str(found)
    names = [check.quantity for check in found.checks]
    assert len(names) == len(set(names)) == 2 * 16
    assert names[0] == "task 0: trace, auto"
    assert found.num_matvecs > 2 * found.dim
    table = str(found).splitlines()
    assert table[0].split() == ["quantity", "truth", "estimate", "error", "z", "ok"]
    assert table[-1] == f"32 checks of 60 parameters, {found.num_matvecs} products: all hold"


def test_forms_that_contradict_the_products_are_noticed():
    """The traces themselves refuse them, so that there is nothing left to verify."""
    with pytest.raises(ValueError, match="do not belong to one symmetric matrix"):
        verify(WrongForms(network()), key=jax.random.key(0))


def of_matrix(matrix, **kwargs) -> FunctionOperator:
    product = jax.tree_util.Partial(jnp.matmul, jnp.asarray(matrix, dtype()))
    return FunctionOperator(product, jax.ShapeDtypeStruct(matrix.shape[-1:], dtype()), **kwargs)


def random_matrix(dim, seed):
    square = np.random.default_rng([dim, seed]).normal(size=(dim, dim))
    return square + square.T


def check_small(dim, seeds):
    for seed in seeds:
        found = verify(of_matrix(random_matrix(dim, seed)), key=jax.random.key(seed))
        assert found.ok, f"seed {seed}\n{found}"
        names = {check.quantity for check in found.checks} | {*found.skipped}
        assert sum(name.startswith("trace, ") for name in names) == 5
        # Up to 8 parameters the traces are exact, but for that of the density.
        assert dim > 8 or all(name.startswith("trace, density (") for name in found.skipped)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_handful_of_parameters_is_verified_too(dim):
    check_small(dim, range(5))


@pytest.mark.slow
@pytest.mark.parametrize("dim", range(1, 31))
def test_no_number_of_parameters_is_too_small(dim):
    check_small(dim, range(20))


def test_traces_with_too_few_samples_are_skipped_by_name():
    """9 parameters leave 8 samples to Hutchinson, and fewer to those that also sketch."""
    found = verify(of_matrix(random_matrix(9, 0)), key=jax.random.key(0))
    assert found.ok, str(found)
    last = str(found).splitlines()[-len(found.skipped) :]
    for line, method in zip(last, ("auto", "xtrace", "hutch++"), strict=False):
        assert line == f"skipped: trace, {method} (its interval is not `reliable`)"
    assert "trace, hutchinson" in {check.quantity for check in found.checks}


def test_a_large_operator_is_refused_with_the_ways_out():
    like = jax.ShapeDtypeStruct((MAX_DIM + 1,), dtype())
    with pytest.raises(ValueError, match=r"takes at most 2000 parameters, got 2001; shrink"):
        verify(FunctionOperator(lambda v: v, like), key=jax.random.key(0))
