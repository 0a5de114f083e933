"""The vectors an operator acts on: trees outside, flat rows of one dtype inside."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.meshes import (
    automatic,
    joined_over,
    off_explicit_axes,
    parts_over,
    rows_are_over,
)

# Less than 2³¹ by what a vector may be filled up with on a mesh of 65,536 devices.
_MOST = 2**31 - 2**21


@dataclass(frozen=True)
class VectorSpace:
    """A tree of float arrays seen as ℝ^dim. Static and hashable: it holds shapes, no numbers.

    Leaves may differ in dtype. Inside, every vector has the widest of them, at least float32;
    `unflatten` casts back leaf by leaf, `widened` does not.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, tree: PyTree) -> "VectorSpace":
        """The space of trees like `tree` (arrays or `jax.ShapeDtypeStruct`s).

        Raises:
            ValueError: if it has more dimensions than places can be counted.
        """
        leaves, treedef = jax.tree.flatten(tree)
        space = cls(
            treedef,
            tuple(tuple(leaf.shape) for leaf in leaves),
            tuple(np.dtype(leaf.dtype) for leaf in leaves),
        )
        if space.dim > _MOST:
            raise ValueError(
                f"H is taken in {space.dim:,} parameters, but places in a flat vector are numbers "
                f"of 32 bits, up to {_MOST:,}; let `where` choose fewer, such as some layers."
            )
        return space

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each leaf, in the tree's order."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def starts(self) -> tuple[np.int32, ...]:
        """Place of each leaf's first entry in a flat vector."""
        return tuple(np.cumsum((0, *self.sizes[:-1]), dtype=np.int32))

    @property
    def dim(self) -> int:
        """Number of entries of a vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> np.dtype:
        """The widest dtype of the leaves, at least float32: that of all arithmetic on vectors."""
        is_double = any(dtype == np.float64 for dtype in self.dtypes)
        return np.dtype(np.float64 if is_double else np.float32)

    @property
    def paths(self) -> tuple[str, ...]:
        """Name of each leaf, such as `encoder/0/kernel`."""
        return leaf_paths(self._numbered)

    @property
    def wrappers(self) -> tuple[type | None, ...]:
        """The type of the node that holds one leaf and nothing else, such as flax's `Param`."""
        return tuple(wrapper for _, wrapper in _places(self._numbered))

    @property
    def _numbered(self) -> PyTree:
        return jax.tree.unflatten(self.treedef, range(len(self.shapes)))

    def flatten(self, tree: PyTree) -> Float[Array, " dim"]:
        """The entries of `tree`, leaf after leaf."""
        return self._concatenate(self._leaves(tree, ()), ())

    def unflatten(self, vector: Float[Array, " dim"]) -> PyTree:
        """The tree whose `flatten` is `vector`."""
        return self._split(vector, self.dtypes)

    def widened(self, vector: Float[Array, " dim"]) -> PyTree:
        """The tree whose `flatten` is `vector`, all leaves in the dtype of `vector`."""
        return self._split(vector, (np.dtype(vector.dtype),) * len(self.dtypes))

    def flatten_block(self, tree: PyTree) -> Float[Array, "k dim"]:
        """One row per entry of the leading axis that every leaf of `tree` has."""
        leaves = jax.tree.leaves(tree)
        if not leaves or np.ndim(leaves[0]) == 0:
            raise ValueError("`block` must have a leading axis on every leaf, got a tree without")
        lead = (int(np.shape(leaves[0])[0]),)
        return self._concatenate(self._leaves(tree, lead), lead)

    def unflatten_block(self, block: Float[Array, "*lead dim"]) -> PyTree:
        """The tree whose leaves carry the leading axes of `block`."""
        return self._split(block, self.dtypes)

    def unflatten_on_host(self, block: Float[np.ndarray, "*lead dim"]) -> PyTree:
        """The same from an array that NumPy sees where it is: no program is compiled."""
        parts = np.split(block, np.cumsum(self.sizes)[:-1], axis=-1)
        leaves = [
            jax.device_put(np.array(np.reshape(part, (*block.shape[:-1], *shape)), dtype))
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    @off_explicit_axes
    def _concatenate(self, leaves: list[Array], lead: tuple[int, ...]) -> Array:
        parts = [jnp.reshape(leaf, (*lead, -1)).astype(self.dtype) for leaf in leaves]
        mesh = rows_are_over()
        return jnp.concatenate(parts, axis=-1) if mesh is None else joined_over(mesh, parts)

    @off_explicit_axes
    def _split(self, block: Array, dtypes: tuple[np.dtype, ...]) -> PyTree:
        lead, mesh = block.shape[:-1], rows_are_over()
        if mesh is None:
            ends = np.cumsum(self.sizes).tolist()
            parts = jnp.split(block, ends, axis=-1)[:-1]  # on a mesh it may be filled up
        else:
            parts = parts_over(mesh, block, self.sizes)
        leaves = [
            jnp.reshape(part, (*lead, *shape)).astype(dtype)
            for part, shape, dtype in zip(parts, self.shapes, dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def _leaves(self, tree: PyTree, lead: tuple[int, ...]) -> list[Array]:
        leaves, treedef = jax.tree.flatten(tree)
        if treedef != self.treedef:
            raise ValueError(
                "`vector` must be a tree of the chosen parameters, with structure "
                f"{self.treedef}, got {treedef}"
            )
        expected = [lead + shape for shape in self.shapes]
        for leaf, shape in zip(leaves, expected, strict=True):
            if tuple(np.shape(leaf)) != shape:
                raise ValueError(
                    f"every leaf of `vector` must have the shape of its parameter; expected "
                    f"{shape}, got {tuple(np.shape(leaf))}"
                )
        return [automatic(jnp.asarray(leaf)) for leaf in leaves]


def apart(tree: PyTree, is_wanted: Callable[[Any], bool]) -> tuple[PyTree, PyTree]:
    """`tree` as (the leaves that are wanted, the others), with None in place of what is missing.

    `equinox.partition` puts True and False into the nodes on its way, which those of some
    libraries refuse (GPJax's data sets compare the shapes of their leaves).
    """
    leaves, treedef = jax.tree.flatten(tree)
    wanted = [is_wanted(leaf) for leaf in leaves]
    pairs = list(zip(leaves, wanted, strict=True))
    return (
        jax.tree.unflatten(treedef, [leaf if want else None for leaf, want in pairs]),
        jax.tree.unflatten(treedef, [None if want else leaf for leaf, want in pairs]),
    )


def leaf_path(path: tuple[Any, ...]) -> str:
    """The place of a leaf in its tree, e.g. `encoder/0/kernel`; `params` for a bare array."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def leaf_paths(tree: PyTree) -> tuple[str, ...]:
    """The places of all leaves, as their user would write them.

    A leaf in a wrapper has the wrapper's place: `layer/kernel` where flax's `Param` keeps it as
    its `value`, which JAX would call `layer/kernel/value`.
    """
    return tuple(
        leaf_path(path if wrapper is None else path[:-1]) for path, wrapper in _places(tree)
    )


def _places(tree: PyTree) -> list[tuple[tuple[Any, ...], type | None]]:
    """The path of each leaf and its wrapper: a node of one child, which no user's name leads to."""
    pairs, treedef = jax.tree.flatten_with_path(tree)
    return [
        (path, parent if path and _is_unnamed(path[-1]) else None)
        for (path, _), parent in zip(pairs, _parents_of_one(treedef), strict=True)
    ]


def _is_unnamed(key: Any) -> bool:
    """A place without a name, a private one, or the `value` of flax's variables."""
    if isinstance(key, jax.tree_util.GetAttrKey):
        return key.name == "value" or key.name.startswith("_")
    return isinstance(key, jax.tree_util.FlattenedIndexKey)


def _parents_of_one(treedef: Any) -> list[type | None]:
    """For each leaf the type of its parent, if that has no other child."""
    if _is_leaf(treedef):
        return [None]
    children = treedef.children()
    if len(children) == 1 and _is_leaf(children[0]):
        return [treedef.node_data()[0]]
    return [parent for child in children for parent in _parents_of_one(child)]


def _is_leaf(treedef: Any) -> bool:
    return treedef.num_nodes == treedef.num_leaves == 1  # None is a node without leaves
