"""Claim: 500 samples of Hutchinson's trace for 4 tasks take a seventh of 4 x 500 jitted products
(the paper's network on 64 molecules)."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.bench_network_hvp import PlainProduct
from benchmarks.claims import ROUNDING, Bar, Check, Result, Scale, command
from benchmarks.problems import graph_problem
from benchmarks.timing import Task, interleaved

SAMPLES = 500
OURS = 16  # samples of all tasks in a round
PLAIN = 2  # samples of each task in a round


def measure(scale: Scale) -> Result:
    problem = graph_problem(4 if scale.tiny else 64, tiny=scale.tiny)
    hessians = problem.operator()
    num_tasks = len(problem.tasks)
    product = PlainProduct(problem)
    key = jax.random.key(5)
    probes = hessspec.rademacher(key, jnp.arange(PLAIN), hessians.dim, hessians.dtype)
    tangents = [product.tangent(v) for v in probes]

    def plain_forms() -> list[list[jax.Array]]:
        """v'H_t v as in the paper: one product a task and sample."""
        return [
            [vdot(tangent, product.tree(tangent, task)) for tangent in tangents]
            for task in range(num_tasks)
        ]

    def trace() -> hessspec.TraceEstimate:
        return hessspec.trace(
            hessians, key=key, method="hutchinson", num_matvecs=OURS, progress=False
        )

    found, expected = np.asarray(trace().samples)[:, :PLAIN], np.asarray(plain_forms(), float)
    images = [[float(jnp.linalg.norm(product(v, t))) for v in probes] for t in range(num_tasks)]
    lengths = np.asarray(images) * hessians.dim**0.5  # v'Hv is at most ‖v‖ ‖Hv‖
    check = Check(
        "forms v'Hv of both ways, relative to ‖v‖ ‖Hv‖",
        float(np.max(np.abs(found - expected) / lengths)),
        ROUNDING,
    ).require()

    timings = interleaved(
        {
            "500 samples, 4 tasks: trace(method='hutchinson')": Task(trace, OURS / SAMPLES),
            "500 samples, 4 tasks: jitted jvp of grad": Task(plain_forms, PLAIN / SAMPLES),
        },
        scale.repeats,
    )
    ours, plain = timings.values()
    return Result(
        claim="500 samples of Hutchinson's trace for 4 tasks are at least 7 times faster than "
        "4 x 500 jitted jvp-of-grad products (the paper's network on 64 molecules).",
        bars=(Bar("times faster", plain.over(ours), ">=", 7.0, "x"),),
        sizes={
            "P": hessians.dim,
            "tasks": num_tasks,
            "molecules": problem.num_graphs,
            "data": problem.source,
            "network": problem.state,
            "samples timed in all": {
                "trace": OURS * scale.repeats,
                "jvp of grad": PLAIN * scale.repeats,
            },
        },
        checks=(check,),
        timings=timings,
        figures={
            "s of a sample of all tasks": ours.median / SAMPLES,
            "s of a jitted product": plain.median / SAMPLES / num_tasks,
        },
        notes=(
            f"A round takes {OURS} samples of all tasks by `trace` (probes, checks and record "
            f"included) and {PLAIN} x {num_tasks} products; times are scaled to {SAMPLES} samples.",
        ),
    )


@jax.jit
def vdot(left, right) -> jax.Array:
    """The inner product of two trees."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, left, right)), jnp.zeros(()))


if __name__ == "__main__":
    sys.exit(command("bench_hutchinson_tasks", measure, repeats=5))
