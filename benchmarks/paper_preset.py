"""What the preset "paper" costs: a slice of it is timed, the whole of it is counted from that.

    python -m benchmarks.paper_preset --data-dir DATA

For each data set a training step and block products are run at the preset's own sizes on a few of
its graphs, and XLA is asked how many floating-point operations they are. The whole is steps times
the cost of a step, and so on: an extrapolation, and it says so. On a CPU the times are of processor
time, so that they do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import hessspec
from benchmarks.machine import environment
from hessspec_mtl.curvature.follow import analysed_epochs
from hessspec_mtl.curvature.subject import task_hessians
from hessspec_mtl.datasets.base import EncodedDataset
from hessspec_mtl.datasets.materials_project import load_materials_project
from hessspec_mtl.datasets.qm8 import load_qm8
from hessspec_mtl.graphs import balanced_batches
from hessspec_mtl.network.model import NetworkConfig, init_params
from hessspec_mtl.network.tasks import partial_losses
from hessspec_mtl.study.presets import PRESETS, DatasetName, StudyConfig

GRAPHS = 64  # timed; all costs are in proportion to the number of graphs
STEPS = 4


@dataclass(frozen=True)
class Cost:
    """Processor seconds and operations of one data set: of a graph, and of the whole preset."""

    dataset: str
    examples: int
    step_seconds_a_graph: float
    step_gflop_a_graph: float
    product_seconds_a_graph: float
    product_gflop_a_graph: float
    form_seconds_a_graph: float
    training_hours: float
    curvature_hours: float
    training_pflop: float
    curvature_pflop: float
    step_memory_gib: float


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """The least processor time of a call, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()
        jax.block_until_ready(function())
        end = time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()
        times.append(end - start)
    return min(times)


def cost(name: DatasetName, config: StudyConfig, encoded: EncodedDataset, examples: int) -> Cost:
    """Time a slice of `encoded` and count what `examples` of them cost."""
    tasks = tuple(task.name for task in encoded.tasks)
    network = NetworkConfig(
        encoded.node_features, encoded.edge_features, tasks, **asdict(config.network)
    )
    params = init_params(jax.random.key(0), network)
    slice_ = type(encoded.train)(
        encoded.train.ids[:GRAPHS], encoded.train.graphs[:GRAPHS], encoded.train.targets[:GRAPHS]
    )
    (batch,) = balanced_batches(slice_.graphs, slice_.targets, GRAPHS)
    optimizer, losses = optax.adamw(1e-3), partial_losses(network)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        gradient = jax.grad(lambda p: losses(p, batch).sum())(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, batch = optimizer.init(params), jax.tree.map(jnp.asarray, batch)
    compiled = step.lower(params, state, batch).compile()
    step_seconds = seconds(lambda: compiled(params, state, batch)) / GRAPHS
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    step_flop = float(analysis["flops"]) / GRAPHS if analysis else float("nan")
    step_bytes = float(memory.temp_size_in_bytes) / GRAPHS if memory else float("nan")

    hessians = task_hessians(params, network, slice_, 32)
    units = 2 * STEPS * len(tasks)
    product = seconds(
        lambda: (
            hessspec.density(
                hessians, key=jax.random.key(0), num_probes=2, num_steps=STEPS, progress=False
            ).nodes
        ),
        repeats=2,
    )
    product /= units * GRAPHS
    form = seconds(
        lambda: (
            hessspec.trace(
                hessians, key=jax.random.key(0), method="hutchinson", num_matvecs=16, progress=False
            ).samples
        ),
        repeats=2,
    )
    form /= 16 * GRAPHS
    # XLA counts 3.00 forward passes for a gradient, 7.96 for a product.
    product_flop = step_flop * 7.96 / 3.0

    train, curvature = config.train, config.curvature
    num_train = round((1 - config.test_fraction) * examples)
    passes = train.num_epochs * (num_train + (examples - num_train) / 3)
    epochs = len(analysed_epochs(train.num_epochs, curvature.num_epochs))
    products = curvature.trace_matvecs + curvature.num_probes * curvature.num_steps
    products = epochs * len(tasks) * products * curvature.num_graphs
    forms = curvature.hutchinson_samples * curvature.num_graphs
    return Cost(
        dataset=name,
        examples=examples,
        step_seconds_a_graph=step_seconds,
        step_gflop_a_graph=step_flop / 1e9,
        product_seconds_a_graph=product,
        product_gflop_a_graph=product_flop / 1e9,
        form_seconds_a_graph=form,
        training_hours=passes * step_seconds / 3600,
        curvature_hours=(products * product + forms * form) / 3600,
        training_pflop=passes * step_flop / 1e15,
        curvature_pflop=products * product_flop / 1e15,
        step_memory_gib=step_bytes * train.batch_size / 2**30,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Time both data sets and print the result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args(argv)
    studies, costs = PRESETS["paper"].studies, []
    qm8 = load_qm8(options.data_dir, progress=False)
    few = qm8.subset(200, 0)
    costs.append(cost("qm8", studies["qm8"], few.encode(few.split(0)), len(qm8)))
    print(json.dumps(asdict(costs[-1])), file=sys.stderr)
    size = len(load_materials_project(options.data_dir, graphs=False, progress=False))
    few = load_materials_project(options.data_dir, num_examples=200, seed=0, progress=False)
    costs.append(cost("mp", studies["mp"], few.encode(few.split(0)), size))
    result = {"costs": [asdict(item) for item in costs], "environment": environment()}
    text = json.dumps(result, indent=2, default=str) + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
