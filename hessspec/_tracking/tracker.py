"""The tracker: one object beside a training loop, which follows the curvature of its loss."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from hessspec._base.arguments import check_key, real_number, whole_number
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.records import load_record, save_record
from hessspec._base.selection import Where
from hessspec._base.signatures import called_as
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.batches import Batches
from hessspec._operators.calls import require_values
from hessspec._operators.hessian import HessianOperator
from hessspec._operators.scales import Scale
from hessspec._trace.estimate import TraceEstimate
from hessspec._tracking.following import (
    follow,
    gradient_shares,
    joined,
    lead,
    scaled_rows,
    trace_samples,
)
from hessspec._tracking.kernel import NUM_NEW
from hessspec._tracking.rows import TrackedEnd
from hessspec._tracking.state import NUM_KNOWN, TrackerState
from hessspec._tracking.steps import Column, TrackedStep, steps_of, table_of, tracked_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_KIND = "Tracker"
# Probes are drawn apart from the vectors that explore: a basis must not know them.
_STATES, _PROBES = range(2)
_STATE_ARRAYS = ("rows", "known", "known_values", "explorer", "count", "turn", "effort")


class Tracker:
    """Follows one end of the spectrum of H, and tr H, while a network trains.

        tracker = hessspec.Tracker(loss_fn, key, k=2, data=batch)
        for step in range(1000):
            params = train(params)
            if step % 10 == 0:
                tracker.update(step, params)
        tracker.plot()

    Each update starts from the vectors of the last one (`track` is the function that it calls) and
    compiles nothing after the second. A loss of shape (T,) is followed for each task, and every
    result has a leading task axis. All settings are looked at before anything is computed.

    Args:
        loss_fn: `loss_fn(params)` or `loss_fn(params, batch)`; None if `update` gets operators.
        key: for starts and probes; the same key gives the same numbers.
        k: how many eigenvalues.
        which: "LA" the largest, "SA" the smallest, "LM" those of the largest magnitude.
        data: of all updates that are not given their own; a batch or `Batches`.
        where: chooses the parameters of H.
        scale: D of D H D, as for `H.congruent`; `update` may be given another each time (that of
            Adam, by `adam_scale`).
        trace: how many probes follow tr H; each is one product or form an update. They are the same
            at all steps, so that differences between steps have errors of their own.
        tol: residual to reach, relative to the norm of H; by default that of `eigenpairs`,
            eps^(2/3).
        max_matvecs: products that an update may make for each task, by default 40 (k + 10).
        log: called with a flat dict of numbers after each update, such as `wandb.log`.
        memory_budget: bytes that may be taken, by default set from the device.

    Cost of an update: a gradient, the loss, `trace` forms and, for each task, k products at least:
    near a settled spectrum k + 2, a few more where it turns. Memory for each task, between updates
    k + 13 vectors of P entries, in them 2 (k + 14) more.

    Raises:
        ValueError: for settings out of range; from `update`, if the loss or a product is not
            finite, or products are not symmetric.
        TypeError: for settings of the wrong kind.

    Source: derived in `hessspec/_tracking/kernel.py`; checked against dense matrices in
    `tests/hessspec/tracking/test_tracker.py`.
    """

    @called_as("Tracker(loss_fn, key, data=batch)")
    def __init__(
        self,
        loss_fn: Callable[..., Array] | None,
        key: PRNGKeyArray,
        *,
        k: int = 1,
        which: TrackedEnd = "LA",
        data: PyTree | Batches | None = None,
        where: Where | None = None,
        scale: Scale | None = None,
        trace: int | None = None,
        tol: float | None = None,
        max_matvecs: int | None = None,
        log: Callable[[dict[str, float]], Any] | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if which not in get_args(TrackedEnd):
            ends = ", ".join(get_args(TrackedEnd))
            raise ValueError(
                f"`which` must be one of {ends}, got {which!r}; both ends are followed by two "
                "trackers."
            )
        if tol is not None and not 0.0 <= real_number("tol", tol) < 1.0:
            raise ValueError(f"`tol` must lie in [0, 1), relative to the norm of H, got {tol}")
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(
                f"`loss_fn` must be a function, got {type(loss_fn).__name__}; with operators it is "
                "None: `Tracker(None, key)` and `tracker.update(step, operator)`."
            )
        if log is not None and not callable(log):
            raise TypeError(
                f"`log` must be a function of a dict of numbers, such as `wandb.log`, got "
                f"{type(log).__name__}"
            )
        if memory_budget is not None:
            resolve_budget(memory_budget)
        self.loss_fn, self.key = loss_fn, check_key(key)
        self.k = whole_number("k", k)
        self.which: TrackedEnd = which
        self.data, self.where, self.scale, self.log = data, where, scale, log
        self.num_probes = 0 if trace is None else whole_number("trace", trace, least=0)
        self.tol = tol
        limit = 40 * (self.k + 10) if max_matvecs is None else max_matvecs
        self.max_matvecs = whole_number("max_matvecs", limit, least=self.k)
        self.memory_budget = memory_budget
        self.steps: list[TrackedStep] = []
        self._states: tuple[TrackerState, ...] = ()
        self._space: Any = None

    def update(
        self,
        step: int,
        params: PyTree | AbstractOperator,
        *,
        data: PyTree | Batches | None = None,
        scale: Scale | None = None,
    ) -> TrackedStep:
        """What H is at these parameters; the record is also appended to `tracker.steps`.

        Args:
            step: number of the step, for the table; it may repeat or go back, as where a training
                is taken up from an earlier state (`trace_difference` takes the last of a step).
            params: the parameters, or an operator (`GaussNewtonOperator`, a sum, ...) to follow.
            data, scale: in place of those that the tracker was made with.

        Raises:
            ValueError: if the loss or a product is not finite, products are not symmetric, or the
                parameters are others than before, by places, shapes or dtype.
            TypeError: if neither a loss nor an operator is there, or inside `jit` (there: `track`).
            MemoryError: if the basis exceeds the budget.
        """
        begun = time.perf_counter()
        step = whole_number("step", step, least=None)
        operator, losses, gradients = self._asked(params, data)
        scale = self.scale if scale is None else scale
        if scale is not None:
            scaled = operator.congruent(scale)
            gradients = None if gradients is None else scaled_rows(scaled, gradients)
            operator = scaled
        states = self._states_for(operator)
        tasks = operator.num_tasks
        scalars = [operator] if tasks is None else [operator.task(t) for t in range(tasks)]
        room = resolve_budget(self.memory_budget) // 2
        follow_one = functools.partial(
            follow, tol=self.tol, max_matvecs=self.max_matvecs, memory_budget=room
        )
        followed = [follow_one(*pair) for pair in zip(scalars, states, strict=True)]
        self._states = tuple(state for state, _ in followed)
        found = [pairs for _, pairs in followed]
        samples = None
        if self.num_probes:
            key = jax.random.fold_in(self.key, _PROBES)
            rows = [state.rows for state in self._states]
            samples = trace_samples(operator, key, self.num_probes, rows, found)
        self.steps.append(
            TrackedStep(
                values=joined([f.values for f in found], tasks),
                residuals=joined([f.residuals for f in found], tasks),
                converged=joined([f.converged for f in found], tasks, bool),
                loss=losses,
                gradient_share=gradient_shares(gradients, self._states, tasks),
                rotation=joined([f.rotation for f in found], tasks),
                trace_samples=samples,
                step=step,
                num_matvecs=sum(int(f.num_matvecs) for f in found)
                + (0 if samples is None else samples.size),
                seconds=time.perf_counter() - begun,
                dim=operator.dim,
            )
        )
        if self.log is not None:
            self.log(self.steps[-1].as_dict())
        return self.steps[-1]

    @property
    def table(self) -> dict[str, Column]:
        """All updates: an array for each field of `TrackedStep`, with `trace` and `trace_error`."""
        return table_of(self.steps)

    @property
    def vectors(self) -> PyTree:
        """The latest eigenvectors: trees with a leading axis k (after the task axis).

        With a scale they are those of D H D.

        Raises:
            ValueError: before the first update; the first since `load`, which knows no trees.
        """
        self._require_updates()
        if self._space is None:
            raise ValueError(
                "the file holds no structure of the parameters; call `tracker.update(step, params)`"
                " first"
            )
        rows = jnp.stack([state.rows for state in self._states])
        return self._space.unflatten_block(rows if self.steps[-1].num_tasks else rows[0])

    def trace_difference(self, first: int, second: int) -> TraceEstimate:
        """tr H at step `second` less that at step `first`, from paired samples, with its error.

        Both steps see the same probes, so what they share cancels sample by sample.

        Raises:
            ValueError: if a step was not tracked, or the trace was not asked for.
        """
        if self.num_probes == 0:
            raise ValueError("the trace was not tracked; make the tracker with `trace=16`, say")
        at = {step.step: np.asarray(step.trace_samples) for step in self.steps}
        for name, step in (("first", first), ("second", second)):
            if step not in at:
                raise ValueError(f"`{name}` must be a step that was tracked, got {step}")
        found = tracked_trace(at[second] - at[first], self.steps[-1].dim)
        return replace(found, quantity=f"tr H at step {second} - tr H at step {first}")

    def to_pandas(self) -> DataFrame:
        """The table with one row for each update and a column for each number.

        Raises:
            ImportError: without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`to_pandas` needs pandas: `pip install pandas`, or use `tracker.table`."
            ) from error
        return pandas.DataFrame([step.as_dict() for step in self.steps])

    def plot(
        self,
        name: str = "values",
        *,
        ax: Axes | None = None,
        threshold: float | None = None,
        label: str | None = None,
    ) -> Axes:
        """Draw one column of the table over the steps, each task in its colour.

        Args:
            name: of the column; eigenvalues and traces have bands of two residuals or errors.
            ax: axes to draw into; new ones by default.
            threshold: where to draw a dashed line, such as 2 / learning rate.
            label: entry in the legend; with tasks, " 0", " 1", ... are added.

        Raises:
            ImportError: without matplotlib.
            ValueError: if there is no such column, or no update.
        """
        from hessspec._tracking.drawing import draw_column

        self._require_updates()
        return draw_column(self.table, name, ax, threshold, label)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table, and the state from which to go on, to `path` (npz, no pickle).

        The loss, data, `where`, `scale` and `log` are not written: `load` is given them again.

        Raises:
            ValueError: before the first update.
        """
        self._require_updates()
        arrays = {f"table.{name}": column for name, column in self.table.items()}
        arrays["key"] = np.asarray(jax.random.key_data(self.key))
        for name in _STATE_ARRAYS:
            arrays[f"state.{name}"] = np.stack([np.asarray(getattr(s, name)) for s in self._states])
        meta = {
            "k": self.k,
            "which": self.which,
            "trace": self.num_probes,
            "tol": self.tol,
            "max_matvecs": self.max_matvecs,
            "dim": self.steps[-1].dim,
            "key_impl": str(jax.random.key_impl(self.key)),
        }
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        loss_fn: Callable[..., Array] | None,
        *,
        data: PyTree | Batches | None = None,
        where: Where | None = None,
        scale: Scale | None = None,
        log: Callable[[dict[str, float]], Any] | None = None,
        memory_budget: int | None = None,
    ) -> Tracker:
        """The tracker that `save` wrote to `path`, to go on as if it had not stopped.

        Raises:
            ValueError: if the file is none of a tracker, or damaged.
        """
        arrays, meta = load_record(path, _KIND)
        dim, impl = meta.pop("dim"), meta.pop("key_impl", None)  # not in files of before
        key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]), impl=impl)
        given = {"data": data, "where": where, "scale": scale, "log": log}
        tracker = cls(loss_fn, key, **given, memory_budget=memory_budget, **meta)
        table = {n.removeprefix("table."): a for n, a in arrays.items() if n.startswith("table.")}
        tracker.steps = steps_of(table, dim)
        stored = [jnp.asarray(arrays[f"state.{name}"]) for name in _STATE_ARRAYS]
        tracker._states = tuple(
            TrackerState(
                **dict(zip(_STATE_ARRAYS, parts, strict=True)),
                key=tracker._state_key(t),
                which=tracker.which,
            )
            for t, parts in enumerate(zip(*stored, strict=True))
        )
        return tracker

    def __repr__(self) -> str:
        names = {"LA": "largest", "SA": "smallest", "LM": "largest (in size)"}
        ends = (
            f"{names[self.which]} eigenvalue"
            if self.k == 1
            else (f"{self.k} {names[self.which]} eigenvalues")
        )
        title = f"Tracker of the {ends}: {len(self.steps)} updates"
        return "\n".join([title, *(repr(step) for step in self.steps[-1:])])

    def _require_updates(self) -> None:
        if not self.steps:
            raise ValueError("nothing was tracked yet; call `tracker.update(step, params)` first")

    def _asked(
        self, params: PyTree | AbstractOperator, data: PyTree | Batches | None
    ) -> tuple[AbstractOperator, np.ndarray, Float[Array, "*T dim"] | None]:
        """The operator, and the loss and its gradient where it has them."""
        if isinstance(params, AbstractOperator):
            operator = params
        elif self.loss_fn is None:
            raise TypeError(
                "`params` must be an operator for a tracker without a loss; make it with one: "
                "`Tracker(loss_fn, key)`."
            )
        else:
            data = self.data if data is None else data
            operator = HessianOperator(
                self.loss_fn, params, data=data, where=self.where, memory_budget=self.memory_budget
            )
        require_values("Tracker.update", operator, "`hessspec.track` is the same as a function")
        if not self.steps:
            operator.validate()
        if not isinstance(operator, HessianOperator):
            return operator, np.full(lead(operator.num_tasks), np.nan), None
        losses = np.array(operator.losses(), np.float64)  # a view would keep an array alive
        if not np.all(np.isfinite(losses)):
            operator.validate()
        if operator.weights is not None:
            losses = np.asarray(operator.weights, np.float64) @ losses
        return operator, losses, operator.gradients()

    def _states_for(self, operator: AbstractOperator) -> tuple[TrackerState, ...]:
        tasks, dim = operator.num_tasks or 1, operator.dim
        if self._states:
            known = (len(self._states), self._states[0].rows.shape[1])
            if known != (tasks, dim):
                raise ValueError(
                    f"`params` must be those of the updates before, {known[1]:,} parameters and "
                    f"{known[0]} losses, got {dim:,} and {tasks}; make another tracker for others."
                )
            self._require_same_places(operator)
            self._space = operator.space
            return self._states
        if self.k > dim:
            raise ValueError(
                f"`k` must lie in [1, {dim}] for {dim} chosen parameters, got {self.k}; "
                "lower `k` or let `where` choose more."
            )
        vectors = tasks * (self.k + NUM_KNOWN + 1) + 2 * (self.k + 2 + NUM_NEW) + NUM_KNOWN
        require_memory(
            vectors * dim * operator.dtype.itemsize,
            resolve_budget(self.memory_budget),
            f"tracking {self.k} eigenpairs of {dim:,} parameters",
            "lower `k`, raise `memory_budget`, or let `where` choose fewer parameters",
        )
        self._space = operator.space
        start = functools.partial(TrackerState.start, dim=dim, k=self.k, which=self.which)
        return tuple(start(self._state_key(t), dtype=operator.dtype) for t in range(tasks))

    def _require_same_places(self, operator: AbstractOperator) -> None:
        """Rows are flat: of another tree they would be vectors in other coordinates."""
        dtype, other = self._states[0].rows.dtype, operator.dtype
        if dtype != other:
            raise ValueError(
                f"`params` must be those of the updates before, whose products are {dtype}, got "
                f"{other}; make another tracker for others."
            )
        if self._space is None:
            return
        before, now = (
            [f"{path} {shape}" for path, shape in zip(space.paths, space.shapes, strict=True)]
            for space in (self._space, operator.space)
        )
        if before != now:
            pairs = itertools.zip_longest(before, now, fillvalue="nothing")
            first = next((old, new) for old, new in pairs if old != new)
            raise ValueError(
                f"`params` must be those of the updates before, with `{first[0]}`, got "
                f"`{first[1]}` in its place; make another tracker for others."
            )

    def _state_key(self, task: int) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(self.key, _STATES), task)


__all__ = ["Tracker"]
