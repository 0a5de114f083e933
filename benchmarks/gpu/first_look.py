"""Everything that a user calls, once, on a small network: what fails or warns on this device."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from benchmarks.gpu.step import Figures
from benchmarks.problems import TanhNetwork, mean_squared_error
from hessspec import Batches, GaussNewtonOperator, HessianOperator
from hessspec._base.memory import default_memory_budget, platform_of

NETWORK = TanhNetwork((4, 6, 6, 2), 32)


def first_look() -> Figures:
    """For each call "ok", or its error; and all warnings.

    They run side by side, since nearly all of their time is compilation.
    """
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        said = {name: pool.submit(_outcome, call) for name, call in calls().items()}
        found |= {name: future.result() for name, future in said.items()}
    found["warnings"] = sorted({f"{w.category.__name__}: {w.message}"[:300] for w in caught})
    found["failed"] = sum(future.result() != "ok" for future in said.values())
    params, _ = NETWORK.params_and_batch()
    found["platform"] = platform_of(params)
    found["memory_budget"] = default_memory_budget()
    return found


def _outcome(call: Callable[[], Any]) -> str:
    try:
        jax.block_until_ready(call())
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return "ok"


def calls() -> dict[str, Callable[[], Any]]:
    """The calls, each a function of nothing."""
    params, batch = NETWORK.params_and_batch()
    operator = NETWORK.operator()
    vector = jax.tree.map(jnp.ones_like, params)
    halves = [jax.tree.map(lambda leaf, cut=cut: leaf[cut], batch) for cut in _CUTS]
    by_loss = partial(_called, params=params, data=batch)
    ragged = HessianOperator(mean_squared_error, params, data=Batches(halves))
    streamed = HessianOperator(
        mean_squared_error, params, data=Batches(halves * 50), memory_budget=100_000
    )
    tasks = HessianOperator(_tasks, params, data=batch)
    gauss_newton = GaussNewtonOperator(_outputs, _squares, params, batch)
    return {
        "hvp": lambda: hessspec.hvp(mean_squared_error, params, vector, data=batch),
        "density": lambda: by_loss("density", num_steps=10).nodes,
        "trace": lambda: by_loss("trace").samples,
        "diagonal": lambda: by_loss("diagonal").value,
        "eigenpairs": lambda: by_loss("eigenpairs", k=3).values,
        "verify": lambda: str(by_loss("verify")),
        "xtrace": lambda: by_loss("trace", method="xtrace", num_matvecs=24).samples,
        "exact": lambda: by_loss("trace", num_matvecs=10_000).value,
        "tasks: trace": lambda: _of(tasks, "trace").samples,
        "tasks: density": lambda: _of(tasks, "density", num_steps=8).nodes,
        "ragged batches": lambda: _of(ragged, "density", num_steps=8).nodes,
        "streamed batches": lambda: _of(streamed, "trace", method="hutchinson").samples,
        "Gauss-Newton": lambda: _of(gauss_newton, "density", num_steps=8).nodes,
        "a sum": lambda: _of(operator - gauss_newton, "trace", method="hutchinson").samples,
        "dense": operator.dense,
        "scipy": lambda: operator.as_scipy() @ np.ones(operator.dim, np.float32),
        "without bases": lambda: _of(operator, "density", reorthogonalize=False).nodes,
        "lanczos": lambda: jax.jit(
            lambda start: hessspec.lanczos(lambda v: 2.0 * v, start, 2).alpha
        )(jnp.ones(9)),
        "a callback in the loss": lambda: (
            hessspec.density(
                _asks_host, jnp.ones(9), jax.random.key(0), num_steps=4, progress=False
            ).nodes
        ),
        "parameters on the host": lambda: (
            hessspec.trace(
                mean_squared_error,
                jax.device_put(params, jax.devices("cpu")[0]),
                jax.random.key(0),
                data=jax.device_put(batch, jax.devices("cpu")[0]),
                progress=False,
            ).samples
        ),
        "save and load": lambda: _saved(operator),
    }


_CUTS = (slice(0, 20), slice(20, 32))


def _called(verb: str, *, params: Any, data: Any, **options: Any) -> Any:
    if verb != "verify":
        options["progress"] = False
    function = getattr(hessspec, verb)
    return function(mean_squared_error, params, jax.random.key(0), data=data, **options)


def _of(operator: hessspec.AbstractOperator, verb: str, **options: Any) -> Any:
    return getattr(hessspec, verb)(operator, key=jax.random.key(0), progress=False, **options)


def _outputs(params: Any, batch: Any) -> jax.Array:
    x = batch[0]
    for i, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"][None, :]
        x = jnp.tanh(x) if i < len(params) - 1 else x
    return x


def _squares(outputs: jax.Array, batch: Any) -> jax.Array:
    return jnp.mean((outputs - batch[1]) ** 2)


def _tasks(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((_outputs(params, batch) - batch[1]) ** 2, axis=0)


def _asks_host(x: jax.Array) -> jax.Array:
    scale = jax.pure_callback(lambda: np.float32(2.0), jnp.float32(0.0))
    return jax.lax.stop_gradient(scale) * jnp.sum(jnp.sin(x))


def _saved(operator: HessianOperator) -> Any:
    found = _of(operator, "density", num_steps=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "density.npz"
        found.save(path)
        return hessspec.SpectralDensity.load(path).nodes
