"""Eigenpairs followed from one operator to the next: a state, and a function from state to state.

Rayleigh-Ritz on the old vectors, then one direction at a time: the remainder of the worst pair,
divided by what is known of H from before. Let H be near Bᵀ M B, with rows B and values M kept from
earlier calls and 0 for the rest; the remainder r of a pair (θ, v) then asks for the correction

    t = (Bᵀ M B - θ)⁻¹ r,

which is the first order of perturbation theory: components along other outliers are divided by
their distance from θ. Without B it is r, and the basis the one of Lanczos.

What grew outside of the wanted space is looked for by two products more. A row of B is multiplied
again: the next in line every other time, the others in turn in between. And a vector orthogonal to
B goes through a power iteration, one step a call, with a random part added to it each time, so that
no direction is ever lost from it. While the wanted vectors turn so fast that more than `MOVING`
products are needed to follow them, those products see to B too, and one of the two is made every
other call.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from hessspec._krylov.lanczos import BREAKDOWN_UNITS, power_of_two
from hessspec._krylov.tiles import inner_products
from hessspec._tracking.rows import (
    TrackedEnd,
    angle,
    combined,
    eigen,
    preference,
    unit,
    without,
)
from hessspec._tracking.state import (
    CHECKS,
    CORRECTS,
    EXPLORES,
    TrackedPairs,
    TrackerState,
    Work,
)

Products = Callable[[Float[Array, "n dim"]], Float[Array, "n dim"]]

# New directions that the basis has room for.
NUM_NEW = 12
# Products beyond the k wanted ones, from which on the spectrum counts as moving.
MOVING = 1
# A row of B that has lost more than this share of its square to the basis is taken out of it.
_LEAST_LEFT = 0.1
# A correction divides by no smaller share of θ: what is closer is known too badly.
_LEAST_GAP = 0.02


def track(
    products: Products,
    state: TrackerState,
    *,
    tol: float,
    max_matvecs: int = 400,
) -> tuple[TrackerState, TrackedPairs]:
    """The state for this operator, and the k eigenpairs at the wanted end of its spectrum.

    A pure function, for `jit` and `scan`; `Tracker` calls the same steps. Near a settled spectrum
    k + 2 products are made: the old vectors, one other that is known, one that explores. Where a
    residual exceeds the tolerance, or the pair that follows could come before the last wanted one
    after one more step, others are made one by one.

    Args:
        products: `products(block)`, H times each row of a block of flat vectors.
        state: `TrackerState.start(key, dim, k, which)` at first.
        tol: largest residual, relative to the norm of H.
        max_matvecs: where to stop in any case.

    Returns:
        The new state, and what was found; pairs that have not converged are flagged.

    Raises:
        ValueError: if `max_matvecs` is below k, or the products have another dtype than the state.

    Cost: k products and, near a settled spectrum, two more; memory of about 3 k + 41 vectors.

    Source: derived in the module's text; checked against dense matrices in
    `tests/hessspec/tracking/test_kernel.py`.
    """
    k = state.rows.shape[0]
    if max_matvecs < k:
        raise ValueError(f"`max_matvecs` must be at least {k} for {k} pairs, got {max_matvecs}")
    first = products(state.rows)
    if first.dtype != state.rows.dtype:
        raise ValueError(
            f"`state` must have the dtype of the products, {first.dtype}, got {state.rows.dtype}; "
            "start it with `TrackerState.start(key, dim, dtype=H.dtype)`"
        )
    # A basis that no limit lets grow needs no room: passes over it are what a step costs beside H.
    work = begin(state, first, tol, room=min(2 + NUM_NEW, max_matvecs + 1 - k))

    def goes_on(work: Work) -> Bool[Array, ""]:
        return ~work.done & (work.spent < max_matvecs)

    def step(work: Work) -> Work:
        return take_in(state, work, products(work.direction[None])[0], tol)

    return finish(state, jax.lax.while_loop(goes_on, step, work), tol)


def begin(
    state: TrackerState, products: Float[Array, "k dim"], tol: float, room: int = 2 + NUM_NEW
) -> Work:
    """The basis of the wanted rows, of which these are the products, with `room` for others."""
    k, dim = state.rows.shape
    scale = jnp.max(power_of_two(products))
    images = products / scale
    empty = ((0, min(k + room, dim) - k), (0, 0))
    basis, filled = jnp.pad(state.rows, empty), jnp.pad(images, empty)
    compressed = inner_products("ap,bp->ab", basis, filled)
    to_check, to_explore = _looks(state)
    work = Work(
        basis=basis,
        images=filled,
        compressed=(compressed + compressed.T) / 2,
        size=jnp.asarray(k, jnp.int32),
        spent=jnp.asarray(k, jnp.int32),
        scale=scale,
        norm=jnp.max(jnp.linalg.norm(images, axis=1)),
        asymmetry=jnp.max(jnp.abs(compressed - compressed.T)),
        explorer=state.explorer,
        direction=state.explorer,
        role=jnp.asarray(CORRECTS, jnp.int32),
        followed=jnp.zeros((), jnp.int32),
        to_check=to_check,
        to_explore=to_explore,
        done=jnp.asarray(False),
    )
    return _proposed(state, work, tol)


def take_in(state: TrackerState, work: Work, product: Float[Array, " dim"], tol: float) -> Work:
    """The basis with the direction in it that was multiplied."""
    image, n = product / work.scale, work.size
    basis = work.basis.at[n].set(work.direction)
    images = work.images.at[n].set(image)
    column = inner_products("ap,p->a", basis, image)
    row = inner_products("ap,p->a", images, work.direction)
    mean = (column + row) / 2
    grown = replace(
        work,
        basis=basis,
        images=images,
        compressed=work.compressed.at[n, :].set(mean).at[:, n].set(mean),
        size=n + 1,
        spent=work.spent + 1,
        norm=jnp.maximum(work.norm, jnp.linalg.norm(image)),
        asymmetry=jnp.maximum(work.asymmetry, jnp.max(jnp.abs(column - row))),
        explorer=jnp.where(work.role == EXPLORES, image, work.explorer),
        followed=work.followed + (work.role == CORRECTS).astype(jnp.int32),
        to_check=work.to_check & (work.role != CHECKS),
        to_explore=work.to_explore & (work.role != EXPLORES),
    )
    return _proposed(state, grown, tol)


def finish(state: TrackerState, work: Work, tol: float) -> tuple[TrackerState, TrackedPairs]:
    """What was found, and the state for the next call."""
    k = state.rows.shape[0]
    values, vectors = _ritz(work, state.which)
    rows = combined(vectors[:, :k], work.basis)
    images = combined(vectors[:, :k], work.images)
    residuals = jnp.linalg.norm(images - values[:k, None] * rows, axis=1)
    norm = jnp.maximum(work.norm, jnp.max(jnp.abs(values[:k])))
    known, known_values = _merged(state, work)

    def explored() -> Float[Array, " dim"]:
        fresh = jax.random.normal(_stream(state, 2), rows.shape[1:], rows.dtype)
        return unit(work.explorer) + unit(fresh)

    to_check, to_explore = _looks(state)
    has_explored = to_explore & ~work.to_explore
    explorer = jax.lax.cond(has_explored, explored, lambda: state.explorer)
    explorer = without(rows, without(known, explorer))
    new = TrackerState(
        rows=rows,
        known=known,
        known_values=known_values * work.scale,
        explorer=unit(explorer),
        key=state.key,
        count=state.count + 1,
        turn=state.turn + (to_check & ~work.to_check).astype(jnp.int32),
        effort=work.followed,
        which=state.which,
    )
    found = TrackedPairs(
        values=values[:k] * work.scale,
        residuals=residuals * work.scale,
        norm=norm * work.scale,
        images=images * work.scale,
        rotation=jnp.where(state.count > 0, angle(state.rows, rows), jnp.nan),
        asymmetry=work.asymmetry * work.scale,
        num_matvecs=work.spent,
        converged=residuals <= tol * norm,
    )
    return new, found


def _proposed(state: TrackerState, work: Work, tol: float) -> Work:
    """`work` with the direction that is to be multiplied next, if any."""
    k, dim = state.rows.shape
    capacity = work.basis.shape[0]
    values, vectors = _ritz(work, state.which)
    shown = min(k + 1, capacity)
    rows = combined(vectors[:, :shown], work.basis)
    rests = combined(vectors[:, :shown], work.images) - values[:shown, None] * rows
    lengths = jnp.linalg.norm(rests, axis=1)
    norm = jnp.maximum(work.norm, jnp.max(jnp.abs(values[:shown])))
    is_open = lengths > tol * norm
    if shown > k:
        threat = _could_overtake(values[k - 1], values[k], lengths[k], state.which)
        is_open = is_open.at[k].set(is_open[k] & threat & (work.size > k))
    # First one of B, which may help; the explorer, which a limit on products must not starve; the
    # wanted pairs, the worst first; the next one.
    wanted = jnp.arange(shown, dtype=jnp.int32) < k
    urgency = jnp.where(is_open, lengths, 0) + jnp.where(wanted & is_open, norm, 0)
    worst = jnp.argmax(urgency)
    explores = ~work.to_check & work.to_explore
    role = jnp.where(work.to_check, CHECKS, jnp.where(explores, EXPLORES, CORRECTS))
    role = role.astype(jnp.int32)
    corrected = _corrected(state, rests[worst], values[worst], work.scale)
    direction = jnp.where(work.to_check, _in_turn(state), corrected)
    direction = jnp.where(explores, work.explorer, direction)
    is_none = ~jnp.any(is_open) & ~work.to_check & ~work.to_explore
    work = replace(work, norm=norm, role=role, done=is_none | (work.size >= dim))
    if capacity < dim:
        work = _restarted(work, values, vectors, k)
    return replace(work, direction=_outside(state, work, direction))


def _looks(state: TrackerState) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether a row of B is multiplied again in this call, and whether the explorer is."""
    moving = state.effort > MOVING
    return (
        jnp.where(moving, state.count % 4 == 2, state.count > 0),
        jnp.where(moving, state.count % 4 == 0, True),
    )


