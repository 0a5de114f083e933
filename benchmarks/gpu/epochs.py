"""What training and products of the paper's network cost, with sums by lists and by segments.

python -m benchmarks.gpu.epochs --out FOLDER

On made-up molecules of the sizes of QM8, so that it needs no data and no chemistry. Both ways run
in one process on one card, and each is run twice from the same state: a sum whose order is left to
threads shows as two results.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.gpu.clock import seconds_each
from benchmarks.gpu.step import Figures, Measurement, command
from benchmarks.timing import Compilations
from hessspec import HessianOperator
from hessspec._base.progress import progress_bar
from hessspec_mtl.graphs import MultiGraph, Padding, balanced_batches, with_incidence
from hessspec_mtl.network.model import NetworkConfig, Params, init_params
from hessspec_mtl.network.tasks import is_shared, partial_losses
from hessspec_mtl.training.config import MATMUL_PRECISIONS, OPTIMIZERS, TrainConfig
from hessspec_mtl.training.epochs import ResidentEpochs
from hessspec_mtl.training.programs import Optimization, programs

WAYS = {"lists": True, "segments": False}
_FLAT = "adamw, its state one vector"
_NO_KERNEL = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "after-all", "opt-barrier"),
}


def measurements(tiny: bool, out: Path) -> Sequence[Measurement]:
    """All of them, what training does by default first."""
    del out
    runs = [("lists", "highest", "adamw"), ("lists", "tf32", "adamw")]
    runs += [("segments", "highest", "adamw"), ("lists", "highest", _FLAT)]
    return [
        *(
            Measurement(f"training, {way}, {precision}, {optimizer}", 30, partial(training, *run))
            for way, precision, optimizer in runs
            for run in [(way, precision, optimizer, tiny)]
        ),
        *(Measurement(f"products, {way}", 40, partial(products, way, tiny)) for way in WAYS),
    ]


def training(way: str, precision: str, optimizer: str, tiny: bool) -> Figures:
    """Seconds of an epoch and of the errors of its test split, once compiled, and of compiling.

    An epoch that is timed may fetch its errors and put its number on the device, nothing else: any
    other transfer from the host is refused, and a compilation is counted.
    """
    train, test = _molecules(64 if tiny else 1280), _molecules(32 if tiny else 1024)
    size = 16 if tiny else 128
    OPTIMIZERS[_FLAT] = lambda rate: optax.flatten(optax.adamw(rate))
    config = TrainConfig(batch_size=size, optimizer=optimizer)
    found = programs(_network(tiny), Optimization.of(config, len(train[0])))
    splits, key = {"train": train, "test": test}, jax.random.key(0)
    start = time.perf_counter()
    rate, incidence = config.learning_rate, WAYS[way]
    epochs = ResidentEpochs(found, splits, size, key, rate, incidence=incidence)
    state = _initial(tiny, found.init)
    upload = time.perf_counter() - start

    def epoch(params: Any, opt_state: Any, number: int = 1) -> tuple[Any, Any, Any]:
        with progress_bar(1, "training", enabled=False) as bar:
            return epochs.epoch(number, params, opt_state, bar)

    with jax.default_matmul_precision(MATMUL_PRECISIONS[precision]):
        start = time.perf_counter()
        compiled = found.epoch.lower(*state, *epochs.arguments(1)).compile()
        compiling = time.perf_counter() - start
        # Compiled by hand once, to be looked at as well as run: static arguments are in it.
        by_hand = replace(found, epoch=lambda *given: compiled(*_without_static(given)))
        epochs = ResidentEpochs(by_hand, splits, size, key, rate, incidence=incidence)
        first = jax.device_get(epoch(*state))
        again = epoch(*_initial(tiny, found.init))
        repeats = all(
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (first, jax.device_get(again))), strict=True)
        )
        errors = epochs.errors(again[0], "test")
        compilations, held = Compilations(), list(again[:2])

        def run() -> Any:
            *held[:], sums = epoch(*held)
            return sums

        with jax.transfer_guard("disallow"):
            times = seconds_each(run, rounds=5, most=3.0)
            tests = seconds_each(lambda: epochs.errors(held[0], "test"), rounds=3, most=1.0)
    steps = len(train[0]) // size
    return {
        "graphs, nodes and edges of a batch": [size, *_sizes(epochs)],
        "a step, ms": 1e3 * times["median_s"] / steps,
        "quartiles, ms": [1e3 * times[name] / steps for name in ("lower_s", "upper_s")],
        "test errors, ms": 1e3 * tests["median_s"],
        "test graphs": len(test[0]),
        "instructions of a step": launched(compiled.as_text()),
        "Gflop of a step": _flops(compiled) / 1e9,
        "compilations while timed": compilations.count,
        "the same twice": repeats,
        "tracing and compiling, s": compiling,
        "data and weights to the device, s": upload,
        "mean test error after an epoch": float(errors[0].mean()),
    }


def products(way: str, tiny: bool) -> Figures:
    """Seconds of a block of products and of forms of all tasks, on the molecules of one batch."""
    count, rows = (12, 2) if tiny else (64, 8)
    batches = balanced_batches(*_molecules(count), count)
    batches = with_incidence(batches) if WAYS[way] else batches
    network = _network(tiny)
    hessian = HessianOperator(
        partial_losses(network),
        init_params(jax.random.key(0), network),
        data=jax.device_put(batches[0]),
        where=is_shared,
    )
    block = jax.random.normal(jax.random.key(1), (rows, hessian.dim))
    found: dict[str, Any] = {"molecules": count, "vectors": rows, "tasks": len(network.tasks)}
    for name, run in (("rows", hessian.rows), ("forms", hessian.forms)):
        start = time.perf_counter()
        first = np.asarray(run(block))
        found[f"first {name}, s"] = time.perf_counter() - start
        found[f"{name}, the same twice"] = bool(np.array_equal(first, np.asarray(run(block))))
        each = seconds_each(partial(run, block), rounds=5, most=2.0)["median_s"]
        found[f"{name}, ms a vector for all tasks"] = 1e3 * each / rows
    return found


def _network(tiny: bool) -> NetworkConfig:
    sizes = {"num_steps": 2, "width": 8, "head_width": 8} if tiny else {}
    return NetworkConfig(9, 4, ("E1", "E2", "f1", "f2"), **sizes)


def _initial(tiny: bool, init: Callable[[Params], Any]) -> tuple[Params, Any]:
    params = init_params(jax.random.key(0), _network(tiny))
    return params, init(params)


def _without_static(arguments: Sequence[Any]) -> list[Any]:
    return [one for one in arguments if not isinstance(one, Padding)]


@cache
def _molecules(count: int) -> tuple[list[MultiGraph], np.ndarray]:
    """Trees with as many atoms as QM8 has, at most four bonds each, and rows of random targets."""
    rng = np.random.default_rng(count)

    def molecule() -> MultiGraph:
        atoms = int(np.clip(round(rng.normal(16.1, 2.9)), 3, 26))
        valence, bonds = np.zeros(atoms, int), []
        for atom in range(1, atoms):
            other = int(rng.choice(np.flatnonzero(valence[:atom] < 4)))
            valence[[atom, other]] += 1
            bonds += [(atom, other), (other, atom)]
        ends = np.array(bonds)
        features = rng.normal(size=(atoms, 9)), rng.normal(size=(len(bonds), 4))
        return MultiGraph(*features, ends[:, 0], ends[:, 1])

    return [molecule() for _ in range(count)], rng.normal(size=(count, 4))


def _sizes(epochs: ResidentEpochs) -> list[int]:
    padding = epochs.padding(1)
    return [padding.n_node, padding.n_edge]


def _flops(compiled: Any) -> float:
    """Of a step: XLA counts the body of a loop once, and the loop is nearly all there is."""
    cost: Any = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost).get("flops", 0.0))


def launched(text: str) -> int:
    """Instructions of the largest computation of a compiled program that are no mere bookkeeping.

    Each is a kernel or a call of a library; those within a fusion are part of it.
    """
    inner = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", text))
    counts, current = {}, ""
    for line in text.splitlines():
        if begun := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = begun[1]
        instruction = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(", line)
        if instruction and current not in inner and instruction[1] not in _NO_KERNEL:
            counts[current] = counts.get(current, 0) + 1
    return max(counts.values(), default=0)


if __name__ == "__main__":
    sys.exit(command("epochs", measurements, seconds=180))
