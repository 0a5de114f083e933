"""The benchmark table on an accelerator: products, densities, traces, other libraries.

python -m benchmarks.gpu.speed --out FOLDER

Three problems: the tanh network of the other benchmarks on more examples, the paper's network on
256 molecules of QM8, and a decoder of the size of GPT-2. All in float32 proper but where TF32 is
named. What counts most comes first, so that a call that is cut loses the least.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.bench_hutchinson_tasks import vdot
from benchmarks.bench_network_hvp import PlainProduct
from benchmarks.claims import ROUNDING, Check, relative_difference
from benchmarks.gpu.clock import first_calls, seconds_each
from benchmarks.gpu.peers import PEERS, compared
from benchmarks.gpu.problems import (
    Problem,
    decoder,
    graphs,
    in_full,
    in_precision,
    peak,
    tanh,
    tanh_network,
)
from benchmarks.gpu.step import Figures, Measurement, command

SAMPLES = 500  # of Hutchinson's trace, the paper's way
SIGNS = 128  # of them tell the error of all
BUDGET = 256  # products of `trace`
SEEDS = 3


def measurements(tiny: bool, out: Path) -> Sequence[Measurement]:
    """All of them, what counts most first; the seconds are those of an H100, generously."""
    del out
    in_full()
    network, molecules, text = (cache(partial(p, tiny)) for p in (tanh, graphs, decoder))
    sixteen, few, fifty = 2 if tiny else 16, (2,) if tiny else (1, 4), 4 if tiny else 50
    found = [
        Measurement("peak", 3, partial(peak, tiny)),
        Measurement("tanh network: blocks of 16", 25, partial(blocks, network, (sixteen,))),
        Measurement("graph network: blocks of 16", 70, partial(blocks, molecules, (sixteen,))),
        Measurement("graph network: forms", 45, partial(forms, molecules, sixteen)),
        Measurement("decoder: blocks of 1 and 4", 60, partial(blocks, text, few)),
        Measurement("tanh network: density", 15, partial(density, network, 2, fifty)),
        Measurement("graph network: density", 40, partial(density, molecules, 2, fifty)),
        Measurement("graph network: traces", 70, partial(traces, molecules, tiny)),
        Measurement("decoder: density", 45, partial(density, text, 1, 4 if tiny else 20)),
        *(
            Measurement(f"tanh network: {peer}", 40, partial(compared, peer, tanh_network(tiny)))
            for peer in PEERS
        ),
        Measurement("tanh network: TF32", 15, partial(blocks_in_tf32, network, sixteen)),
    ]
    if tiny:
        return found
    # More of the same: a rehearsal would only compile.
    return [
        *found,
        Measurement("tanh network: blocks of 1, 4, 64", 40, partial(blocks, network, (1, 4, 64))),
        Measurement("decoder: TF32", 45, partial(blocks_in_tf32, text, few[-1])),
        Measurement("graph network: TF32", 45, partial(blocks_in_tf32, molecules, sixteen)),
        Measurement("graph network: blocks of 1 and 64", 90, partial(blocks, molecules, (1, 64))),
    ]


def blocks(problem: Any, sizes: Sequence[int]) -> Figures:
    """Seconds of a product in blocks, one row after the other and abreast; a gradient beside them.

    Each way is checked against a plain jvp of the gradient before it is timed.
    """
    p: Problem = problem()
    tasks = {"gradient": p.gradient}
    rows: dict[str, Any] = {}
    for size in sizes:
        block = signs(size, p.dim)
        for abreast in sorted({1, min(4, size), size}):
            name = f"block of {size}, {abreast} abreast"
            rows[name] = partial(p.operator(abreast=abreast, block_rows=size).rows, block)
    compile_s = first_calls(tasks | rows)
    expected = p.plain(signs(1, p.dim)[0])
    found: dict[str, Any] = {"P": p.dim, **p.sizes, "first calls, s": compile_s}
    gradient = seconds_each(p.gradient, most=1.0)
    found["gradient"] = gradient
    for name, run in rows.items():
        check = Check(name, relative_difference(run()[:1], expected[None]), ROUNDING).require()
        size = int(name.split(",")[0].split()[-1])
        time_of = seconds_each(run, most=1.5)
        each = time_of["median_s"] / size
        found[name] = {
            "s of a product": each,
            "gradients": each / gradient["median_s"],
            "Tflop/s": p.product_flops / each / 1e12,
            "rounds": time_of["rounds"],
            "deviation": check.deviation,
        }
    return found | memory()


def blocks_in_tf32(problem: Any, size: int) -> Figures:
    """The same with TF32 in all matrix products: its time, and how far off its products are."""
    p: Problem = problem()
    block = signs(size, p.dim)
    full = p.operator(abreast=size, block_rows=size).rows(block)
    with in_precision("tensorfloat32"):
        again: Problem = problem.__wrapped__()  # traced anew, in the precision in force
        run = partial(again.operator(abreast=size, block_rows=size).rows, block)
        rows = run()
        each = seconds_each(run, most=1.5)["median_s"] / size
    inner = np.asarray(block, np.float64) @ np.asarray(rows, np.float64).T
    length = float(np.linalg.norm(np.asarray(block[0])) * np.linalg.norm(np.asarray(rows[0])))
    return {
        "s of a product": each,
        "relative deviation": relative_difference(rows, full),
        "asymmetry, of |H v| |v|": float(np.abs(inner - inner.T).max() / length),
    }


def forms(problem: Any, size: int) -> Figures:
    """Seconds of v'H_t v of all tasks at once, against plain products of each."""
    p: Problem = problem()
    block = signs(size, p.dim)
    runs = {
        f"{abreast} abreast": partial(
            p.operator(abreast=abreast, block_rows=size, all_tasks=True).forms, block
        )
        for abreast in (1, size)
    }
    plain = PlainProduct(p.graph)
    tangent = plain.tangent(block[0])
    names = p.graph.tasks

    def plain_forms() -> list[jax.Array]:
        return [vdot(tangent, plain.tree(tangent, task)) for task in range(len(names))]

    found: dict[str, Any] = {"first calls, s": first_calls({**runs, "plain": plain_forms})}
    expected = np.asarray(plain_forms(), np.float64)
    product = seconds_each(plain_forms, most=1.0)["median_s"] / len(names)
    found["s of a plain product"] = product
    scale = float(np.abs(expected).max())
    for name, run in runs.items():
        gap = float(np.abs(np.asarray(run(), np.float64)[:, 0] - expected).max() / scale)
        # A form is a sum of P terms of both signs; what is left of it may be smaller than they are.
        Check(f"forms, {name}", gap, 10 * ROUNDING).require()
        each = seconds_each(run, most=1.0)["median_s"] / size
        found[name] = {"s of all tasks": each, "plain products": each / product, "deviation": gap}
    return found | memory()


