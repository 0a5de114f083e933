"""Probes that all batches share, or one of their own for each group of them.

tr H = Σ_b tr H_b over groups of batches, and v_bᵀH_b v_b may use another v_b in each group:
unbiased, as many passes over the data. With a common probe a sample has variance 2 ‖Σ_b H_b‖²_F,
with probes of their own 2 Σ_b ‖H_b‖²_F: the inner products ⟨H_b, H_c⟩ are gone, which are positive
where batches agree on what is sharp. Forms of each group from common probes show both; the first is
at most B times the second.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Resumable
from hessspec._base.probes import rademacher_on
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import parts_of, share_of
from hessspec._trace.guards import finite_forms

# A sample with eight probes of their own takes this many times as long as one with a common probe:
# eight draws of signs, eight projections and smaller batches (measured at P = 1.9 million).
OWN_PRICE = 1.25
# Variances from eight forms: what is expected to gain less than this is not tried.
LEAST_GAIN = 1.25
_OWN_STREAM = 0x0B0B

Project = Callable[[Float[Array, "k dim"]], Float[Array, "k dim"]]


class Strata(Resumable):
    """Forms of groups of batches, by common probes until it is decided otherwise.

    Attributes:
        own: whether groups have probes of their own.
        is_decided: whether that has been asked at the present basis.
        looked: whether samples were looked at for that, and so count half.
    """

    changing = ("own", "is_decided", "looked", "samples", "drawn")

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray) -> None:
        self.operator = operator
        self.key = jax.random.fold_in(key, _OWN_STREAM)
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
        count = len(self.parts)
        return f"own for each of {count} groups of batches" if self.own else "common"

    def begin_again(self) -> None:
        """Forget the samples: those to come belong to another basis."""
        self.own, self.is_decided, self.looked = False, not self.several, False
        self.samples: list[Float[np.ndarray, "B *T k"]] = []

    def common(self, rows: Float[Array, "k dim"]) -> Float[np.ndarray, "B *T k"]:
        """vᵀH_b v of each group for each row. Cost: a form of all groups a row."""
        return np.stack([finite_forms(part, rows) for part in self.parts])

    def decide(self, left: int, beside: int = 0) -> bool:
        """Whether groups have probes of their own from here on, for `left` further samples.

        One decision for all tasks, by the geometric mean over them of the variance of the mean. The
        samples that are looked at (and `beside` others) count half from here on, whatever they
        say: a pilot that were dropped by what it shows would pull the mean to where it is kept.
        """
        self.is_decided = True
        pilot = np.concatenate(self.samples, axis=-1)
        count = pilot.shape[-1]
        if count < 4 or left < 4:
            return False
        self.looked, self.samples = True, [halved(pilot)]
        common = pilot.sum(axis=0).var(axis=-1, ddof=1)
        own = pilot.var(axis=-1, ddof=1).sum(axis=0)
        both = np.atleast_1d((common > 0) & (own > 0))
        if not both.any():
            return False
        ratios = np.log(np.atleast_1d(common)[both] / np.atleast_1d(own)[both])
        self.own = own_pays(float(np.exp(np.mean(ratios))), count + beside, left)
        return self.own

    def signs(self, count: int) -> list[Float[Array, "k dim"]]:
        """The next random signs of each group."""
        indices = jnp.arange(self.drawn, self.drawn + count)
        self.drawn += count
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        keys = [jax.random.fold_in(self.key, number) for number in range(len(self.parts))]
        mesh = self.operator.mesh
        return [rademacher_on(key, indices, dim, dtype, mesh) for key in keys]

    def draw(self, count: int, project: Project) -> Float[np.ndarray, "B *T k"]:
        """Samples v_bᵀH_b v_b of each group, from random signs of its own brought to the complement
        of a basis. E[Πv vᵀΠ] = Π for signs as for any probes, so their lengths are left alone."""
        pairs = zip(self.parts, self.signs(count), strict=True)
        return np.stack([finite_forms(part, project(rows)) for part, rows in pairs])

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


def halved(samples: Float[np.ndarray, "*lead n"]) -> Float[np.ndarray, "*lead m"]:
    """The same mean from half as many samples: that of each two.

    In a mean over samples of unequal variance, S²/n is still its variance on average.
    """
    count = samples.shape[-1]
    pairs = (samples[..., 0 : count - 1 : 2] + samples[..., 1:count:2]) / 2
    return np.concatenate([pairs, samples[..., count - count % 2 :]], axis=-1)


def own_pays(ratio: float, looked: int, left: int) -> bool:
    """Whether probes of their own make the variance of the mean small enough for their price.

    A sample has `ratio` times the variance with a common probe; `looked` samples of that kind count
    half, and `left` are still to come.
    """
    pairs = looked / 2
    common = _variance(pairs, left, ratio, ratio)
    return bool(common > LEAST_GAIN * _variance(pairs, left / OWN_PRICE, ratio, 1.0))


def _variance(pairs: float, left: float, common: float, following: float) -> float:
    """Of a mean over pairs of samples of variance `common` and `left` of variance `following`."""
    return (pairs * common / 2 + left * following) / (pairs + left) ** 2
