"""Lanczos driven from the host: probes in lockstep, no wait inside a step.

The host enqueues products and small programs and lets the device run behind; it looks only at
the outcome of two steps ago, so that a finished or broken run stops early while the queue never
runs dry. The bases grow in chunks of rows that are never copied: a projection reads the chunks
that exist, so the compiled programs are few and the same for every step.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from hessspec._base.checks import asymmetric, check_finite
from hessspec._base.kept import KeptRun, Long
from hessspec._base.memory import require_memory
from hessspec._base.meshes import width_on
from hessspec._base.progress import ProgressBar
from hessspec._base.space import VectorSpace
from hessspec._krylov.basis import LockstepBases, in_chunks, rows_read_together
from hessspec._krylov.lanczos import (
    Recurrence,
    check_num_steps,
    extend,
    normalized,
    power_of_two,
    relative_asymmetry,
    three_terms,
)
from hessspec._krylov.tiles import Layout
from hessspec._operators.symmetry import Symmetry

_STEPS_IN_FLIGHT = 2


class RowOperator(Protocol):
    """What a Krylov run needs of an operator."""

    @property
    def space(self) -> VectorSpace: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def mesh(self) -> Mesh | None: ...
    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]: ...
    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "k dim"], Float[Array, " k"] | None]: ...
    def product_bytes(self, rows: int) -> int: ...


class State(NamedTuple):
    """What a run knows after some steps, its bases aside.

    Attributes:
        done: steps taken.
        previous, rows: the last basis vector of each probe, and the next one.
        found: the recurrence.
        scale: s of each probe.
        parts: largest length of the parts of products so far; None where H is no sum.
        outcomes: for each of the last steps, which probes were alive and which finite.
    """

    done: int
    previous: Float[Array, "k width"]
    rows: Float[Array, "k width"]
    found: Recurrence
    scale: Float[Array, " k"]
    parts: Float[Array, " k"] | None = None
    outcomes: tuple[tuple[Array, Array], ...] = ()

    def kept(self, bases: LockstepBases | None) -> dict[str, Any]:
        """What is to be kept, once the device is done with it; without bases two rows alone."""
        jax.block_until_ready(self)
        older = range(0 if bases is None else self.done - 1)
        vectors = [] if bases is None else [partial(bases.row, i) for i in older]
        vectors += [lambda: self.previous, lambda: self.rows]
        last = enumerate(vectors, self.done - 1 - len(older))
        long = [Long(rows, f"{number:06d}") for number, rows in last]
        return self._asdict() | {"previous": None, "rows": long, "found": self.found._asdict()}

    @classmethod
    def read(cls, kept: dict[str, Any], bases: LockstepBases | None) -> "State":
        """The state that was kept; its rows are put into `bases`."""
        *older, previous, rows = kept["rows"]
        found = Recurrence(**jax.tree.map(jnp.asarray, kept["found"]))
        small = {name: jax.tree.map(jnp.asarray, kept[name]) for name in ("scale", "parts")}
        outcomes = tuple((jnp.asarray(a), jnp.asarray(b)) for a, b in kept["outcomes"])
        state = cls(kept["done"], previous.rows(), rows.rows(), found, **small, outcomes=outcomes)
        if bases is not None:
            for row in older:
                bases.append(row.rows())
            bases.append(state.previous)
        return state


@dataclass(frozen=True)
class KrylovRun:
    """T of each probe on the host, in the units of H, and the bases on the device.

    Attributes:
        alpha, beta, num_valid_steps: as in `KrylovDecomposition`, float64.
        bases: of all probes; rows past the last valid step are zero. None without
            reorthogonalisation.
        asymmetry: largest asymmetry of the products, relative to H, or to the parts that H is
            a sum of; where it is large, at least what rounding was found to move products by.
        num_matvecs: products executed, those of probes already exhausted included.
        parts: largest length of those parts of a product; 0 where H is no sum.
    """

    alpha: Float[np.ndarray, "k m"]
    beta: Float[np.ndarray, "k m"]
    num_valid_steps: Int[np.ndarray, " k"]
    bases: LockstepBases | None
    asymmetry: float
    num_matvecs: int
    parts: float = 0.0

    def basis_gram(self) -> Float[np.ndarray, "k m k m"]:
        """Inner products of the basis vectors of all probes.

        Within a probe they are those of orthonormal vectors, and zero past its last valid step.
        The bases are read once, in tiles of columns; no product with H is made.
        """
        bases = self._kept()
        k, m = self.alpha.shape
        gram, used = np.zeros((k, m, k, m)), bases.rank
        gram[:, :used, :, :used] = bases.gram()
        gram += gram.transpose(2, 3, 0, 1)
        for probe, n in enumerate(self.num_valid_steps):
            gram[probe, :, probe, :] = np.diag(np.arange(m) < n)
        return gram

    def combined_lengths(self, mixes: Float[np.ndarray, "d k m"]) -> Float[np.ndarray, " d"]:
        """Lengths of combinations Σ c_pj q_pj of basis vectors, one for each row of `mixes`.

        Unlike a length taken from inner products, it is right to eps |c|, not eps^(1/2) |c|.
        """
        bases = self._kept()
        return bases.combined_lengths(mixes[:, :, : bases.rank])

    def _kept(self) -> LockstepBases:
        if self.bases is None:
            raise ValueError("the bases were not kept: run with `reorthogonalize=True`")
        return self.bases


def krylov_bytes(
    num_probes: int, num_steps: int, dim: int, dtype: np.dtype, mesh: Mesh | None = None
) -> int:
    """Bytes that the bases of a run take on each device, with the vectors of one step."""
    layout = Layout.of_lanes(width_on(mesh, dim), dtype, num_probes, mesh)
    step = 4 * num_probes * layout.share * np.dtype(dtype).itemsize
    return layout.nbytes(in_chunks(num_steps, rows_read_together(layout))) + step


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
    kept: KeptRun | None = None,
) -> KrylovRun:
    """Run `num_steps` Lanczos steps from every row of `starts`, through `operator.rows`.

    With `kept` it goes on from the state that was kept last, and keeps further ones.

    Cost: k products a step. Memory: k (m + 4) vectors, or 4 k without reorthogonalisation, and what
    k products take.

    Raises:
        ValueError: if a product is not finite or not symmetric, naming the cause.
        MemoryError: if the bases exceed `memory_budget` bytes, with the ways out.
    """
    k, dim = starts.shape[0], operator.dim
    check_num_steps(num_steps, dim)
    mesh = operator.mesh
    if memory_budget is not None:
        held = krylov_bytes(k, num_steps if reorthogonalize else 0, dim, starts.dtype, mesh)
        require_room(held + operator.product_bytes(k), memory_budget, k, num_steps)
    layout = Layout.of_lanes(starts.shape[1], starts.dtype, k, mesh)
    bases = LockstepBases(layout) if reorthogonalize else None
    begun = None if kept is None else kept.read()
    if begun is None:
        rows, alive = _normalized(starts)
        slots = in_chunks(num_steps, rows_read_together(layout))
        found = Recurrence.begin(alive, slots, starts.dtype)
        state = State(0, jnp.zeros_like(rows), rows, found, jnp.ones(k, starts.dtype))
    else:
        state = State.read(begun, bases)
        if bar is not None:
            bar.update(k * state.done)
    while state.done < num_steps and not _over(state):
        state = _stepped(operator, state, bases, layout)
        if bar is not None:
            bar.update(k)
        if kept is not None:
            kept.keep(partial(state.kept, bases))
    found, scale, parts = state.found, state.scale, state.parts
    _check_finite(operator, starts, found)
    factor = np.asarray(scale, np.float64)[:, None]
    size = float(np.max(np.asarray(found.size, np.float64) * factor[:, 0]))
    asymmetry = float(np.max(np.asarray(_relative_asymmetry(found))))
    symmetry = _checked_symmetry(operator, starts, asymmetry, size)
    return KrylovRun(
        alpha=np.asarray(found.alpha, np.float64)[:, :num_steps] * factor,
        beta=np.asarray(found.beta, np.float64)[:, :num_steps] * factor,
        num_valid_steps=np.asarray(found.num_valid_steps),
        bases=bases,
        asymmetry=max(asymmetry, float(symmetry.noise)),
        num_matvecs=k * state.done + symmetry.num_matvecs,
        parts=0.0 if parts is None else float(np.max(np.asarray(parts))),
    )


def _stepped(
    operator: RowOperator, state: State, bases: LockstepBases | None, layout: Layout
) -> State:
    """The state a step later; a basis vector more in the bases."""
    j, previous, rows, found, scale, parts, outcomes = state
    products, lengths = operator.measured_rows(rows)
    if j == 0:
        scale = _power_of_two(products)
    if lengths is not None:
        # Remainders and asymmetries are judged by the parts, whose rounding they are.
        found = found._replace(size=jnp.maximum(found.size, lengths / scale))
        parts = lengths if parts is None else jnp.maximum(parts, lengths)
    if bases is not None:
        local = _first_pass(previous, rows, products, scale, found, j, layout=layout)
        # The second of two passes. A first one over the whole basis would find nothing but
        # rounding beside the two terms just removed, so these are the first: the same basis
        # at half the reading.
        bases.append(rows)
        found, following = _extend_tiles(found, j, *bases.project(*local), layout=layout)
    else:
        local = _only_pass(previous, rows, _divide(products, scale), found, j)
        found, following = _extend(found, j, *local)
    outcomes = (*outcomes[-_STEPS_IN_FLIGHT:], (found.alive, found.finite))
    return State(j + 1, rows, following, found, scale, parts, outcomes)


def _over(state: State) -> bool:
    """Whether all probes were exhausted, or one was not finite, some steps ago."""
    if len(state.outcomes) <= _STEPS_IN_FLIGHT:
        return False
    alive, finite = (np.asarray(flag) for flag in state.outcomes[0])
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


def _checked_symmetry(
    operator: RowOperator, starts: Array, asymmetry: float, size: float
) -> Symmetry:
    """What is rounding is judged by images of the starts, which lie along the outliers."""
    symmetry = Symmetry(operator)
    if asymmetry > symmetry.units:
        images, _ = _normalized(operator.rows(_normalized(starts)[0]))
        symmetry.num_matvecs += starts.shape[0]
        if not symmetry.allows(asymmetry, images, size):
            found = f"u'Hv and v'Hu differ by {asymmetry:.1e} of its norm"
            rounding = symmetry.explains(asymmetry)
            raise asymmetric(found, asymmetry, starts.dtype, rounding=rounding)
    return symmetry


_normalized = jax.jit(normalized)
_power_of_two = jax.jit(power_of_two)
_only_pass = jax.jit(partial(three_terms, last=True), donate_argnums=(2,))
_extend = jax.jit(extend, donate_argnums=(2,))
_relative_asymmetry = jax.jit(relative_asymmetry)


@jax.jit  # the product is not donated: an operator may hand back a buffer that it keeps
def _divide(products: Array, scale: Array) -> Array:
    return products / scale[:, None]


@partial(jax.jit, static_argnames="layout")
def _first_pass(
    previous: Array,
    rows: Array,
    products: Array,
    scale: Array,
    found: Recurrence,
    j: Array,
    *,
    layout: Layout,
) -> tuple[tuple[Float[Array, "l tiles width"], ...], tuple[Float[Array, "l m"], ...]]:
    """What `three_terms` leaves of the products, in tiles, for a pass over the basis to follow."""
    left, coefficients = three_terms(
        previous, rows, products / scale[:, None], found, j, last=False
    )
    each = zip(layout.parts, layout.by_part(left), strict=True)
    blocks = tuple(part.tiled(rows)[:, :, 0] for part, rows in each)
    return blocks, layout.by_part(coefficients)


@partial(jax.jit, static_argnames="layout")
def _extend_tiles(
    found: Recurrence,
    j: Array,
    remainders: tuple[Float[Array, "l tiles width"], ...],
    coefficients: tuple[Float[Array, "l m"], ...],
    *,
    layout: Layout,
) -> tuple[Recurrence, Array]:
    each = zip(layout.parts, remainders, strict=True)
    rows = jnp.concatenate([part.flat(block[:, :, None]) for part, block in each])
    return extend(found, j, rows, jnp.concatenate(coefficients))
