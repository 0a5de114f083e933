"""Batch normalisation and outliers: one network, trained with it and without."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

WIDTH, DEPTH = 24, 4
keys = jax.random.split(jax.random.key(0), DEPTH + 3)
y = jnp.arange(400) % 8
x = jax.random.normal(keys[-1], (8, 24))[y] + jax.random.normal(keys[-2], (400, 24))
batch = (x, y)
start = [jax.random.normal(keys[i], (24, WIDTH)) * (2 / 24) ** 0.5 for i in range(DEPTH)]
params = {"hidden": start, "out": 0.2 * jax.random.normal(keys[DEPTH], (WIDTH, 8))}


def loss(params, batch, normalise):
    x = batch[0]
    for kernel in params["hidden"]:
        x = x @ kernel
        if normalise:  # of the batch itself, so that H knows how it moves
            x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5)
        x = jax.nn.relu(x)
    picked = jnp.take_along_axis(jax.nn.log_softmax(x @ params["out"]), batch[1][:, None], 1)
    return -picked.mean()


def with_it(params, batch):
    return loss(params, batch, True)


def without(params, batch):
    return loss(params, batch, False)


def train(loss_fn, steps=200):
    gradient = jax.grad(loss_fn)

    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.05 * g, p, gradient(p, batch))

    return jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, p))(params)


figure, axes = plt.subplots(1, 2, sharey=True)
for ax, loss_fn, name in zip(axes, (without, with_it), ("without", "with"), strict=True):
    trained = train(loss_fn)
    pairs = hessspec.eigenpairs(loss_fn, trained, jax.random.key(1), data=batch, k=40, which="LA")
    ax.semilogy(1 + np.arange(40), pairs.values / pairs.values.sum(), "o", ms=3)
    ax.set(title=f"{name} batch normalisation", xlabel="rank of the eigenvalue")
    print(
        f"{name}: loss {float(loss_fn(trained, batch)):.3f}, largest eigenvalue "
        f"{pairs.values[0]:.2f}, {pairs.values[0] / pairs.values[19]:.0f} times the twentieth"
    )
axes[0].set_ylabel("share of the 40 largest")
