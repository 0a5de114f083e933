"""Claim (a stretch): a product on the paper's network and 64 molecules takes at most what 8 forward
passes of 75 Mflop a molecule take at 0.7 of the machine's matrix-multiplication peak."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import ROUNDING, Bar, Check, Result, Scale, command, relative_difference
from benchmarks.machine import peak_flops, peak_tasks
from benchmarks.problems import FORWARD_FLOPS, GraphProblem, graph_problem
from benchmarks.timing import Spread, Task, interleaved

BLOCK = 16


def measure(scale: Scale) -> Result:
    problem = graph_problem(4 if scale.tiny else 64, tiny=scale.tiny)
    hessians = problem.operator()
    first = hessians.task(0)
    rows = np.random.default_rng(1).choice(np.array([-1.0, 1.0], np.float32), (BLOCK, first.dim))
    block = jnp.asarray(rows)
    product = PlainProduct(problem)
    check = Check(
        "products in a block against single jvp of grad, relative",
        relative_difference(first.rows(block)[:2], [product(v, 0) for v in block[:2]]),
        ROUNDING,
    ).require()

    timings = interleaved(
        {
            "product in a block of 16": Task(lambda: first.rows(block), BLOCK),
            "single jvp of grad": Task(lambda: [product(v, 0) for v in block[:4]], 4),
            "gradient": Task(lambda: [product.gradient(0) for _ in range(4)], 4),
            "forms of 4 tasks in a block of 16": Task(lambda: hessians.forms(block), BLOCK),
            **peak_tasks(),
        },
        scale.repeats,
    )
    ours, peak = timings["product in a block of 16"], peak_flops(timings)
    nominal = 8 * FORWARD_FLOPS * problem.num_graphs
    allowed = nominal / (0.7 * peak)
    spread = ours.spread
    return Result(
        claim="A product on the paper's network and 64 molecules takes at most 8 x 75 Mflop a "
        "molecule at 0.7 of the matrix-multiplication peak (a stretch).",
        bars=(
            Bar(
                "time of a product in a block of 16, in that time",
                Spread(*(s / allowed for s in (spread.median, spread.lower, spread.upper))),
                "<=",
                1.0,
                "x",
            ),
        ),
        sizes={
            "P": first.dim,
            "molecules": problem.num_graphs,
            "data": problem.source,
            "network": problem.state,
            "block": BLOCK,
        },
        checks=(check,),
        timings=timings,
        figures={
            "s allowed": allowed,
            "products a second": 1.0 / ours.median,
            "matrix-multiplication peak (Gflop/s)": peak / 1e9,
            "nominal Gflop/s (8 x 75 Mflop a molecule)": nominal / ours.median / 1e9,
            "nominal share of the peak": nominal / ours.median / peak,
            "gradients a product": ours.median / timings["gradient"].median,
            "forms of all 4 tasks, in products": timings["forms of 4 tasks in a block of 16"].median
            / ours.median,
        },
        notes=("Flops saved by doing less than the nominal 8 forward passes count as speed.",),
    )


class PlainProduct:
    """What one would write by hand: a jitted jvp of the gradient, all arrays as arguments."""

    def __init__(self, problem: GraphProblem) -> None:
        shared, heads = problem.params["shared"], problem.params["heads"]
        self.space = problem.operator().space
        self.arguments = (shared, heads, problem.batch)
        num_tasks = len(problem.tasks)
        self.units = jnp.eye(num_tasks)

        def loss(shared, heads, batch, unit):
            return jnp.vdot(unit, problem.losses({"shared": shared, "heads": heads}, batch))

        @jax.jit
        def product(shared, heads, batch, unit, tangent):
            def slope(shared):
                return jax.grad(loss)(shared, heads, batch, unit)

            return jax.jvp(slope, (shared,), (tangent,))[1]

        self._product = product
        self._gradient = jax.jit(jax.grad(loss))

    def tangent(self, v: jax.Array) -> object:
        """A flat vector as a tree of shared parameters."""
        return self.space.unflatten(v)["shared"]

    def __call__(self, v: jax.Array, task: int) -> jax.Array:
        """H_t v, flat."""
        tree = self.tree(self.tangent(v), task)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

    def tree(self, tangent: object, task: int) -> object:
        """H_t v for a tree: what is timed."""
        return self._product(*self.arguments, self.units[task], tangent)

    def gradient(self, task: int) -> object:
        """∇L_t."""
        return self._gradient(*self.arguments, self.units[task])


if __name__ == "__main__":
    sys.exit(command("bench_network_hvp", measure, repeats=5))
