"""Claim: a first call costs little beside the compilation of what anybody would write by hand,
`jit(grad)` and `jit(jvp(grad))` of the same loss.

    python -m benchmarks.bench_first_verbs --programs VERB

prints the programs that the first call of one verb compiles, and the processor time of each."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.claims import Bar, Result, Scale, command
from benchmarks.machine import ROOT
from benchmarks.timing import Spread, stages_of

BY_HAND = "by hand"
BOUNDS = {"hvp": 1.5, "density": 1.5, "eigenpairs": 1.5, "trace": 1.75, "diagonal": 2.5}


class Cost(NamedTuple):
    """Processor seconds of a first call and of a later one, and the programs each compiled."""

    first: float
    later: float
    programs: int
    programs_later: int


def measure(scale: Scale) -> Result:
    runs: dict[str, list[Cost]] = {name: [] for name in (BY_HAND, *BOUNDS)}
    for _ in range(scale.repeats):
        for name, costs in runs.items():
            costs.append(_in_fresh_process(name, scale.tiny))
    by_hand = np.array([cost.first for cost in runs[BY_HAND]])
    bars = []
    for name, bound in BOUNDS.items():
        ratios = Spread.of([cost.first for cost in runs[name]] / by_hand)
        bars.append(Bar(f"first call of {name} over compilation by hand", ratios, "<=", bound))
        again = Spread.of([cost.programs_later for cost in runs[name]])
        bars.append(Bar(f"programs compiled by a later {name}", again, "<=", 0))
    return Result(
        claim="The first call of a verb takes at most 1.5 (hvp, density, eigenpairs), 1.75 (trace) "
        "or 2.5 times (diagonal) the processor time that jit(grad) and jit(jvp(grad)) of the same "
        "loss take to compile; a later call compiles nothing.",
        bars=tuple(bars),
        sizes=_problem(scale.tiny).sizes(),
        figures={
            f"processor seconds of a first call (a later one) and programs, {name}": ", ".join(
                f"{cost.first:.2f} ({cost.later:.2f}), {cost.programs}" for cost in costs
            )
            for name, costs in runs.items()
        },
        notes=(
            "Each row in a process of its own, without a compilation cache on disk; imports, "
            "parameters and data come before. Processor time of all threads, products included: "
            "on a shared machine wall time says little.",
            "All options of the verbs are the default.",
        ),
    )


def _problem(tiny: bool) -> Any:
    from benchmarks.problems import Transformer

    return Transformer(layers=1, width=16, vocabulary=16) if tiny else Transformer()


def _in_fresh_process(name: str, tiny: bool) -> Cost:
    words = [sys.executable, "-m", "benchmarks.bench_first_verbs", "--cost", name]
    settings = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        words + ["--tiny"] * tiny, cwd=ROOT, env=settings, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the process for {name} failed: {done.stderr[-2000:]}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _cost(name: str, tiny: bool) -> Cost:
    from benchmarks.timing import Compilations, finished

    call = _call(name, tiny)
    compiled = Compilations()
    seconds, programs = [], []
    for _ in range(2):
        start, before = time.process_time(), compiled.count
        finished(call)
        seconds.append(time.process_time() - start)
        programs.append(compiled.count - before)
    return Cost(*seconds, *programs)


def _call(name: str, tiny: bool) -> Callable[[], Any]:
    """One call of a verb, or of the two functions that somebody writes by hand."""
    import jax

    import hessspec

    problem = _problem(tiny)
    params, batch = problem.params_and_batch()
    loss, key = problem.loss, jax.random.key(0)
    finished = jax.block_until_ready
    finished(jax.random.uniform(key))  # the compiler's own start is nobody's cost
    if name == BY_HAND:
        gradient = jax.grad(loss)

        def product(params: Any, vector: Any, batch: Any) -> Any:
            return jax.jvp(lambda p: gradient(p, batch), (params,), (vector,))[1]

        first, second = jax.jit(gradient), jax.jit(product)
        return lambda: (first(params, batch), second(params, params, batch))
    if name == "hvp":
        return lambda: hessspec.hvp(loss, params, params, data=batch)
    verb = getattr(hessspec, name)
    return lambda: jax.tree.leaves(verb(loss, params, key, data=batch, progress=False))


def _programs(name: str, tiny: bool) -> None:
    """Print the programs of a first call, and its processor seconds by stage."""

    def told(stage: str, program: str, seconds: float) -> None:
        if stage == "backend_compile":
            print(f"{seconds:8.3f}  {program}")

    for stage, seconds in stages_of(_call(name, tiny), told).items():
        print(f"{seconds:8.3f}  {stage}, in all")


if __name__ == "__main__":
    if {"--cost", "--programs"} & set(sys.argv):
        parser = argparse.ArgumentParser()
        parser.add_argument("--cost", choices=(BY_HAND, *BOUNDS))
        parser.add_argument("--programs", choices=(BY_HAND, *BOUNDS))
        parser.add_argument("--tiny", action="store_true")
        options = parser.parse_args()
        if options.programs:
            _programs(options.programs, options.tiny)
        else:
            print(json.dumps(_cost(options.cost, options.tiny)))
        sys.exit(0)
    sys.exit(command("bench_first_verbs", measure, repeats=1))
