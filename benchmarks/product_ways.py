"""How a block of products is best computed: other ways beside the package's, in one run.

    python -m benchmarks.product_ways [--rounds 7]

The tanh network of `bench_hvp_block`, a block of 16 vectors. Prints processor milliseconds a
product, what linearising costs included: medians of interleaved rounds, each way checked against
the first. For one core, put `taskset -c 0` before it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from benchmarks.claims import ROUNDING, relative_difference
from benchmarks.problems import TanhNetwork, mean_squared_error

BLOCK = 16
Layers = list[dict[str, Array]]
Products = Callable[[Float[Array, "k dim"]], Float[Array, "k dim"]]


def by_hand(params: Layers, batch: tuple[Array, Array]) -> Callable[[Layers], Layers]:
    """v ↦ H v of the tanh network, written out: six matrix products a layer and little else."""
    last = len(params) - 1
    acts = [batch[0]]
    for i, layer in enumerate(params):
        z = acts[-1] @ layer["kernel"] + layer["bias"][None]
        acts.append(jnp.tanh(z) if i < last else z)
    # Of each layer: dL/dz, and what tanh adds to it in second order.
    slopes, bends = [2 * (acts[-1] - batch[1]) / acts[-1].size], [jnp.zeros(())]
    for i in reversed(range(1, last + 1)):
        back = slopes[0] @ params[i]["kernel"].T
        slopes.insert(0, back * (1 - acts[i] ** 2))
        bends.insert(0, -2 * acts[i] * back)

    def product(v: Layers) -> Layers:
        dots = [jnp.zeros(())]  # the first input does not vary
        for i, layer in enumerate(v):
            z = acts[i] @ layer["kernel"] + layer["bias"][None]
            z = z + dots[i] @ params[i]["kernel"] if i else z
            dots.append((1 - acts[i + 1] ** 2) * z if i < last else z)
        out: Layers = []
        slope = 2 * dots[-1] / dots[-1].size
        for i in reversed(range(last + 1)):
            kernel = acts[i].T @ slope
            kernel = kernel + dots[i].T @ slopes[i] if i else kernel
            out.insert(0, {"bias": slope.sum(axis=0), "kernel": kernel})
            if i:
                back = slope @ params[i]["kernel"].T + slopes[i] @ v[i]["kernel"].T
                slope = (1 - acts[i] ** 2) * back + bends[i - 1] * dots[i]
        return out

    return product


def ways(network: TanhNetwork) -> dict[str, Products]:
    params, batch = network.params_and_batch()
    x, unravel = ravel_pytree(params)
    hessian = network.operator()

    def written(x: Array, batch: tuple[Array, Array], block: Array) -> Array:
        product = by_hand(unravel(x), batch)
        return jax.lax.map(lambda v: ravel_pytree(product(unravel(v)))[0], block)

    def in_groups(size: int) -> Products:
        def products(x: Array, batch: tuple[Array, Array], block: Array) -> Array:
            slope = jax.grad(lambda y: mean_squared_error(unravel(y), batch))
            _, tangent = jax.linearize(slope, x)
            groups = block.reshape(-1, size, block.shape[1])
            return jax.lax.map(jax.vmap(tangent), groups).reshape(block.shape)

        compiled = jax.jit(products)
        return lambda block: compiled(x, batch, block)

    compiled = jax.jit(written)
    found: dict[str, Products] = {
        "hessspec": hessian.rows,
        "written by hand": lambda block: compiled(x, batch, block),
    }
    return found | {f"vmap over {size} vectors": in_groups(size) for size in (2, 4, BLOCK)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    network = TanhNetwork()
    rows = np.random.default_rng(1).choice(np.array([-1.0, 1.0], np.float32), (BLOCK, network.dim))
    block, runs = jnp.asarray(rows), ways(network)
    expected = runs["hessspec"](block)
    for name, run in runs.items():
        assert relative_difference(run(block), expected) < ROUNDING, name
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time()
            jax.block_until_ready(run(block))
            times[name].append((time.process_time() - start) / BLOCK)
    base = np.median(times["hessspec"])
    for name, found in times.items():
        middle = np.median(found)
        print(f"{name:24s} {1e3 * middle:7.1f} ms of processor time, {middle / base:.2f}")


if __name__ == "__main__":
    main()
