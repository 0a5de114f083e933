"""A block Krylov basis to deflate with: its span holds the outliers of a spectrum first."""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.checks import check_finite
from hessspec._base.kept import Long, Resumable
from hessspec._base.meshes import mesh_of
from hessspec._krylov.basis import Basis
from hessspec._krylov.blocks import (
    combine,
    gram,
    orthonormal_rows,
    row_forms,
    spherical,
)
from hessspec._krylov.lanczos import BREAKDOWN_UNITS, power_of_two
from hessspec._krylov.tiles import Layout, inner_products
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.symmetry import Symmetry

PILOT = 8  # probes that measure the variance, and the block in which forms are taken
WIDTH = 2  # vectors a step: two, so that a double eigenvalue is found whole
# Directions taken on trust: Krylov spaces need some steps to turn to the outliers.
ON_TRUST = 16
# Beside r directions a sample has the variance (1 + r)^-TYPICAL of one beside none. Measured on the
# paper's network with four tasks, geometric means at r = 16 and 48: .55 to .64 after 400 steps and
# .48 to .52 at epoch 0, of a Krylov basis; .64 and .29 of 16 pull-backs of random signs.
TYPICAL = 0.55
# A remainder this short, relative to H, is cleared of the basis once more: of a longer one what is
# left there is eps / CANCELLED at most.
CANCELLED = 0.1


