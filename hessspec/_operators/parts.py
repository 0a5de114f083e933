"""An operator over batches as a sum of operators, each over some of the batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hessspec._base.space import VectorSpace
from hessspec._operators.algebra import AbstractOperator, ComposedOperator, ScaledOperator
from hessspec._operators.batches import BatchGroup
from hessspec._operators.linearised import LinearisedOperator
from hessspec._operators.over_data import Chunk, DataOperator
from hessspec._operators.rows import forms_of

# Probes of their own cost a draw and a projection each, and smaller batches are slower: measured
# on 64 molecules, eight groups have most of the gain of sixteen at half of that price.
MOST_PARTS = 8


def parts_of(operator: AbstractOperator, most: int = MOST_PARTS) -> list[AbstractOperator]:
    """Operators that add up to `operator`, at most `most`, each over some of its batches.

    [operator] where there are no batches to tell apart: one batch, batches that are read again for
    each product, sums of operators. Parts of one shape share their programs.
    """
    if isinstance(operator, ScaledOperator):
        inner = parts_of(operator.parts[0], most)
        scale: float = operator.scale  # type: ignore[assignment]
        return [operator] if len(inner) == 1 else [ScaledOperator(part, scale) for part in inner]
    if not isinstance(operator, DataOperator) or operator.streamed is not None:
        return [operator]
    if sum(chunk.group.weights.size for chunk in operator.chunks) == 1:
        return [operator]
    found = [
        _Placed(chunk, *source)
        for chunk, source in zip(operator.chunks, operator.source.groups, strict=True)
    ]
    chosen = _grouped(found, most)
    return [operator] if len(chosen) == 1 else [_part(operator, some) for some in chosen]


def share_of(part: AbstractOperator) -> float:
    """The weight of a part's batches in the loss."""
    if isinstance(part, ScaledOperator):
        return share_of(part.parts[0])
    assert isinstance(part, DataOperator)
    return float(sum(np.sum(np.asarray(chunk.group.weights)) for chunk in part.chunks))


class _Placed(NamedTuple):
    """A chunk, the places of its batches in the data, and the paths of their arrays."""

    chunk: Chunk
    places: tuple[int, ...]
    paths: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.places)

    def run(self, first: int, last: int) -> _Placed:
        """Some of its batches."""
        group = self.chunk.group
        arrays = jax.tree.map(lambda leaf: leaf[first:last], group.arrays)
        group = BatchGroup(arrays, group.constants, group.weights[first:last])
        return _Placed(Chunk(self.chunk.functions, group), self.places[first:last], self.paths)


def _part(operator: DataOperator, some: list[_Placed]) -> DataOperator:
    """The operator of these batches, which names them as the whole does."""
    part = eqx.tree_at(lambda o: o.chunks, operator, tuple(one.chunk for one in some))
    source = type(operator.source)(operator.source.functions)
    source.groups = tuple((one.places, one.paths) for one in some)
    object.__setattr__(part, "source", source)  # static, so no leaf that `tree_at` could replace
    return part


def _grouped(chunks: list[_Placed], most: int) -> list[list[_Placed]]:
    """Chunks together if there are many shapes, and cut into pieces where one has many batches."""
    if len(chunks) >= most:
        ends = np.linspace(0, len(chunks), most + 1).round().astype(int)
        return [chunks[a:b] for a, b in itertools.pairwise(ends)]
    pieces = [1] * len(chunks)
    sizes = [chunk.size for chunk in chunks]
    while sum(pieces) < min(most, sum(sizes)):
        # One more for the chunk whose pieces hold the most batches.
        fullest = int(np.argmax([size / n for size, n in zip(sizes, pieces, strict=True)]))
        if pieces[fullest] == sizes[fullest]:
            break
        pieces[fullest] += 1
    return [[piece] for chunk, n in zip(chunks, pieces, strict=True) for piece in _cut(chunk, n)]


def _cut(chunk: _Placed, pieces: int) -> list[_Placed]:
    """Runs of batches of one shape; all of one length where that leaves at least half of them."""
    size = chunk.size
    even = max(n for n in range(1, pieces + 1) if size % n == 0)
    count = even if 2 * even >= pieces else pieces
    ends = np.linspace(0, size, count + 1).round().astype(int)
    return [chunk.run(int(a), int(b)) for a, b in itertools.pairwise(ends)]


class Parted:
    """A scalar operator multiplied part by part, for runs that also ask for each part's forms.

    Attributes:
        forms: vᵀH_b v of the rows multiplied last, one row for each part.
        see: is shown the products of each part, one part after the other.
    """

    def __init__(
        self,
        operator: AbstractOperator,
        parts: list[AbstractOperator],
        see: Callable[[Array], None] | None = None,
    ) -> None:
        self.operator, self.parts, self.see = operator, parts, see
        self.forms: Float[np.ndarray, "parts k"] = np.zeros((len(parts), 0))

    @property
    def space(self) -> VectorSpace:
        """The space of all parts."""
        return self.operator.space

    @property
    def dim(self) -> int:
        """P."""
        return self.operator.dim

    @property
    def dtype(self) -> np.dtype:
        """That of the vectors."""
        return self.operator.dtype

    @property
    def row_bytes(self) -> int:
        """Of one of its long vectors on each device."""
        return self.operator.row_bytes

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share its long vectors."""
        return self.operator.mesh

    def product_bytes(self, rows: int) -> int:
        """As for the whole; the products of one part wait beside the sum."""
        return self.operator.product_bytes(rows) + rows * self.row_bytes

    def linearised(self, rows: int, memory_budget: int) -> Parted:
        """The same with each part linearised where its share of the budget has room for that."""
        room = memory_budget // len(self.parts)
        parts = [part.linearised(rows, room) for part in self.parts]
        return Parted(self.operator, parts, self.see)

    @property
    def skips_zeros(self) -> bool:
        """Whether rows of zeros at the end of a block cost nothing in any part."""
        return all(map(skips_zeros, self.parts))

    def validate(self) -> None:
        """As for the whole; where all parts are linearised, by what they have met on the way."""
        for one in self.parts if all(map(_is_linearised, self.parts)) else [self.operator]:
            one.validate()

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        """H v for each row."""
        total, forms = None, []
        for part in self.parts:
            rows = part.rows(block)
            forms.append(np.asarray(forms_of(rows, block), np.float64))
            if self.see is not None:
                self.see(rows)
            total = rows if total is None else total + rows
        assert total is not None
        self.forms = np.stack(forms)
        return total

    def measured_rows(self, block: Float[Array, "k dim"]) -> tuple[Float[Array, "k dim"], None]:
        """`rows`; batches add up to a mean, which is no small difference of large parts."""
        return self.rows(block), None


def skips_zeros(operator: AbstractOperator | Parted) -> bool:
    """Whether rows of zeros at the end of a block cost nothing, so that blocks may be filled up."""
    if isinstance(operator, ComposedOperator):
        return all(map(skips_zeros, operator.parts))
    return bool(getattr(operator, "skips_zeros", False))


def _is_linearised(part: AbstractOperator) -> bool:
    if isinstance(part, ComposedOperator):
        return all(map(_is_linearised, part.parts))
    return isinstance(part, LinearisedOperator)
