"""The worker's end of the pipe: one request a line in, one answer a line out, both JSON.

Imports nothing but NumPy, since it runs in environments that have no hessspec.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]
Work = Callable[..., Answer]


def vectors(dim: int, count: int) -> np.ndarray:
    """The same random signs in every process, in the order of the JAX tree: bias, kernel, ..."""
    signs = np.random.default_rng(1).integers(0, 2, size=(count, dim), dtype=np.int8)
    return (2 * signs - 1).astype(np.float32)


def load(path: str) -> dict[str, np.ndarray]:
    """Weights, inputs and targets."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def layers_of(arrays: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(bias, kernel) of each layer, the kernel as (in, out)."""
    count = sum(name.startswith("kernel_") for name in arrays)
    return [(arrays[f"bias_{i}"], arrays[f"kernel_{i}"]) for i in range(count)]


def serve(make: Callable[[dict[str, np.ndarray]], dict[str, Work]], versions: Answer) -> None:
    """Answer requests `{"do": name, ...}` until the pipe closes.

    `make` gets the problem and returns what can be asked; each does its work to the end before it
    returns, and what it returns goes back with the seconds that it took.
    """
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(
        sys.stderr.fileno(), sys.stdout.fileno()
    )  # what libraries print must not get in between

    def say(answer: Answer) -> None:
        pipe.write(json.dumps(answer) + "\n")
        pipe.flush()

    try:
        known = make(load(sys.argv[1]))
        say({"ready": sorted(known), "versions": versions})
    except Exception as error:
        say({"error": last_line(error)})
        return
    for line in sys.stdin:
        request = json.loads(line)
        work = known[request.pop("do")]
        try:
            start = time.perf_counter()
            answer = work(**request)
            say({"seconds": time.perf_counter() - start, **answer})
        except Exception as error:
            traceback.print_exc()
            say({"error": last_line(error)})


def last_line(error: BaseException) -> str:
    """Class and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def save(path: str, products: Any) -> Answer:
    """Keep products for the runner to compare."""
    np.save(Path(path), np.asarray(products, np.float64))
    return {}
