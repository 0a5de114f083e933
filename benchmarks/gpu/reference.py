"""The truth in float64, computed on the host's processors by JAX alone, none of this package.

JAX_PLATFORMS=cpu JAX_ENABLE_X64=1 python -m benchmarks.gpu.reference OUT.npz SMALL WIDE

SMALL and WIDE are `TanhNetwork`s as JSON: the dense Hessian of the one, two products of the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.problems import TanhNetwork, mean_squared_error

PRODUCTS = 2


def vectors(dim: int, count: int = PRODUCTS) -> np.ndarray:
    """The vectors that are multiplied, float32."""
    return np.random.default_rng(4).normal(size=(count, dim)).astype(np.float32)


def computed(small: TanhNetwork, wide: TanhNetwork, out: Path) -> dict[str, np.ndarray]:
    """`dense` (P, P) of the small network and `products` of the wide one, kept in `out`.

    Raises:
        RuntimeError: if that process fails, with the end of what it said.
    """
    path = out / "reference.npz"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "benchmarks.gpu.reference", str(path)]
        words += [json.dumps(asdict(network)) for network in (small, wide)]
        settings = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
        done = subprocess.run(words, env=settings, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the float64 reference failed: {done.stderr[-1000:]}")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _product(network: TanhNetwork) -> tuple[int, Callable[[jax.Array], jax.Array]]:
    """P, and v ↦ H v in float64."""
    params, batch = network.params_and_batch()
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, batch))
    x, unravel = ravel_pytree(wide[0])
    gradient = jax.grad(lambda y: mean_squared_error(unravel(y), wide[1]))
    return x.size, jax.jit(lambda v: jax.jvp(gradient, (x,), (v,))[1])


def main() -> None:
    small, wide = (
        TanhNetwork(tuple(read["sizes"]), read["num_examples"])
        for read in map(json.loads, sys.argv[2:4])
    )
    dim, product = _product(small)
    dense = np.asarray(jax.lax.map(product, jnp.eye(dim)))
    dim, product = _product(wide)
    products = [np.asarray(product(jnp.asarray(v, jnp.float64))) for v in vectors(dim)]
    part = Path(sys.argv[1]).with_suffix(".part.npz")
    np.savez(part, dense=dense, products=np.stack(products))
    part.replace(sys.argv[1])


if __name__ == "__main__":
    main()
