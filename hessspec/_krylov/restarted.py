"""Block Lanczos with thick restarts: a few eigenpairs in bounded memory, multiplicities found.

A block of b random starts sees b copies of every eigenvalue, so one that shows up fewer than b
times is settled. Where b copies were found there may be more: another random block, orthogonal
to all that was found, then looks for them until it can be told that there are none.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from hessspec._base.checks import check_finite
from hessspec._base.kept import KeptRun, Long, Resumable, resumed
from hessspec._base.later import linalg, special
from hessspec._base.meshes import mesh_of, over_devices
from hessspec._base.progress import ProgressBar
from hessspec._krylov.basis import Basis
from hessspec._krylov.blocks import (
    combine,
    gram,
    measured,
    orthonormal_rows,
    spherical,
)
from hessspec._krylov.lanczos import BREAKDOWN_UNITS
from hessspec._krylov.lockstep import RowOperator
from hessspec._krylov.tiles import Layout, inner_products
from hessspec._operators.symmetry import Symmetry

Which = Literal["LM", "LA", "SA", "BE"]

# Vectors multiplied together. Wide blocks find multiplicities at once and share the gradient's
# linearisation, narrow ones reach higher powers of H with the same number of products.
WIDTH = 2
# Chance of overlooking an eigenvalue in the search for further copies.
MISS_PROBABILITY = 1e-6
_START_STREAM = 0x57A7  # of the weights by which a given start is mixed


@dataclass(frozen=True)
class FoundPairs:
    """What a search ended with: the most wanted pair first.

    Attributes:
        values: Rayleigh quotients v'Hv.
        rows: the vectors v, of length 1.
        residuals: |Hv - θv|, measured by a product with each v.
        norm: the largest |Ritz value| seen.
        num_matvecs: products executed, those of the residuals included.
        product_plan: how they were computed, in words.
    """

    values: Float[np.ndarray, " k"]
    rows: Float[Array, "k dim"]
    residuals: Float[np.ndarray, " k"]
    norm: float
    num_matvecs: int
    product_plan: str = ""

    def state(self) -> dict[str, Any]:
        """As a run that is over is kept on disk."""
        return {**vars(self), "rows": Long(lambda: self.rows)}

    @classmethod
    def read(cls, state: dict[str, Any]) -> "FoundPairs":
        """What `state` returned."""
        return cls(**{**state, "rows": state["rows"].rows()})


def wanted_first(values: Float[np.ndarray, " n"], which: Which) -> Int[np.ndarray, " n"]:
    """Indices in the order in which `which` prefers the values."""
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")
    if which == "LA":
        return np.argsort(-values, kind="stable")
    rising = np.argsort(values, kind="stable")
    if which == "SA":
        return rising
    alternating = np.stack([rising[::-1], rising], axis=1).ravel()
    return alternating[: values.size]


def settled_bounds(chosen: Float[np.ndarray, " k"], which: Which) -> tuple[float, float]:
    """(low, high): any eigenvalue below low or above high belongs among the `chosen` ones."""
    if which == "LM":
        least = float(np.abs(chosen).min())
        return -least, least
    if which == "LA":
        return -np.inf, float(chosen.min())
    if which == "SA":
        return float(chosen.max()), np.inf
    # Taken in turns, the high end first.
    rising = np.sort(chosen)
    low = chosen.size // 2
    return (float(rising[low - 1]) if low else -np.inf), float(rising[low])


def search(
    operator: RowOperator,
    key: PRNGKeyArray,
    k: int,
    which: Which,
    tol: float,
    max_matvecs: int,
    capacity: int,
    bar: ProgressBar,
    start: Float[Array, "s dim"] | None = None,
    kept: KeptRun | None = None,
) -> FoundPairs:
    """The k most wanted eigenpairs, by at most `max_matvecs` products.

    Args:
        operator: symmetric, on more than `capacity` + 2·WIDTH dimensions.
        key: the starts are drawn from it.
        k: how many.
        which: which end of the spectrum.
        tol: largest residual, relative to the norm of H.
        max_matvecs: at least 2·k + 4·WIDTH.
        capacity: vectors that the basis may hold, at least k + 3·WIDTH.
        bar: told of every product.
        start: orthonormal rows that the first block is to lie along, beside its random part.
        kept: where the search is kept on its way, and goes on from.
    """
    count = WIDTH * math.ceil(k / WIDTH)  # the residuals are measured in whole blocks
    basis = RestartedBasis(operator, key, start)
    bar, keep = resumed(basis, kept, bar)
    while True:
        bar.update(basis.grow())
        pairs = basis.ritz()
        order = wanted_first(pairs.values, which)
        chosen = order[:k]
        values = pairs.values[chosen]
        # Half of the tolerance: rounding may add to the estimate until it is measured.
        done = basis.rank >= count and np.all(pairs.residuals[chosen] <= tol / 2 * basis.norm)
        if done and not basis.is_first_sweep:
            done = basis.nothing_left(pairs, order, k, which, tol)
        if done:
            if not _may_be_more(values, basis.seen, which, 2 * tol * basis.norm):
                break
            basis.seen = values
            basis.recombine(pairs, order[:count])
            basis.start_sweep()
        if basis.spent + WIDTH + count > max_matvecs:
            break
        if basis.rank + WIDTH > capacity:
            least = count + WIDTH * ((capacity - count) // (2 * WIDTH))
            basis.recombine(pairs, order[:least])
        keep()
    pairs = basis.ritz()
    basis.recombine(pairs, wanted_first(pairs.values, which)[:count])
    values, residuals = basis.measure(count, bar)
    best = wanted_first(values[:k], which)
    return FoundPairs(
        values=values[best] * basis.scale,
        rows=basis.surrender(best),
        residuals=residuals[best] * basis.scale,
        norm=basis.norm * basis.scale,
        num_matvecs=basis.spent,
    )


def _may_be_more(
    values: Float[np.ndarray, " k"], seen: Float[np.ndarray, " n"], which: Which, width: float
) -> bool:
    """Whether the last sweep added WIDTH copies of one value, as many as it could see.

    Values closer than `width` count as one. Copies of the least wanted value are of no interest:
    they would change no result.
    """
    low, high = settled_bounds(values, which)
    rising = np.sort(values)
    groups = np.split(rising, np.flatnonzero(np.diff(rising) > width) + 1)
    for group in groups:
        if low - width <= group[-1] and group[0] <= high + width:
            continue
        before = np.sum((seen >= group[0] - width) & (seen <= group[-1] + width))
        if group.size - before >= WIDTH:
            return True
    return False


@dataclass(frozen=True)
class Ritz:
    """Eigenpairs of the compressed operator, in units of H/s.

    Attributes:
        values: θ, ascending.
        vectors: coefficients in the basis, one pair in each column.
        residuals: estimates of |Hv - θv|.
        news: share of each vector that the present sweep has found.
    """

    values: Float[np.ndarray, " n"]
    vectors: Float[np.ndarray, "n n"]
    residuals: Float[np.ndarray, " n"]
    news: Float[np.ndarray, " n"]


class RestartedBasis(Resumable):
    """Orthonormal rows Q, T = Q H Qᵀ on the host, and H Qᵀ = Qᵀ T + Nᵀ B + (untracked).

    N is the block that comes next, B = N H Qᵀ. A restart replaces Q by some of its Ritz vectors:
    T becomes diagonal, B its transform, and the relation stays as it is, so that nothing but the
    directions left out is lost. A new sweep replaces N by a random block; the remainders of the
    rows kept, within tolerance, are then not tracked any more, only their size is.

    Not a record: it changes in place. Numbers on the host are in units of H/s, s a power of two.
    """

    changing = (
        *("basis", "compressed", "coupling", "untracked", "news", "seen", "first_new"),
        *("is_first_sweep", "scale", "norm", "num_matvecs", "symmetry", "_num_drawn"),
    )

    def __init__(
        self, operator: RowOperator, key: PRNGKeyArray, start: Float[Array, "s dim"] | None = None
    ) -> None:
        self.operator, self.key = operator, key
        self.basis = Basis(Layout.of_rows(operator))
        self.compressed = np.zeros((0, 0))  # T
        self.coupling = np.zeros((WIDTH, 0))  # B
        self.untracked = np.zeros(0)  # size of what the relation leaves out, for each row
        self.news = np.zeros(0)  # share of each row that the present sweep has found
        self.seen = np.zeros(0)  # the values that earlier sweeps had found
        self.first_new: int | None = 0  # where the sweep's random block stands; None if restarted
        self.is_first_sweep = True
        self.scale = 0.0
        self.norm = 0.0
        self.num_matvecs = 0
        self.symmetry = Symmetry(operator)
        self._num_drawn = 0
        first = self._random(WIDTH)
        if start is not None and start.shape[0]:
            along = over_devices(operator.mesh, start)
            stream = jax.random.fold_in(key, _START_STREAM)
            first = _leaning(first, along, stream, operator.dim)
        self.next = self._orthonormal(first)

    def state(self) -> dict[str, Any]:
        """With the block that comes next."""
        return {**super().state(), "next": Long(lambda: self.next)}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up the basis and what goes with it."""
        super().resume(state)
        self.next = state["next"].rows()

    @property
    def rank(self) -> int:
        """Number of rows of Q."""
        return self.basis.rank

    @property
    def spent(self) -> int:
        """Products executed, those that asked what is rounding included."""
        return self.num_matvecs + self.symmetry.num_matvecs

    def grow(self) -> int:
        """Multiply the next block and take it in; returns the products that took."""
        block, old = self.next, self.rank
        products, squares = self._products(block)
        self.basis.append(block)
        rest, column = self.basis.split(products)
        if not np.isfinite(column).all():
            check_finite(products, self.operator.space, "a product with the operator")
        self.norm = max(self.norm, float(squares.max() ** 0.5))
        self._enter(block, column, old)
        self._prepare(products, rest, old)
        return WIDTH

    def ritz(self) -> Ritz:
        """The Ritz pairs of all rows."""
        values, vectors = np.linalg.eigh(self.compressed)
        self.norm = max(self.norm, float(np.abs(values).max()))
        tracked = np.sum((self.coupling @ vectors) ** 2, axis=0)
        residuals = np.sqrt(tracked + vectors.T**2 @ self.untracked**2)
        return Ritz(values, vectors, residuals, vectors.T**2 @ self.news)

    def recombine(self, pairs: Ritz, kept: Int[np.ndarray, " p"]) -> None:
        """Replace the rows by these Ritz vectors, in place."""
        vectors = pairs.vectors[:, kept]
        self.basis.recombine(vectors.T)
        self.compressed = np.diag(pairs.values[kept])
        self.coupling = self.coupling @ vectors
        self.untracked = np.sqrt(vectors.T**2 @ self.untracked**2)
        self.news = vectors.T**2 @ self.news
        self.first_new = None

    def start_sweep(self) -> None:
        """Go on from a new random block, orthogonal to the rows at hand."""
        sizes = np.sum(self.coupling**2, axis=0) + self.untracked**2
        # Never 0: the symmetry of these rows' products cannot be checked any more.
        self.untracked = np.sqrt(np.maximum(sizes, np.finfo(float).tiny))
        self.coupling = np.zeros_like(self.coupling)
        self.news = np.zeros(self.rank)
        self.first_new, self.is_first_sweep = self.rank, False
        self.next = self._orthonormal(self._random(WIDTH))

    def nothing_left(
        self, pairs: Ritz, order: Int[np.ndarray, " n"], k: int, which: Which, tol: float
    ) -> bool:
        """Whether the present sweep has shown that no wanted eigenvalue was overlooked.

        Either because its moments leave no room for one, or because its own most wanted pairs
        have converged to less.
        """
        low, high = settled_bounds(pairs.values[order[:k]], which)
        margin = 2 * tol * self.norm
        if self.first_new is not None and all(
            self._has_none_beyond(bound, sign)
            for bound, sign in ((low - margin, -1.0), (high + margin, 1.0))
            if np.isfinite(bound)
        ):
            return True
        own = order[k:][pairs.news[order[k:]] > 0.5]
        ends = 1 if which in ("LA", "SA") else 2
        return own.size >= ends and bool(np.all(pairs.residuals[own[:ends]] <= tol / 2 * self.norm))

    def measure(
        self, count: int, bar: ProgressBar
    ) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
        """Rayleigh quotients and residuals of the first `count` rows, by a product with each."""
        values, residuals = [], []
        for first in range(0, count, WIDTH):
            rows = self.basis.rows(first, WIDTH)
            products, _ = self._products(rows)
            quotients, rests = _rayleigh(rows, products, mesh_of(rows))
            values.append(np.asarray(quotients, np.float64))
            residuals.append(np.asarray(rests, np.float64))
            bar.update(WIDTH)
        return np.concatenate(values), np.concatenate(residuals)

    def surrender(self, chosen: Int[np.ndarray, " k"]) -> Float[Array, "k dim"]:
        """These rows of Q; the basis is given up, so that they are not in memory twice."""
        return _taken(self.basis.surrender(), np.asarray(chosen, np.int32))

    def _products(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "k dim"], Float[np.ndarray, " k"]]:
        """H v of each row in units of s, and their squared lengths."""
        products, parts = self.operator.measured_rows(block)
        self.num_matvecs += block.shape[0]
        found = measured(products, block, self.scale)
        self.scale = float(found.scale)
        if parts is not None:  # their rounding is that of H
            self.norm = max(self.norm, float(np.max(np.asarray(parts))) / self.scale)
        return found.products, np.asarray(found.squares, np.float64)

    def _enter(
        self, block: Float[Array, "b dim"], column: Float[np.ndarray, "n b"], old: int
    ) -> None:
        """A new column of T. For a symmetric H what stands above its corner is known: Bᵀ."""
        tracked = (self.untracked == 0)[:, None]
        above, corner = np.where(tracked, self.coupling.T, column[:old]), column[old:]
        size = self.norm * self.scale
        self.symmetry.check(column[:old], above, self.norm, block, size)
        self.symmetry.check(corner, corner.T, self.norm, block, size)
        self.compressed = np.block([[self.compressed, above], [above.T, (corner + corner.T) / 2]])
        self.untracked = np.pad(self.untracked, (0, WIDTH))
        self.news = np.pad(self.news, (0, WIDTH), constant_values=1.0)

    def _prepare(
        self, products: Float[Array, "b dim"], rest: Float[Array, "b dim"], old: int
    ) -> None:
        """The next block: what the products have outside the span, filled up at random.

        Directions that are rounding are left out: the Krylov space is exhausted there, and a
        random one reaches eigenvectors that the starts have not seen.
        """
        following, factor = orthonormal_rows(rest)
        left, singular, _ = np.linalg.svd(factor)
        rounding = BREAKDOWN_UNITS * np.finfo(self.operator.dtype).eps * self.norm
        keep = int(np.sum(singular > rounding))
        if keep < WIDTH:
            kept = combine(jnp.asarray(left.T, following.dtype), following)[:keep]
            following = jnp.concatenate([kept, self._random(WIDTH - keep)])
        # Once more: what was rounding before has been stretched to unit length.
        self.next, _ = orthonormal_rows(self.basis.split(following)[0])
        self.coupling = np.zeros((WIDTH, self.rank))
        if keep:
            self.coupling[:, old:] = gram(self.next, products)

    def _random(self, count: int) -> Float[Array, "count dim"]:
        first, self._num_drawn = self._num_drawn, self._num_drawn + count
        operator = self.operator
        return spherical(self.key, first, count, operator.dim, operator.dtype, operator.mesh)

    def _orthonormal(self, rows: Float[Array, "b dim"]) -> Float[Array, "b dim"]:
        return orthonormal_rows(self.basis.without(rows))[0]

    def _has_none_beyond(self, bound: float, sign: float) -> bool:
        """Whether H, less what earlier sweeps have found, has no eigenvalue beyond `bound`.

        Let Hu = λu, and c = Qu the components of u along the sweep's rows, of which there are
        blocks 0, ..., m. All rows of (T - λ)c but the last block vanish, so with T = S Θ Sᵀ,

            c = S (Θ - λ)⁻¹ S_mᵀ r   for some r of b entries,   |c| <= 1.

        This bounds |c₀|, u's share of the random start: a Christoffel function. It falls as λ
        moves away from the Ritz values. But |c₀|² is Beta(b/2, (P - b)/2) for a random start,
        so that a bound below the far tail of that law says that there is no such u.
        """
        active = self.compressed[self.first_new :, self.first_new :]
        values, vectors = np.linalg.eigh(active)
        if np.any(sign * values >= sign * bound):
            return False
        first, last = vectors[:WIDTH], vectors[-WIDTH:]
        inverse = 1.0 / (values - bound)
        start = (first * inverse) @ last.T
        whole = (last * inverse**2) @ last.T
        largest = linalg.eigh(start.T @ start, whole, eigvals_only=True)[-1]
        others = self.operator.dim - WIDTH
        return bool(largest < special.betaincinv(WIDTH / 2, others / 2, MISS_PROBABILITY))


