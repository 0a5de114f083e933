"""Bases of long vectors that grow: stored, projected on, combined and replaced in one place.

Rows lie in chunks of 16 in the layout of `hessspec._krylov.tiles`, the last chunk filled up with
zeros, which change no projection: compiled programs are the same at every size, and no chunk is
copied when another is added. A pass over a basis reads each chunk for the inner products and once
more to subtract, whether it projects one row or sixteen. Lanes that are projected one by one have
chunks of 8 rows: less of what is read is empty, and the second reading may find them in the cache.

`Basis` is one orthonormal basis with what deflation and restarts do with it; `LockstepBases` are
those of several probes, which grow by one row each at a time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.kept import Long, Resumable
from hessspec._krylov.tiles import Layout, combination, components, project, split

# Rows read together: enough that the vector's own traffic is small beside theirs, few enough
# that the half-empty last chunk is (measured: 8 to 32 are alike, within a tenth).
ROWS_PER_CHUNK = 16
_ROWS_APART = 8  # of one lane: 4 and 16 take a few percent longer
_COLUMNS_AT_ONCE = 1 << 16  # of a basis that is replaced


def in_chunks(rows: int, size: int = ROWS_PER_CHUNK) -> int:
    """`rows`, rounded up to whole chunks of that size."""
    return size * math.ceil(rows / size)


def rows_read_together(layout: Layout) -> int:
    """Rows in a chunk of `LockstepBases`."""
    return _ROWS_APART if layout.apart else ROWS_PER_CHUNK


class _Chunks:
    """Rows that grow by chunks, as many in each lane. Not a record: it grows in place.

    Attributes:
        layout: how the vectors lie.
        size: rows of every lane in a chunk.
        chunks: slots past the last row are zero.
        rank: rows of each lane.
    """

    def __init__(self, layout: Layout, size: int = ROWS_PER_CHUNK) -> None:
        self.layout, self.size = layout, size
        self.chunks: list[Float[Array, "lanes tiles size width"]] = []
        self.rank = 0

    def place(self) -> int:
        """Where in the last chunk the next row goes; that is a new one if the last is full."""
        place = self.rank % self.size
        if place == 0:
            self.chunks.append(self.layout.zeros(self.size))
        return place


class LockstepBases:
    """The orthonormal bases of k probes, one lane for each, that grow by a row each at a time.

    Rows of a probe that is exhausted are zero. Nothing here waits for the device but what returns
    arrays of the host. Not a record: it grows in place.

    Attributes:
        layout: of all lanes.
        parts: the rows of the lanes that are projected together, for each of `layout.parts`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.parts = [_Chunks(part, rows_read_together(layout)) for part in layout.parts]

    @property
    def rank(self) -> int:
        """Rows of each probe."""
        return self.parts[0].rank

    @property
    def _room(self) -> int:
        return len(self.parts[0].chunks) * self.parts[0].size

    @property
    def _chunks(self) -> tuple[tuple[Float[Array, "l tiles size width"], ...], ...]:
        return tuple(tuple(part.chunks) for part in self.parts)

    def append(self, rows: Float[Array, "k dim"]) -> None:
        """One more row for each probe."""
        places = [part.place() for part in self.parts]
        chunks = tuple(part.chunks[-1] for part in self.parts)
        for part, chunk in zip(
            self.parts, _store_each(chunks, rows, places[0], layout=self.layout), strict=True
        ):
            part.chunks[-1] = chunk
            part.rank += 1

    def project(
        self,
        blocks: tuple[Float[Array, "l tiles width"], ...],
        known: tuple[Float[Array, "l n"], ...],
    ) -> tuple[tuple[Float[Array, "l tiles width"], ...], tuple[Float[Array, "l n"], ...]]:
        """Remove from a row for each probe its parts along the probe's basis; add them to `known`.

        One pass, over one part after the other. Both arguments are used up. `known` has room for
        all rows: n >= rank, in chunks.
        """
        done = []
        for part, block, coefficients in zip(self.parts, blocks, known, strict=True):
            for number, chunk in enumerate(part.chunks):
                block, coefficients = _project(chunk, block, coefficients, number * part.size)
            done.append((block, coefficients))
        left, found = zip(*done, strict=True)
        return left, found

    def gram(self) -> Float[np.ndarray, "k rank k rank"]:
        """Inner products of the rows of each probe with those of later ones; the rest is zero.

        The bases are read once, in tiles of columns.
        """
        k, rows = self.layout.lanes, self._room
        gram = np.zeros((k, rows, k, rows))
        if k > 1:
            found = _gram_of_later(self._chunks, layout=self.layout)
            gram = np.asarray(found, np.float64).reshape(gram.shape)
        return gram[:, : self.rank, :, : self.rank]

    def combined_lengths(
        self, coefficients: Float[np.ndarray, "d k rank"]
    ) -> Float[np.ndarray, " d"]:
        """Lengths of combinations Σ c_pj q_pj of the rows of all probes.

        Unlike a length taken from inner products, it is right to eps |c|, not eps^(1/2) |c|.
        """
        d = coefficients.shape[0]
        spare = self._room - self.rank
        largest = np.abs(coefficients).max(axis=(1, 2), keepdims=True)  # its square may overflow
        padded = np.pad(coefficients / largest, ((0, 0), (0, 0), (0, spare)))
        parts = jnp.asarray(padded.reshape(d, -1), self.layout.dtype)
        found = _combined_squares(self._chunks, parts, layout=self.layout)
        squares = np.asarray(found, np.float64)
        return np.sqrt(squares) * largest[:, 0, 0]

    def of(self, probes: slice) -> "LockstepBases":
        """The bases of some of the probes, copied."""
        chosen = range(self.layout.lanes)[probes]
        some = LockstepBases(replace(self.layout, lanes=len(chosen)))
        if self.layout.apart:
            sources = [(self.parts[lane], slice(None)) for lane in chosen]
        else:
            sources = [(self.parts[0], probes)]
        for part, (source, lanes) in zip(some.parts, sources, strict=True):
            part.chunks, part.rank = [jnp.copy(c[lanes]) for c in source.chunks], source.rank
        return some

    def row(self, number: int) -> Float[Array, "k dim"]:
        """One row of each probe, flat, copied."""
        place = divmod(number, self.parts[0].size)
        each = [_slots(p.chunks[place[0]], place[1], size=1, layout=p.layout) for p in self.parts]
        return each[0] if len(each) == 1 else jnp.concatenate(each)

    def rows(self) -> Float[Array, "k rank dim"]:
        """All rows, flat, copied."""
        return jnp.concatenate([self._rows_of(part) for part in self.parts])

    def _rows_of(self, part: _Chunks) -> Float[Array, "l rank dim"]:
        lanes, size = part.layout.lanes, part.size
        flat = [_slots(chunk, 0, size=size, layout=part.layout) for chunk in part.chunks]
        every = [rows.reshape(lanes, size, -1) for rows in flat]
        return jnp.concatenate(every, axis=1)[:, : part.rank]


