"""How long vectors lie in memory, and the sums that run along them.

Vectors that are kept lie in tiles: all rows of a piece of columns together, each tile a matrix in
one piece. `Layout` alone knows how many tiles there are and how wide they are; who keeps vectors
asks it. Over the devices of a mesh vectors are cut between tiles: each device has as many of them.

The sums are split because a matrix product on the CPU adds term after term: in float32, inner
products of parallel vectors were measured to be wrong by 4 eps at 1e5 terms and by 150 eps at 1e6.
Taken in pieces that are then added they are right to a few eps.
"""

import functools
import math
from dataclasses import dataclass, replace
from operator import add
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from hessspec._base.meshes import cut_along, width_on

_TERMS_PER_SUM = 1 << 14
_NARROW = 4096  # columns of a narrow tile; from 2,048 to 32,768 a projection takes the same time
_ALIGNED = 16
_FEW = 16  # rows of which a loop over columns may be made
_LONG = 1 << 20  # bytes of a vector that leaves no room in a cache for those of other lanes


class Rows(Protocol):
    """What tells how the rows of an operator lie."""

    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def mesh(self) -> Mesh | None: ...


@dataclass(frozen=True)
class Layout:
    """How vectors of `dim` entries lie: `(lanes, tiles, rows, width)`, the last tile filled with 0.

    Outside, vectors are the rows of a flat block. A block holds as many of them for each lane,
    lane after lane; lanes have nothing to do with each other, like the bases of several probes.
    Static and hashable, so that compiled programs can depend on it.

    Attributes:
        dim: P, entries of a vector.
        dtype: of all arrays.
        lanes: sets of vectors side by side.
        tiles: pieces that the columns are cut into.
        mesh: the devices that share the tiles, in the order of the columns; None for one device.
        apart: lanes are kept and projected one by one.
    """

    dim: int
    dtype: np.dtype
    lanes: int
    tiles: int
    mesh: Mesh | None = None
    apart: bool = False

    @classmethod
    def of_rows(cls, operator: "Rows") -> "Layout":
        """For blocks of rows as an operator multiplies them."""
        width = width_on(operator.mesh, operator.dim)
        return cls.of_blocks(width, operator.dtype, operator.mesh)

    @classmethod
    def of_blocks(cls, dim: int, dtype: np.dtype, mesh: Mesh | None = None) -> "Layout":
        """For blocks of rows that are multiplied together: one tile on each device.

        Flat rows lie so already. Cut into narrow tiles they would have to be copied twice, which
        makes a projection of 8 or 16 rows on 16 take 1.5 to 2 times as long (measured).
        """
        return cls(dim, np.dtype(dtype), 1, _count(mesh), mesh)

    @classmethod
    def of_lanes(cls, dim: int, dtype: np.dtype, lanes: int, mesh: Mesh | None = None) -> "Layout":
        """For one row of each lane at a time: narrow tiles.

        A row lies the same either way, and pieces of a basis that lie together need not be
        copied to be added up one by one.

        Long vectors of a CPU are kept and projected lane by lane. A pass reads its rows twice; of
        a few rows of one lane the second reading comes from the cache, and so does the vector.
        Other devices do better with one program for all lanes, and short vectors as well.
        """
        devices = _count(mesh)
        tiles = devices * math.ceil(math.ceil(dim / devices) / _NARROW)
        on_cpu = mesh is None and jax.default_backend() == "cpu"
        apart = on_cpu and dim * np.dtype(dtype).itemsize >= _LONG
        return cls(dim, np.dtype(dtype), lanes, tiles, mesh, apart)

    @property
    def devices(self) -> int:
        """How many share a vector."""
        return _count(self.mesh)

    @property
    def share(self) -> int:
        """Entries of a vector on each device; the last one may have fewer."""
        return math.ceil(self.dim / self.devices)

    @property
    def width(self) -> int:
        """Columns of a tile; those of all tiles together are `dim` and a few more."""
        each = self.tiles // self.devices
        width = math.ceil(self.share / each)
        return width if each == 1 else _ALIGNED * math.ceil(width / _ALIGNED)

    @property
    def parts(self) -> tuple["Layout", ...]:
        """The lanes that are kept and projected together: all, or each on its own."""
        return (replace(self, lanes=1),) * self.lanes if self.apart else (self,)

    def nbytes(self, rows: int) -> int:
        """Bytes of `rows` vectors in each lane, on each device."""
        each = self.tiles // self.devices
        return self.lanes * rows * each * self.width * self.dtype.itemsize

    def zeros(self, rows: int) -> Float[Array, "lanes tiles rows width"]:
        """Room for `rows` vectors in each lane."""
        shape = (self.lanes, self.tiles, rows, self.width)
        return jnp.zeros(shape, self.dtype, device=self._cut_along(1))

    def tiled(self, block: Float[Array, "n dim"]) -> Float[Array, "lanes tiles rows width"]:
        """The rows of a block in tiles; for one tile, the same memory in another shape."""
        filled = self.tiles * self.width
        if self.mesh is None:
            padded = jnp.pad(block, ((0, 0), (0, filled - self.dim)))
            return padded.reshape(self.lanes, -1, self.tiles, self.width).swapaxes(1, 2)
        # Each device fills up its own share, so that no entry moves to another one.
        ragged = jnp.pad(block, ((0, 0), (0, self.devices * self.share - self.dim)))
        shares = self._cut(ragged.reshape(-1, self.devices, self.share), 1)
        padded = jnp.pad(shares, ((0, 0), (0, 0), (0, filled // self.devices - self.share)))
        tiles = padded.reshape(self.lanes, -1, self.tiles, self.width).swapaxes(1, 2)
        return self._cut(tiles, 1)

    def flat(self, tiles: Float[Array, "lanes tiles rows width"]) -> Float[Array, "n dim"]:
        """The block of which these are the tiles."""
        rows = tiles.swapaxes(1, 2).reshape(-1, self.tiles * self.width)
        if self.mesh is None:
            return rows[:, : self.dim]
        shares = self._cut(rows.reshape(rows.shape[0], self.devices, -1), 1)
        return self.spread(shares[:, :, : self.share].reshape(rows.shape[0], -1)[:, : self.dim])

    def by_part(self, rows: Float[Array, "lanes n"]) -> tuple[Float[Array, "l n"], ...]:
        """What belongs to the lanes of each of the `parts`."""
        lanes = [part.lanes for part in self.parts]
        if len(lanes) == 1:
            return (rows,)
        return tuple(jnp.split(rows, np.cumsum(lanes)[:-1]))

    def spread(self, block: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
        """The block cut along its columns, where each device has as many of them.

        JAX hands no array out of a program in unequal pieces: others lie on all devices.
        """
        return block if self.dim % self.devices else self._cut(block, 1)

    def by_device(
        self, tiles: Float[Array, "lanes tiles rows width"]
    ) -> Float[Array, "devices lanes each rows width"]:
        """The tiles of one device after those of another."""
        lanes, _, *rest = tiles.shape
        apart = tiles.reshape(lanes, self.devices, -1, *rest)
        return self._cut(apart.swapaxes(0, 1), 0)

    def together(
        self, apart: Float[Array, "devices lanes each rows width"]
    ) -> Float[Array, "lanes tiles rows width"]:
        """The tiles that `by_device` set apart."""
        _, lanes, _, *rest = apart.shape
        return self._cut(apart.swapaxes(0, 1).reshape(lanes, self.tiles, *rest), 1)

    def _cut(self, array: Array, axis: int) -> Array:
        layout = self._cut_along(axis)
        return array if layout is None else jax.lax.with_sharding_constraint(array, layout)

    def _cut_along(self, axis: int) -> NamedSharding | None:
        if self.mesh is None:
            return None
        return cut_along(self.mesh, axis)


def _count(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def components(
    basis: Float[Array, "lanes tiles r width"], block: Float[Array, "lanes tiles *b width"]
) -> Float[Array, "lanes r *b"]:
    """Inner products of the rows of `basis` with those of `block`, lane by lane.

    Where a lane has one row, the block has no axis for it: the compiler would copy it to turn it.
    """
    return inner_products("ltrw,lt...w->ltr...", basis, block).sum(axis=1)


def combination(
    coefficients: Float[Array, "lanes r *b"], basis: Float[Array, "lanes tiles r width"]
) -> Float[Array, "lanes tiles *b width"]:
    """The rows Σ_r c_rb · basis_r of each lane."""
    lanes, *rest = coefficients.shape
    each = jnp.broadcast_to(coefficients[:, None], (lanes, basis.shape[1], *rest))
    return jnp.einsum("ltrw,ltr...->lt...w", basis, each, precision="highest")


def split(
    layout: Layout,
    basis: Float[Array, "lanes tiles r width"],
    block: Float[Array, "n dim"],
) -> tuple[Float[Array, "n dim"], Float[Array, "lanes r b"]]:
    """What of `block` is outside the span of the orthonormal `basis`, and its components within.

    One pass: what it leaves along the basis is rounding of the block, not of the remainder. Matrix
    products in full precision: with TF32 a basis would be orthogonal to three digits only.
    """
    parts = components(basis, layout.tiled(block))
    # Flat rows are subtracted: the product's own memory can then hold the difference.
    return block - layout.flat(combination(parts, basis)), parts


def project(
    basis: Float[Array, "lanes tiles r width"],
    block: Float[Array, "lanes tiles width"],
    known: Float[Array, "lanes n"],
    first: Int[Array, ""] | int,
) -> tuple[Float[Array, "lanes tiles width"], Float[Array, "lanes n"]]:
    """The same of one row for each lane, which stays in tiles for the next part of its basis.

    The components are added to `known`, from `first` on.
    """
    parts = components(basis, block)
    rest = block - (_sum_of_few if basis.shape[2] <= _FEW else combination)(parts, basis)
    old = jax.lax.dynamic_slice(known, (0, first), parts.shape)
    return rest, jax.lax.dynamic_update_slice(known, old + parts, (0, first))


def _sum_of_few(
    coefficients: Float[Array, "lanes r"], basis: Float[Array, "lanes tiles r width"]
) -> Float[Array, "lanes tiles width"]:
    """The same as `combination`, written out, which becomes one loop with what follows it: a
    product of matrices would be an array to write and to read again."""
    each = [coefficients[:, None, row, None] * basis[:, :, row] for row in range(basis.shape[2])]
    return functools.reduce(add, each)


def inner_products(
    subscripts: str,
    left: Float[Array, "*l dim"],
    right: Float[Array, "*r dim"],
    mesh: Mesh | None = None,
) -> Float[Array, "..."]:
    """An einsum that sums over the last axis of both, right to a few eps however long that is.

    Devices other than the CPU add in trees; those of a mesh each add up their own share.
    """
    dim, width = left.shape[-1], _TERMS_PER_SUM
    if mesh is not None and dim % mesh.size == 0:
        names, out = subscripts.split("->")
        first, second = (f"{letters[:-1]}Z{letters[-1]}" for letters in names.split(","))
        shares = (x.reshape(*x.shape[:-1], mesh.size, -1) for x in (left, right))
        apart = [jax.lax.with_sharding_constraint(x, cut_along(mesh, x.ndim - 2)) for x in shares]
        return inner_products(f"{first},{second}->Z{out}", *apart).sum(axis=0)
    if dim <= width or jax.default_backend() != "cpu":
        return jnp.einsum(subscripts, left, right, precision="highest")
    whole = dim // width * width

    def add(index: Array, total: Array) -> Array:
        a, b = (
            jax.lax.dynamic_slice_in_dim(x, index * width, width, axis=-1) for x in (left, right)
        )
        return total + jnp.einsum(subscripts, a, b, precision="highest")

    rest = jnp.einsum(subscripts, left[..., whole:], right[..., whole:], precision="highest")
    return jax.lax.fori_loop(0, dim // width, add, rest)
