"""Errors for equal products: this package and its peers against dense truths on five networks.

    python -m benchmarks.peers.accuracy [--seeds 20] [--output docs/accuracy.md]

Every library gets the same weights and data, in float32, and the same number of products: 48 for a
trace, 2 starts of 50 steps for a density. The truth is the matrix of `jax.hessian` in float64. The
peers' environments: `python -m benchmarks.peers.install`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.machine import ROOT
from benchmarks.peers.fleet import OURS, PEERS, PeerError, Worker, start
from benchmarks.peers.install import interpreter
from benchmarks.peers.worker import layers_of, load
from benchmarks.problems import TanhNetwork, mean_squared_error

PRODUCTS, PROBES, STEPS = 48, 2, 50
METHODS = {
    OURS: ("auto", "xtrace", "hutch++", "hutchinson"),
    "matfree": ("xtrace", "hutchinson"),
    "traceax": ("xtrace", "hutch++", "hutchinson"),
    "curvlinops": ("xtrace", "hutch++", "hutchinson"),
    "eigenthings": ("hutch++", "hutchinson"),
}
NORMAL = 1.96  # a stated standard error is read as ± this many of it at 95 %
RATE = 0.05


@dataclass(frozen=True)
class Network:
    """One of the five: what it is, its layers and how long it was trained."""

    words: str
    sizes: tuple[int, ...]
    examples: int
    steps: int

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights after training by gradient descent, inputs and targets; float32."""
        arrays = TanhNetwork(self.sizes, self.examples).arrays()
        turned = arrays["inputs"][:, :2].sum(axis=1, keepdims=True)
        arrays["targets"] = np.sin(turned * np.arange(1, self.sizes[-1] + 1)).astype(np.float32)
        params = [{"bias": b, "kernel": k} for b, k in layers_of(arrays)]
        for i, layer in enumerate(_trained(params, arrays, self.steps)):
            arrays |= {f"{name}_{i}": np.asarray(leaf) for name, leaf in layer.items()}
        return arrays


def _trained(params: Any, arrays: Mapping[str, np.ndarray], steps: int) -> Any:
    batch = (jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["targets"]))

    def step(_: int, p: Any) -> Any:
        return jax.tree.map(lambda w, g: w - RATE * g, p, jax.grad(mean_squared_error)(p, batch))

    return jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, p))(params)


NETWORKS = {
    "start": Network("at its initialisation", (12, 24, 24, 2), 200, 0),
    "trained": Network("the same, after 3,000 steps", (12, 24, 24, 2), 200, 3000),
    "wide": Network("one hidden layer of 160, 3,000 steps", (8, 160, 1), 100, 3000),
    "deep": Network("six hidden layers of 16, 3,000 steps", (8, *[16] * 6, 1), 200, 3000),
    "few data": Network("15 examples, 3,000 steps", (10, 40, 20, 1), 15, 3000),
}


