"""What the tracker found at each step, one record each, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from hessspec._base.printing import Facts, Printed, with_error
from hessspec._base.tasks import TaskAxis
from hessspec._trace.estimate import TraceEstimate

Column = Float[np.ndarray, "..."]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class TrackedStep(Printed, TaskAxis):
    """What `Tracker.update` found at one step of training.

    A loss with T values adds a leading task axis to every array. All are float64 on the host.

    Attributes:
        values: the k tracked eigenvalues, the most wanted first, in the units of H (of D H D, if a
            scale is tracked).
        residuals: |Hv - θv| of each, from products with the vectors: an eigenvalue lies within.
        converged: whether each residual is at most `tol` times the norm of H.
        loss: the loss at the parameters; nan where an operator was tracked that has none.
        gradient_share: the share of |∇L|² in the span of the k vectors (of |D∇L|², if a scale is
            tracked); nan where there is no gradient or it is 0.
        rotation: the largest angle between this span and that of the update before, in radians;
            nan at the first.
        trace_samples: unbiased samples of tr H, one for each probe; probes are the same at all
            steps. None if the trace was not asked for.
        step: the step, as the training loop counts.
        num_matvecs: products and forms executed, for all tasks.
        seconds: how long the update took.
        dim: P, the number of chosen parameters.
    """

    values: Float[Array | np.ndarray, "*tasks k"]
    residuals: Float[Array | np.ndarray, "*tasks k"]
    converged: Bool[Array | np.ndarray, "*tasks k"]
    loss: Float[Array | np.ndarray, "*tasks"]
    gradient_share: Float[Array | np.ndarray, "*tasks"]
    rotation: Float[Array | np.ndarray, "*tasks"]
    trace_samples: Float[Array | np.ndarray, "*tasks n"] | None = None
    step: int = field(default=0, metadata={"static": True})
    num_matvecs: int = field(default=0, metadata={"static": True})
    seconds: float = field(default=0.0, metadata={"static": True})
    dim: int = field(default=0, metadata={"static": True})

    @property
    def trace(self) -> TraceEstimate | None:
        """The estimate of tr H with its error, or None if it was not asked for."""
        if self.trace_samples is None:
            return None
        return tracked_trace(np.asarray(self.trace_samples), self.dim)

    def as_dict(self) -> dict[str, float]:
        """All numbers under flat names (`value_0`, `task_1/value_0`, ...), for loggers."""
        numbers: dict[str, float] = {"step": self.step}
        tasks = self.num_tasks
        for index in range(tasks or 1):
            one = self if tasks is None else self.task(index)
            prefix = "" if tasks is None else f"task_{index}/"
            for name in ("loss", "gradient_share", "rotation"):
                numbers[prefix + name] = float(getattr(one, name))
            for place in range(np.shape(one.values)[-1]):
                numbers[f"{prefix}value_{place}"] = float(np.asarray(one.values)[place])
                numbers[f"{prefix}residual_{place}"] = float(np.asarray(one.residuals)[place])
            if one.trace is not None:
                numbers[prefix + "trace"] = float(one.trace.value)
                numbers[prefix + "trace_error"] = float(one.trace.standard_error)
        return numbers | {"num_matvecs": self.num_matvecs, "seconds": self.seconds}

    def _facts(self) -> Facts:
        title = f"Step {self.step}: {self.num_matvecs} products, {self.seconds:.2f} s"
        rows: list[tuple[str, str]] = []
        for index in range(self.num_tasks or 1):
            one = self if self.num_tasks is None else self.task(index)
            suffix = "" if self.num_tasks is None else f" of task {index}"
            pairs = zip(np.asarray(one.values), np.asarray(one.residuals), strict=True)
            rows.append((f"eigenvalues{suffix}", ", ".join(with_error(*pair) for pair in pairs)))
            if one.trace is not None:
                error = one.trace.standard_error
                rows.append((f"trace{suffix}", with_error(one.trace.value, error)))
        missed = int(np.sum(~np.asarray(self.converged, bool)))
        return Facts(title, rows, [f"{missed} have not converged"] if missed else [])

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.values)[:-1]


def tracked_trace(samples: Float[np.ndarray, "*tasks n"], dim: int) -> TraceEstimate:
    """The estimate that these samples make, each of them one product or form beside the values."""
    tasks = int(np.prod(samples.shape[:-1]))
    return TraceEstimate.from_samples(
        samples,
        method="tracked",
        dim=dim,
        num_matvecs=samples.size,
        matvecs_per_sample=float(tasks),
    )


_ARRAYS = ("values", "residuals", "converged", "loss", "gradient_share", "rotation")
_NUMBERS = ("step", "num_matvecs", "seconds")


def table_of(steps: Sequence[TrackedStep]) -> dict[str, Column]:
    """One array for each name, its first axis the updates."""
    table: dict[str, Any] = {name: np.array([getattr(s, name) for s in steps]) for name in _NUMBERS}
    table |= {name: np.array([np.asarray(getattr(s, name)) for s in steps]) for name in _ARRAYS}
    if steps and steps[0].trace_samples is not None:
        traces = [step.trace for step in steps]
        table["trace"] = np.array([t.value for t in traces if t is not None])
        table["trace_error"] = np.array([t.standard_error for t in traces if t is not None])
        table["trace_samples"] = np.array([np.asarray(s.trace_samples) for s in steps])
    return table


def steps_of(table: dict[str, Column], dim: int) -> list[TrackedStep]:
    """The records of a table that `table_of` made."""
    count = len(table["step"])
    samples = table.get("trace_samples", [None] * count)
    return [
        TrackedStep(
            **{name: table[name][n] for name in _ARRAYS},
            trace_samples=samples[n],
            step=int(table["step"][n]),
            num_matvecs=int(table["num_matvecs"][n]),
            seconds=float(table["seconds"][n]),
            dim=dim,
        )
        for n in range(count)
    ]
