"""Claim: the first call of `density` takes less than 15 s more than a later one (the paper's
network), and the same for 1 batch and 100 batches."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from benchmarks.claims import Bar, Result, Scale, command
from benchmarks.machine import ROOT
from benchmarks.timing import Spread, Timing

MOLECULES = 2  # in a batch: compilation does not depend on it, and the products stay short
BATCHES = (1, 100)
PROBES, STEPS = 2, 20


def measure(scale: Scale) -> Result:
    counts = (1, 3) if scale.tiny else BATCHES
    calls: dict[int, list[list[float]]] = {count: [] for count in counts}
    for _ in range(scale.repeats):
        for count in counts:
            calls[count].append(_in_fresh_process(count, scale.tiny))
    first = {c: Timing(tuple(run[0] for run in calls[c])) for c in counts}
    steady = {c: Timing(tuple(min(run[1:]) for run in calls[c])) for c in counts}
    extra = {
        c: Spread.of([a - b for a, b in zip(first[c].seconds, steady[c].seconds, strict=True)])
        for c in counts
    }
    one, many = (extra[c] for c in counts)
    apart = abs(many.median - one.median)
    return Result(
        claim="The first call of density takes less than 15 s more than a later one on the paper's "
        "network, and the same for 1 batch and 100 batches.",
        bars=(
            *(
                Bar(f"first call minus a later one, {c} batch{'es' * (c > 1)}", extra[c], "<=", 15,
                    "s")
                for c in counts
            ),
            Bar("difference between the two", Spread(apart, apart, apart), "<=", 3, "s"),
        ),
        sizes={
            "network": "the paper's, initial",
            "molecules in a batch": MOLECULES,
            "batches": list(counts),
            "probes": PROBES,
            "steps": STEPS,
            "task": "the first of 4",
        },
        timings={
            f"{when}, {c} batch{'es' * (c > 1)}": timing[c]
            for c in counts
            for when, timing in (("first call", first), ("later call", steady))
        },
        notes=(
            "Each pair of calls in a process of its own, without a compilation cache on disk; "
            "imports, data and initial parameters come before the first call. A later call has "
            "another key and makes its operator anew; the shorter of two counts.",
            "The two are the same if they differ by less than 3 s, a fifth of the bar: the "
            "products of 100 batches take longer than that, and their times vary.",
        ),
    )  # fmt: skip


def _in_fresh_process(count: int, tiny: bool) -> list[float]:
    """Seconds of the first call and of two later ones."""
    words = [sys.executable, "-m", "benchmarks.bench_first_call", "--calls", str(count)]
    settings = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        words + ["--tiny"] * tiny, cwd=ROOT, env=settings, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the process for {count} batches failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _calls(count: int, tiny: bool) -> list[float]:
    import jax

    import hessspec
    from benchmarks.problems import graph_problem, is_shared
    from benchmarks.timing import seconds_of

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
            num_steps=STEPS,
            progress=False,
        )

    return [seconds_of(lambda seed=seed: density(seed)) for seed in range(3)]


if __name__ == "__main__":
    if "--calls" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--calls", type=int)
        parser.add_argument("--tiny", action="store_true")
        options = parser.parse_args()
        print(json.dumps(_calls(options.calls, options.tiny)))
        sys.exit(0)
    sys.exit(command("bench_first_call", measure, repeats=1))
