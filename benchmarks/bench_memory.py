"""Claim: without reorthogonalisation a density at P = 1e8 needs at most 8 vectors more than one
jitted product; with it never above 1.2 times `memory_budget`, or an error with the ways out."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.claims import Bar, Check, Result, Scale, command
from benchmarks.machine import ROOT, free_bytes, peak_resident_bytes
from benchmarks.timing import Spread, Timing

PARAMETERS = 100_000_000
BUDGET_PARAMETERS = 20_000_000
STEPS = 3
NEEDED = 12 * 2**30  # of 16 GiB, what the two runs may take at most


def measure(scale: Scale) -> Result:
    dim = 1_000_000 if scale.tiny else PARAMETERS
    smaller = 200_000 if scale.tiny else BUDGET_PARAMETERS
    claim = (
        "Without reorthogonalisation a density at P = 1e8 needs at most 8 vectors more than one "
        "jitted product; with it at most 1.2 times memory_budget, or an error with the ways out."
    )
    if not scale.tiny and free_bytes() < NEEDED:
        return Result(claim, missing=f"needs {NEEDED >> 30} GiB of free memory")
    vector = 4 * dim
    plain = _in_fresh_process("product", dim, 0)
    lean = _in_fresh_process("lean", dim, 0)
    check = Check(
        "q'Hq of the density's start against the product's, relative to ‖Hq‖",
        abs(lean["moment"] - lean["expected"]) / lean["size"],
        1e-3,
    ).require()
    budget = 40 * 4 * smaller
    kept = _in_fresh_process("kept", smaller, budget)
    refused = _in_fresh_process("refused", smaller, budget)
    above = (lean["peak"] - plain["peak"]) / vector
    used = (kept["peak"] - kept["before"]) / budget
    return Result(
        claim=claim,
        bars=(
            Bar("vectors above the peak of one jitted product", _exact(above), "<=", 8, "vectors"),
            Bar("peak with reorthogonalisation, in memory_budget", _exact(used), "<=", 1.2, "x"),
            Bar(
                "errors with the ways out beyond the budget",
                _exact(float(refused["ways_out"])),
                ">=",
                1,
                "",
            ),
        ),
        sizes={
            "P": dim,
            "P of the runs with a budget": smaller,
            "probes": 1,
            "steps": STEPS,
            "memory_budget": budget,
            "loss": "mean(log cosh(x) + x sin(x)) + mean(x)², no data",
        },
        checks=(check,),
        timings={
            "one jitted product, compilation included": Timing((plain["seconds"],)),
            "density without reorthogonalisation, all included": Timing((lean["seconds"],)),
        },
        figures={
            "GiB of a vector": vector / 2**30,
            "GiB at the peak of one jitted product": plain["peak"] / 2**30,
            "GiB at the peak of the density": lean["peak"] / 2**30,
            "the error": refused["message"],
        },
        notes=(
            "Peaks are the most resident memory of a process of its own, Python and JAX included; "
            "for the runs with a budget, above what was there before the call.",
        ),
    )


def _exact(value: float) -> Spread:
    return Spread(value, value, value)


def _in_fresh_process(case: str, dim: int, budget: int) -> dict:
    words = [sys.executable, "-m", "benchmarks.bench_memory", "--case", case, str(dim), str(budget)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process for {case!r} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _case(case: str, dim: int, budget: int) -> dict:
    import time

    import jax
    import jax.numpy as jnp
    import numpy as np

    import hessspec

    def loss(x):
        bulk = jnp.logaddexp(x, -x) + x * jnp.sin(x)
        return jnp.mean(bulk) + jnp.mean(x) ** 2

    @jax.jit
    def product(x, v):
        return jax.jvp(jax.grad(loss), (x,), (v,))[1]

    key = jax.random.key(0)
    x = jnp.linspace(-2.0, 2.0, dim, dtype=jnp.float32)
    before, start = peak_resident_bytes(), time.perf_counter()
    if case == "product":
        jax.block_until_ready(product(x, jnp.ones_like(x)))
        return {"peak": peak_resident_bytes(), "seconds": time.perf_counter() - start}
    keyword = {"num_probes": 1, "progress": False}
    if case == "lean":
        found = hessspec.density(loss, x, key, num_steps=STEPS, reorthogonalize=False, **keyword)
        result = {"peak": peak_resident_bytes(), "seconds": time.perf_counter() - start}
        q = hessspec.gaussian(key, jnp.arange(1), dim, x.dtype)[0]
        q = q / jnp.linalg.norm(q)
        image = product(x, q)
        return result | {
            "moment": float(np.sum(np.asarray(found.weights) * np.asarray(found.nodes))),
            "expected": float(jnp.vdot(q, image)),
            "size": float(jnp.linalg.norm(image)),
        }
    if case == "kept":
        hessspec.density(loss, x, key, num_steps=STEPS, memory_budget=budget, **keyword)
        return {"peak": peak_resident_bytes(), "before": before}
    try:
        hessspec.density(loss, x, key, num_steps=100, memory_budget=budget, **keyword)
    except MemoryError as error:
        ways = ("num_steps", "num_probes", "memory_budget", "reorthogonalize=False")
        return {"ways_out": all(way in str(error) for way in ways), "message": str(error)}
    return {"ways_out": False, "message": "none was raised"}


if __name__ == "__main__":
    if "--case" in sys.argv:
        case, dim, budget = sys.argv[sys.argv.index("--case") + 1 :]
        print(json.dumps(_case(case, int(dim), int(budget))))
        sys.exit(0)
    sys.exit(command("bench_memory", measure, repeats=1))
