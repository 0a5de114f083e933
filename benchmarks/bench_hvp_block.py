"""Claim: a product with H, in a block of 16, costs at most 1.5 gradients (tanh network)."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.claims import ROUNDING, Bar, Check, Result, Scale, command, relative_difference
from benchmarks.machine import peak_flops, peak_tasks
from benchmarks.problems import TanhNetwork, mean_squared_error
from benchmarks.timing import Task, interleaved

BLOCK = 16
CALLS = 8  # of what is short, in one round


def measure(scale: Scale) -> Result:
    network = TanhNetwork((8, 16, 16, 2), 32) if scale.tiny else TanhNetwork()
    params, batch = network.params_and_batch()
    hessian = network.operator()
    rows = np.random.default_rng(1).choice(np.array([-1.0, 1.0], np.float32), (BLOCK, network.dim))
    block = jnp.asarray(rows)
    x, unravel = ravel_pytree(params)

    @jax.jit
    def gradient(x: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.grad(lambda y: mean_squared_error(unravel(y), batch))(x)

    @jax.jit
    def plain_product(x: jax.Array, v: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        slope = jax.grad(lambda y: mean_squared_error(unravel(y), batch))
        return jax.jvp(slope, (x,), (v,))[1]

    expected = jnp.stack([plain_product(x, v, batch) for v in block])
    check = Check(
        "products in a block against single jvp of grad, relative",
        relative_difference(hessian.rows(block), expected),
        ROUNDING,
    ).require()

    timings = interleaved(
        {
            "gradient": Task(lambda: [gradient(x, batch) for _ in range(CALLS)], CALLS),
            "product in a block of 16": Task(lambda: hessian.rows(block), BLOCK),
            "single jvp of grad": Task(
                lambda: [plain_product(x, v, batch) for v in block[:CALLS]], CALLS
            ),
            "single product": Task(
                lambda: [hessian.rows(block[i : i + 1]) for i in range(CALLS)], CALLS
            ),
            **peak_tasks(),
        },
        scale.repeats,
    )
    product, peak = timings["product in a block of 16"], peak_flops(timings)
    rate = network.product_flops / product.median
    return Result(
        claim="A product with H in a block of 16 costs at most 1.5 gradients (tanh network).",
        bars=(
            Bar(
                "product in a block of 16",
                product.over(timings["gradient"]),
                "<=",
                1.5,
                "gradients",
            ),
        ),
        sizes={
            "P": network.dim,
            "N": network.num_examples,
            "layers": list(network.sizes),
            "block": BLOCK,
        },
        checks=(check,),
        timings=timings,
        figures={
            "products a second": 1.0 / product.median,
            "Gflop/s of a product": rate / 1e9,
            "Gflop/s of a gradient": network.gradient_flops / timings["gradient"].median / 1e9,
            "matrix-multiplication peak (Gflop/s)": peak / 1e9,
            "share of the peak": rate / peak,
            "Gflop of a product": network.product_flops / 1e9,
            "Gflop of a gradient": network.gradient_flops / 1e9,
        },
        notes=(
            "Gflop are those of the matrix products that cannot be avoided: 6 n_in n_out a layer "
            "and example for a product, 3 for a gradient, less in the first layer, whose input "
            "does not vary.",
        ),
    )


if __name__ == "__main__":
    sys.exit(command("bench_hvp_block", measure, repeats=15))
