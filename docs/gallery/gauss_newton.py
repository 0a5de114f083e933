"""The Hessian, its Gauss-Newton part and what is left, before training and after."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (60, 6))
batch = (x, jnp.sin(x[:, :1] * x[:, 1:2]))
params = {
    "hidden": jax.random.normal(keys[1], (6, 24)),
    "out": 0.3 * jax.random.normal(keys[2], (24, 1)),
}


def model_fn(params, batch):
    return jnp.tanh(batch[0] @ params["hidden"]) @ params["out"]


def output_loss(outputs, batch):
    return jnp.mean((outputs - batch[1]) ** 2)


def loss_fn(params, batch):
    return output_loss(model_fn(params, batch), batch)


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 20_000, step, params)


figure, axes = plt.subplots(1, 2, sharey=True)
for ax, at, name in zip(axes, (params, train(params)), ("at the start", "trained"), strict=True):
    H = hessspec.HessianOperator(loss_fn, at, data=batch)
    G = hessspec.GaussNewtonOperator(model_fn, output_loss, at, batch)
    for operator, label in ((H, "H"), (G, "G"), (H - G, "H - G")):
        spectrum = hessspec.density(operator, key=jax.random.key(1), num_steps=H.dim)  # exact
        values = np.sort(spectrum.nodes[0])[::-1]
        ax.plot(1 + np.arange(H.dim), values, label=label)
        floor = float(spectrum.resolution)
        up, down = (values > floor).sum(), (values < -floor).sum()
        print(f"{name}, {label}: {up} positive, {down} negative")
    loss = float(loss_fn(at, batch))
    ax.set(title=f"{name}, loss {loss:.1g}", xlabel="rank", yscale="symlog")
    ax.set_yscale("symlog", linthresh=1e-4)
axes[0].set_ylabel("eigenvalue")
axes[1].legend()
