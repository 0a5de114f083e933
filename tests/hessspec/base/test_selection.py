"""What is a parameter, by default and by `where`; and what its place is called."""

import functools
import re
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hessspec import HessianOperator
from hessspec._base.selection import choose
from hessspec._base.space import VectorSpace, leaf_paths

pytestmark = pytest.mark.any_dtype


def dtype():
    return np.dtype(jnp.asarray(0.0).dtype)


def chosen_paths(params, where=None):
    return VectorSpace.of(choose(params, where)[0]).paths


# --- numbers of Python ---------------------------------------------------------------------------


def scaled(params):
    """log of a Gaussian's scale, as people write it: a number beside an array."""
    return jnp.exp(params["log_s"]) * (params["w"] ** 2).sum() / 2


def test_pythons_floats_are_parameters_as_jax_grad_has_it():
    """L = exp(s) w'w / 2: H_ww = exp(s) I, H_ws = exp(s) w, H_ss = L."""
    params = {"log_s": 0.5, "w": jnp.arange(1.0, 4.0), "steps": 3, "flag": True}
    operator = HessianOperator(scaled, params)
    assert operator.space.paths == ("log_s", "w")
    assert operator.dim == 4
    w, factor = np.arange(1.0, 4.0), np.exp(0.5)
    truth = factor * np.block([[np.array([[w @ w / 2]]), w[None]], [w[:, None], np.eye(3)]])
    np.testing.assert_allclose(operator.dense(), truth, rtol=20 * np.finfo(dtype()).eps)
    plain = {"log_s": 0.5, "w": params["w"]}
    product = HessianOperator(scaled, plain).matvec(jax.grad(scaled)(plain))
    gradient = factor * np.array([w @ w / 2, *w])
    np.testing.assert_allclose(product["log_s"], truth[0] @ gradient, rtol=1e-5)


@pytest.mark.parametrize("narrow", [np.float32, jnp.bfloat16])
def test_a_number_widens_none_of_the_arrays_beside_it(narrow):
    chosen, _ = choose({"w": jnp.ones(2, narrow), "s": 0.1}, None)
    assert (chosen["w"].dtype, chosen["s"].dtype) == (np.dtype(narrow), np.float32)
    alone, _ = choose([0.1, 0.2], None)
    assert {leaf.dtype for leaf in alone} == {dtype()}


class Noisy(eqx.Module):
    """A module with a rate and a weight; the rate is a setting, as equinox has it."""

    weight: jax.Array
    rate: float = 0.5


def test_numbers_in_equinox_modules_are_settings_as_equinox_has_it():
    params = {"model": Noisy(jnp.ones(3)), "log_s": 0.0}
    assert chosen_paths(params) == ("log_s", "model/weight")
    assert chosen_paths(params, eqx.is_inexact_array) == ("model/weight",)
    assert chosen_paths(eqx.nn.Sequential([eqx.nn.Linear(2, 1, key=key()), eqx.nn.Dropout()])) == (
        "layers/0/weight",
        "layers/0/bias",
    )


def key():
    return jax.random.key(0)


# --- where ---------------------------------------------------------------------------------------


def network():
    return eqx.nn.MLP(2, 1, 3, 1, key=key())


def only_last(model):
    none = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(lambda m: m.layers[-1].weight, none, True)


FIRST, LAST = ("layers/0/weight", "layers/0/bias"), ("layers/1/weight", "layers/1/bias")

FILTERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a function of path and leaf": (lambda path, leaf: path.startswith("layers/0"), FIRST),
    "a filter of leaves": (eqx.is_inexact_array, FIRST + LAST),
    "a filter of leaves of one's own": (lambda leaf: leaf.ndim == 2, (FIRST[0], LAST[0])),
    "a function with arguments bound": (
        functools.partial(lambda flag, path, leaf: flag and "1" in path, True),
        LAST,
    ),
    "a type of node": (eqx.nn.Linear, FIRST + LAST),
    "types of nodes": ((eqx.nn.Conv, eqx.nn.Linear), FIRST + LAST),
    "a tree of truths": (only_last(network()), LAST[:1]),
    "one truth": (True, FIRST + LAST),
}


@pytest.mark.parametrize("kind", FILTERS)
def test_where_is_whatever_people_filter_with(kind):
    where, expected = FILTERS[kind]
    assert chosen_paths(network(), where) == expected


