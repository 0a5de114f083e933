"""How the paper's network is best written for products with its Hessian: variants, in one run.

    python -m benchmarks.network_layout [--message-steps 2] [--molecules 64] [--rounds 5]

Prints processor milliseconds of one more product in a block (what linearising costs is shared by
the block and left out): medians of interleaved rounds. For one core, put `taskset -c 0` before it.
QM8 is read from HESSSPEC_DATA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from hessspec_mtl.datasets.qm8 import load_qm8
from hessspec_mtl.graphs import balanced_batches
from hessspec_mtl.network import model

VARIANTS = {
    "as it is": {"tanh": model.tanh, "matmul": model.matmul},
    "JAX's own rule of tanh": {"tanh": jnp.tanh},
    "JAX's own rule of x @ w": {"matmul": jnp.matmul},
    "both of JAX's own": {"tanh": jnp.tanh, "matmul": jnp.matmul},
}


def program(config: model.NetworkConfig, params: Any, batch: Any) -> Callable[[int], Any]:
    """Compiled: linearise the gradient of the first task's loss once, apply it n times."""
    shared, heads = params["shared"], params["heads"]

    def loss(shared: Any, batch: Any) -> jax.Array:
        errors = model.predict({"shared": shared, "heads": heads}, batch, config) - batch.targets
        return jnp.vdot(batch.mask, errors[:, 0] ** 2)

    def products(n: int, shared: Any, batch: Any) -> Any:
        _, tangent = jax.linearize(jax.grad(lambda s: loss(s, batch)), shared)
        # Each is applied to the one before: nothing is left out, and lengths stay.
        return jax.lax.fori_loop(0, n, lambda _, v: _unit(tangent(v)), shared)

    compiled = jax.jit(products).lower(1, shared, batch).compile()
    return lambda n: jax.block_until_ready(compiled(n, shared, batch))


def _unit(tree: Any) -> Any:
    length = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))
    return jax.tree.map(lambda leaf: leaf / length, tree)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time, all threads: what other processes do to it is small."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("message-steps", 2), ("molecules", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    dataset = load_qm8(num_examples=2 * options.molecules)
    encoded = dataset.encode(dataset.split(0))
    train = encoded.train
    count = options.molecules
    (batch,) = balanced_batches(train.graphs[:count], train.targets[:count], count)
    config = model.NetworkConfig(
        encoded.node_features,
        encoded.edge_features,
        tuple(task.name for task in encoded.tasks),
        num_steps=options.message_steps,
    )
    params = model.init_params(jax.random.key(0), config)
    runs, reference = {}, None
    for name, replaced in VARIANTS.items():
        with mock.patch.multiple(model, **replaced):
            runs[name] = program(config, params, jax.tree.map(jnp.asarray, batch))
        found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(runs[name](1))])
        reference = found if reference is None else reference
        assert np.linalg.norm(found - reference) < 1e-5  # both have length 1
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name, run in runs.items():
            one, five = (seconds(lambda n=n, run=run: run(n)) for n in (1, 5))
            times[name].append((five - one) / 4)
    print(f"{count} molecules, {options.message_steps} message-passing steps, {batch.padding}")
    base = np.median(times["as it is"])
    for name, found in times.items():
        ratio = np.median(found) / base
        print(f"{name:24s} {1e3 * np.median(found):7.1f} ms of processor time, {ratio:.2f}")


if __name__ == "__main__":
    main()
