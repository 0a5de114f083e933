"""What may stand in a batch: what a loss computes with, and what it must not look at.

A batch is a tree. A loss is compiled for its arrays and random keys; whatever numpy can read
(tensors of other libraries, series) becomes an array; all else is a constant of the program. A
constant that differs from batch to batch would make a program for each of them. So numbers that
differ become arrays too, and in place of text that differs stands an object that no loss may look
at: one that never does is the same program for all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True)
class Parts:
    """An admitted batch taken apart: its nodes, which may check what they hold, are not asked."""

    treedef: Any
    paths: tuple[str, ...]
    leaves: tuple[Any, ...]
    numeric: tuple[bool, ...]  # which leaves are arrays for a program; the others are constants

    @classmethod
    def of(cls, batch: PyTree) -> "Parts":
        """The parts of a batch."""
        pairs, treedef = jax.tree.flatten_with_path(batch)
        leaves = tuple(leaf for _, leaf in pairs)
        paths = tuple(leaf_path(path) if path else "" for path, _ in pairs)
        return cls(treedef, paths, leaves, tuple(map(is_numeric, leaves)))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays, in the order of the tree."""
        return tuple(x for x, numeric in zip(self.leaves, self.numeric, strict=True) if numeric)

    @property
    def array_paths(self) -> tuple[str, ...]:
        """Where the arrays are; "" for a batch that is one."""
        return tuple(p for p, numeric in zip(self.paths, self.numeric, strict=True) if numeric)

    @property
    def constants(self) -> tuple[tuple[str, Any], ...]:
        """Paths and leaves of what is no array."""
        triples = zip(self.paths, self.leaves, self.numeric, strict=True)
        return tuple((path, leaf) for path, leaf, numeric in triples if not numeric)

    def without_arrays(self) -> "Parts":
        """The same, holding no numbers: what `whole` needs."""
        kept = [None if n else x for x, n in zip(self.leaves, self.numeric, strict=True)]
        return replace(self, leaves=tuple(kept))

    def whole(self, arrays: Iterable[Any]) -> PyTree:
        """The batch with these arrays in it."""
        rest = iter(arrays)
        filled = [next(rest) if n else x for x, n in zip(self.leaves, self.numeric, strict=True)]
        return jax.tree.unflatten(self.treedef, filled)


@dataclass
class Family:
    """Batches of one program: they differ in the entries of arrays, in numbers and in text."""

    constants: tuple[tuple[str, Any], ...]  # of the first batch
    items: list[tuple[Parts, float, int]] = field(default_factory=list)
    differs: dict[str, bool] = field(default_factory=dict)

    def compare(self, constants: tuple[tuple[str, Any], ...]) -> None:
        """Note which constants of another batch differ from those of the first."""
        for (path, first), (_, other) in zip(self.constants, constants, strict=True):
            self.differs[path] = self.differs.get(path, False) or _value(first) != _value(other)


class Families:
    """All families of a set of batches, and how a batch is passed to the program of its family.

    With `by_value`, batches are of one family only if their numbers and text are equal too.
    """

    def __init__(self, by_value: bool) -> None:
        self.by_value = by_value
        self.found: dict[Any, Family] = {}

    def add(self, index: int, batch: Parts) -> Family:
        """The family of a batch, which now knows its constants.

        Raises:
            TypeError: if its constants cannot be compared, or make too many families.
        """
        kind = self._kind(index, batch)
        if kind not in self.found:
            if sum(other[0] == kind[0] for other in self.found) >= MOST_PROGRAMS:
                named = ", ".join(f"`{path}`" for path, _ in batch.constants[:4])
                raise TypeError(
                    f"batch {index} of `data` is of the same shapes as others, but differs in "
                    f"{named}, and the loss is compiled for each value of those: {MOST_PROGRAMS} "
                    "programs are made already. Pass arrays of numbers (for text, an index into a "
                    "table), or leave out what the loss does not need."
                )
            self.found[kind] = Family(batch.constants)
        self.found[kind].compare(batch.constants)
        return self.found[kind]

    def settled(self, batch: Parts, family: Family | None = None) -> Parts:
        """`batch` with constants that differ within its family made arrays, or withheld."""
        if self.by_value:
            return batch
        if family is None:
            family = self.found.get(self._kind(0, batch))
        differs = dict.fromkeys(batch.paths, True) if family is None else family.differs
        leaves = tuple(
            _as_argument(path, leaf) if not numeric and differs[path] else leaf
            for path, leaf, numeric in zip(batch.paths, batch.leaves, batch.numeric, strict=True)
        )
        return replace(batch, leaves=leaves, numeric=tuple(map(is_numeric, leaves)))

    def _kind(self, index: int, batch: Parts) -> tuple[Any, Any]:
        shapes = (batch.treedef, *((leaf.shape, leaf.dtype) for leaf in batch.arrays))
        values = []
        for path, leaf in batch.constants:
            of_type = isinstance(leaf, Withheld) or (not self.by_value and _is_plain(leaf))
            values.append((path, type(leaf) if of_type else _value(leaf)))
            try:
                hash(values[-1])
            except TypeError as error:
                raise TypeError(
                    f"batch {index} of `data` holds a {type(leaf).__name__} at `{path}`, which "
                    "cannot be told from that of another batch; make an array of it, or leave it "
                    "out."
                ) from error
        return shapes, tuple(values)


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