class Basis(_Chunks, Resumable):
    """One orthonormal basis Q, its rows in chunks.

    What goes in and comes out are flat rows; several are projected together, in one reading.
    """

    replaced = 0  # times that other rows took the place of all

    def state(self) -> dict[str, Any]:
        """Its rows one by one, by names that tell them from those they took the place of."""
        rows = [
            Long(partial(self.rows, i, 1), f"{self.replaced:04d}-{i:06d}") for i in range(self.rank)
        ]
        return {"replaced": self.replaced, "rows": rows}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up the rows of a state, one after the other."""
        self.chunks, self.rank, self.replaced = [], 0, state["replaced"]
        for row in state["rows"]:
            self.append(row.rows())

    def append(self, rows: Float[Array, "b dim"]) -> None:
        """Add rows, orthonormal among themselves and to all there are."""
        free = ROWS_PER_CHUNK - self.rank % ROWS_PER_CHUNK
        while rows.shape[0] > free:
            self._enter(rows[:free])
            rows, free = rows[free:], ROWS_PER_CHUNK
        self._enter(rows)

    def _enter(self, rows: Float[Array, "b dim"]) -> None:
        """Rows that fit into one chunk."""
        place = self.place()
        self.chunks[-1] = _store(self.chunks[-1], rows, place, layout=self.layout)
        self.rank += rows.shape[0]

    def split(
        self, rows: Float[Array, "b dim"]
    ) -> tuple[Float[Array, "b dim"], Float[np.ndarray, "rank b"]]:
        """What of `rows` is outside the span, up to a few eps of their lengths, and Q rowsᵀ."""
        parts, count = [], rows.shape[0]
        for chunk in self.chunks:
            rows, part = _split(self.layout, chunk, rows)
            parts.append(part)
        return rows, self._on_host(parts, count)

    def without(self, rows: Float[Array, "b dim"]) -> Float[Array, "b dim"]:
        """`rows` less their parts in the span, removed twice: once leaves rounding, which is not
        small beside rows that lie almost within."""
        for _ in range(2):
            for chunk in self.chunks:
                rows, _ = _split(self.layout, chunk, rows)
        return rows

    def components(self, rows: Float[Array, "b dim"]) -> Float[np.ndarray, "rank b"]:
        """Q rowsᵀ, the inner products with the basis, on the host."""
        parts = [_components(chunk, rows, layout=self.layout) for chunk in self.chunks]
        return self._on_host(parts, rows.shape[0])

    def combine(self, coefficients: Float[np.ndarray, "rank b"]) -> Float[Array, "b dim"]:
        """The rows Σ_j c_jb q_j."""
        count = coefficients.shape[1]
        padded = np.pad(coefficients, ((0, in_chunks(self.rank) - self.rank), (0, 0)))
        parts = padded.reshape(-1, 1, ROWS_PER_CHUNK, count).astype(self.layout.dtype)
        total = None
        for part, chunk in zip(parts, self.chunks, strict=True):
            total = _add_combination(total, part, chunk, layout=self.layout)
        if total is None:
            return jnp.zeros((count, self.layout.dim), self.layout.dtype)
        return total

    def rows(self, first: int, count: int) -> Float[Array, "count dim"]:
        """Rows `first` to `first + count`; those past the last one are zero."""
        parts = []
        while count or not parts:
            number, place = divmod(first, ROWS_PER_CHUNK)
            size = min(count, ROWS_PER_CHUNK - place)
            if number < len(self.chunks):
                parts.append(_slots(self.chunks[number], place, size=size, layout=self.layout))
            else:
                parts.append(jnp.zeros((size, self.layout.dim), self.layout.dtype))
            first, count = first + size, count - size
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def recombine(self, coefficients: Float[np.ndarray, "new rank"]) -> None:
        """Replace the rows by Σ_j c_ij q_j, at most as many as there are, written over the old.

        They are orthonormal if the rows of c are. Memory: a few columns.
        """
        new, old = coefficients.shape
        size = len(self.chunks) * ROWS_PER_CHUNK
        padded = np.pad(coefficients, ((0, size - new), (0, size - old)))
        parts = jnp.asarray(padded, self.layout.dtype)
        chunks = _recombined(tuple(self.chunks), parts, layout=self.layout)
        self.chunks = list(chunks[: in_chunks(new) // ROWS_PER_CHUNK])
        self.rank = new
        self.replaced += 1

    def surrender(self) -> Float[Array, "rank dim"]:
        """All rows; the basis is given up, so that they are not in memory twice for long."""
        rows = self.rows(0, self.rank)
        self.chunks, self.rank = [], 0
        return rows

    def _on_host(self, parts: list[Float[Array, "1 16 b"]], b: int) -> Float[np.ndarray, "rank b"]:
        whole = [np.asarray(part, np.float64)[0] for part in parts]
        return np.concatenate([np.zeros((0, b)), *whole])[: self.rank]


_project = jax.jit(project, donate_argnums=(1, 2))
_split = jax.jit(split, static_argnums=0)


@partial(jax.jit, donate_argnums=0, static_argnames="layout")
def _store(
    chunk: Float[Array, "1 tiles 16 width"],
    block: Float[Array, "b dim"],
    place: int,
    *,
    layout: Layout,
) -> Float[Array, "1 tiles 16 width"]:
    return jax.lax.dynamic_update_slice(chunk, layout.tiled(block), (0, 0, place, 0))


@partial(jax.jit, donate_argnums=0, static_argnames="layout")
def _store_each(
    chunks: tuple[Float[Array, "l tiles size width"], ...],
    rows: Float[Array, "k dim"],
    place: int,
    *,
    layout: Layout,
) -> tuple[Float[Array, "l tiles size width"], ...]:
    """A row of each lane in the chunks of its part."""
    return tuple(
        jax.lax.dynamic_update_slice(chunk, part.tiled(mine), (0, 0, place, 0))
        for part, chunk, mine in zip(layout.parts, chunks, layout.by_part(rows), strict=True)
    )


@partial(jax.jit, static_argnames="layout")
def _components(
    chunk: Float[Array, "1 tiles 16 width"], rows: Float[Array, "b dim"], *, layout: Layout
) -> Float[Array, "1 16 b"]:
    return components(chunk, layout.tiled(rows))


@partial(jax.jit, donate_argnums=0, static_argnames="layout")
def _add_combination(
    total: Float[Array, "b dim"] | None,
    coefficients: Float[Array, "1 16 b"],
    chunk: Float[Array, "1 tiles 16 width"],
    *,
    layout: Layout,
) -> Float[Array, "b dim"]:
    part = layout.flat(combination(coefficients, chunk))
    return part if total is None else total + part


@partial(jax.jit, static_argnames=("size", "layout"))
def _slots(
    chunk: Float[Array, "lanes tiles 16 width"], place: int, *, size: int, layout: Layout
) -> Float[Array, "n dim"]:
    return layout.flat(jax.lax.dynamic_slice_in_dim(chunk, place, size, axis=2))


@partial(jax.jit, donate_argnums=0, static_argnames="layout")
def _recombined(
    chunks: tuple[Float[Array, "1 tiles 16 width"], ...],
    coefficients: Float[Array, "n n"],
    *,
    layout: Layout,
) -> tuple[Float[Array, "1 tiles 16 width"], ...]:
    """The rows Σ_j c_ij · row_j, written over the old ones, some columns at a time."""
    if layout.mesh is None:
        return _recombined_here(chunks, coefficients)
    new = jax.vmap(_recombined_here, in_axes=(0, None))(_apart(chunks, layout), coefficients)
    return tuple(map(layout.together, new))


def _recombined_here(
    chunks: tuple[Float[Array, "1 tiles 16 width"], ...], coefficients: Float[Array, "n n"]
) -> tuple[Float[Array, "1 tiles 16 width"], ...]:
    _, tiles, size, width = chunks[0].shape
    piece = min(_COLUMNS_AT_ONCE, width)
    pieces = math.ceil(width / piece)

    def one(index: Array, chunks: tuple[Array, ...]) -> tuple[Array, ...]:
        tile, number = index // pieces, index % pieces
        begin = jnp.minimum(number * piece, width - piece)
        place = (0, tile, 0, begin)
        parts = [jax.lax.dynamic_slice(chunk, place, (1, 1, size, piece)) for chunk in chunks]
        old = jnp.concatenate([part.reshape(size, piece) for part in parts])
        new = jnp.matmul(coefficients, old, precision="highest")
        # The last piece is moved back to end where the tile does; columns already done stay.
        fresh = (begin + jnp.arange(piece) >= number * piece)[None]
        parts = jnp.split(jnp.where(fresh, new, old), len(chunks))
        return tuple(
            jax.lax.dynamic_update_slice(chunk, part[None, None], place)
            for chunk, part in zip(chunks, parts, strict=True)
        )

    return jax.lax.fori_loop(0, tiles * pieces, one, chunks)


@partial(jax.jit, static_argnames="layout")
def _gram_of_later(
    parts: tuple[tuple[Float[Array, "l tiles size width"], ...], ...], *, layout: Layout
) -> Float[Array, "n n"]:
    """Inner products of the rows of each probe with those of later ones, over tiles of columns."""
    k, rows = layout.lanes, len(parts[0]) * parts[0][0].shape[2]

    def add(gram: Array, tile: Array) -> Array:
        for probe in range(k - 1):
            first, rest = probe * rows, (probe + 1) * rows
            part = jnp.matmul(tile[first:rest], tile[rest:].T, precision="highest")
            gram = gram.at[first:rest, rest:].add(part)
        return gram

    return _over_tiles(parts, add, jnp.zeros((k * rows,) * 2, layout.dtype), layout)


@partial(jax.jit, static_argnames="layout")
def _combined_squares(
    parts: tuple[tuple[Float[Array, "l tiles size width"], ...], ...],
    mixes: Float[Array, "d n"],
    *,
    layout: Layout,
) -> Float[Array, " d"]:
    """|mixes @ basis|² of each row, over tiles of columns."""

    def add(squares: Array, tile: Array) -> Array:
        return squares + jnp.sum(jnp.matmul(mixes, tile, precision="highest") ** 2, axis=1)

    return _over_tiles(parts, add, jnp.zeros(mixes.shape[0], mixes.dtype), layout)


def _over_tiles(
    parts: tuple[tuple[Float[Array, "l tiles size width"], ...], ...],
    add: Callable[[Array, Float[Array, "n width"]], Array],
    total: Array,
    layout: Layout,
) -> Array:
    """Add up what all tiles give, those of each device there."""

    def here(parts: tuple[tuple[Array, ...], ...]) -> Array:
        def body(index: Array, total: Array) -> Array:
            return add(total, _tile(parts, index))

        return jax.lax.fori_loop(0, parts[0][0].shape[1], body, total)

    if layout.mesh is None:
        return here(parts)
    return jax.vmap(here)(tuple(_apart(chunks, layout) for chunks in parts)).sum(axis=0)


def _apart(chunks: tuple[Array, ...], layout: Layout) -> tuple[Array, ...]:
    return tuple(map(layout.by_device, chunks))


def _tile(
    parts: tuple[tuple[Float[Array, "l tiles size width"], ...], ...], index: Array
) -> Float[Array, "n width"]:
    """One tile of all rows, those of one lane after another's."""
    each = [jnp.concatenate([chunk[:, index] for chunk in chunks], axis=1) for chunks in parts]
    return jnp.concatenate([tile.reshape(-1, tile.shape[-1]) for tile in each])