class KrylovBasis(Resumable):
    """An orthonormal basis Q of span{X, HX, H²X, ...}, grown block by block, and T = Q H Qᵀ.

    A sketch HX loses an eigenvalue λ once |λ| is below √P times the bulk's, because that is
    the length of the bulk's part; further powers of H lift it out. H Qᵀ = Qᵀ T + Nᵀ B, with N the
    block that would come next, coupled to the last block only. Where the space is exhausted
    (a multiple eigenvalue, a low rank) the basis goes on from a new random block.

    Rows that are given (`begin_with`) are the first of Q, and X is orthogonal to them: the blocks
    are then a Krylov basis of H between the projections on their complement.

    Numbers on the host are in units of H/s, s a power of two.
    """

    changing = ("skew", "basis", "starts", "scale", "size", "given", "compressed", "coupling")

    def __init__(
        self,
        operator: AbstractOperator | Parted,
        key: PRNGKeyArray,
        symmetry: Symmetry | None = None,
    ) -> None:
        self.operator, self.key = operator, key
        self.symmetry = symmetry or Symmetry(operator)
        self.skew = 0.0  # ‖Q (H - Hᵀ) Qᵀ‖²_F, as far as products have shown it
        self.basis = Basis(Layout.of_rows(operator))
        self.next, _ = orthonormal_rows(self._random(0))
        self.previous = self.next  # the last block of the basis, once there is one
        self.starts = WIDTH
        self.scale = 0.0
        self.size = 0.0  # norm of the largest block of T so far, or of the parts H is a sum of
        self.given = 0  # rows that are no block of the Krylov space
        self.compressed = np.zeros((0, 0))  # T; of given rows without forms, no corner
        self.coupling = np.zeros((WIDTH, 0))  # B, for the columns of the last block

    @property
    def rank(self) -> int:
        """Number of rows of Q."""
        return self.basis.rank

    @property
    def full(self) -> bool:
        """Whether the next block has no room in the space any more."""
        return self.rank + self.next.shape[0] > self.operator.dim - WIDTH

    def state(self) -> dict[str, Any]:
        """With the block that comes next; the one before it is the end of the basis."""
        return {
            **super().state(),
            "next": Long(lambda: self.next),
            "last": self.previous.shape[0],
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Take up the basis and what goes with it."""
        super().resume(state)
        self.next = state["next"].rows()
        last = state["last"]
        self.previous = self.basis.rows(self.rank - last, last) if self.rank else self.next

    def begin_with(
        self,
        rows: Float[Array, "r dim"],
        forms: Float[np.ndarray, "r r"] | None = None,
        scale: float = 0.0,
        size: float = 0.0,
    ) -> None:
        """Put orthonormal rows first into Q, before it has grown.

        `forms` is their corner of T in units of H/scale, and `size` the size of H seen there;
        where nobody asks for T, it may be left out.
        """
        self.given = rows.shape[0]
        self.basis.append(rows)
        self.next, _ = orthonormal_rows(self.basis.without(self.next))
        self.compressed = np.zeros((self.given, self.given))
        if forms is not None:
            self.scale, self.size = scale, size
            self.compressed = (forms + forms.T) / 2
            self.skew = float(np.sum((forms - forms.T) ** 2))

    def grow(self) -> int:
        """One block more; returns the products that took."""
        block = self.next
        products, parts = self.operator.measured_rows(block)
        # Two passes, as in a Lanczos step: the first needs only the last two blocks.
        products, rest, known = self._first_pass(block, products)
        if parts is not None:
            self.size = max(self.size, float(np.max(np.asarray(parts))) / self.scale)
        self.basis.append(block)
        rest, column = self.basis.split(rest)
        column[self.rank - known.shape[0] :] += known
        if not np.isfinite(column).all():
            check_finite(products, self.operator.space, "the product H v")
        self._enter(block, column)
        self._observe(block, products)
        self._prepare(products, rest)
        self.previous = block
        return block.shape[0]

    def _first_pass(
        self, block: Float[Array, "k dim"], products: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "k dim"], Float[Array, "k dim"], Float[np.ndarray, "l k"]]:
        """The products scaled; what they have outside the last block and `block`; and within."""
        coupling = self.coupling
        if not coupling.size:  # the one block there is then takes the place of a last one
            coupling = np.zeros((block.shape[0], self.previous.shape[0]))
        dtype = products.dtype
        numbers = np.asarray(self.scale, dtype), np.asarray(coupling, dtype)
        vectors, scale, corner = _reduced(
            products, block, self.previous, *numbers, mesh_of(products)
        )
        self.scale = float(scale)
        known = np.concatenate([self.coupling.T, np.asarray(corner, np.float64)])
        return *vectors, known

    @property
    def fall(self) -> float:
        """By how much the last block made ‖H_rest‖²_F smaller, in the units of H²; H_rest = ΠHΠ.

        With N the block, Π' = Π - NᵀN and so ‖Π'HΠ'‖² = ‖ΠHΠ‖² - 2 ‖NHΠ‖² + ‖NHNᵀ‖². What the
        products have outside the rows before is N(HΠ) = A N + Bᵀ N', A = NHNᵀ and N' the block
        that comes next: the difference is ‖A‖² + 2 ‖B‖², which no probe is asked for.
        """
        count = self.previous.shape[0] if self.rank > self.given else 0
        corner = self.compressed[self.rank - count :, self.rank - count :]
        return self.scale**2 * float(np.sum(corner**2) + 2 * np.sum(self.coupling**2))

    def _observe(self, block: Float[Array, "k dim"], products: Float[Array, "k dim"]) -> None:
        """What a subclass keeps of a block and its products."""

    @property
    def asymmetry(self) -> float:
        """‖Q (H - Hᵀ) Qᵀ‖_F, in the units of H."""
        return self.scale * self.skew**0.5

    def _enter(self, block: Float[Array, "k dim"], column: Float[np.ndarray, "r k"]) -> None:
        """A new column of T. For a symmetric H, what stands above its corner is known: Bᵀ."""
        old = self.compressed.shape[0]
        corner = column[old:]
        above = np.zeros_like(column[:old])
        above[: self.given] = column[: self.given]  # whose products are not kept
        last = self.coupling.shape[1]
        above[old - last :] = self.coupling.T
        self.size = max(self.size, float(np.linalg.norm(column, 2)))
        size = self.size * self.scale
        self.symmetry.check(column[:old], above, self.size, block, size)
        self.symmetry.check(corner, corner.T, self.size, block, size)
        self.skew += 2 * np.sum((column[:old] - above) ** 2) + np.sum((corner - corner.T) ** 2)
        self.compressed = np.block([[self.compressed, above], [above.T, (corner + corner.T) / 2]])

    def _prepare(self, products: Float[Array, "k dim"], rest: Float[Array, "k dim"]) -> None:
        """The next block: the part of the products outside the span, or a new start."""
        dtype = self.operator.dtype
        following, factor = orthonormal_rows(rest)
        left, singular, _ = np.linalg.svd(factor)
        self.size = max(self.size, float(singular[0]))
        keep = int(np.sum(singular > BREAKDOWN_UNITS * np.finfo(dtype).eps * self.size))
        if keep == 0:
            fresh = self._random(self.starts)
            self.starts += WIDTH
            self.next, _ = orthonormal_rows(self.basis.without(fresh))
            self.coupling = np.zeros((WIDTH, 0))
            return
        if keep < following.shape[0]:
            following = combine(jnp.asarray(left[:, :keep].T, following.dtype), following)
        if singular[keep - 1] < CANCELLED * self.size:
            # What was rounding before has been stretched to unit length.
            following, _ = orthonormal_rows(self.basis.split(following)[0])
        self.next = following
        self.coupling = gram(following, products)

    def _random(self, first: int) -> Float[Array, "k dim"]:
        operator = self.operator
        dim, dtype, mesh = operator.dim, operator.dtype, operator.mesh
        # By the program that draws the probes of a run.
        return spherical(self.key, first, WIDTH, dim, dtype, mesh, room=PILOT)[:WIDTH]


@partial(jax.jit, static_argnums=5)
def _reduced(
    products: Float[Array, "k dim"],
    block: Float[Array, "k dim"],
    last: Float[Array, "l dim"],
    scale: Float[Array, ""],
    coupling: Float[Array, "k l"],
    mesh: Mesh | None,
) -> tuple[tuple[Array, Array], Float[Array, ""], Float[Array, "k k"]]:
    scale = jnp.where(scale > 0, scale, jnp.max(power_of_two(products)))
    products = products / scale
    rest = products - jnp.einsum("kl,lp->kp", coupling, last, precision="highest")
    corner = inner_products("kp,lp->kl", block, rest, mesh)
    rest = rest - jnp.einsum("kl,kp->lp", corner, block, precision="highest")
    return (products, rest), scale, corner


# Above this share of the diagonal, random signs, which it costs no variance, beat a basis.
DIAGONAL_SHARE = 0.9


def off_diagonal(forms: Float[np.ndarray, "k k"]) -> float:
    """Mean square of vᵢᵀAvⱼ over i ≠ j: an estimate of ‖A‖²_F from products already made.

    For independent probes with E[v vᵀ] = I it is unbiased, and it rests on k(k-1)/2 values where
    the spread of the forms vᵢᵀAvᵢ rests on k.
    """
    if forms.shape[0] < 2:
        return 0.0
    return float(np.mean(forms[~np.eye(forms.shape[0], dtype=bool)] ** 2))


def diagonal_share(probes: Float[Array, "k dim"], rows: Float[Array, "k dim"]) -> float:
    """Σᵢ H_ii² / ‖H‖²_F, estimated from k products.

    The mean of v ∘ Hv is diag H, so for two different probes (v ∘ Hv)ᵀ(w ∘ Hw) has mean Σ H_ii²;
    |Hv|² has mean ‖H‖²_F. For random signs and a diagonal H both are without error.
    """
    whole = float(np.mean(np.asarray(row_forms(rows, rows), np.float64)))
    if probes.shape[0] < 2 or whole == 0.0:
        return 0.0
    samples = probes * rows
    pairs = gram(samples, samples)
    return float(np.mean(pairs[~np.eye(pairs.shape[0], dtype=bool)])) / whole


class Prices(Protocol):
    """What a direction that makes the rank this, and a sample beside a rank, cost in products."""

    def direction(self, rank: int) -> float: ...
    def sample(self, rank: int) -> float: ...


# Rank, variance of one sample beside it, and by how much that fell since the rank before.
Measured = list[tuple[int, float, float]]


def growth_pays(
    measured: Measured,
    left: int,
    samples: int,
    price: float = 1.0,
    lost: int = 0,
    costs: Prices | None = None,
) -> bool:
    """Whether more of a basis is worth more than the samples it costs.

    `measured` holds every rank so far, `left` is how many samples could still be bought, `samples`
    exist already, and `price` is what a direction costs, in samples; `lost` more exist that are of
    no use to a larger basis. The first directions are taken on trust. Then: the share that about
    the last half of the basis took off, as much again is expected to take off, up to four times
    over.

    Variances are seen by eight probes, which are several times off where a few outliers are left,
    and two of them by the same probes may hide a fall: bases stopped among outliers. So the fall
    is what the basis knows of it (`KrylovBasis.fall`), without probes; of the share
    fall / (variance + fall) they tell the variance alone. On a plateau, where the fall is nothing
    beside it, that hardly counts, and a variance k times too large makes the share at most k times
    smaller.

    With `costs` the time counts too: directions, and the samples beside them that reach the error
    of those that are left now, must cost less than these.
    """
    rank, variance, _ = measured[-1]
    if left < WIDTH * price:
        return False
    count = samples + left
    if rank < ON_TRUST:
        # As a whole, from where it began: what is expected of it has not been seen on the way.
        fall = float((1 + ON_TRUST) ** -TYPICAL)
        is_cheap = _is_cheap(costs, 0, ON_TRUST, (fall * (count + rank), count + rank))
        return left >= ON_TRUST * price and is_cheap
    half = min((known for known, *_ in measured[:-1]), key=lambda known: abs(known - rank / 2))
    before = variance + sum(fall for known, _, fall in measured if known > half)
    decay = variance / before if before > 0 else 1.0
    for times in (1, 2, 4):
        step = min(float(times * (rank - half)), left / price)
        fall = decay ** (step / (rank - half))
        expected = fall / max(count - step * price, 1.0)
        needed = fall * (count + lost)
        if expected < 1.0 / (count + lost) and _is_cheap(
            costs, rank, rank + int(step), (needed, count)
        ):
            return True
    return False


def _is_cheap(costs: Prices | None, rank: int, target: int, samples: tuple[float, float]) -> bool:
    """Whether a larger basis and the samples it needs cost less than those beside the present."""
    if costs is None:
        return True
    needed, count = samples
    grown = (target - rank) * costs.direction(target) + needed * costs.sample(target)
    return bool(grown < count * costs.sample(rank))


def rows_in(room: int, operator: AbstractOperator | Parted) -> int:
    """How many rows of a basis fit into `room` bytes beside the products and the probes."""
    return (room - operator.product_bytes(PILOT)) // operator.row_bytes - 4 * BLOCK_ROWS
