"""The truth in float64, by none of the libraries: products, the largest eigenvalue, the trace.

JAX_ENABLE_X64=1 python -m benchmarks.peers.reference problem.npz out.npz
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.peers.worker import layers_of, load, vectors
from benchmarks.problems import mean_squared_error

PROBES = 64


def main() -> None:
    arrays = {name: jnp.asarray(a, jnp.float64) for name, a in load(sys.argv[1]).items()}
    tree = [{"bias": b, "kernel": k} for b, k in layers_of(arrays)]
    x, unravel = ravel_pytree(tree)
    batch = (arrays["inputs"], arrays["targets"])

    @jax.jit
    def product(x: jax.Array, batch: tuple[jax.Array, jax.Array], v: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda y: mean_squared_error(unravel(y), batch))
        return jax.jvp(gradient, (x,), (v,))[1]

    times = partial(product, x, batch)
    rows = [np.asarray(times(jnp.asarray(v, jnp.float64))) for v in vectors(x.size, 2)]
    signs = np.random.default_rng(2).choice([-1.0, 1.0], size=(PROBES, x.size))
    forms = [float(np.vdot(v, np.asarray(times(jnp.asarray(v))))) for v in signs]
    operator = LinearOperator(
        (x.size, x.size),
        matvec=lambda v: np.asarray(times(jnp.asarray(v.ravel()))),  # pyright: ignore
        dtype=np.float64,
    )
    start = np.random.default_rng(3).normal(size=x.size)
    ends = [
        float(eigsh(operator, 1, which=which, v0=start, tol=1e-6, return_eigenvectors=False)[0])
        for which in ("SA", "LA")
    ]
    np.savez(sys.argv[2], products=np.stack(rows), forms=np.asarray(forms), ends=np.asarray(ends))


if __name__ == "__main__":
    main()
