"""The Lanczos recurrence: an orthonormal basis in which a symmetric operator is tridiagonal.

Two ways in. `lanczos` is one jittable function of plain arrays. `hessspec._krylov.lockstep` drives
the same arithmetic from the host, step by step, for operators that stream their data.

Everything runs on H/s, with s a power of two taken from the first product, so multiplying H by
2^c shifts exponents and changes no digit, whatever c: norms of tiny vectors do not underflow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hessspec._base.arguments import whole_number
from hessspec._base.printing import Printed
from hessspec._krylov.tiles import project

# A remainder this small, relative to the operator, is rounding: O(64 eps) keeps the bulk of a
# spectrum whose outliers are 10,000 times larger (beta / |H| = 6e-5 in float32), while sqrt(eps)
# would cut it off.
BREAKDOWN_UNITS = 64.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class KrylovDecomposition(Printed):
    """H Qᵀ = Qᵀ T + r eᵀ with Q Qᵀ = I and T tridiagonal, after m steps from one start.

    A block of starts adds a leading axis to every field. Slots past `num_valid_steps` are zero,
    or nan where the start or a product was not finite: `gauss_quadrature` refuses those.

    Attributes:
        alpha: diagonal of T, in the units of H.
        beta: beta[j] couples steps j and j+1; the last valid one is |r|, the norm of the remainder.
        num_valid_steps: steps before the Krylov space was exhausted (at most m).
        basis: rows of Q; None without reorthogonalisation, where they are not kept.
        remainder: r, the part of H q_m outside the basis; 0 if the space is exhausted.
        asymmetry: largest |qᵢ'Hqⱼ - qⱼ'Hqᵢ| seen, relative to H: rounding, if H is symmetric.
    """

    alpha: Float[Array, "*k m"]
    beta: Float[Array, "*k m"]
    num_valid_steps: Int[Array, "*k"]
    basis: Float[Array, "*k m dim"] | None
    remainder: Float[Array, "*k dim"]
    asymmetry: Float[Array, "*k"]


class Recurrence(NamedTuple):
    """What the recurrence has found so far, for each probe, in units of H/s."""

    alpha: Float[Array, "k m"]
    beta: Float[Array, "k m"]
    num_valid_steps: Int[Array, " k"]
    alive: Bool[Array, " k"]
    finite: Bool[Array, " k"]
    size: Float[Array, " k"]  # running max of |alpha| + beta
    asymmetry: Float[Array, " k"]

    @classmethod
    def begin(cls, alive: Bool[Array, " k"], num_steps: int, dtype: jnp.dtype) -> "Recurrence":
        """Nothing found yet; probes that are not `alive` (a start of 0) stay out."""
        k = alive.shape[0]
        zeros = jnp.zeros((k, num_steps), dtype)
        none = jnp.zeros(k, dtype)
        return cls(zeros, zeros, jnp.zeros(k, jnp.int32), alive, jnp.ones_like(alive), none, none)


def lanczos(
    matvec: Callable[[Float[Array, "*k dim"]], Float[Array, "*k dim"]],
    start: Float[Array, "*k dim"],
    num_steps: int,
    *,
    reorthogonalize: bool = True,
) -> KrylovDecomposition:
    """Run `num_steps` Lanczos steps of the symmetric `matvec` from `start`. Jittable.

    In exact arithmetic three terms suffice, H qⱼ = βⱼ₋₁ qⱼ₋₁ + αⱼ qⱼ + βⱼ qⱼ₊₁. In rounded
    arithmetic orthogonality is lost as soon as a Ritz value converges, and copies of it appear;
    so each product is made orthogonal to the whole basis, twice: what the first pass leaves
    behind after cancellation the second removes.

    The recurrence ends where βⱼ <= 64 eps max(|α| + β): the Krylov space is then exhausted, and
    `num_valid_steps` says after how many steps.

    Args:
        matvec: maps an array like `start` to one of the same shape, row by row.
        start: any vector (its length does not matter), or a block with one start in each row;
            the rows advance in lockstep.
        num_steps: m, at least 1 and at most `dim`. Cost: m products for each row.
        reorthogonalize: False keeps 3 vectors instead of m and omits the basis. The quadrature
            rule of T is still accurate, but Ritz values may appear several times (ghosts).

    Returns:
        The decomposition, in the units of H.

    Raises:
        ValueError: if `num_steps` is outside [1, dim], `start` is no float vector or block, or
            `matvec` changes the shape.

    Source: the recurrence follows from H = H'; that two passes suffice and where to stop was
    measured here. The identities are tested in `tests/hessspec/krylov/test_lanczos.py`.
    """
    start = jnp.asarray(start)
    if start.ndim not in (1, 2) or not jnp.issubdtype(start.dtype, jnp.floating):
        raise ValueError(
            "`start` must be a float vector (dim,) or a block (k, dim), got "
            f"{start.dtype}{list(start.shape)}"
        )
    num_steps = check_num_steps(num_steps, start.shape[-1])

    def product(v: Array) -> Array:
        w = matvec(v)
        if jnp.shape(w) != v.shape:
            raise ValueError(f"`matvec` must keep the shape {v.shape}, got {jnp.shape(w)}")
        return w

    if start.ndim == 1:
        block = _lanczos_block(
            lambda rows: product(rows[0])[None], start[None], num_steps, reorthogonalize
        )
        return jax.tree.map(lambda leaf: leaf[0], block)
    return _lanczos_block(product, start, num_steps, reorthogonalize)


def check_num_steps(num_steps: int, dim: int) -> int:
    """`num_steps` as an int; TypeError if it is no whole number, ValueError if not in [1, dim]."""
    num_steps = whole_number("num_steps", num_steps, least=None)
    if not 1 <= num_steps <= dim:
        raise ValueError(
            f"`num_steps` must lie in [1, {dim}] for vectors of {dim} entries, got {num_steps}"
        )
    return num_steps


def _lanczos_block(
    matvec: Callable[[Array], Array], starts: Array, num_steps: int, reorthogonalize: bool
) -> KrylovDecomposition:
    k, dim = starts.shape
    rows, alive = normalized(starts)
    found = Recurrence.begin(alive, num_steps, starts.dtype)
    # Rows not yet filled are zero and take no part in the projections.
    basis = jnp.zeros((k, num_steps if reorthogonalize else 0, dim), starts.dtype)
    scale = jnp.ones(k, starts.dtype)

    def step(j: Array, state: tuple) -> tuple:
        basis, previous, rows, found, scale = state
        products = matvec(rows)
        scale = jnp.where(j == 0, power_of_two(products), scale)
        products = products / scale[:, None]
        if reorthogonalize:
            basis = jax.lax.dynamic_update_slice(basis, rows[:, None], (0, j, 0))
            coefficients = jnp.zeros((k, num_steps), starts.dtype)
            for _ in range(2):
                left, coefficients = project(basis[:, None], products[:, None], coefficients, 0)
                products = left[:, 0]
        else:
            products, coefficients = three_terms(previous, rows, products, found, j, last=True)
        found, following = extend(found, j, products, coefficients)
        return basis, rows, following, found, scale

    state = (basis, jnp.zeros_like(rows), rows, found, scale)
    basis, _, following, found, scale = jax.lax.fori_loop(0, num_steps, step, state)
    last_beta = jnp.where(found.alive, found.beta[:, -1], 0)
    # A row that met a number that is not finite is not one whose space is exhausted.
    finite = found.finite & jnp.all(jnp.isfinite(starts), axis=1)
    steps = jnp.arange(num_steps, dtype=jnp.int32)[None]
    unknown = (steps >= found.num_valid_steps[:, None]) & ~finite[:, None]
    return KrylovDecomposition(
        alpha=jnp.where(unknown, jnp.nan, found.alpha * scale[:, None]),
        beta=jnp.where(unknown, jnp.nan, found.beta * scale[:, None]),
        num_valid_steps=found.num_valid_steps,
        basis=basis if reorthogonalize else None,
        remainder=following * (last_beta * scale)[:, None],
        asymmetry=relative_asymmetry(found),
    )


def normalized(starts: Float[Array, "k dim"]) -> tuple[Float[Array, "k dim"], Bool[Array, " k"]]:
    """Rows of length 1, and which rows could be so scaled (not zero)."""
    largest = jnp.max(jnp.abs(starts), axis=1, keepdims=True)
    rows = starts / jnp.where(largest > 0, largest, 1)
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(lengths > 0, lengths, 1), largest[:, 0] > 0


def power_of_two(products: Float[Array, "k dim"]) -> Float[Array, " k"]:
    """A power of two near the length of each row; that of length 1 for a row of zeros."""
    largest = jnp.max(jnp.abs(products), axis=1)
    shown = jnp.where(largest > 0, largest, 1)
    length = shown * jnp.linalg.norm(products / shown[:, None], axis=1)
    _, exponent = jnp.frexp(jnp.where(largest > 0, length, 1))
    return jnp.ldexp(jnp.ones_like(length), exponent)


def three_terms(
    previous: Float[Array, "k dim"],
    rows: Float[Array, "k dim"],
    products: Float[Array, "k dim"],
    found: Recurrence,
    j: Int[Array, ""],
    *,
    last: bool,
) -> tuple[Float[Array, "k dim"], Float[Array, "k m"]]:
    """The classical recurrence: remove the last two basis vectors only.

    If it is the `last` pass, the check of symmetry is made here, at j = 1: neighbours lose their
    orthogonality later on. q₀ and q₁ may not be orthogonal either, where β₀ is small beside H:
    q₀'q₁ is of order eps |H| / β₀. But H q₀ = α₀ q₀ + β₀ q₁ holds to rounding, so for a symmetric
    H it is q₀'Hq₁ - α₀ q₀'q₁ that equals β₀. A pass that follows finds what βⱼ₋₁ qⱼ₋₁ has left.

    The product is first reduced by βⱼ₋₁ qⱼ₋₁ with the β of the step before, and only then is αⱼ
    formed: of the orders in which this can be written, the one in which the errors of T stay
    small although the basis does not stay orthogonal.
    """
    k, m = found.alpha.shape
    beta = jnp.where(j > 0, found.beta[:, jnp.maximum(j - 1, 0)], 0)
    back = beta
    if last:
        back = jnp.sum(previous * products, axis=1)
        back = back - found.alpha[:, 0] * jnp.sum(previous * rows, axis=1)
        back = jnp.where(j == 1, back, beta)
    products = products - beta[:, None] * previous
    alpha = jnp.sum(rows * products, axis=1)
    products = products - alpha[:, None] * rows
    index = jnp.arange(m)[None]
    zero = jnp.zeros((k, m), alpha.dtype)
    coefficients = jnp.where(index == j, alpha[:, None], zero)
    return products, jnp.where(index == j - 1, back[:, None], coefficients)


def extend(
    found: Recurrence,
    j: Int[Array, ""],
    remainder: Float[Array, "k dim"],
    coefficients: Float[Array, "k m"],
) -> tuple[Recurrence, Float[Array, "k dim"]]:
    """Enter step j; returns what is known now and the next basis vector (0 where exhausted).

    `coefficients` are those of H qⱼ along the basis. For a symmetric H they vanish but for
    qⱼ₋₁'Hqⱼ = βⱼ₋₁ and αⱼ: a check of symmetry that costs nothing.
    """
    eps = jnp.finfo(remainder.dtype).eps
    index = jnp.arange(found.alpha.shape[1])[None]
    alpha = jnp.sum(jnp.where(index == j, coefficients, 0), axis=1)
    beta = jnp.linalg.norm(remainder, axis=1)
    expected = jnp.where(index == j - 1, found.beta, 0)
    stray = jnp.max(jnp.where(index < j, jnp.abs(coefficients - expected), 0), axis=1)

    finite = jnp.isfinite(alpha) & jnp.isfinite(beta)
    valid = found.alive & finite
    size = jnp.where(valid, jnp.maximum(found.size, jnp.abs(alpha) + beta), found.size)
    # `<=`, so that the zero operator (size 0) counts as exhausted too.
    alive = valid & ~(beta <= BREAKDOWN_UNITS * eps * size)
    here = (index == j) & valid[:, None]
    found = Recurrence(
        alpha=jnp.where(here, alpha[:, None], found.alpha),
        beta=jnp.where(here, beta[:, None], found.beta),
        num_valid_steps=found.num_valid_steps + valid.astype(jnp.int32),
        alive=alive,
        finite=found.finite & (finite | ~found.alive),
        size=size,
        asymmetry=jnp.where(valid, jnp.maximum(found.asymmetry, stray), found.asymmetry),
    )
    following = remainder / jnp.where(alive, beta, 1)[:, None]
    return found, jnp.where(alive[:, None], following, 0)


def relative_asymmetry(found: Recurrence) -> Float[Array, " k"]:
    """The largest asymmetry seen, in units of the size of H."""
    return found.asymmetry / jnp.where(found.size > 0, found.size, 1)


__all__ = ["KrylovDecomposition", "lanczos"]
