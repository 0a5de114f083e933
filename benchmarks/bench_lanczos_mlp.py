"""Claim: Lanczos with full reorthogonalisation costs at most 25 % above its products (tanh network,
2 probes of 50 steps, where a product is cheap)."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.claims import ROUNDING, Bar, Check, Result, Scale, command
from benchmarks.machine import peak_flops, peak_tasks
from benchmarks.problems import TanhNetwork
from benchmarks.timing import Spread, Task, Timing, interleaved
from hessspec._base.memory import default_memory_budget

PROBES = 2


def measure(scale: Scale) -> Result:
    network = TanhNetwork((8, 16, 16, 2), 32) if scale.tiny else TanhNetwork()
    steps = 10 if scale.tiny else 50
    hessian = network.operator()
    checks = (exact_moments(hessian),)
    timings = interleaved(
        {
            "density": Task(lambda: density(hessian, steps)),
            "its products alone": Task(lambda: products(hessian, steps)),
            "as many products, linearised anew for each block": Task(lambda: chain(hessian, steps)),
            **peak_tasks(),
        },
        scale.repeats,
    )
    slq, alone = timings["density"], timings["its products alone"]
    return Result(
        claim="Spectral densities cost at most 25 % above their products (tanh network, 2 probes "
        "of 50 steps).",
        bars=(Bar("overhead of density above its products", overhead(slq, alone), "<=", 25, "%"),),
        sizes={
            "P": network.dim,
            "N": network.num_examples,
            "layers": list(network.sizes),
            "probes": PROBES,
            "steps": steps,
        },
        checks=checks,
        timings=timings,
        figures={
            "seconds of a density": slq.median,
            "overhead above products that are linearised anew (%)": overhead(
                slq, timings["as many products, linearised anew for each block"]
            ).median,
            "ms of a product within": 1e3 * alone.median / (PROBES * steps),
            "Gflop/s of the density's products": network.product_flops
            * PROBES
            * steps
            / slq.median
            / 1e9,
            "matrix-multiplication peak (Gflop/s)": peak_flops(timings) / 1e9,
        },
        notes=(
            "The products alone are those of the same blocks of 2 vectors, one after the other, of "
            "a gradient that is linearised once, as in the density; that includes also its start "
            "vectors, quadrature and atoms.",
        ),
    )


def density(hessian: hessspec.HessianOperator, steps: int) -> hessspec.SpectralDensity:
    """The density in question, with everything that a user waits for."""
    return hessspec.density(
        hessian, key=jax.random.key(0), num_probes=PROBES, num_steps=steps, progress=False
    )


def products(hessian: hessspec.AbstractOperator, steps: int) -> jax.Array:
    """As many products as Lanczos makes, linearised once as there."""
    return chain(hessian.linearised(PROBES, default_memory_budget()), steps)


def chain(hessian: hessspec.AbstractOperator, steps: int) -> jax.Array:
    """Blocks of products, each waiting for the one before."""
    block = jnp.ones((PROBES, hessian.dim), hessian.dtype)
    for _ in range(steps):
        block = _scaled(hessian.rows(block))
    if not np.isfinite(np.asarray(block[:, 0])).all():
        raise FloatingPointError("the products alone overflow")
    return block


@jax.jit  # or the lengths would leave the range of float32; about 1 % of a product
def _scaled(images: jax.Array) -> jax.Array:
    return images / jnp.max(jnp.abs(images))


def overhead(whole: Timing, products: Timing) -> Spread:
    """What comes on top of the products, in percent of them."""
    ratio = whole.over(products)
    return Spread(*(100.0 * (r - 1.0) for r in (ratio.median, ratio.lower, ratio.upper)))


def exact_moments(hessian: hessspec.AbstractOperator) -> Check:
    """Lanczos integrates λ and λ² exactly: q'Hq and ‖Hq‖² of each start q."""
    key = jax.random.key(3)
    found = hessspec.density(
        hessian, key=key, num_probes=PROBES, num_steps=4, progress=False
    ).plain()
    starts = hessspec.gaussian(key, jnp.arange(PROBES), hessian.dim, hessian.dtype)
    starts = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    images = np.asarray(hessian.rows(starts), np.float64)
    sizes = np.linalg.norm(images, axis=1)
    nodes, weights = np.asarray(found.nodes), np.asarray(found.weights)
    first = np.sum(weights * nodes, axis=1) - np.sum(np.asarray(starts) * images, axis=1)
    second = np.sqrt(np.sum(weights * nodes**2, axis=1)) - sizes
    deviation = float(np.max(np.abs([first, second]) / sizes))
    return Check(
        "first two moments of each start, relative to ‖Hq‖", deviation, 10 * ROUNDING
    ).require()


if __name__ == "__main__":
    sys.exit(command("bench_lanczos_mlp", measure, repeats=5))
