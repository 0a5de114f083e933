"""The worker of matfree and traceax, which take a product from the user: jvp of the gradient.

worker_jax problem.npz matfree|traceax
"""

import importlib.metadata
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.peers.worker import Answer, Work, layers_of, save, serve, vectors

Batch = tuple[jax.Array, jax.Array]


def loss(params: list[dict[str, jax.Array]], batch: Batch) -> jax.Array:
    x, targets = batch
    for i, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"]
        x = jnp.tanh(x) if i < len(params) - 1 else x
    return jnp.mean((x - targets) ** 2)


class Problem:
    """The loss at a flat vector, and its products."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        tree = [{"bias": jnp.asarray(b), "kernel": jnp.asarray(k)} for b, k in layers_of(arrays)]
        self.x, self._unravel = ravel_pytree(tree)
        self.batch = (jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["targets"]))
        self.dim = self.x.size
        self._blocks: dict[int, jax.Array] = {}
        self._block = jax.jit(jax.vmap(self.product, in_axes=(0, None, None)))

    def product(self, v: jax.Array, x: jax.Array, batch: Batch) -> jax.Array:
        """H v at x."""
        gradient = jax.grad(lambda y: loss(self._unravel(y), batch))
        return jax.jvp(gradient, (x,), (v,))[1]

    def products(self, count: int, out: str | None = None) -> Answer:
        if count not in self._blocks:
            self._blocks[count] = jnp.asarray(vectors(self.dim, count))
        found = jax.block_until_ready(self._block(self._blocks[count], self.x, self.batch))
        return save(out, found) if out else {}


def matfree(arrays: dict[str, np.ndarray]) -> dict[str, Work]:
    from matfree import decomp, funm, stochtrace

    problem = Problem(arrays)
    compiled: dict[tuple, object] = {}

    def estimate(integrand: object, sampler: object) -> object:
        estimator = stochtrace.estimator_monte_carlo(integrand, sampler)
        return jax.jit(lambda key, x, batch: estimator(problem.product, key, x, batch))

    def slq(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        name = ("slq", probes, steps)
        if name not in compiled:
            identity = funm.dense_funm_sym_eigh(lambda eigenvalues: eigenvalues)
            integrand = funm.monte_carlo_funm_sym(identity, decomp.tridiag_sym(steps))
            compiled[name] = estimate(integrand, stochtrace.sampler_normal(problem.x, num=probes))
        found = compiled[name](jax.random.key(seed), problem.x, problem.batch)
        return {"trace": float(found)}

    def hutchinson(samples: int, seed: int) -> Answer:
        name = ("hutchinson", samples)
        if name not in compiled:
            sampler = stochtrace.sampler_signs(problem.x, num=samples)
            compiled[name] = estimate(stochtrace.monte_carlo_trace(), sampler)
        found = compiled[name](jax.random.key(seed), problem.x, problem.batch)
        return {"trace": float(found)}

    def trace(method: str, products: int, seed: int) -> Answer:
        name = ("trace", method, products)
        if name not in compiled:
            if method == "xtrace":  # half of the products sketch
                estimator = stochtrace.estimator_leave_one_out_mean_and_sem(
                    stochtrace.leave_one_out_xtrace(),
                    stochtrace.sampler_normal(problem.x, num=products // 2),
                )
            else:
                estimator = stochtrace.estimator_monte_carlo_mean_and_sem(
                    stochtrace.monte_carlo_trace(),
                    stochtrace.sampler_signs(problem.x, num=products),
                )
            compiled[name] = jax.jit(
                lambda key, x, batch: estimator(problem.product, key, x, batch)
            )
        mean, sem = compiled[name](jax.random.key(seed), problem.x, problem.batch)
        return {"trace": float(mean), "stated": {"error": float(sem)}}

    known = {"products": problem.products, "slq": slq, "hutchinson": hutchinson}
    return {**known, "trace": trace}


def traceax(arrays: dict[str, np.ndarray]) -> dict[str, Work]:
    import equinox as eqx
    import lineax
    import traceax

    problem = Problem(arrays)
    signs = traceax.RademacherSampler(jnp.float32)
    estimators = {
        "hutchinson": traceax.HutchinsonEstimator(signs),
        "hutch++": traceax.HutchPlusPlusEstimator(signs),
        "xtrace": traceax.XTraceEstimator(traceax.SphereSampler(jnp.float32)),
    }
    shape = jax.ShapeDtypeStruct(problem.x.shape, problem.x.dtype)

    @eqx.filter_jit
    def estimate(
        key: jax.Array, x: jax.Array, batch: Batch, samples: int, method: str
    ) -> jax.Array:
        operator = lineax.FunctionLinearOperator(
            lambda v: problem.product(v, x, batch), shape, lineax.symmetric_tag
        )
        return estimators[method](key, operator, samples)[0]

    def trace(method: str, products: int, seed: int) -> Answer:
        key = jax.random.key(seed)
        return {"trace": float(estimate(key, problem.x, problem.batch, products, method))}

    def hutchinson(samples: int, seed: int) -> Answer:
        return trace("hutchinson", samples, seed)

    return {"products": problem.products, "hutchinson": hutchinson, "trace": trace}


if __name__ == "__main__":
    library = sys.argv[2]
    names = {"matfree": ("matfree", "jax"), "traceax": ("traceax", "lineax", "jax")}[library]
    found = {name: importlib.metadata.version(name) for name in names}
    serve({"matfree": matfree, "traceax": traceax}[library], found)
