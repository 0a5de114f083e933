"""The worker of this package."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.peers.worker import Answer, Work, layers_of, save, serve, vectors
from benchmarks.problems import mean_squared_error


def make(arrays: dict[str, np.ndarray]) -> dict[str, Work]:
    params = [{"bias": jnp.asarray(b), "kernel": jnp.asarray(k)} for b, k in layers_of(arrays)]
    batch = (jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["targets"]))
    hessian = hessspec.HessianOperator(mean_squared_error, params, data=batch)
    blocks: dict[int, jax.Array] = {}

    def products(count: int, out: str | None = None) -> Answer:
        if count not in blocks:
            blocks[count] = jnp.asarray(vectors(hessian.dim, count))
        found = jax.block_until_ready(hessian.rows(blocks[count]))
        return save(out, found) if out else {}

    def slq(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        found = hessspec.density(
            hessian, key=jax.random.key(seed), num_probes=probes, num_steps=steps, progress=False
        )
        plain = found.plain()
        mean = float((np.asarray(plain.nodes) * np.asarray(plain.weights)).sum(axis=-1).mean())
        return {"trace": mean * hessian.dim, "largest": float(np.max(np.asarray(found.nodes)))}

    def hutchinson(samples: int, seed: int) -> Answer:
        found = hessspec.trace(
            hessian,
            key=jax.random.key(seed),
            method="hutchinson",
            num_matvecs=samples,
            progress=False,
        )
        return {"trace": float(found.value)}

    def trace(method: str, products: int, seed: int) -> Answer:
        found = hessspec.trace(
            hessian,
            key=jax.random.key(seed),
            method=method,  # type: ignore[arg-type]
            num_matvecs=products,
            progress=False,
        )
        interval = [float(end) for end in found.confidence_interval(0.95)]
        return {"trace": float(found.value), "stated": {"interval": interval}}

    def rule(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        found = hessspec.density(
            hessian, key=jax.random.key(seed), num_probes=probes, num_steps=steps, progress=False
        )
        rules = {"atoms": found, "plain rule": found.plain()}
        return {"rules": {n: [r.nodes.tolist(), r.weights.tolist()] for n, r in rules.items()}}

    known = {"products": products, "slq": slq, "hutchinson": hutchinson}
    return {**known, "trace": trace, "rule": rule}


if __name__ == "__main__":
    found = {name: importlib.metadata.version(name) for name in ("hessspec", "jax")}
    serve(make, found)