@jax.jit
def _taken(rows: Float[Array, "n dim"], chosen: Int[Array, " k"]) -> Float[Array, "k dim"]:
    return rows[chosen]


@partial(jax.jit, static_argnums=3)
def _leaning(
    rows: Float[Array, "b dim"], start: Float[Array, "s dim"], key: PRNGKeyArray, dim: int
) -> Float[Array, "b dim"]:
    """Random rows of length √P, plus random combinations of the start's rows of that length.

    Half of each stays random: no eigenvector has a smaller share of the block than by a factor 2,
    so none is overlooked more easily than from a random start.
    """
    weights = jax.random.normal(key, (rows.shape[0], start.shape[0]), rows.dtype)
    weights = weights / jnp.linalg.norm(weights, axis=1, keepdims=True)
    along = jnp.matmul(weights, start, precision="highest")
    return rows + along * jnp.asarray(dim**0.5, rows.dtype)


@partial(jax.jit, static_argnums=2)
def _rayleigh(
    rows: Float[Array, "k dim"], products: Float[Array, "k dim"], mesh: Mesh | None
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    squares = inner_products("kp,kp->k", rows, rows, mesh)
    quotients = inner_products("kp,kp->k", rows, products, mesh) / squares
    return quotients, jnp.linalg.norm(products - quotients[:, None] * rows, axis=1)
