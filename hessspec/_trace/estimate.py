"""The record of a trace estimate: what is known exactly, the samples of the rest, the errors."""

import os
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Array, Float

from hessspec._base.arguments import real_number
from hessspec._base.intervals import check_level, mean_interval
from hessspec._base.origin import Origin, about, merged_origin, record_tree
from hessspec._base.printing import (
    Facts,
    Printed,
    counted,
    interval,
    listed,
    one_number,
    shortened,
    task_rows,
    with_error,
)
from hessspec._base.records import load_record, save_record
from hessspec._base.tasks import TaskAxis, task_labels
from hessspec._pictures.frame import small_figure
from hessspec._pictures.intervals import Estimates, draw_estimates
from hessspec._trace import merging
from hessspec._trace.choice import Choice
from hessspec._trace.data_error import data_variance
from hessspec._trace.saved import parts_of, restored

MIN_RELIABLE_SAMPLES = 8
_KIND = "TraceEstimate"


@record_tree
@dataclass(frozen=True, repr=False)
class TraceEstimate(Printed, TaskAxis):
    """An estimate of tr H, or of tr H_t for T tasks: `exact` plus the mean of `samples`.

    All arrays are float64 on the host, with a leading task axis if the loss has one, and carry
    the units of H, loss / parameter².

    Attributes:
        samples: unbiased samples of the part that is not in `exact`; tasks share their probes.
            None of them (n = 0) means that the trace is known exactly.
        exact: the part of the trace that carries no sampling error (0 for plain Hutchinson).
        pair_covariance: mean covariance of two different samples, for methods that reuse probes
            (XTrace); None where samples are independent. Entry (t, s) belongs to tasks t and s.
        square: the same for tr H² = ‖H‖²_F, where the method computed Hv and not only vᵀHv.
        systematic: how far rounding may have moved `value`, told by how much products and forms,
            or products of two vectors, disagree; None where that was not measured.
        method: the estimator in force.
        dim: P, the number of parameters.
        num_matvecs: products executed, guards included; one unit is one H_t v or vᵀH_t v.
        matvecs_per_sample: what one more sample costs, in the same unit.
        converged: whether `rtol` or `atol` was met; None if neither was asked for.
        error_share: the share of 1 - level that this look at the samples may spend, below 1
            after adaptive stopping; see `confidence_interval`.
        product_plan: how products were computed, in words: rows in a block, and how often the
            gradient was linearised.
        by_group: the parts of samples that groups of batches have, where forms of each were made;
            by_group.sum(-1) are samples.
        exact_by_group: the same of `exact`.
        group_shares: the share of the data that each group holds.
        probes: whether batches shared their probes, in words.
        choice: rank, directions, groups and prices that `auto` decided on, of an operator or of all
            its tasks; None where it took random signs or XTrace, for other methods, merged runs and
            files of versions before 0.2.0.
        quantity: what is estimated, as it is printed: "tr H", or "tr H_0 - tr H_1".
        runs: of a merged estimate, those that it was merged from; it has `samples` of them all,
            each with the `exact` part of its run, and `value` weighs runs, not samples.
        origin: fingerprints of key and operator, which `merge` compares; None in files of
            versions before 0.2.0.
    """

    samples: Float[Array | np.ndarray, "*tasks n"]
    exact: Float[Array | np.ndarray, "*tasks"]
    pair_covariance: Float[Array | np.ndarray, "..."] | None = None
    square: "TraceEstimate | None" = None
    systematic: Float[Array | np.ndarray, "*tasks"] | None = None
    by_group: Float[Array | np.ndarray, "*tasks n groups"] | None = None
    exact_by_group: Float[Array | np.ndarray, "*tasks groups"] | None = None
    group_shares: Float[Array | np.ndarray, "*tasks groups"] | None = None
    runs: "tuple[TraceEstimate, ...]" = ()
    method: str = field(default="hutchinson", metadata={"static": True})
    dim: int = field(default=0, metadata={"static": True})
    num_matvecs: int = field(default=0, metadata={"static": True})
    matvecs_per_sample: float = field(default=1.0, metadata={"static": True})
    converged: bool | None = field(default=None, metadata={"static": True})
    error_share: float = field(default=1.0, metadata={"static": True})
    product_plan: str = field(default="", metadata={"static": True})
    probes: str = field(default="common", metadata={"static": True})
    quantity: str = field(default="tr H", metadata={"static": True})
    choice: Choice | None = field(default=None, metadata={"static": True})
    origin: Origin | None = field(default=None, metadata={"static": True})

    @classmethod
    def from_samples(cls, samples: Any, *, exact: Any = None, **rest: Any) -> "TraceEstimate":
        """The estimate with these samples; `exact` defaults to zero."""
        samples = np.asarray(samples, np.float64)
        known = np.zeros(samples.shape[:-1]) if exact is None else np.asarray(exact, np.float64)
        return cls(samples, known, **rest)

    @property
    def num_samples(self) -> int:
        """Number of samples n for each task."""
        return int(np.shape(self.samples)[-1])

    @property
    def value(self) -> Float[np.ndarray, "*tasks"]:
        """The estimate of tr H."""
        if self.runs:
            return merging.value(self.runs)
        exact = np.asarray(self.exact, np.float64)
        if self.num_samples == 0:
            return exact
        return exact + np.asarray(self.samples, np.float64).mean(axis=-1)

    @property
    def standard_error(self) -> Float[np.ndarray, "*tasks"]:
        """Standard deviation of `value` over probes; infinite with one sample.

        With E S² = Var Xᵢ - Cov(Xᵢ, Xⱼ), the variance of the mean of n exchangeable samples is
        S²/n + Cov(Xᵢ, Xⱼ): the second term is `pair_covariance`.
        """
        if self.runs:
            return merging.standard_error(self.runs)
        n = self.num_samples
        if n == 0:
            return np.zeros_like(np.asarray(self.exact, np.float64))
        if n == 1:
            return np.full_like(np.asarray(self.exact, np.float64), np.inf)
        samples = np.asarray(self.samples, np.float64)
        variance = samples.var(axis=-1, ddof=1) / n
        return np.sqrt(np.maximum(variance + self._own_covariance(), variance))

    @property
    def data_standard_error(self) -> Float[np.ndarray, "*tasks"]:
        """Standard deviation of tr H as an estimate of its mean over the population of the data.

        Read off the traces of groups of batches: their weighted deviation by the root of their
        number, less what probes add to it (of a single sample nothing can be taken off). Batches
        must be random samples of the items. It rests on at most 8 groups, and is 0 where they
        differ by no more than probes explain.

        Raises:
            ValueError: where forms of groups were not made: data that are no `Batches`, or are
                streamed, an exact trace, traces of blocks, or XTrace (`auto` below 48 products).
        """
        if self.runs:
            return merging.data_standard_error(self.runs)
        if self.by_group is None or self.exact_by_group is None or self.group_shares is None:
            raise ValueError(
                "`data_standard_error` takes forms of several batches: pass "
                "`data=hessspec.Batches(...)` of at least two that fit a quarter of "
                "`memory_budget` together (what is read again for each product has none), leave "
                "out `by`, and use `method='auto'` (from 48 products on), 'hutchinson' or "
                "'hutch++' with fewer products than parameters; "
                f"this trace is by {self.method!r} and has none."
            )
        groups = (self.by_group, self.exact_by_group, self.group_shares)
        return data_variance(*(np.asarray(part, np.float64) for part in groups)) ** 0.5

    def population_error(
        self, *, probes: float = 1.0, data: float = 1.0
    ) -> Float[np.ndarray, "*tasks"]:
        """The error of tr H as an estimate of the population's, with so many times as much of each.

        (data_standard_error² / data + standard_error² / probes)^½: what more data or more probes
        would buy. With more data the probe error is taken to stay as it is, which is so for
        common probes.

        Raises:
            ValueError: as `data_standard_error`, or unless both factors are above 0.
            TypeError: if a factor is no number.
        """
        probes, data = real_number("probes", probes), real_number("data", data)
        if not (probes > 0 and data > 0):
            raise ValueError(f"`probes` and `data` must be above 0, got {probes} and {data}")
        return np.sqrt(self.data_standard_error**2 / data + self.standard_error**2 / probes)

    @property
    def reliable(self) -> bool:
        """Whether `confidence_interval` holds its level: at least 8 samples (a run), or exact."""
        if self.runs and self.num_samples:
            return all(run.reliable for run in self.runs)
        return self.num_samples == 0 or self.num_samples >= MIN_RELIABLE_SAMPLES

    @property
    def frobenius_norm(self) -> Float[np.ndarray, "*tasks"]:
        """‖H‖_F from the same products.

        Raises:
            ValueError: if there is no estimate of it beside that of the trace: most methods use
                quadratic forms only, which do not determine it.
        """
        if self.square is None:
            known = "the diagonal of H" if self.num_samples == 0 else "forms v'Hv"
            sketch = f"`trace(method='xtrace')` with 4 to {self.dim - 1} products, or by "
            raise ValueError(
                f"this trace by {self.method!r} has no estimate of the Frobenius norm, which takes "
                f"more than {known}: get "
                f"it by {sketch if self.dim > 4 else ''}`({self.dim} * density(...).moment(2)) "
                "** 0.5`."
            )
        return np.sqrt(np.maximum(self.square.value, 0.0))

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
        """Ends of an interval that covers tr H with probability `level`, for each task.

        The error of rounding, `systematic`, is added to both sides; where nothing was sampled
        there is no other.

        The samples are quadratic forms of the part of H that was not deflated: skewed if a few
        eigenvalues dominate it, near normal if many share it; the interval covers both cases. It
        may be one-sided wider, and is not reliable below 8 samples. After adaptive stopping each
        look at the samples spends its `error_share` of 1 - level; the shares sum to at most 1,
        so by Boole's inequality the interval holds at whichever look the run stopped.

        Raises:
            ValueError: unless 0 < level < 1.
            TypeError: if `level` is no number.
        """
        check_level(level)
        exact, rounding = np.asarray(self.exact, np.float64), self._rounding()
        if self.runs:
            low, high = merging.interval(self.runs, level)
            return low - rounding, high + rounding
        if self.num_samples == 0:
            return exact - rounding, exact + rounding
        samples = np.asarray(self.samples, np.float64)
        share = 1.0 - (1.0 - level) * self.error_share
        inflation = 1.0
        if self.num_samples > 1 and self.pair_covariance is not None:
            plain = samples.std(axis=-1, ddof=1) / self.num_samples**0.5
            inflation = np.where(plain > 0, self.standard_error / np.where(plain > 0, plain, 1), 1)
        low, high = mean_interval(samples, share, inflation)
        return exact + low - rounding, exact + high + rounding

    def half_width(self, level: float = 0.95) -> Float[np.ndarray, "*tasks"]:
        """The farther end's distance from `value`: what `rtol` and `atol` bound."""
        low, high = self.confidence_interval(level)
        value = self.value
        return np.maximum(high - value, value - low)

    def difference(self, i: int, j: int) -> "TraceEstimate":
        """tr H_i - tr H_j from the paired samples, with its own error.

        Tasks see the same probes, so what they share cancels sample by sample.

        Raises:
            ValueError: if the loss had no task axis, or `i` or `j` is not a task.
        """
        tasks = self.num_tasks
        if tasks is None or not all(-tasks <= t < tasks for t in (i, j)):
            raise ValueError(
                f"`i` and `j` must be tasks of this estimate, got {i} and {j}; "
                + ("it has no task axis." if tasks is None else f"it has {tasks} tasks.")
            )
        part = about(self.origin, f"task {i % tasks} - task {j % tasks}")
        if self.runs:
            return merging.merged([run.difference(i, j) for run in self.runs], part, None)
        covariance = None
        if self.pair_covariance is not None:
            c = np.asarray(self.pair_covariance, np.float64)
            covariance = c[i, i] + c[j, j] - c[i, j] - c[j, i]
        return replace(
            self,
            samples=np.asarray(self.samples)[i] - np.asarray(self.samples)[j],
            exact=np.asarray(self.exact)[i] - np.asarray(self.exact)[j],
            pair_covariance=covariance,
            square=None,
            systematic=None if self.systematic is None else self._rounding()[[i, j]].sum(),
            by_group=_gap(self.by_group, i, j),
            exact_by_group=_gap(self.exact_by_group, i, j),
            group_shares=None if self.group_shares is None else self.group_shares[i],
            quantity=f"tr H_{i % tasks} - tr H_{j % tasks}{self.quantity.removeprefix('tr H')}",
            origin=part,
        )

    def merge(self, other: "TraceEstimate") -> "TraceEstimate":
        """The estimate of both runs, this one and one with another key, on another machine or here.

        The mean of both, weighted by their products, which do not depend on what came out; squared
        errors are added with these weights squared, never pooled, and the interval has Welch's
        degrees of freedom. Rounding is averaged, for it may have one sign in both; the error of the
        data stays what it is. Beside an exact trace nothing else counts. More than two are merged
        one after the other, in any order. Cost: no product.

        Raises:
            ValueError: for a run with the same key, at other parameters, data, dtype or number of
                tasks, or of another part; stopped by a tolerance; of one sample; or in a record
                that keeps no key.
            TypeError: if `other` is no `TraceEstimate`.

        Source: Welch's degrees of freedom as in the t test of unequal variances; skewness and
        weights are derived in this package, see `docs/trace.md`.
        """
        origin = merged_origin(self, other)
        merging.check_run(self, "this trace")
        merging.check_run(other, "`other`")
        return _merged([*(self.runs or [self]), *(other.runs or [other])], origin)

    def matvecs_needed(self, rtol: float = 0.0, atol: float = 0.0, level: float = 0.95) -> float:
        """Products still needed, by the measured variance, to meet atol + rtol |tr H|.

        The worst task decides. An estimate: the error of a mean falls as n^(-1/2), which is
        pessimistic for methods whose further products also deflate more. Zero when the tolerance
        is met. Never more than P for each task, which make the trace exact; so many as well where
        one sample shows no variance. Infinite if rounding alone exceeds the tolerance.
        """
        target = atol + rtol * np.abs(self.value) - self._rounding()
        width = self.half_width(level) - self._rounding()
        if np.all(width <= target):
            return 0.0
        if np.any(target < 0):
            return float("inf")
        # A difference of tasks is exact once both are; a record put together by hand has no P.
        tasks = self.num_tasks or self.quantity.count("tr H")
        most = float(self.dim * tasks) if self.dim else float("inf")
        if not np.all(np.isfinite(width)) or np.any((target == 0) & (width > 0)):
            return most
        ratio = np.max(np.where(width > 0, width / np.where(target > 0, target, 1.0), 0.0))
        more = int(np.ceil(self.num_samples * (ratio**2 - 1.0)))
        return min(float(more * self.matvecs_per_sample), most)

    def plot(self, *, ax: Any = None, level: float = 0.95, label: str | None = None) -> Any:
        """Draw the trace of each task with its interval; returns the axes. Needs matplotlib.

        Args:
            ax: axes to draw into; new ones by default.
            level: with which each interval holds.
            label: legend entry.

        Raises:
            ImportError: without matplotlib.
            ValueError: unless 0 < level < 1.
        """
        low, high = self.confidence_interval(level)
        names = [name or "" for name in task_labels(None, self.num_tasks)]
        drawn = Estimates(names, self.value, low, high, label)
        return draw_estimates([drawn], ax, f"{self.quantity} with its {level:.0%} interval")

    def __float__(self) -> float:
        return one_number(self, self.value)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        pairs = zip(np.ravel(self.value), np.ravel(self.standard_error), strict=True)
        return listed((with_error(*pair, spec) for pair in pairs), bool(self._lead()))

    def _facts(self) -> Facts:
        value, error = np.ravel(self.value), np.ravel(self.standard_error)
        low, high = map(np.ravel, self.confidence_interval())
        found = [with_error(*pair) for pair in zip(value, error, strict=True)]
        ends = [interval(*pair) for pair in zip(low, high, strict=True)]
        told = self.reliability_words()
        size = [("P", f"{self.dim:,}")] if self.dim else []
        chosen = [] if self.choice is None else [("choice", str(self.choice))]
        rest = [("method", self.method_words()), *chosen, *size]
        if self._lead():
            pairs = zip(found, ends, strict=True)
            rows = task_rows("task", [f"{self.quantity} = {a}, 95 % {b}" for a, b in pairs])
            title = f"{type(self).__name__} of {len(rows)} tasks"
            return Facts(title, [*shortened(rows, 9), ("intervals", told), *rest])
        rows = [("95 % interval", f"{ends[0]}, {told}"), *rest]
        return Facts(f"{type(self).__name__}: {self.quantity} = {found[0]}", rows)

    def method_words(self) -> str:
        """By which method, from how many samples and products."""
        samples = counted(self.num_samples, "sample")
        return f"{self.method}: {samples}, {counted(self.num_matvecs, 'product')}"

    def reliability_words(self) -> str:
        """Whether intervals hold their level, and whether a tolerance was met."""
        met = {None: "", True: "; tolerance met"}.get(self.converged, "; tolerance NOT met")
        return self._reliability() + met

    def _reliability(self) -> str:
        if self.num_samples == 0:
            return "nothing was sampled: rounding alone"
        few = f"NOT reliable: fewer than {MIN_RELIABLE_SAMPLES} samples"
        return "reliable" if self.reliable else few

    def _draw_small(self) -> Any:
        return small_figure(lambda ax: self.plot(ax=ax))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays, meta = parts_of(self, "")
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TraceEstimate":
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        return restored(cls, arrays, "", meta)

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.exact)

    def _task(self, index: int) -> Self:
        part = about(self.origin, f"task {index % np.shape(self.exact)[0]}")
        if self.runs:
            return _merged([run._task(index) for run in self.runs], part)  # type: ignore[return-value]
        # Of a covariance of tasks the task's own is left, here and in the square.
        covariance = self.pair_covariance
        return replace(
            super()._task(index),
            pair_covariance=None if covariance is None else np.asarray(covariance)[index, index],
            square=None if self.square is None else self.square._task(index),
            origin=part,
        )

    def _rounding(self) -> Float[np.ndarray, "*tasks"]:
        if self.systematic is None:
            return np.zeros_like(np.asarray(self.exact, np.float64))
        return np.asarray(self.systematic, np.float64)

    def _own_covariance(self) -> Float[np.ndarray, "*tasks"]:
        if self.pair_covariance is None:
            return np.zeros_like(np.asarray(self.exact, np.float64))
        covariance = np.asarray(self.pair_covariance, np.float64)
        return covariance if covariance.ndim == 0 else np.diagonal(covariance)


def _merged(runs: list[TraceEstimate], origin: Origin | None) -> TraceEstimate:
    squares = [run.square for run in runs if run.square is not None]
    square = merging.merged(squares, None, None) if len(squares) == len(runs) else None
    return merging.merged(runs, origin, square)


def _gap(values: Any, i: int, j: int) -> Any:
    return None if values is None else np.asarray(values)[i] - np.asarray(values)[j]
