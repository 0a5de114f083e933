"""Products of an update of the tracker beside those of `eigenpairs` from scratch, same tolerance.

    python -m benchmarks.tracking_products [--every 1]

The reduced graph network of the preset `compare` trains with Adam on the molecules that come with
the project; every so many steps the largest eigenvalue of one task is followed on 64 of them, for
50 updates. Counts depend on no clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import jax
import numpy as np
import optax

import hessspec
from hessspec_mtl.curvature.follow import hessian_indices
from hessspec_mtl.curvature.subject import task_hessians
from hessspec_mtl.graphs import batch_graphs, padding_for
from hessspec_mtl.network.model import NetworkConfig, Params, init_params
from hessspec_mtl.network.tasks import partial_losses
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.presets import DATA_SEED, PRESETS
from hessspec_mtl.study.seeds import take

GRAPHS, BATCH, UPDATES = 64, 32, 50
SCRATCH_EVERY = 5  # updates from one comparison to the next


def trained(network: NetworkConfig, encoded, steps: int) -> Iterator[Params]:
    """The parameters before each step of Adam on random batches."""
    losses, optimizer = partial_losses(network), optax.adam(2e-3)
    rng = np.random.default_rng(0)
    graphs, targets = encoded.train.graphs, encoded.train.targets
    padding = padding_for(graphs, BATCH)

    @jax.jit
    def step(params, state, batch):
        gradients = jax.grad(lambda p: losses(p, batch).sum())(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = init_params(jax.random.key(0), network)
    state = optimizer.init(params)
    for _ in range(steps):
        yield params
        members = rng.choice(len(graphs), BATCH, replace=False)
        batch = batch_graphs([graphs[i] for i in members], targets[members], pad_to=padding)
        params, state = step(params, state, batch)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    every = parser.parse_args(argv).every
    config = PRESETS["compare"].studies["qm8"]
    _, dataset = named("molecules", None, progress=False)
    encoded = dataset.encode(dataset.split(DATA_SEED, config.test_fraction))
    tasks = tuple(task.name for task in encoded.tasks)
    sizes = asdict(config.network)
    network = NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)
    examples = take(encoded.train, hessian_indices(len(encoded.train), GRAPHS, DATA_SEED))
    tracker = hessspec.Tracker(None, jax.random.key(1))
    updates, scratch = [], []
    for number, params in enumerate(trained(network, encoded, every * UPDATES + 1)):
        if number % every:
            continue
        hessian = task_hessians(params, network, examples, GRAPHS).task(0)
        updates.append(tracker.update(number, hessian))
        if (len(updates) - 1) % SCRATCH_EVERY == 0:
            key = jax.random.fold_in(jax.random.key(2), number)
            pairs = hessspec.eigenpairs(hessian, key=key, k=1, which="LA", progress=False)
            scratch.append(pairs.num_matvecs)
            apart = abs(float(pairs.values[0]) / float(updates[-1].values[0]) - 1)
            print(
                f"step {number}: {updates[-1].num_matvecs} products, {pairs.num_matvecs} from "
                f"scratch; {updates[-1].values[0]:.4g}, {apart:.1e} apart",
                flush=True,
            )
    spent = np.array([update.num_matvecs for update in updates[1:]])
    values = np.array([update.values[0] for update in updates])
    turned = np.median([update.rotation for update in updates[1:]])
    print(
        f"{tracker.steps[-1].dim:,} parameters; {len(spent)} updates, the eigenvalue from "
        f"{values.min():.3g} to {values.max():.3g}, its vector turning by {turned:.2f}: "
        f"{np.median(spent):g} products an update "
        f"(mean {spent.mean():.2f}), {np.median(scratch):g} from scratch, "
        f"{np.median(spent) / np.median(scratch):.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
