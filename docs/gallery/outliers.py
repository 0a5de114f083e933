"""A classifier's Hessian has one outlier less than there are classes."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec


def loss_fn(params, batch):
    logits = jax.nn.sigmoid(batch["x"] @ params["hidden"]) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1).mean()


@jax.jit
def train(params, batch):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 100, step, params)


def problem(classes):
    """A cloud of points for each class, and a network that learns to tell them apart."""
    keys = jax.random.split(jax.random.key(classes), 3)
    y = jnp.arange(600) % classes
    x = 4 * jnp.eye(20)[y] + jax.random.normal(keys[0], (600, 20))
    params = {
        "hidden": 0.2 * jax.random.normal(keys[1], (20, 20)),
        "out": 0.2 * jax.random.normal(keys[2], (20, classes)),
    }
    batch = {"x": x, "y": y}
    return train(params, batch), batch


figure, axes = plt.subplots(1, 3, sharey=True)
for ax, classes in zip(axes, (3, 5, 10), strict=True):
    params, batch = problem(classes)
    pairs = hessspec.eigenpairs(loss_fn, params, jax.random.key(0), data=batch, k=16, which="LA")
    gap = int(np.argmax(pairs.values[:-1] / pairs.values[1:])) + 1
    ax.semilogy(1 + np.arange(16), pairs.values, "o", ms=4)
    ax.axvline(classes - 0.5, color="C1", ls=":", label=f"{classes - 1} = classes - 1")
    ax.set(title=f"{classes} classes", xlabel="rank of the eigenvalue")
    ax.legend()
    print(f"{classes} classes: the widest gap is after eigenvalue {gap}")
axes[0].set_ylabel("eigenvalue")
