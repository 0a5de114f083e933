"""Lanczos driven from the host: probes in lockstep, no wait inside a step.

The host enqueues products and small programs and lets the device run behind; it looks only at
the outcome of two steps ago, so that a finished or broken run stops early while the queue never
runs dry. The basis grows in chunks of rows that are never copied: a projection reads the chunks
that exist, so the compiled programs are few and the same for every step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hessspec._base.checks import ASYMMETRY_UNITS, check_finite
from hessspec._base.memory import require_memory
from hessspec._base.progress import ProgressBar
from hessspec._base.space import VectorSpace
from hessspec._krylov.lanczos import (
    Recurrence,
    check_num_steps,
    extend,
    normalized,
    power_of_two,
    relative_asymmetry,
    three_terms,
)
from hessspec._krylov.tiles import flat, project_tiles, tile_shape, tiled

# Rows read together: enough that the vector's own traffic is small beside theirs, few enough
# that the half-empty last chunk is (measured: 8 to 32 are alike, within a tenth).
ROWS_PER_CHUNK = 16
_STEPS_IN_FLIGHT = 2


class RowOperator(Protocol):
    """What a Krylov run needs of an operator."""

    @property
    def space(self) -> VectorSpace: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]: ...
    def product_bytes(self, rows: int) -> int: ...


@dataclass(frozen=True)
class KrylovRun:
    """T of each probe on the host, in the units of H, and the bases on the device.

    Attributes:
        alpha, beta, num_valid_steps: as in `KrylovDecomposition`, float64.
        chunks: the bases in tiles, `ROWS_PER_CHUNK` rows of every probe in each; rows past the
            last valid step are zero. Empty without reorthogonalisation.
        asymmetry: largest asymmetry of the products, relative to H.
        num_matvecs: products executed, those of probes already exhausted included.
    """

    alpha: Float[np.ndarray, "k m"]
    beta: Float[np.ndarray, "k m"]
    num_valid_steps: Int[np.ndarray, " k"]
    chunks: tuple[Float[Array, "k tiles rows width"], ...]
    asymmetry: float
    num_matvecs: int

    def basis_gram(self) -> Float[np.ndarray, "k m k m"]:
        """Inner products of the basis vectors of all probes.

        Within a probe they are those of orthonormal vectors, and zero past its last valid step.
        The bases are read once, in tiles of columns; no product with H is made.
        """
        if not self.chunks:
            raise ValueError("the bases were not kept: run with `reorthogonalize=True`")
        k, m = self.alpha.shape
        rows = len(self.chunks) * self.chunks[0].shape[2]
        gram, used = np.zeros((k, m, k, m)), min(rows, m)
        if k > 1:
            found = np.asarray(_basis_gram(self.chunks), np.float64).reshape(k, rows, k, rows)
            gram[:, :used, :, :used] = found[:, :used, :, :used]
            gram += gram.transpose(2, 3, 0, 1)
        for probe, n in enumerate(self.num_valid_steps):
            gram[probe, :, probe, :] = np.diag(np.arange(m) < n)
        return gram

    def combined_lengths(self, mixes: Float[np.ndarray, "d k m"]) -> Float[np.ndarray, " d"]:
        """Lengths of combinations Σ c_pj q_pj of basis vectors, one for each row of `mixes`.

        Unlike a length taken from inner products, it is right to eps |c|, not eps^(1/2) |c|.
        """
        d, k, m = mixes.shape
        rows = len(self.chunks) * self.chunks[0].shape[2]
        used = min(rows, m)
        padded = np.zeros((d, k, rows))
        padded[:, :, :used] = mixes[:, :, :used]
        largest = np.abs(padded).max(axis=(1, 2), keepdims=True)  # its square may overflow
        parts = jnp.asarray((padded / largest).reshape(d, -1), self.chunks[0].dtype)
        squares = np.asarray(_combined_squares(self.chunks, parts), np.float64)
        return np.sqrt(squares) * largest[:, 0, 0]


def krylov_bytes(num_probes: int, num_steps: int, dim: int, dtype: np.dtype) -> int:
    """Bytes that the bases of a run take, with the vectors of one step."""
    kept = _padded(num_steps) * math.prod(tile_shape(dim))
    return num_probes * (kept + 4 * dim) * np.dtype(dtype).itemsize


def require_room(needed: int, memory_budget: int, num_probes: int, num_steps: int) -> None:
    """Raise MemoryError if a run needs more bytes than it may have, with the ways out."""
    require_memory(
        needed,
        memory_budget,
        f"a Krylov basis of {num_steps} steps for {num_probes} probes, with its products,",
        "lower `num_steps` or `num_probes`, raise `memory_budget`, let products take less "
        "(`HessianOperator(..., rematerialize=True)`, smaller `Batches`), or pass "
        "`reorthogonalize=False`, which keeps a few vectors only",
    )


def krylov(
    operator: RowOperator,
    starts: Float[Array, "k dim"],
    num_steps: int,
    *,
    reorthogonalize: bool = True,
    memory_budget: int | None = None,
    bar: ProgressBar | None = None,
) -> KrylovRun:
    """Run `num_steps` Lanczos steps from every row of `starts`, through `operator.rows`.

    Cost: k products a step. Memory: k (m + 4) vectors, or 4 k without reorthogonalisation, and what
    k products take.

    Raises:
        ValueError: if a product is not finite or not symmetric, naming the cause.
        MemoryError: if the bases exceed `memory_budget` bytes, with the ways out.
    """
    k, dim = starts.shape
    check_num_steps(num_steps, dim)
    if memory_budget is not None:
        kept = krylov_bytes(k, num_steps if reorthogonalize else 0, dim, starts.dtype)
        require_room(kept + operator.product_bytes(k), memory_budget, k, num_steps)
    rows, alive = _normalized(starts)
    found = Recurrence.begin(alive, _padded(num_steps), starts.dtype)
    scale, previous = jnp.ones(k, starts.dtype), jnp.zeros_like(rows)
    chunks: list[Array] = []
    outcomes: list[tuple[Array, Array]] = []
    num_matvecs = 0
    for j in range(num_steps):
        products = operator.rows(rows)
        num_matvecs += k
        if j == 0:
            scale = _power_of_two(products)
        if reorthogonalize:
            local = _first_pass(previous, rows, products, scale, found, j)
            # The second of two passes. A first one over the whole basis would find nothing but
            # rounding beside the two terms just removed, so these are the first: the same basis
            # at half the reading.
            _append(chunks, rows, j)
            for number, chunk in enumerate(chunks):
                local = _project(chunk, *local, number * ROWS_PER_CHUNK)
            found, following = _extend_tiles(found, j, *local, dim=dim)
        else:
            local = _only_pass(previous, rows, _divide(products, scale), found, j)
            found, following = _extend(found, j, *local)
        del products  # or it would be in memory beside the next one
        previous, rows = rows, following
        outcomes.append((found.alive, found.finite))
        if bar is not None:
            bar.update(k)
        if j >= _STEPS_IN_FLIGHT and _over(outcomes[j - _STEPS_IN_FLIGHT]):
            break
    _check_finite(operator, starts, found)
    asymmetry = float(np.max(np.asarray(_relative_asymmetry(found))))
    _check_symmetric(asymmetry, starts.dtype)
    factor = np.asarray(scale, np.float64)[:, None]
    return KrylovRun(
        alpha=np.asarray(found.alpha, np.float64)[:, :num_steps] * factor,
        beta=np.asarray(found.beta, np.float64)[:, :num_steps] * factor,
        num_valid_steps=np.asarray(found.num_valid_steps),
        chunks=tuple(chunks),
        asymmetry=asymmetry,
        num_matvecs=num_matvecs,
    )


def _padded(num_steps: int) -> int:
    return ROWS_PER_CHUNK * math.ceil(num_steps / ROWS_PER_CHUNK)


def _append(chunks: list[Array], rows: Array, j: int) -> None:
    """Enter `rows` as row j of every probe's basis, in place."""
    slot = j % ROWS_PER_CHUNK
    if slot == 0:
        k, (count, width) = rows.shape[0], tile_shape(rows.shape[1])
        chunks.append(jnp.zeros((k, count, ROWS_PER_CHUNK, width), rows.dtype))
    chunks[-1] = _store(chunks[-1], rows, slot)


