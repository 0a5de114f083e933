"""A minimum or a saddle? The smallest eigenvalue, and the loss along its vector."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

x = jnp.linspace(-2, 2, 60)[:, None]
batch = (x, jnp.tanh(4 * (x - 1)) + jnp.tanh(4 * (x + 1)))


def loss_fn(params, batch):
    hidden = jnp.tanh(batch[0] @ params["kernel"] + params["bias"])
    decay = sum((w**2).sum() for w in jax.tree.leaves(params))
    return jnp.mean((hidden @ params["out"] - batch[1]) ** 2) + 1e-3 * decay


@jax.jit
def descend(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.03 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 30_000, step, params)


# Two units that start as twins stay twins: the gradient cannot tell them apart.
twins = {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2), "out": jnp.ones((2, 1))}
shaken = twins | {"bias": jnp.array([0.1, -0.1])}

figure, ax = plt.subplots()
along = np.linspace(-0.25, 0.25, 81)
for name, start in (("twins", twins), ("shaken", shaken)):
    params = descend(start)
    pairs = hessspec.eigenpairs(loss_fn, params, jax.random.key(1), data=batch, k=1, which="SA")
    lowest = jax.tree.map(lambda leaf: leaf[0], pairs.vectors)
    moved = [jax.tree.map(lambda w, v, t=t: w + t * v, params, lowest) for t in along]
    rise = np.array([float(loss_fn(m, batch)) for m in moved]) - float(loss_fn(params, batch))
    ax.plot(along, rise, label=f"{name}: λ = {pairs.values[0]:.3f}")
    slope = jax.tree.leaves(jax.grad(loss_fn)(params, batch))
    print(
        f"{name}: loss {float(loss_fn(params, batch)):.4f}, "
        f"gradient {float(jnp.sqrt(sum((g**2).sum() for g in slope))):.0e}, "
        f"smallest eigenvalue {pairs.values[0]:.4f} ± {pairs.residuals[0]:.0e}"
    )
ax.set(xlabel="way along the lowest eigenvector", ylabel="rise of the loss", ylim=(-4e-5, 2e-4))
ax.legend()
