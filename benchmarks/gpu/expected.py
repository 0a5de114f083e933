"""What a visit is expected to take, step by step: flops over a rate, launches, compilation.

    python -m benchmarks.gpu.expected [--tflops 18] [--launch-us 3]

Flops are those of matrix products that cannot be avoided, kernels are counted in programs that
XLA has optimised here, and their compilation is timed here. A device takes at least the longer of
flops and launches, and both if nothing overlaps: the table has the sum. Whoever has a `card.json`
puts its rates in.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.gpu.decoder import Decoder
from benchmarks.gpu.problems import tanh_network
from benchmarks.problems import FORWARD_FLOPS, GraphProblem, graph_problem
from hessspec_mtl.study.presets import PRESETS

# Training examples of QM8: 70 % of 21,786.
TRAINED = 15_250
APPLICATION = 22.8 / 38.4  # of 8 forward passes, a product once the gradient is linearised
FORM = 0.6  # of a product, all tasks together
TASKS = 4
# Products that 8 eigenpairs take for each task: assumed.
EIGENPAIRS = 60
# Instructions of an optimised program that are a kernel of their own or a copy.
_KERNELS = re.compile(
    r"= \S+ (fusion|dot|custom-call|scatter|gather|reduce|sort|copy|concatenate|dynamic-slice|"
    r"dynamic-update-slice|transpose|reduce-window|select-and-scatter|pad|call)\("
)
_INNER = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclass(frozen=True)
class Program:
    """A compiled program: its kernels and the processor seconds of its compilation here."""

    kernels: int
    compile_s: float


@dataclass(frozen=True)
class Row:
    """A line of the table: so many runs of a program of so many flops."""

    what: str
    runs: float
    flops: float
    program: Program
    compilations: float = 1.0

    def seconds(self, tflops: float, launch_us: float) -> float:
        """Flops, launches and compilation, one after the other."""
        each = self.flops / (tflops * 1e12) + self.program.kernels * launch_us * 1e-6
        return self.runs * each + self.compilations * self.program.compile_s


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """The program of `function` at the shapes of `arguments`, compiled for this machine."""
    start = time.process_time()  # of the processors: others may be at work here
    arrays, static = eqx.partition(arguments, eqx.is_array)
    program = jax.jit(lambda given: function(*eqx.combine(given, static))).lower(arrays).compile()
    return Program(count_kernels(program.as_text()), time.process_time() - start)


def count_kernels(text: str) -> int:
    """Kernels in an optimised program: a loop's body counts once, a fused computation never."""
    fused = set(_INNER.findall(text))
    count, inside = 0, False
    for line in text.splitlines():
        if header := _HEADER.match(line.strip()):
            inside = header.group(1) not in fused
        elif inside and _KERNELS.search(line):
            count += 1
    return count


def rows() -> list[Row]:
    """What can be told beforehand; `card` and `precision` take what they are given."""
    study = PRESETS["gpu"].studies["qm8"]
    problem = graph_problem(1)
    product = product_program(problem, 2)
    forms = compiled(lambda h, v: h.forms(v), problem.operator(abreast=2), _ones(problem, 2))
    gradient = compiled(
        jax.grad(lambda p, b: jnp.sum(problem.losses(p, b))), problem.params, problem.batch
    )
    curvature, train = study.curvature, study.train
    batches = -(-TRAINED // train.batch_size)
    one = 8 * FORWARD_FLOPS * APPLICATION * curvature.num_graphs
    epochs = curvature.num_epochs
    steps = TASKS * curvature.num_steps
    return [
        Row(
            f"training, {train.num_epochs} epochs of {batches} steps",
            train.num_epochs * batches,
            3 * FORWARD_FLOPS * train.batch_size,
            gradient,
        ),
        Row(f"densities of {epochs} epochs", epochs * steps, 2 * one, product, 2),
        Row(
            f"traces of {epochs} epochs",
            epochs * curvature.trace_matvecs / 16,
            16 * one,
            product,
            4,
        ),
        Row(
            f"eigenpairs of {epochs} epochs",
            epochs * TASKS * EIGENPAIRS / 8,
            8 * one,
            product,
            3,
        ),
        Row(
            f"{curvature.hutchinson_samples} Hutchinson samples",
            curvature.hutchinson_samples / 16,
            16 * FORM * one,
            forms,
        ),
        *speed_rows(problem, product, forms),
    ]


def speed_rows(problem: GraphProblem, product: Program, forms: Program) -> list[Row]:
    """Those of the benchmark table: each way of multiplying for a second or two, and its compiling.

    The first calls of one measurement compile side by side: one of them counts.
    """
    del problem
    network, decoder = tanh_network(False), Decoder()
    one = 8 * FORWARD_FLOPS * APPLICATION * 256
    hessian = network.operator(abreast=16)
    tanh = compiled(lambda h, v: h.rows(v), hessian, jnp.ones((16, hessian.dim)))
    small = Decoder(512, 16, 64, 2, 12, 1)
    text = compiled(jax.grad(small.loss), small.params(), small.batch())
    return [
        Row("speed: tanh network, blocks", 16 * 30, network.product_flops, tanh),
        Row(
            "speed: tanh network, density 2 x 50, three times", 300, network.product_flops, tanh, 4
        ),
        Row("speed: graph network, blocks of 16", 16 * 3 * 10, one, product, 3),
        Row("speed: graph network, forms", 16 * 2 * 10, FORM * one, forms, 2),
        Row("speed: graph network, density 2 x 50, three times", 300, one, product, 2),
        Row("speed: graph network, four traces, 3 x 256 and 128", 900, one, product, 6),
        Row("speed: decoder, blocks of 1 and 4", 9 * 10, decoder.product_flops, text, 2),
        Row("speed: decoder, density 1 x 20, three times", 60, decoder.product_flops, text, 2),
    ]


def product_program(problem: GraphProblem, rows_: int) -> Program:
    """A product with the first task's Hessian of so many vectors, abreast."""
    hessian = problem.operator(abreast=rows_).task(0)
    return compiled(lambda h, v: h.rows(v), hessian, _ones(problem, rows_))


def _ones(problem: GraphProblem, count: int) -> jax.Array:
    return jnp.ones((count, problem.operator().dim))


def table(found: list[Row], tflops: float, launch_us: float) -> str:
    """As Markdown."""
    lines = [
        f"| what | runs | Gflop a run | kernels | compiled in, s | s at {tflops:g} Tflop/s and "
        f"{launch_us:g} us a launch |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row.what} | {row.runs:,.0f} | {row.flops / 1e9:,.0f} | {row.program.kernels} | "
            f"{row.program.compile_s:.0f} x {row.compilations:g} | "
            f"{row.seconds(tflops, launch_us):.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.expected")
    parser.add_argument("--tflops", type=float, default=18.0, help="float32 proper, sustained")
    parser.add_argument("--launch-us", type=float, default=3.0)
    options = parser.parse_args()
    print(table(rows(), options.tflops, options.launch_us), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
