"""The loss on a plane of two eigenvectors, and the quadratic that the eigenvalues promise."""

import jax
import jax.numpy as jnp

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
plane = hessspec.landscape(loss_fn, params, pairs.vectors, data=batch, span=(0.35, 1.5))
ax = plane.plot()
ax.set(
    title="solid: the loss, dashed: its quadratic model",
    xlabel=f"along the sharpest direction, λ = {pairs.values[0]:.2f}",
    ylabel=f"along the lowest, λ = {pairs.values[1]:.4f}",
)
print(f"loss {float(plane.loss):.4f}, ends of the spectrum {pairs.values}")
