"""What may stand in a batch: what a loss computes with, and what it must not look at.

A batch is a tree. A loss is compiled for its arrays and random keys; whatever numpy can read
(tensors of other libraries, series) becomes an array; all else is a constant of the program. A
constant that differs from batch to batch would make a program for each of them. So numbers that
differ become arrays too, and in place of text that differs stands an object that no loss may look
at: one that never does is the same program for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from hessspec._base.space import leaf_path

# Programs made for one shape of arrays because the loss reads constants that differ. More than a
# few kinds of data are ids, and each would take seconds to compile.
MOST_PROGRAMS = 16

_LOOKS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul"),
    *("pow", "rpow", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "iter"),
    *("getitem", "contains", "float", "int", "index", "str", "format", "array", "jax_array"),
)


class Withheld:
    """Stands for a leaf that a program cannot hold: it may be passed on, and not looked at.

    An array keeps its shape. Everything else raises TypeError with the reason.
    """

    def __init__(self, reason: str, shape: tuple[int, ...] | None = None) -> None:
        self._reason = reason
        if shape is not None:
            self.shape, self.ndim = shape, len(shape)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # questions of Python and its libraries, not of a loss
            raise AttributeError(name)
        raise TypeError(self._reason)

    def _look(self, *arguments: Any) -> Any:
        raise TypeError(self._reason)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return "Withheld()"


for _name in _LOOKS:
    setattr(Withheld, f"__{_name}__", Withheld._look)


def admit(batch: PyTree, name: str) -> PyTree:
    """`batch` with every leaf an array of numbers, a constant, or `Withheld`.

    Raises:
        TypeError: for a leaf that a loss could only misread, with its place in what is called
            `name`, and what to do.
    """

    def admitted(path: tuple[Any, ...], leaf: Any) -> Any:
        place = f"{name} at `{leaf_path(path)}`" if path else name
        refusal = _refusal(leaf)
        if refusal is not None:
            raise TypeError(f"{place} holds {refusal}.")
        if isinstance(leaf, jax.Array | type) or not _numpy_reads(leaf):
            return leaf
        try:
            array = np.asarray(leaf)
        except Exception as error:
            raise TypeError(
                f"{place} holds a {type(leaf).__name__} that cannot be read as an array "
                f"({error}); pass an array of numbers."
            ) from error
        if is_numeric(array):
            return array
        return Withheld(
            f"{place} holds an array of {array.dtype}, which the loss looks at, but JAX computes "
            "with numbers alone; make numbers of it, as `array.astype(float)` where its entries "
            "are numbers, or an index into what they name.",
            array.shape,
        )

    # JAX is about to refuse iterators as leaves, in words of its own.
    return jax.tree.map_with_path(admitted, batch, is_leaf=lambda node: isinstance(node, Iterator))


def _numpy_reads(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic) or hasattr(leaf, "__array__")


def _refusal(leaf: Any) -> str | None:
    """What a leaf is that must not be in a batch, and what to do instead."""
    kind = type(leaf).__name__
    if isinstance(leaf, Iterator):
        return f"a {kind}, which a second product would find empty; make a list or an array of it"
    if isinstance(leaf, np.ma.MaskedArray):
        return "a masked array, whose mask would be lost; pass `array.filled(0)` and the mask"
    if hasattr(leaf, "columns") and hasattr(leaf, "to_numpy"):
        return (
            f"a {kind}; pass its numbers, `table.to_numpy()`, or a dict of its columns, "
            "`{name: table[name].to_numpy() for name in table.columns}`"
        )
    if hasattr(leaf, "tocoo") and hasattr(leaf, "todense"):
        return (
            f"a {kind} of scipy; pass `jax.experimental.sparse.BCOO.from_scipy_sparse(matrix)`, "
            "or `matrix.toarray()`"
        )
    return None


def is_numeric(leaf: Any) -> bool:
    """Whether a leaf is an array that programs take as an argument: of numbers, or random keys."""
    if isinstance(leaf, jax.Array):
        return True
    return isinstance(leaf, np.ndarray) and (
        leaf.dtype == bool or jnp.issubdtype(leaf.dtype, np.number)
    )


def split(batch: PyTree) -> tuple[PyTree, PyTree]:
    """An admitted batch as (arrays, constants)."""
    return eqx.partition(batch, is_numeric)


@dataclass
class Family:
    """Batches of one program: they differ in the entries of arrays, in numbers and in text."""

    constants: list[Any]  # of the first batch
    items: list[tuple[PyTree, float, int]] = field(default_factory=list)
    differs: list[bool] = field(default_factory=list)

    def compare(self, constants: list[Any]) -> None:
        """Note which constants of another batch differ from those of the first."""
        self.differs = self.differs or [False] * len(constants)
        for place, (first, other) in enumerate(zip(self.constants, constants, strict=True)):
            self.differs[place] |= _value(first) != _value(other)


class Families:
    """All families of a set of batches, and how a batch is passed to the program of its family.

    With `by_value`, batches are of one family only if their numbers and text are equal too.
    """

    def __init__(self, by_value: bool) -> None:
        self.by_value = by_value
        self.found: dict[Any, Family] = {}

    def add(self, index: int, batch: PyTree) -> Family:
        """The family of an admitted batch, which now knows its constants.

        Raises:
            TypeError: if its constants cannot be compared, or make too many families.
        """
        constants = jax.tree.leaves(split(batch)[1])
        kind = self._kind(index, batch)
        if kind not in self.found:
            alike = sum(other[0] == kind[0] for other in self.found)
            if alike >= MOST_PROGRAMS:
                raise TypeError(
                    f"batch {index} of `data` is of the same shapes as others, but differs in "
                    f"{self._named(batch)}, and the loss is compiled for each value of those: "
                    f"{MOST_PROGRAMS} programs are made already. Pass arrays of numbers (for "
                    "text, an index into a table), or leave out what the loss does not need."
                )
            self.found[kind] = Family(constants)
        self.found[kind].compare(constants)
        return self.found[kind]

    def settled(self, batch: PyTree, family: Family | None = None) -> PyTree:
        """`batch` with constants that differ within its family made arrays, or withheld."""
        if family is None:
            family = self.found.get(self._kind(0, batch))
        arrays, constants = split(batch)
        paths, treedef = jax.tree.flatten_with_path(constants)
        differs = [True] * len(paths) if family is None else family.differs
        leaves = [
            _as_argument(leaf_path(path), leaf) if differ and not self.by_value else leaf
            for (path, leaf), differ in zip(paths, differs, strict=True)
        ]
        return eqx.combine(arrays, jax.tree.unflatten(treedef, leaves))

    def _kind(self, index: int, batch: PyTree) -> tuple[Any, Any]:
        arrays, constants = split(batch)
        leaves, treedef = jax.tree.flatten(arrays)
        paths, fixed_treedef = jax.tree.flatten_with_path(constants)
        shapes = (treedef, fixed_treedef, *((leaf.shape, leaf.dtype) for leaf in leaves))
        values = []
        for path, leaf in paths:
            of_type = isinstance(leaf, Withheld) or (not self.by_value and _is_plain(leaf))
            values.append(type(leaf) if of_type else _value(leaf))
            try:
                hash(values[-1])
            except TypeError as error:
                raise TypeError(
                    f"batch {index} of `data` holds a {type(leaf).__name__} at "
                    f"`{leaf_path(path)}`, which cannot be told from that of another batch; make "
                    "an array of it, or leave it out."
                ) from error
        return shapes, tuple(values)

    def _named(self, batch: PyTree) -> str:
        paths = [path for path, _ in jax.tree.leaves_with_path(split(batch)[1])]
        return ", ".join(f"`{leaf_path(path)}`" for path in paths[:4])


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex | str | bytes)


def _value(leaf: Any) -> Any:
    """What tells constants apart: 1, 1.0 and True are three values, nan is one."""
    if isinstance(leaf, Withheld):
        return Withheld
    return (type(leaf), repr(leaf)) if _is_plain(leaf) else leaf


def _as_argument(place: str, leaf: Any) -> Any:
    """A number as an array; text as what no loss may look at."""
    if isinstance(leaf, str | bytes):
        return Withheld(f"`data` at `{place}` holds text, which differs from batch to batch")
    if not _is_plain(leaf):
        return leaf
    dtype = np.dtype(jnp.result_type(type(leaf)))
    if dtype.kind == "i" and not np.iinfo(dtype).min <= leaf <= np.iinfo(dtype).max:
        return Withheld(
            f"`data` at `{place}` holds the whole number {leaf}, which is beyond {dtype.name}"
        )
    return np.asarray(leaf, dtype)
