"""What a density will take, told before it is begun: products, memory and time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hessspec._base.arguments import check_kind, whole_number
from hessspec._base.memory import resolve_budget, size
from hessspec._base.meshes import width_on
from hessspec._base.printing import counted
from hessspec._base.probes import gaussian_on
from hessspec._base.signatures import called_as
from hessspec._krylov.basis import LockstepBases, in_chunks, rows_read_together
from hessspec._krylov.lockstep import krylov, krylov_bytes
from hessspec._krylov.tiles import Layout
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import require_values
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._spectrum.density import DEFAULT_PROBES, DEFAULT_STEPS

_TIMED_STEPS = 3
_SHORT = 0.5  # seconds


@dataclass(frozen=True)
class Forecast:
    """What a run will take; prints as a sentence.

    Attributes:
        num_matvecs: products of the run, of all tasks.
        nbytes: memory of its vectors and of a block of products, the data not counted.
        seconds: time of the run on this device, all programs compiled.
        spent: products that this forecast executed itself.
        question: what would be run, in words.
    """

    num_matvecs: int
    nbytes: int
    seconds: float
    spent: int
    question: str

    def __str__(self) -> str:
        # Of a run this short, what the host does besides takes as long, and is not timed.
        short = self.seconds < _SHORT
        time = "a second or less" if short else f"about {duration(self.seconds)}"
        products = counted(self.num_matvecs, "product")
        return (
            f"{self.question} takes {products}, {time} on this device once "
            f"compiled, and about {size(self.nbytes)} beside the data "
            f"(timed with {counted(self.spent, 'product')})."
        )

    def __repr__(self) -> str:
        return str(self)


@called_as(
    "forecast(operator)",
    "forecast(hessspec.HessianOperator(loss_fn, params, data=batch))",
)
def forecast(
    operator: AbstractOperator,
    *,
    num_probes: int = DEFAULT_PROBES,
    num_steps: int = DEFAULT_STEPS,
    memory_budget: int | None = None,
) -> Forecast:
    """What `density` with these options will take: products, bytes and seconds, as a sentence.

    A few Lanczos steps are run twice, the second time with a clock. A step costs a block of
    products and a pass over the basis, which grows by one chunk of rows at a time; passes over
    further chunks are timed by themselves. What is left out is compiling, and on the host the last
    decompositions: about a second, which only counts where P is small; a run of less than half of
    that is printed as "a second or less".

    Args:
        operator: what will be multiplied.
        num_probes, num_steps: as for `density`.
        memory_budget: as for `density`.

    Raises:
        TypeError: if `operator` is none, or a count is no whole number.
        ValueError: if a count is below 1, or the loss or a product is not finite.
        MemoryError: if a few steps exceed the budget.

    Cost: 6 products for each probe, and one program compiled that the run will use again.

    Source: derived here; held against the clock in `tests/hessspec/spectrum/test_forecast.py`.
    """
    check_kind("operator", operator, AbstractOperator)
    require_values("forecast", operator)
    num_probes = whole_number("num_probes", num_probes)
    num_steps = whole_number("num_steps", num_steps)
    budget = resolve_budget(memory_budget)
    tasks = operator.num_tasks or 1
    scalar = operator if operator.num_tasks is None else operator.task(0)
    ask = f"The density of {counted(operator.dim, 'parameter')}"
    ask += f", {tasks} tasks," if tasks > 1 else ""
    if operator.dim <= num_steps:
        return _dense(scalar, tasks, f"{ask} by its whole matrix")
    room = budget - krylov_bytes(num_probes, num_steps, operator.dim, operator.dtype, operator.mesh)
    scalar = scalar.linearised(num_probes, max(room, 0))
    scalar.validate()
    indices = jnp.arange(num_probes)
    starts = gaussian_on(jax.random.key(0), indices, scalar.dim, scalar.dtype, scalar.mesh)
    steps = min(_TIMED_STEPS, num_steps)
    each = _seconds(lambda: krylov(scalar, starts, steps, memory_budget=budget).alpha) / steps
    layout = Layout.of_lanes(
        width_on(scalar.mesh, scalar.dim), scalar.dtype, num_probes, scalar.mesh
    )
    rows = rows_read_together(layout)
    passes = sum(math.ceil(j / rows) - 1 for j in range(1, num_steps + 1))
    reading = _one_pass(layout, in_chunks(num_steps, rows)) if passes else 0.0
    nbytes = krylov_bytes(num_probes, num_steps, scalar.dim, scalar.dtype, scalar.mesh)
    return Forecast(
        num_matvecs=tasks * num_probes * num_steps,
        nbytes=nbytes + scalar.product_bytes(num_probes),
        seconds=tasks * (num_steps * each + passes * reading),
        spent=2 * steps * num_probes,
        question=f"{ask} with {counted(num_probes, 'probe')} of {counted(num_steps, 'step')}",
    )


def _dense(scalar: AbstractOperator, tasks: int, ask: str) -> Forecast:
    dim, block = scalar.dim, min(BLOCK_ROWS, scalar.dim)
    rows = jnp.eye(block, dim, dtype=scalar.dtype)
    each = _seconds(lambda: scalar.rows(rows)) / block
    nbytes = scalar.product_bytes(dim)
    return Forecast(tasks * dim, nbytes, tasks * dim * each, 2 * block, ask)


def _one_pass(layout: Layout, room: int) -> float:
    """Seconds of a pass over one chunk of the bases, which have room for so many rows."""
    bases = LockstepBases(layout)
    bases.append(jnp.zeros((layout.lanes, layout.dim), layout.dtype))

    def read() -> Any:
        blocks = tuple(
            jnp.zeros((part.lanes, part.tiles, part.width), layout.dtype) for part in layout.parts
        )
        known = tuple(jnp.zeros((part.lanes, room), layout.dtype) for part in layout.parts)
        jax.block_until_ready((blocks, known))  # used up by the pass, and not to be timed
        begin = time.perf_counter()
        jax.block_until_ready(bases.project(blocks, known))
        return time.perf_counter() - begin

    read()
    return min(read() for _ in range(3))


def _seconds(run: Callable[[], Any]) -> float:
    """Of the second run: the first one compiles."""
    jax.block_until_ready(run())
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits."""
    for length, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
