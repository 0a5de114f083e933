"""Two libraries for PyTorch on the same card, problem and vectors, as processes of their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.claims import ROUNDING, Check, relative_difference
from benchmarks.gpu.clock import seconds_each
from benchmarks.gpu.step import Figures
from benchmarks.peers.fleet import start
from benchmarks.peers.worker import vectors
from benchmarks.problems import TanhNetwork

PEERS = ("curvlinops", "eigenthings")
BLOCK, PROBES, STEPS, SAMPLES = 16, 2, 50, 48


def compared(peer: str, network: TanhNetwork) -> Figures:
    """Products, a density and Hutchinson's trace of a library, in times of ours.

    Its products are checked against ours before anything is timed.

    Raises:
        PeerError: if the library is not there or cannot do it, with its own last line.
    """
    hessian = network.operator()
    block = jnp.asarray(vectors(hessian.dim, BLOCK))
    ours = _ours(hessian, block)
    ends = hessspec.density(hessian, key=jax.random.key(0), num_steps=STEPS, progress=False)
    low, high = float(ends.extremes().smallest), float(ends.extremes().largest)
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "problem.npz", **network.arrays())
        words = [sys.executable, "-m", "benchmarks.peers.worker_torch"]
        worker = start(peer, [*words, str(folder / "problem.npz"), peer, device], folder)
        try:
            versions = worker.answer()["versions"]
            worker.ask(do="products", count=2, out=str(folder / "products.npy"))
            found = np.load(folder / "products.npy")
            deviation = relative_difference(found, hessian.rows(block[:2]))
            Check(f"products of {peer}", deviation, ROUNDING).require()
            requests = {
                "products": ({"count": BLOCK}, BLOCK),
                "slq": ({"probes": PROBES, "steps": STEPS, "boundaries": [low, high]}, 1),
                "hutchinson": ({"samples": SAMPLES}, 1),
            }
            figures: dict[str, Any] = {"versions": versions, "deviation": deviation}
            for task, (request, units) in requests.items():
                if task != "products":
                    request = {**request, "seed": 1}
                worker.ask(do=task, **request)
                theirs = sorted(worker.ask(do=task, **request)["seconds"] for _ in range(3))[1]
                mine = seconds_each(ours[task], rounds=3, most=4.0)["median_s"]
                figures[task] = {
                    "theirs, s": theirs / units,
                    "ours, s": mine / units,
                    "times faster": theirs / mine,
                }
            return figures
        finally:
            worker.close()


def _ours(hessian: hessspec.HessianOperator, block: jax.Array) -> dict[str, Callable[[], Any]]:
    key = jax.random.key(1)
    return {
        "products": lambda: hessian.rows(block),
        "slq": lambda: (
            hessspec.density(
                hessian, key=key, num_probes=PROBES, num_steps=STEPS, progress=False
            ).nodes
        ),
        "hutchinson": lambda: (
            hessspec.trace(
                hessian, key=key, method="hutchinson", num_matvecs=SAMPLES, progress=False
            ).samples
        ),
    }
