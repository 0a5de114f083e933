"""Probes that all batches share, or one of their own for each group of them.

tr H = Σ_b tr H_b over groups of batches, and v_bᵀH_b v_b may use another v_b in each group:
unbiased, as many passes over the data. With a common probe a sample has variance 2 ‖Σ_b H_b‖²_F,
with probes of their own 2 Σ_b ‖H_b‖²_F: the inner products ⟨H_b, H_c⟩ are gone, which are positive
where batches agree on what is sharp. Forms of each group from common probes show both; the first is
at most B times the second.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Resumable
from hessspec._base.probes import rademacher_on
from hessspec._krylov.block_basis import PILOT
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import parts_of, share_of, skips_zeros
from hessspec._trace.choice import geometric_mean
from hessspec._trace.costs import Costs
from hessspec._trace.guards import finite_forms

# A sample with eight probes of their own takes this many times as long as one with a common probe:
# eight draws of signs, eight projections (measured at P = 1.9 million, rank 16); of diagonals,
# where vectors are projected before and after. For traces the price is that of `Costs`.
OWN_PRICE = 1.25
# Of a diagonal, what is expected to gain less than this is not tried: the ratio of two variances
# from eight forms is known to about a third.
LEAST_GAIN = 1.5
# With probes of their own for g groups a sample has g^-TYPICAL of the variance with a common one,
# give or take SPREAD in the exponent from task to task: the paper's network at three states, beside
# four bases (docs/studies/trace_limits.md). NOISE is that of the logarithm of a ratio of two
# variances from the same eight forms. Less than WORTHWHILE is not worth another kind of probes, nor
# may a task lose more by it.
TYPICAL, SPREAD, NOISE, WORTHWHILE = 0.28, 0.4, 0.33, 1.1
_OWN_STREAM = 0x0B0B

Project = Callable[[Float[Array, "k dim"]], Float[Array, "k dim"]]


class Strata(Resumable):
    """Forms of groups of batches, by common probes until it is decided otherwise.

    Attributes:
        groups: how many groups have a probe of their own; 1 for a common one.
        is_decided: whether that has been asked at the present basis.
        looked: whether samples were looked at for a choice, and so count half.
        seen: those, each by itself.
        costs: of samples of either kind.
        eps: to which forms are rounded.
    """

    changing = ("groups", "is_decided", "looked", "seen", "samples", "drawn")

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray) -> None:
        self.operator = operator
        self.eps = float(np.finfo(operator.dtype).eps)
        self.key = jax.random.fold_in(key, _OWN_STREAM)
        self.costs = Costs.of(operator)
        self.parts = parts_of(operator)
        shares = np.array([share_of(part) for part in self.parts] if self.several else [1.0])
        self.shares = shares / shares.sum()
        self.drawn = 0
        self.begin_again()

    @property
    def several(self) -> bool:
        """Whether there is more than one group."""
        return len(self.parts) > 1

    @property
    def words(self) -> str:
        """Which probes were used."""
        count = self.groups
        return f"own for each of {count} groups of batches" if self.own else "common"

    @property
    def own(self) -> bool:
        """Whether groups have probes of their own."""
        return self.groups > 1

    def begin_again(self) -> None:
        """Forget the samples: those to come belong to another basis."""
        self.groups, self.is_decided, self.looked = 1, not self.several, False
        self.samples: list[Float[np.ndarray, "B *T k"]] = []
        self.seen: Float[np.ndarray, "B *T k"] = np.zeros((len(self.parts), 0))

    def look(self) -> None:
        """The first samples have been asked for a choice, and count half from here on.

        Whatever they say: a pilot that were dropped by what it shows would pull the mean to where
        it is kept.
        """
        if not self.looked:
            self.looked = True
            self.seen = self.samples[0]
            self.samples[0] = halved(self.seen)

    def common(self, rows: Float[Array, "k dim"]) -> Float[np.ndarray, "B *T k"]:
        """vᵀH_b v of each group for each row. Cost: a form of all groups a row."""
        return np.stack([finite_forms(part, rows) for part in self.parts])

    def decide(self, left: int, rank: int = 0, beside: int = 0) -> bool:
        """Whether groups have probes of their own from here on, for `left` further samples.

        One decision for all tasks, for 2, 4 or all groups: fewer draw and project less. By the
        variance that the mean of each task is expected to have (`expected_share`), in logarithms
        over tasks, where none is expected to lose more than is WORTHWHILE. The samples that are
        looked at (and `beside` others) count half from here on.
        """
        self.is_decided = True
        pilot = self.seen if self.looked else self.samples[0]
        count = pilot.shape[-1]
        if count < 4 or left < 4:
            return False
        self.look()
        common, best = self._variances(pilot, 1), 1
        # A task whose forms differ by rounding alone, as those of c times the identity, has no say.
        sums = np.atleast_2d(pilot.sum(axis=0))
        known = common > (8 * self.eps * np.abs(sums).max(axis=-1)) ** 2
        if not known.any():
            return False
        pairs = (count + beside) / 2
        least = 1 / WORTHWHILE
        for groups in self._possible():
            seen = self._variances(pilot, groups)[known] / common[known]
            price = self.costs.own_sample(rank, groups) / self._common_price(rank)
            found = _variance(pairs, left / price, 1.0, expected_share(seen, groups))
            found = found / _variance(pairs, left, 1.0, 1.0)
            if geometric_mean(found) < least and np.max(found) <= WORTHWHILE:
                least, best = geometric_mean(found), groups
        self.groups = best
        return self.own

    def _common_price(self, rank: int) -> float:
        return self.costs.sample(rank) if rank else self.costs.of_signs()

    def _possible(self) -> list[int]:
        """Numbers of groups that may have a probe of their own."""
        return sorted({count for count in (2, 4) if count < len(self.parts)} | {len(self.parts)})

    def _variances(self, pilot: Float[np.ndarray, "B *T k"], groups: int) -> np.ndarray:
        """Of a sample of each task, if so many groups had probes of their own."""
        sums = [pilot[members].sum(axis=0) for members in self._members(groups)]
        return np.atleast_1d(sum(found.var(axis=-1, ddof=1) for found in sums))

    def _members(self, groups: int) -> list[np.ndarray]:
        """Which parts share a probe."""
        return np.array_split(np.arange(len(self.parts)), groups)

    def signs(self, count: int, room: int = 0) -> list[Float[Array, "rows dim"]]:
        """The next random signs of each group; with `room` for more, rows of zeros follow."""
        indices = np.arange(self.drawn, self.drawn + max(count, room))
        self.drawn += count
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        keys = [jax.random.fold_in(self.key, number) for number in range(self.groups)]
        mesh = self.operator.mesh
        drawn = [rademacher_on(key, indices, dim, dtype, mesh) for key in keys]
        return drawn if count == len(indices) else [first_rows(rows, count) for rows in drawn]

    def by_part(self, count: int) -> list[Float[Array, "k dim"]]:
        """The same for each part: those of its group."""
        signs = zip(self._members(self.groups), self.signs(count), strict=True)
        return [rows for members, rows in signs for _ in members]

    def draw(
        self, count: int, project: Project, parts: Sequence[AbstractOperator] | None = None
    ) -> Float[np.ndarray, "B *T k"]:
        """Samples v_bᵀH_b v_b of each part, from random signs of its group's own brought to the
        complement of a basis. E[Πv vᵀΠ] = Π for signs as for any probes, so their lengths are left
        alone. `parts` are the operators of the parts, if they are at hand linearised."""
        parts = self.parts if parts is None else parts
        room = PILOT if all(map(skips_zeros, parts)) else 0
        found = []
        for members, signs in zip(self._members(self.groups), self.signs(count, room), strict=True):
            rows = project(signs)
            found += [finite_forms(parts[part], rows)[..., :count] for part in members]
        return np.stack(found)

    def record(self, exact: Float[np.ndarray, "B *T"] | None) -> dict[str, np.ndarray | None]:
        """What a `TraceEstimate` keeps of the groups, tasks in front."""
        if not self.several or not self.samples:
            return {}
        samples = np.concatenate(self.samples, axis=-1)
        known = np.zeros(samples.shape[:-1]) if exact is None else exact
        shares = np.broadcast_to(self.shares, known.T.shape)
        return {
            "by_group": np.moveaxis(samples, 0, -1),
            "exact_by_group": np.moveaxis(known, 0, -1),
            "group_shares": shares.copy(),
        }


@jax.jit
def first_rows(rows: Float[Array, "k dim"], count: int) -> Float[Array, "k dim"]:
    """The first `count` rows, and zeros in place of the others."""
    numbers = jnp.arange(rows.shape[0], dtype=jnp.int32)
    return jnp.where(numbers[:, None] < count, rows, jnp.zeros((), rows.dtype))


def halved(samples: Float[np.ndarray, "*lead n"]) -> Float[np.ndarray, "*lead m"]:
    """The same mean from half as many samples: that of each two.

    In a mean over samples of unequal variance, S²/n is still its variance on average.
    """
    count = samples.shape[-1]
    pairs = (samples[..., 0 : count - 1 : 2] + samples[..., 1:count:2]) / 2
    return np.concatenate([pairs, samples[..., count - count % 2 :]], axis=-1)


def expected_share(seen: Float[np.ndarray, " T"], groups: int) -> Float[np.ndarray, " T"]:
    """What probes of their own should leave each task, of its variance with a common probe.

    Eight forms have `seen` a share; in logarithms it counts as much as it is surer than what is
    typical, which for two groups is less than half and for eight almost all.
    """
    typical, spread = -TYPICAL * np.log(groups), SPREAD * np.log(groups)
    weight = spread**2 / (spread**2 + NOISE**2)
    return np.exp(typical + weight * (np.log(np.maximum(seen, 1e-300)) - typical))


def own_pays(ratio: float, looked: int, left: int) -> bool:
    """Whether probes of their own make the variance of the mean small enough for their price.

    A sample has `ratio` times the variance with a common probe; `looked` samples of that kind count
    half, and `left` are still to come.
    """
    pairs = looked / 2
    common = _variance(pairs, left, ratio, ratio)
    return bool(common > LEAST_GAIN * _variance(pairs, left / OWN_PRICE, ratio, 1.0))


def _variance(
    pairs: float, left: float, common: float, following: float | np.ndarray
) -> Float[np.ndarray, "*T"]:
    """Of a mean over pairs of samples of variance `common` and `left` of variance `following`."""
    return np.asarray((pairs * common / 2 + left * following) / (pairs + left) ** 2)