def _over(outcome: tuple[Array, Array]) -> bool:
    alive, finite = (np.asarray(flag) for flag in outcome)
    return bool(not alive.any() or not finite.all())


def _check_finite(operator: RowOperator, starts: Array, found: Recurrence) -> None:
    if np.asarray(found.finite).all():
        return
    # The offending product is gone; the first one usually shows the same leaf.
    rows, _ = _normalized(starts)
    check_finite(operator.rows(rows), operator.space, "a product with the Hessian")
    raise ValueError(
        "a product with the operator became infinite or not a number after some Lanczos steps; "
        "the second derivative overflows in some direction: check the loss and the scale of "
        "its data, or use float64."
    )


def _check_symmetric(asymmetry: float, dtype: np.dtype) -> None:
    if asymmetry > ASYMMETRY_UNITS * np.finfo(dtype).eps:
        raise ValueError(
            "products with the operator are not symmetric: u'Hv and v'Hu differ by "
            f"{asymmetry:.1e} of its norm, more than rounding can explain. Every method here "
            "needs H = H'. A custom derivative rule, a non-symmetric `matvec`, a random loss, a "
            "cast to lower precision inside the loss (bfloat16), or reduced matrix-multiplication "
            "precision (TF32: set `jax.default_matmul_precision('highest')`) can cause this."
        )


