"""The loss on a plane of two eigenvectors, and the quadratic that the eigenvalues promise."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (200, 8))
batch = (x, jnp.sin(2 * x[:, :1]))
params = {
    "hidden": jax.random.normal(keys[1], (8, 20)) / 3,
    "out": jax.random.normal(keys[2], (20, 1)) / 3,
}


def loss_fn(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["hidden"]) @ params["out"] - batch[1]) ** 2)


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 20_000, step, params)


params = train(params)
pairs = hessspec.eigenpairs(loss_fn, params, jax.random.key(1), data=batch, k=2, which="BE")
sharp, flat = (jax.tree.map(lambda leaf, i=i: leaf[i], pairs.vectors) for i in (0, 1))
a, b = np.linspace(-0.35, 0.35, 81), np.linspace(-1.5, 1.5, 81)


@jax.jit
@jax.vmap
def plane(a, b):
    return loss_fn(jax.tree.map(lambda w, u, v: w + a * u + b * v, params, sharp, flat), batch)


aa, bb = np.meshgrid(a, b)
losses = plane(aa.ravel(), bb.ravel()).reshape(aa.shape)
model = float(loss_fn(params, batch)) + (pairs.values[0] * aa**2 + pairs.values[1] * bb**2) / 2
levels = float(loss_fn(params, batch)) + np.array([0.01, 0.03, 0.1, 0.3, 1.0])
figure, ax = plt.subplots()
ax.contour(aa, bb, losses, levels, colors="C0")
ax.contour(aa, bb, model, levels, colors="C1", linestyles=":")
ax.plot([], [], "C0", label="loss")
ax.plot([], [], "C1:", label="quadratic model")
ax.set(xlabel=f"along the sharpest direction, λ = {pairs.values[0]:.2f}")
ax.set_ylabel(f"along the lowest, λ = {pairs.values[1]:.4f}")
ax.legend()
print(f"loss {float(loss_fn(params, batch)):.4f}, ends of the spectrum {pairs.values}")