def _in_turn(state: TrackerState) -> Float[Array, " dim"]:
    """The row of B to multiply again."""
    others = state.known.shape[0]
    if others < 2:
        return state.explorer
    return state.known[jnp.where(state.turn % 2 == 0, 0, 1 + state.turn // 2 % (others - 1))]


def _could_overtake(
    last: Float[Array, ""], following: Float[Array, ""], rest: Float[Array, ""], which: TrackedEnd
) -> Bool[Array, ""]:
    """Whether the pair that follows may come before the last wanted one with one more direction.

    As if H were 0 along its remainder r: in the span of both it is then [[θ, |r|], [|r|, 0]].
    """
    middle, spread = following / 2, jnp.sqrt((following / 2) ** 2 + rest**2)
    reach = jnp.abs(middle) + spread if which == "LM" else middle + spread
    if which == "SA":
        reach = middle - spread
    return preference(reach, which) >= preference(last, which)


def _corrected(
    state: TrackerState,
    rest: Float[Array, " dim"],
    value: Float[Array, ""],
    scale: Float[Array, ""],
) -> Float[Array, " dim"]:
    """-θ (Bᵀ M B - θ)⁻¹ r."""
    gaps = value - state.known_values / scale
    least = _LEAST_GAP * jnp.abs(value)
    gaps = jnp.where(jnp.abs(gaps) < least, jnp.where(gaps < 0, -least, least), gaps)
    factors = jnp.where(value == 0, 0, value / jnp.where(gaps == 0, 1, gaps) - 1)
    parts = inner_products("mp,p->m", state.known, rest)
    return rest + jnp.einsum("m,mp->p", factors * parts, state.known, precision="highest")


def _restarted(
    work: Work, values: Float[Array, " c"], vectors: Float[Array, "c c"], k: int
) -> Work:
    """`work` with the better half of its Ritz vectors as its basis, if that is full."""
    capacity = work.basis.shape[0]
    kept = k + (capacity - k) // 2
    rest = capacity - kept

    def halved(work: Work) -> Work:
        def of(rows: Float[Array, "c dim"]) -> Float[Array, "c dim"]:
            return jnp.pad(combined(vectors[:, :kept], rows), ((0, rest), (0, 0)))

        return replace(
            work,
            basis=of(work.basis),
            images=of(work.images),
            compressed=jnp.diag(jnp.pad(values[:kept], (0, rest))),
            size=jnp.asarray(kept, work.size.dtype),
        )

    # A loop of no turn or one: unlike a branch it copies nothing where nothing is done.
    return jax.lax.while_loop(lambda work: work.size == capacity, halved, work)


def _outside(state: TrackerState, work: Work, direction: Float[Array, " dim"]) -> Array:
    """The unit vector along what `direction` has outside of the basis; a random one if nothing."""
    first = without(work.basis, unit(direction))
    is_left = jnp.linalg.norm(first) > BREAKDOWN_UNITS * jnp.finfo(direction.dtype).eps

    def another() -> Float[Array, " dim"]:
        key = jax.random.fold_in(_stream(state, 3), work.spent)
        fresh = jax.random.normal(key, direction.shape, direction.dtype)
        return without(work.basis, unit(fresh))

    first = jax.lax.cond(is_left, lambda: first, another)
    return unit(without(work.basis, unit(first)))


def _ritz(work: Work, which: TrackedEnd) -> tuple[Float[Array, " c"], Float[Array, "c c"]]:
    """Ritz values and coefficient columns, the most wanted first, those of unused rows last."""
    used = jnp.arange(work.basis.shape[0], dtype=jnp.int32) < work.size
    return eigen(work.compressed, used, which)


def _merged(state: TrackerState, work: Work) -> tuple[Float[Array, "m dim"], Float[Array, " m"]]:
    """B and its values for the next call: what the basis knows beside the wanted rows, and of the
    old B what is outside of it.

    In the span of both H is known but for the old rows among themselves; there it is what it was.
    """
    k, kept = state.rows.shape[0], state.known.shape[0]
    values, vectors = _ritz(work, state.which)
    values, vectors = values[k:], vectors[:, k:]
    # Small matrices are multiplied first: what runs over long vectors is counted.
    outside = without(work.basis, state.known)
    shares, turn = jnp.linalg.eigh(inner_products("ap,bp->ab", outside, outside))
    is_left = shares > _LEAST_LEFT
    turn = turn * jnp.where(is_left, 1 / jnp.sqrt(jnp.where(is_left, shares, 1)), 0)[None, :]
    with_known = _small(turn.T, inner_products("ap,bp->ab", outside, state.known))
    model = _small(with_known * (state.known_values / work.scale)[None, :], with_known.T)
    cross = inner_products("ap,bp->ab", work.images, outside)
    cross = _small(_small(vectors.T, cross), turn)
    matrix = jnp.block([[jnp.diag(values), cross], [cross.T, model]])
    used = jnp.concatenate([jnp.arange(values.shape[0], dtype=jnp.int32) < work.size - k, is_left])
    found, columns = eigen(matrix, used, state.which)
    # Half of the places for those next in line, the others for the largest.
    position = jnp.arange(found.shape[0], dtype=jnp.int32)
    score = jnp.where(position < kept // 2, jnp.inf, jnp.abs(found))
    chosen = jnp.sort(jnp.argsort(-score, stable=True)[:kept])
    new, old = columns[: values.shape[0], chosen], columns[values.shape[0] :, chosen]
    rows = combined(_small(vectors, new), work.basis) + combined(_small(turn, old), outside)
    return rows, found[chosen]


def _small(left: Float[Array, "a b"], right: Float[Array, "b c"]) -> Float[Array, "a c"]:
    return jnp.matmul(left, right, precision="highest")


def _stream(state: TrackerState, number: int) -> PRNGKeyArray:
    """A key for one kind of random vectors in this call."""
    return jax.random.fold_in(jax.random.fold_in(state.key, number), state.count)
