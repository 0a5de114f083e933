"""Trees as flat vectors: leaf after leaf, in the widest dtype, and back in their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.space import VectorSpace

TREE = {
    "bias": jnp.asarray([1.0, 2.0], jnp.float32),
    "kernel": jnp.asarray([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], jnp.bfloat16),
    "scale": jnp.asarray(9.0, jnp.float16),
}
SPACE = VectorSpace.of(TREE)


def test_a_space_knows_the_place_of_every_leaf():
    assert (SPACE.dim, SPACE.sizes) == (9, (2, 6, 1))
    assert [int(start) for start in SPACE.starts] == [0, 2, 8]
    assert SPACE.paths == ("bias", "kernel", "scale")
    assert SPACE.dtype == np.float32
    halves = VectorSpace.of({"w": jax.ShapeDtypeStruct((2,), jnp.bfloat16)})
    assert halves.dtype == np.float32  # at least


@pytest.mark.any_dtype
def test_more_parameters_than_places_of_32_bits_are_refused():
    with pytest.raises(ValueError, match=r"2,147,483,648 parameters.*`where`"):
        VectorSpace.of({"w": jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)})


def test_flatten_is_leaf_after_leaf_and_unflatten_its_inverse():
    flat = SPACE.flatten(TREE)
    np.testing.assert_array_equal(flat, np.arange(1.0, 10.0))
    assert flat.dtype == SPACE.dtype
    back = SPACE.unflatten(flat)
    jax.tree.map(np.testing.assert_array_equal, back, TREE)
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == jax.tree.map(lambda x: x.dtype, TREE)


def test_widened_keeps_the_dtype_of_the_vector_and_all_its_digits():
    vector = jnp.full(9, 1 + 2**-20, jnp.float32)  # bfloat16 would round it to 1
    for leaf in jax.tree.leaves(SPACE.widened(vector)):
        np.testing.assert_array_equal(leaf, np.float32(1 + 2**-20))


def test_blocks_have_a_leading_axis_on_every_leaf():
    block = jnp.arange(18.0, dtype=SPACE.dtype).reshape(2, 9)
    tree = SPACE.unflatten_block(block)
    assert jax.tree.map(jnp.shape, tree) == {"bias": (2, 2), "kernel": (2, 2, 3), "scale": (2,)}
    np.testing.assert_array_equal(SPACE.flatten_block(tree), block)
    with pytest.raises(ValueError, match="`block` must have a leading axis on every leaf"):
        SPACE.flatten_block({"bias": 1.0, "kernel": 1.0, "scale": 1.0})


@pytest.mark.parametrize("lead", [(), (2,), (3, 1)])
def test_a_tree_that_is_cut_on_the_host_is_the_one_that_jax_cuts(lead):
    block = np.random.default_rng(0).normal(size=(*lead, 9)).astype(SPACE.dtype)
    found, expected = SPACE.unflatten_on_host(block), SPACE.unflatten_block(jnp.asarray(block))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


def test_equal_shapes_are_one_space_and_other_dtypes_another():
    """Spaces are static arguments: equal ones share a compiled program."""
    assert hash(SPACE) == hash(VectorSpace.of(TREE))
    assert VectorSpace.of(TREE) == SPACE
    assert VectorSpace.of({**TREE, "scale": jnp.float32(9.0)}) != SPACE