def density(problem: Any, num_probes: int, num_steps: int) -> Figures:
    """Seconds of a density, first and again, and in products of the same blocks."""
    p: Problem = problem()
    hessian = p.operator()

    def run(seed: int) -> hessspec.SpectralDensity:
        key = jax.random.key(seed)
        return hessspec.density(
            hessian, key=key, num_probes=num_probes, num_steps=num_steps, progress=False
        )

    times = []
    for seed in range(3):
        start = time.perf_counter()
        found = run(seed)
        times.append(time.perf_counter() - start)
    later = min(times[1:])
    ends = found.extremes()
    return {
        "P": p.dim,
        "probes": num_probes,
        "steps": num_steps,
        "first, s": times[0],
        "later, s": later,
        "s of a step and probe": later / (num_probes * num_steps),
        "plan": found.product_plan,
        "largest": float(ends.largest),
        "smallest": float(ends.smallest),
        "trace": float(found.trace().value),
        **memory(),
    }


def traces(problem: Any, tiny: bool) -> Figures:
    """Four traces to the error of 500 Hutchinson samples, against 4 x 500 plain products."""
    p: Problem = problem()
    hessians, plain = p.operator(all_tasks=True), PlainProduct(p.graph)
    names = p.graph.tasks
    tangent = plain.tangent(signs(1, p.dim)[0])

    def plain_forms() -> list[jax.Array]:
        return [vdot(tangent, plain.tree(tangent, task)) for task in range(len(names))]

    def estimate(seed: int, count: int, method: Any) -> hessspec.TraceEstimate:
        key = jax.random.key(seed)
        return hessspec.trace(hessians, key=key, method=method, num_matvecs=count, progress=False)

    of_signs = estimate(100, 16 if tiny else SIGNS, "hutchinson")
    target = np.asarray(of_signs.samples).std(axis=-1, ddof=1) / SAMPLES**0.5
    times, errors, values = [], [], []
    for seed in range(SEEDS):
        start = time.perf_counter()
        found = estimate(seed, 48 if tiny else BUDGET, "auto")
        times.append(time.perf_counter() - start)
        errors.append(np.asarray(found.standard_error))
        values.append(np.asarray(found.value))
    paper = seconds_each(plain_forms, most=2.0)["median_s"] * SAMPLES
    error, ours = np.mean(errors, axis=0), float(np.median(times[1:]))
    # A larger error than the target's is reached by more samples, in proportion to its square.
    share = np.minimum(1.0, (target / error) ** 2)
    return {
        "tasks": list(names),
        "traces": np.mean(values, axis=0).tolist(),
        "by signs": np.asarray(of_signs.value).tolist(),
        "error of 500 samples": target.tolist(),
        "stated error": error.tolist(),
        "num_matvecs": found.num_matvecs,
        "plan": found.product_plan,
        "first, s": times[0],
        "later, s": ours,
        "4 x 500 plain products, s": paper,
        "times faster": (paper / ours * share).tolist(),
        **memory(),
    }


def signs(count: int, dim: int) -> jax.Array:
    """The same random signs for all ways of multiplying."""
    return hessspec.rademacher(jax.random.key(5), jnp.arange(count), dim, jnp.float32)


def memory() -> dict[str, float]:
    """GiB in use at most since the process began; nothing where the device does not say."""
    most = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {} if most is None else {"peak GiB": most / 2**30}


if __name__ == "__main__":
    sys.exit(command("speed", measurements, seconds=240))