def test_a_tree_of_truths_may_stop_above_the_leaves():
    params = {"encoder": {"w": jnp.ones(2), "b": jnp.ones(1)}, "head": jnp.ones(3)}
    assert chosen_paths(params, {"encoder": True, "head": False}) == ("encoder/b", "encoder/w")
    with pytest.raises(ValueError, match=r"`where`, a tree of True and False, must begin like"):
        choose(params, {"decoder": True})


def test_a_type_that_no_node_has_is_named():
    with pytest.raises(ValueError, match="no float lies in a Conv or LSTMCell; the leaves are"):
        choose(network(), (eqx.nn.Conv, eqx.nn.LSTMCell))


def test_a_function_in_the_place_of_the_parameters_is_told_the_order():
    with pytest.raises(ValueError, match=r"is a function \(the loss comes first, the par"):
        HessianOperator(network(), jnp.sum)


def test_a_filter_of_paths_alone_must_take_the_leaf_too():
    with pytest.raises(TypeError, match=r"called as `where\(path, leaf\)`, but it takes \(path\)"):
        choose(network(), lambda path: path.startswith("layers"))


# --- paths ---------------------------------------------------------------------------------------


class Pair(NamedTuple):
    value: Any
    other: Any


@jax.tree_util.register_pytree_node_class
class Box:
    """A wrapper that says nothing of where its leaf is."""

    def __init__(self, content):
        self.content = content

    def tree_flatten(self):
        return (self.content,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


class Layers(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
        self.blocks = nnx.List([nnx.BatchNorm(2, use_scale=False, rngs=nnx.Rngs(0))])


def test_paths_read_as_their_user_wrote_them():
    wrapped = ("blocks/0/bias", "blocks/0/mean", "blocks/0/var", "linear/kernel")
    assert leaf_paths(Layers()) == wrapped
    assert leaf_paths(nnx.state(Layers())) == wrapped
    assert leaf_paths({"a": Box(1.0), "b": [2.0], "c": {"value": 3.0}}) == ("a", "b/0", "c/value")
    assert leaf_paths(Pair(1.0, None)) == ("value",)  # a field of two, not a wrapper of one
    assert leaf_paths(Box(1.0)) == leaf_paths(1.0) == ("params",)
    assert leaf_paths({"value": jnp.ones(2)}) == ("value",)
    held = choose(Layers(), nnx.Param)[1]
    assert leaf_paths(held) == ("blocks/0/mean", "blocks/0/var")


def test_an_operator_says_what_was_chosen_and_what_is_held():
    class Model(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(2, 1, rngs=nnx.Rngs(0))

    def loss(model):
        return (
            model.head(model.norm(jnp.ones((3, 2), np.float32), use_running_average=True)) ** 2
        ).mean()

    everything = repr(HessianOperator(loss, Model()))
    assert everything.splitlines()[0] == (
        "HessianOperator of 11 parameters (head 3, norm 8), without data:"
    )
    assert "    norm/mean: float32[2] (BatchStat)" in everything
    chosen = repr(HessianOperator(loss, Model(), where=nnx.Param))
    assert chosen.splitlines()[0] == (
        "HessianOperator of 7 parameters (head 3, norm 4), without data:"
    )
    assert chosen.splitlines()[-3:] == [
        "  held constant:",
        "    norm/mean: float32[2]",
        "    norm/var: float32[2]",
    ]


def test_what_is_held_is_listed_with_numbers_of_python_and_not_for_ever():
    params = {"w": jnp.ones(2), "count": 3, "name": None, **{f"i{k}": k for k in range(20)}}
    text = repr(HessianOperator(lambda p: (p["w"] ** 2).sum(), params))
    assert re.search(r"  held constant:\n    count: int 3\n", text)
    assert text.endswith("... and 17 more leaves")


@pytest.mark.parametrize(
    "where",
    [lambda p: "bias" not in p, lambda p: "bias" in p, lambda p: p.startswith("bias")],
    ids=["not in", "in", "method of text"],
)
def test_a_function_of_the_path_alone_is_not_taken_for_one_of_the_leaf(where):
    """`"bias" not in leaf` is true of every array: all parameters would be chosen."""
    with pytest.raises(TypeError, match=r"looks for text in paths; let it take both: `where=lam"):
        choose({"bias": jnp.ones(2), "w": jnp.ones((2, 2))}, where)


@pytest.mark.parametrize("least", [0, 1])
def test_a_filter_of_leaves_that_says_the_same_of_all_stays_one(least):
    params = {"bias": jnp.ones(2), "w": jnp.ones((2, 2))}
    assert chosen_paths(params, lambda leaf: leaf.ndim > least) == ("bias", "w")[least:]
    assert chosen_paths(params, eqx.is_array) == ("bias", "w")
