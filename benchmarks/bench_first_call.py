"""Claim: the first call of `density` takes less than 15 s more than a later one (the paper's
network), and the same for 1 batch and 100 batches.

    python -m benchmarks.bench_first_call --stages BATCHES STEPS

prints where the processor time of one first call goes: tracing, lowering and each large program."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.claims import Bar, Result, Scale, command
from benchmarks.machine import ROOT
from benchmarks.timing import Spread, Timing, stages_of

# In a batch: the products stay short. More molecules compile in less time, since the smallest
# matrix products have kernels of their own.
MOLECULES = 1
PROBES = 2
DEFAULT_STEPS, FEW_STEPS = 60, 4


@dataclass(frozen=True)
class Case:
    """A density whose first and later calls are timed in one fresh process."""

    batches: int
    steps: int

    def __str__(self) -> str:
        return f"{self.batches} batch{'es' * (self.batches > 1)}, {self.steps} steps"


def measure(scale: Scale) -> Result:
    many = 3 if scale.tiny else 100
    whole, one, all_of_them = Case(1, DEFAULT_STEPS), Case(1, FEW_STEPS), Case(many, FEW_STEPS)
    first: dict[Case, list[float]] = {}
    later: dict[Case, list[float]] = {}
    for _ in range(scale.repeats):
        for case in (whole, one, all_of_them):
            calls = _in_fresh_process(case, scale.tiny)
            first.setdefault(case, []).append(calls[0])
            later.setdefault(case, []).append(min(calls[1:]))
    extra = {case: Spread.of(np.subtract(first[case], later[case])) for case in first}
    apart = abs(extra[all_of_them].median - extra[one].median)
    return Result(
        claim="The first call of density takes less than 15 s more than a later one on the paper's "
        "network, and the same for 1 batch and 100 batches.",
        bars=(
            *(Bar(f"first call minus a later one, {c}", extra[c], "<=", 15, "s") for c in extra),
            Bar(
                f"difference between {one} and {all_of_them}",
                Spread(apart, apart, apart),
                "<=",
                3,
                "s",
            ),
        ),
        sizes={
            "network": "the paper's, initial",
            "molecules in a batch": MOLECULES,
            "probes": PROBES,
            "task": "the first of 4",
        },
        timings={
            f"{when}, {case}": Timing(tuple(times[case]))
            for case in first
            for when, times in (("first call", first), ("later call", later))
        },
        notes=(
            "Each row in a process of its own, without a compilation cache on disk; imports, data "
            "and initial parameters come before the first call. A later call has another key and "
            "makes its operator anew; the shorter of two counts.",
            f"{DEFAULT_STEPS} steps are the default. 100 batches are compared with 1 at "
            f"{FEW_STEPS} steps, where the products themselves take little; the two are the same "
            "if they differ by less than 3 s, a fifth of the bar.",
        ),
    )


def _in_fresh_process(case: Case, tiny: bool) -> list[float]:
    """Seconds of the first call and of two later ones."""
    words = [sys.executable, "-m", "benchmarks.bench_first_call"]
    words += ["--calls", str(case.batches), str(case.steps)]
    settings = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        words + ["--tiny"] * tiny, cwd=ROOT, env=settings, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the process for {case} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _calls(count: int, steps: int, tiny: bool) -> list[float]:
    from benchmarks.timing import seconds_of

    density = _density(count, steps, tiny)
    return [seconds_of(lambda seed=seed: density(seed)) for seed in range(3)]


def _density(count: int, steps: int, tiny: bool) -> Callable[[int], Any]:
    """A density of the paper's network as a function of its seed."""
    import jax

    import hessspec
    from benchmarks.problems import graph_problem, is_shared

    problem = graph_problem(MOLECULES, tiny=tiny)
    # The same molecules each time: what is compiled knows shapes only.
    batches = hessspec.Batches([problem.batch] * count, sizes=[MOLECULES] * count)

    def first_task(params, batch):
        return problem.losses(params, batch)[0]

    def density(seed: int) -> hessspec.SpectralDensity:
        return hessspec.density(
            first_task,
            problem.params,
            jax.random.key(seed),
            data=batches,
            where=is_shared,
            num_probes=PROBES,
            num_steps=steps,
            progress=False,
        )

    return density


def _stages(count: int, steps: int) -> None:
    """Print processor seconds of a first call by stage, inner stages not counted twice."""
    density = _density(count, steps, tiny=False)

    def told(stage: str, program: str, seconds: float) -> None:
        if seconds > 0.5:
            print(f"{seconds:8.2f}  {stage} of {program}")

    spent = stages_of(lambda: density(0), told)
    total = spent.pop("all")
    rest = {"the rest": total - sum(spent.values())}
    for stage, seconds in {**spent, **rest, "all": total}.items():
        print(f"{seconds:8.2f}  {stage}, in all")


if __name__ == "__main__":
    if "--stages" in sys.argv:
        _stages(int(sys.argv[-2]), int(sys.argv[-1]))
        sys.exit(0)
    if "--calls" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--calls", type=int, nargs=2)
        parser.add_argument("--tiny", action="store_true")
        options = parser.parse_args()
        count, steps = options.calls
        print(json.dumps(_calls(count, steps, options.tiny)))
        sys.exit(0)
    sys.exit(command("bench_first_call", measure, repeats=1))