@dataclass
class Found:
    """What all libraries said of one network.

    Attributes:
        truth: its eigenvalues.
        traces: of (library, method): estimate, lower and upper end for each seed (nan: none).
        distances: of each rule: W1 to the truth for each seed, in the units of H.
        versions: of the libraries that ran.
        missing: why others did not.
    """

    truth: np.ndarray
    traces: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    distances: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def distance(nodes: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> float:
    """∫ |F - F_true| dλ of a discrete distribution and the eigenvalues."""
    points = np.concatenate([nodes, truth])
    steps = np.concatenate([weights / weights.sum(), np.full(truth.size, -1.0 / truth.size)])
    order = np.argsort(points, kind="stable")
    return float(np.abs(np.cumsum(steps[order])[:-1]) @ np.diff(points[order]))


def dense(problem: Path, out: Path) -> None:
    """Eigenvalues of the network in `problem`, in the precision that is set."""
    arrays = {name: jnp.asarray(a, float) for name, a in load(str(problem)).items()}
    params = [{"bias": b, "kernel": k} for b, k in layers_of(arrays)]
    flat, unravel = ravel_pytree(params)
    batch = (arrays["inputs"], arrays["targets"])
    matrix = jax.jit(jax.hessian(lambda x: mean_squared_error(unravel(x), batch)))(flat)
    np.save(out, np.linalg.eigvalsh(np.asarray(matrix, np.float64)))


def measure(network: Network, seeds: int, folder: Path) -> Found:
    """Ask every library about one network."""
    problem = folder / "problem.npz"
    np.savez(problem, **network.arrays())
    settings = {**os.environ, "JAX_ENABLE_X64": "1"}
    eigenvalues = folder / "eigenvalues.npy"
    words = [sys.executable, "-m", "benchmarks.peers.accuracy", "--dense"]
    subprocess.run([*words, str(problem), str(eigenvalues)], cwd=ROOT, env=settings, check=True)
    found = Found(np.load(eigenvalues))
    for name in (OURS, *PEERS):
        with ExitStack() as stack:
            try:
                worker = stack.enter_context(closing(_started(name, problem, folder)))
                greeting = worker.answer()
                found.versions[name] = greeting["versions"]
                for method in METHODS[name]:
                    found.traces[name, method] = np.array(list(_traces(worker, method, seeds)))
                if "rule" in greeting["ready"]:
                    _rules(worker, name, seeds, found)
            except PeerError as error:
                found.missing[name] = str(error)
    return found


def _started(name: str, problem: Path, folder: Path) -> Worker:
    if name == OURS:
        words = [sys.executable, "-m", "benchmarks.peers.worker_hessspec", str(problem)]
        return start(name, words, folder)
    environment, module, library = PEERS[name]
    python = interpreter(environment)
    if not python.exists():
        raise PeerError("its environment is missing: python -m benchmarks.peers.install makes it")
    return start(name, [str(python), "-m", module, str(problem), library], folder)


def _traces(worker: Worker, method: str, seeds: int) -> Iterator[tuple[float, float, float]]:
    for seed in range(1, seeds + 1):
        answer = worker.ask(do="trace", method=method, products=PRODUCTS, seed=seed)
        value, nothing = answer["trace"], float("nan")
        if "error" in answer.get("stated", {}):
            half = NORMAL * answer["stated"]["error"]
            yield value, value - half, value + half
        else:
            low, high = answer.get("stated", {}).get("interval", (nothing, nothing))
            yield value, low, high


def _rules(worker: Worker, name: str, seeds: int, found: Found) -> None:
    ends = [float(found.truth[0]), float(found.truth[-1])]
    for seed in range(1, seeds + 1):
        answer = worker.ask(do="rule", probes=PROBES, steps=STEPS, seed=seed, boundaries=ends)
        for rule, (nodes, weights) in answer["rules"].items():
            each = distance(np.ravel(nodes), np.ravel(weights), found.truth)
            found.distances.setdefault(f"{name}, {rule}", []).append(each)


def page(results: Mapping[str, Found], seeds: int) -> str:
    """The page in Markdown."""
    names = list(results)
    lines = [
        "# Accuracy beside other libraries",
        "",
        "Errors for equal products, on tanh networks with a mean squared error, small enough",
        "for their matrices to be formed. All libraries get the same weights and data, in float32;",
        f"the truth is the dense matrix in float64. {seeds} seeds each. Written by",
        "",
        "```sh",
        f"python -m benchmarks.peers.accuracy --seeds {seeds} --output docs/accuracy.md",
        "```",
        "",
        "| network | | parameters | trace | smallest and largest eigenvalue |",
        "|---|---|---|---|---|",
    ]
    for name, one in results.items():
        low, high = one.truth[[0, -1]]
        lines.append(
            f"| {name} | {NETWORKS[name].words} | {one.truth.size:,} | {one.truth.sum():.4g} | "
            f"{low:.3g}, {high:.4g} |"
        )
    lines += [
        "",
        f"## Trace from {PRODUCTS} products",
        "",
        "Root mean square error over the seeds, in per cent of the true trace; so many seeds tell",
        f"it to about {100 / (2 * seeds) ** 0.5:.0f} % of itself. The rows of Hutchinson's method",
        "are one estimator: how they differ is what the seeds leave open.",
        "",
        *_table(["library, method", *names], _errors(results)),
        "",
        "### Stated errors",
        "",
        "How many intervals of 95 % hold the true trace, where the library states an error: an",
        f"interval of its own, or ± {NORMAL} standard errors. curvlinops and traceax state none.",
        "H of 15 examples has rank 15, which 48 products find: the error that is left is rounding.",
        "",
        *_table(["library, method", *names], _coverage(results)),
        "",
        f"## Density from {PROBES} starts of {STEPS} steps",
        "",
        "Mean distance W1 of the distribution of eigenvalues to the true one, in per cent of the",
        "mean absolute eigenvalue. matfree gives functions of H and no rule, traceax has none.",
        "curvlinops is told the ends of the spectrum; its density is smoothed, as it comes.",
        "",
        *_table(["library, rule", *names], _distances(results)),
        "",
        "## Versions",
        "",
    ]
    first = results[names[0]]
    for name, versions in first.versions.items():
        lines.append(f"- {name}: " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    lines += [f"- {name} did not run: {why}" for name, why in first.missing.items()]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _errors(results: Mapping[str, Found]) -> list[list[str]]:
    first = next(iter(results.values()))
    rows = []
    for key in first.traces:
        cells = []
        for one in results.values():
            true = one.truth.sum()
            error = ((one.traces[key][:, 0] - true) ** 2).mean() ** 0.5 if key in one.traces else 0
            cells.append(f"{100 * error / abs(true):.2g}" if key in one.traces else "not run")
        rows.append([", ".join(key), *cells])
    return rows


def _coverage(results: Mapping[str, Found]) -> list[list[str]]:
    first = next(iter(results.values()))
    rows = []
    for key, samples in first.traces.items():
        if np.isnan(samples[:, 1]).all():
            continue
        cells = []
        for one in results.values():
            _, low, high = one.traces[key].T
            inside = (low <= one.truth.sum()) & (one.truth.sum() <= high)
            cells.append(f"{inside.sum()} of {inside.size}")
        rows.append([", ".join(key), *cells])
    return rows


def _distances(results: Mapping[str, Found]) -> list[list[str]]:
    first = next(iter(results.values()))
    return [
        [
            rule,
            *(
                f"{100 * np.mean(one.distances[rule]) / np.abs(one.truth).mean():.2g}"
                for one in results.values()
            ),
        ]
        for rule in first.distances
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.accuracy")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, help="the page; printed as well")
    parser.add_argument("--dense", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dense:
        dense(*options.dense)
        return 0
    results = {}
    for name, network in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(network, options.seeds, Path(folder))
        print(f"{name}: done", file=sys.stderr, flush=True)
        if options.output:  # after each network, so that what is measured is kept
            options.output.write_text(page(results, options.seeds), encoding="utf-8")
    print(page(results, options.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
