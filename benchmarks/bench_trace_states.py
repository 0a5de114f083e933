"""Claim: the traces of all tasks of the paper's network, each to the error that 500 Hutchinson
samples have, come at least 25 times faster than from 500 jitted products of each task after 400
steps of training on QM8, and at least 20 times at epoch 0 and for crystals.

    python -m benchmarks.bench_trace_states --states-only   # trains, half an hour at most; then
    python -m benchmarks.bench_trace_states                 # about ten quiet minutes

HESSSPEC_ENCODED names the folder of the encoded crystals; trained networks are kept in
HESSSPEC_BENCHMARKS, or among the temporary files."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import hessspec
from benchmarks.bench_hutchinson_tasks import vdot
from benchmarks.bench_network_hvp import PlainProduct
from benchmarks.claims import Bar, Check, Result, Scale, command
from benchmarks.problems import (
    OF_CRYSTALS,
    GraphProblem,
    cache_folder,
    crystals,
    graph_problem,
)
from benchmarks.timing import Spread, Timing, seconds_of
from hessspec import Batches, TraceEstimate
from hessspec_mtl.curvature.sketches import RANK, pull_backs, size_for_groups

SAMPLES = 500
BUDGET = 144  # products of each task, at most
SIGNS = 64  # Hutchinson samples that tell the error of 500
TINY_BUDGET, TINY_SIGNS = 40, 16
ROUNDS = 3  # of the plain products before each estimate
STEPS = 400
AFTER, BEFORE, CRYSTALS = "QM8 after 400 steps", "QM8 at epoch 0", "MP after 400 steps"
BARS = {AFTER: (25.0, 40.0), BEFORE: (20.0, 30.0), CRYSTALS: (20.0, 30.0)}


@dataclass(frozen=True, eq=False)
class Found:
    """One state: what a sample of signs deviates by, and estimates with their times."""

    problem: GraphProblem
    deviation: Float[np.ndarray, " tasks"]
    signs: TraceEstimate
    estimates: list[TraceEstimate]
    products: Timing
    traces: Timing

    @property
    def target(self) -> Float[np.ndarray, " tasks"]:
        """The error of 500 samples."""
        return self.deviation / SAMPLES**0.5

    @property
    def stated(self) -> Float[np.ndarray, " tasks"]:
        """Root mean square over the estimates."""
        return np.sqrt(np.mean([e.standard_error**2 for e in self.estimates], axis=0))

    @property
    def faster(self) -> Float[np.ndarray, " tasks"]:
        """Times, with errors above and below the target credited alike: time x variance."""
        return self.products.median / self.traces.median * (self.target / self.stated) ** 2

    @property
    def spread(self) -> Spread:
        """Of the slowest task, over the estimates one by one."""
        value = float(self.faster.min())
        each = [
            (self.products.median / seconds * (self.target / e.standard_error) ** 2).min()
            for e, seconds in zip(self.estimates, self.traces.seconds, strict=True)
        ]
        lower, upper = np.quantile(each, [0.25, 0.75])
        return Spread(value, min(float(lower), value), max(float(upper), value))


def look(problem: GraphProblem, scale: Scale) -> Found:
    """The state of a problem: plain products, plain samples, and traces, one after the other."""
    tasks, size = len(problem.tasks), size_for_groups(problem.graphs, problem.num_graphs - 1)
    batches = problem.batches(size)
    counts = [batch.num_graphs for batch in batches]
    device = jax.device_put(batches)
    whole = problem.operator()
    parted = problem.operator(data=Batches(device, sizes=counts))
    plain = PlainProduct(problem)
    probe = hessspec.rademacher(jax.random.key(9), jnp.arange(1), whole.dim, whole.dtype)[0]
    tangent = plain.tangent(probe)

    def plain_forms() -> list[jax.Array]:
        return [vdot(tangent, plain.tree(tangent, task)) for task in range(tasks)]

    def estimate(seed: int) -> TraceEstimate:
        key = jax.random.fold_in(jax.random.key(8), seed)
        rows = pull_backs(problem.params, problem.network, batches, RANK, jax.random.key(seed))
        budget = TINY_BUDGET if scale.tiny else BUDGET
        return hessspec.trace(parted, key=key, num_matvecs=budget, directions=rows, progress=False)

    jax.block_until_ready(plain_forms())
    estimate(1000)  # compiles
    count = TINY_SIGNS if scale.tiny else SIGNS
    signs = hessspec.trace(
        whole, key=jax.random.key(7), method="hutchinson", num_matvecs=count, progress=False
    )
    estimates, products, seconds = [], [], []
    for seed in range(max(2, scale.repeats)):
        products += [seconds_of(plain_forms) * SAMPLES for _ in range(ROUNDS)]
        begin = time.perf_counter()
        estimates.append(estimate(seed))
        seconds.append(time.perf_counter() - begin)
    deviation = np.asarray(signs.samples).std(axis=-1, ddof=1)
    times = Timing(tuple(products), 1 / SAMPLES), Timing(tuple(seconds))
    return Found(problem, deviation, signs, estimates, *times)


def problems(tiny: bool) -> dict[str, GraphProblem]:
    """The states at hand."""
    count, steps = (10, 2) if tiny else (64, STEPS)
    found = {
        AFTER: graph_problem(count, steps=steps, tiny=tiny),
        BEFORE: graph_problem(count, tiny=tiny),
    }
    if not tiny and (encoded := crystals()) is not None:
        # Half as many: a crystal has three times the edges of a molecule.
        found[CRYSTALS] = graph_problem(
            count // 2, steps=steps, molecules=encoded, recipe=OF_CRYSTALS
        )
    return found


def measure(scale: Scale) -> Result:
    states = problems(scale.tiny)
    found = {name: look(problem, scale) for name, problem in states.items()}
    missing = "" if CRYSTALS in found else f"No row for {CRYSTALS}: set HESSSPEC_ENCODED"
    bars = []
    for name, one in found.items():
        bar, aim = BARS[name]
        what = f"{name}: times faster, the slowest task"
        bars += [
            Bar(what, one.spread, ">=", bar, "x"),
            Bar(f"{what} (aim)", one.spread, ">=", aim, "x", claimed=False),
        ]
    first = found[AFTER].problem
    return Result(
        claim="The traces of all tasks, each to the error of 500 Hutchinson samples, come at least "
        "25 times faster than from 500 jitted jvp-of-grad products of each after 400 steps, and 20 "
        "times at epoch 0 and for crystals.",
        bars=tuple(bars),
        sizes={
            "P": first.operator().dim,
            "graphs": {name: one.problem.num_graphs for name, one in found.items()},
            "data": {name: one.problem.source for name, one in found.items()},
            "seeds": max(2, scale.repeats),
            "num_matvecs": TINY_BUDGET if scale.tiny else BUDGET,
            "Hutchinson samples for the target": TINY_SIGNS if scale.tiny else SIGNS,
        },
        checks=tuple(unbiased(name, one) for name, one in found.items()),
        timings={
            f"{name}: {what}": timing
            for name, one in found.items()
            for what, timing in (
                (f"{len(one.problem.tasks)} x {SAMPLES} jitted products", one.products),
                ("traces of all tasks", one.traces),
            )
        },
        figures={name: figures(one) for name, one in found.items()},
        notes=(
            "Errors are those that the estimates state; that they hold on this network is the "
            "subject of docs/studies/network_traces.md. Time x variance is compared, so errors "
            "above and below the target count alike.",
            f"Traces are as `hessspec_mtl` takes them: {RANK} pull-backs of random signs, whose "
            "time is counted, and eight batches, or fewer where padding would cost more.",
            f"The products are scaled from {ROUNDS} rounds before each estimate; the spread is "
            "over the estimates, the target known to a tenth."
            + (f" {missing}." if missing else ""),
        ),
    )


def figures(one: Found) -> dict[str, object]:
    """What a reader wants to see of a state."""

    def by_task(values: np.ndarray) -> dict[str, float]:
        return dict(zip(one.problem.tasks, map(float, values), strict=True))

    return {
        "times faster by task": by_task(one.faster),
        "error of 500 Hutchinson samples": by_task(one.target),
        "stated error, rms": by_task(one.stated),
        "traces": by_task(np.mean([e.value for e in one.estimates], axis=0)),
        "choices": [str(e.choice) for e in one.estimates],
        "samples": [e.num_samples for e in one.estimates],
    }


def unbiased(name: str, one: Found) -> Check:
    """The mean of the traces against plain Hutchinson's, in standard errors of the latter."""
    error = one.deviation / one.signs.num_samples**0.5
    mean = np.mean([e.value for e in one.estimates], axis=0)
    deviations = np.abs(mean - one.signs.value) / error
    what = f"{name}: traces by `auto` against Hutchinson's, in the standard errors of the latter"
    return Check(what, float(deviations.max()), 5.0).require()


if __name__ == "__main__":
    if sys.argv[1:] == ["--states-only"]:
        print(", ".join(problems(tiny=False)), "are kept in", cache_folder())
        sys.exit()
    sys.exit(command("bench_trace_states", measure, repeats=2))
