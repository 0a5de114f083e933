"""What the device is and can do: memory, matrix products, launches, compilation.

python -m benchmarks.gpu.card --out FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.clock import seconds_each
from benchmarks.gpu.step import Figures, Measurement, command
from benchmarks.problems import TanhNetwork, mean_squared_error
from hessspec._base.memory import default_memory_budget

# Precisions of a float32 matrix product by the names that JAX has for them.
PRECISIONS = ("highest", "tensorfloat32", "default")
# The paper's network on 64 molecules multiplies about so many rows (edges) by 256 x 256.
EDGES, WIDTH = 16_384, 256


def measurements(tiny: bool, out: Path) -> Sequence[Measurement]:
    """All of them, what the next steps rest on first."""
    del out
    size = 256 if tiny else 4096
    sizes = (size,) if tiny else (size, 8192)
    return [
        Measurement("device", 2, device),
        *(Measurement(f"float32 {name}", 3, partial(products, sizes, name)) for name in PRECISIONS),
        Measurement("bfloat16", 3, partial(products, sizes, "default", jnp.bfloat16)),
        Measurement("rounding of a product", 3, partial(rounding, size // 4)),
        Measurement("tall products", 3, partial(tall_products, 512 if tiny else EDGES)),
        Measurement("copy", 2, partial(copy, 1 << (18 if tiny else 28))),
        Measurement("launches", 6, partial(launches, 20 if tiny else 500)),
        Measurement("compilation", 8, compilation),
        Measurement("segment sums", 8, partial(segment_sums, 512 if tiny else EDGES)),
        Measurement("host and device", 2, partial(transfers, 1 << (16 if tiny else 26))),
    ]


def device() -> Figures:
    """Names, driver and memory."""
    first = jax.devices()[0]
    memory = first.memory_stats() or {}
    return {
        "kind": first.device_kind,
        "platform": first.platform,
        "count": len(jax.devices()),
        "driver": _driver(),
        "memory_stats": {name: int(value) for name, value in memory.items()},
        "memory_budget": default_memory_budget(),
    }


def _driver() -> str:
    """Driver, memory, clocks and power as `nvidia-smi` has them; empty without it."""
    asked = "driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def products(sizes: Sequence[int], precision: str, dtype: jnp.dtype = jnp.float32) -> Figures:
    """Tflop/s of square matrix products, the best of the sizes first."""
    found = {}
    for size in sizes:
        left, right = _matrices(size, dtype)
        product = jax.jit(partial(jnp.matmul, precision=precision))
        seconds = seconds_each(partial(product, left, right), most=0.6)["median_s"]
        found[f"Tflop/s at {size}"] = 2.0 * size**3 / seconds / 1e12
    return found


def rounding(size: int) -> Figures:
    """‖AB - float64‖ / ‖float64‖ of each precision: which of them rounds its factors."""
    left, right = _matrices(size, jnp.float32)
    exact = np.asarray(left, np.float64) @ np.asarray(right, np.float64)
    found = {}
    for precision in PRECISIONS:
        product = np.asarray(jnp.matmul(left, right, precision=precision), np.float64)
        found[precision] = float(np.linalg.norm(product - exact) / np.linalg.norm(exact))
    return found


def tall_products(rows: int) -> Figures:
    """Tflop/s of the shapes of a graph network: many rows times a small matrix, and batched."""
    found = {}
    for precision in ("highest", "tensorfloat32"):
        for batch in (1, 16):
            key = jax.random.key(batch)
            left = jax.random.normal(key, (rows, WIDTH))
            right = jax.random.normal(key, (batch, WIDTH, WIDTH))
            product = jax.jit(partial(jnp.einsum, "ri,bio->bro", precision=precision))
            seconds = seconds_each(partial(product, left, right), most=0.4)["median_s"]
            flops = 2.0 * batch * rows * WIDTH**2
            found[f"{precision}, {batch} at a time, Tflop/s"] = flops / seconds / 1e12
    return found


def copy(count: int) -> Figures:
    """GB/s of reading and writing float32."""
    x = jax.random.normal(jax.random.key(0), (count,))
    scaled = jax.jit(lambda x: 1.5 * x)
    seconds = seconds_each(partial(scaled, x), rounds=5, most=0.5)["median_s"]
    return {"GB/s, bytes read and written": 2 * x.nbytes / seconds / 1e9}


def launches(count: int) -> Figures:
    """Microseconds of a kernel that does next to nothing, in three ways of calling it."""
    x = jnp.ones((32, 32)) / 32
    step = jax.jit(lambda x: x @ x)

    def dispatched() -> jax.Array:
        y = x
        for _ in range(count):
            y = step(y)
        return y

    def unrolled(x: jax.Array) -> jax.Array:
        for _ in range(min(count, 100)):
            x = x @ x
        return x

    looped = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, y: y @ y, x))
    straight = jax.jit(unrolled)
    return {
        "called from Python, us": 1e6 * seconds_each(dispatched, most=0.5)["median_s"] / count,
        "in a compiled loop, us": 1e6
        * seconds_each(partial(looped, x), most=0.5)["median_s"]
        / count,
        "in a row, us": 1e6
        * seconds_each(partial(straight, x), most=0.5)["median_s"]
        / min(count, 100),
    }


def compilation() -> Figures:
    """Seconds until a small program runs: the gradient of a network, and a product in a block."""
    network = TanhNetwork((8, 32, 32, 4), 64)
    params, batch = network.params_and_batch()
    gradient = jax.jit(jax.grad(mean_squared_error))
    found = {}
    start = time.perf_counter()
    jax.block_until_ready(gradient(params, batch))
    found["a gradient, s"] = time.perf_counter() - start
    start = time.perf_counter()
    hessian = network.operator()
    jax.block_until_ready(hessian.rows(jnp.ones((4, hessian.dim))))
    found["a block of products, s"] = time.perf_counter() - start
    return found


def segment_sums(edges: int) -> Figures:
    """Microseconds of sums over edges into nodes, sorted and not, and whether they repeat."""
    rng = np.random.default_rng(0)
    nodes = edges // 4
    receivers = np.sort(rng.integers(0, nodes, edges))
    shuffled = rng.permutation(receivers)
    values = jnp.asarray(rng.normal(size=(edges, WIDTH)), jnp.float32)
    many = jnp.asarray(rng.normal(size=(16, edges, WIDTH)), jnp.float32)
    found: dict[str, float | bool] = {}
    for name, indices, is_sorted in (
        ("sorted", receivers, False),
        ("sorted and said so", receivers, True),
        ("shuffled", shuffled, False),
    ):
        places = jnp.asarray(indices)
        total = jax.jit(
            partial(jax.ops.segment_sum, num_segments=nodes, indices_are_sorted=is_sorted)
        )
        first, again = (np.asarray(total(values, places)) for _ in range(2))
        found[f"{name}, us"] = (
            1e6 * seconds_each(partial(total, values, places), most=0.3)["median_s"]
        )
        found[f"{name}, the same twice"] = bool(np.array_equal(first, again))
        exact = np.zeros((nodes, WIDTH))
        np.add.at(exact, indices, np.asarray(values, np.float64))
        found[f"{name}, error"] = float(np.abs(first - exact).max())
        abreast = jax.jit(jax.vmap(total, (0, None)))
        seconds = seconds_each(partial(abreast, many, places), most=0.3)["median_s"]
        found[f"{name}, 16 abreast, us each"] = 1e6 * seconds / 16
    return found


def transfers(count: int) -> Figures:
    """GB/s between host and device, one large array."""
    x = np.random.default_rng(0).normal(size=count).astype(np.float32)
    start = time.perf_counter()
    there = jax.block_until_ready(jax.device_put(x))
    to_device = time.perf_counter() - start
    fresh = jax.block_until_ready(there + 1.0)
    start = time.perf_counter()
    np.asarray(fresh)
    back = time.perf_counter() - start
    return {"to the device, GB/s": x.nbytes / to_device / 1e9, "back, GB/s": x.nbytes / back / 1e9}


def _matrices(size: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    # Random numbers: on zeros a product can run faster than on data.
    keys = jax.random.split(jax.random.key(size))
    return tuple(jax.random.normal(key, (size, size), dtype) for key in keys)


if __name__ == "__main__":
    sys.exit(command("card", measurements, seconds=60))
