"""What following costs over a run: `python -m docs.tracking_cost [FOLDER]`.

A classifier of 458,250 parameters takes 1,000 steps; every tenth a tracker is updated on 256
examples. Drawn are the processor seconds and products of each update, the memory of the process,
and the eigenvalue; printed also the bytes of JAX's arrays that are alive.
"""

import gc
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessspec

WIDTH, CLASSES = 640, 10


def loss(params, batch):
    """Cross-entropy of a network with two hidden layers."""
    hidden = jnp.tanh(batch[0] @ params["w1"] + params["b1"])
    logits = jnp.tanh(hidden @ params["w2"] + params["b2"]) @ params["w3"] + params["b3"]
    return -jax.nn.log_softmax(logits)[jnp.arange(len(batch[1])), batch[1]].mean()


@jax.jit
def descended(params, batch):
    """One step of stochastic gradient descent."""
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params, batch))


def resident_bytes():
    """Memory of this process, from Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(folder, steps=1000):
    """Draw the three, and print medians over the first and the last quarter."""
    from matplotlib import pyplot

    keys = jax.random.split(jax.random.key(0), 5)
    labels = jax.random.randint(keys[3], (2000,), 0, CLASSES)
    inputs = jax.random.normal(keys[4], (CLASSES, 64))[labels] / 2
    inputs = inputs + jax.random.normal(jax.random.key(1), inputs.shape)
    shapes = {"w1": (64, WIDTH), "w2": (WIDTH, WIDTH), "w3": (WIDTH, CLASSES)}
    named = zip(shapes.items(), keys[:3], strict=True)
    params = {n: jax.random.normal(key, s) / s[0] ** 0.5 for (n, s), key in named}
    params |= {"b1": jnp.zeros(WIDTH), "b2": jnp.zeros(WIDTH), "b3": jnp.zeros(CLASSES)}
    tracker = hessspec.Tracker(loss, jax.random.key(2), data=(inputs[:256], labels[:256]))
    rng, memory, seconds, alive = np.random.default_rng(0), [], [], []
    for step in range(steps):
        if step % 10 == 0:
            start = time.process_time()
            tracker.update(step, params)
            seconds.append(time.process_time() - start)
            gc.collect()
            alive.append(sum(array.nbytes for array in jax.live_arrays()) / 2**20)
            memory.append(resident_bytes() / 2**20)
        chosen = rng.integers(0, len(labels), 64)
        params = descended(params, (inputs[chosen], labels[chosen]))
    table, memory = tracker.table, np.array(memory)
    columns = {
        "processor seconds of an update": np.array(seconds),
        "products of an update": table["num_matvecs"],
        "memory of the process, MiB": memory,
        "largest eigenvalue": table["values"][:, 0],
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    for panel, (name, values) in zip(axes, columns.items(), strict=True):
        panel.plot(table["step"][1:], values[1:], linewidth=0.8)
        panel.set(xlabel="step", title=name, ylim=(0, 1.2 * values[1:].max()))
        quarter = len(values) // 4
        first, last = np.median(values[1 : quarter + 1]), np.median(values[-quarter:])
        print(f"{name}: {first:.3g} in the first quarter, {last:.3g} in the last")
    print(
        f"arrays of JAX alive: {alive[1]:.2f} MiB after the second update, {alive[-1]:.2f} at last"
    )
    figure.savefig(Path(folder) / "tracking_cost.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images")