_normalized = jax.jit(normalized)
_power_of_two = jax.jit(power_of_two)
_project = jax.jit(project_tiles, donate_argnums=(1, 2))
_only_pass = jax.jit(partial(three_terms, last=True), donate_argnums=(2,))
_extend = jax.jit(extend, donate_argnums=(2,))
_relative_asymmetry = jax.jit(relative_asymmetry)


@jax.jit  # the product is not donated: an operator may hand back a buffer that it keeps
def _divide(products: Array, scale: Array) -> Array:
    return products / scale[:, None]


@jax.jit
def _first_pass(
    previous: Array, rows: Array, products: Array, scale: Array, found: Recurrence, j: Array
) -> tuple[Array, Array]:
    """What `three_terms` leaves of the products, in tiles, for a pass over the basis to follow."""
    left, coefficients = three_terms(
        previous, rows, products / scale[:, None], found, j, last=False
    )
    return tiled(left), coefficients


@partial(jax.jit, static_argnames="dim")
def _extend_tiles(
    found: Recurrence, j: Array, remainder: Array, coefficients: Array, *, dim: int
) -> tuple[Recurrence, Array]:
    return extend(found, j, flat(remainder, dim), coefficients)


@partial(jax.jit, donate_argnums=0)
def _store(chunk: Array, rows: Array, slot: Array) -> Array:
    return jax.lax.dynamic_update_slice(chunk, tiled(rows)[:, :, None], (0, 0, slot, 0))


@jax.jit
def _basis_gram(chunks: tuple[Float[Array, "k tiles rows width"], ...]) -> Float[Array, "n n"]:
    """Inner products of the rows of each probe with those of later ones, over tiles of columns."""
    k, _, per_chunk, _ = chunks[0].shape
    rows = len(chunks) * per_chunk

    def add(gram: Array, tile: Array) -> Array:
        for probe in range(k - 1):
            first, rest = probe * rows, (probe + 1) * rows
            part = jnp.matmul(tile[first:rest], tile[rest:].T, precision="highest")
            gram = gram.at[first:rest, rest:].add(part)
        return gram

    return _over_tiles(chunks, add, jnp.zeros((k * rows,) * 2, chunks[0].dtype))


@jax.jit
def _combined_squares(
    chunks: tuple[Float[Array, "k tiles rows width"], ...], parts: Float[Array, "d n"]
) -> Float[Array, " d"]:
    """|parts @ basis|² of each row, over tiles of columns."""

    def add(squares: Array, tile: Array) -> Array:
        return squares + jnp.sum(jnp.matmul(parts, tile, precision="highest") ** 2, axis=1)

    return _over_tiles(chunks, add, jnp.zeros(parts.shape[0], parts.dtype))


def _over_tiles(
    chunks: tuple[Float[Array, "k tiles rows width"], ...],
    add: Callable[[Array, Float[Array, "n width"]], Array],
    total: Array,
) -> Array:
    """Add up what all tiles of the bases' columns give, all rows of one probe after another's."""
    width = chunks[0].shape[3]

    def body(index: Array, total: Array) -> Array:
        return add(total, jnp.concatenate([c[:, index] for c in chunks], axis=1).reshape(-1, width))

    return jax.lax.fori_loop(0, chunks[0].shape[1], body, total)
