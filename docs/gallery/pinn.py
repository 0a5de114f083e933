"""A differential equation as a loss: its residual is far more curved than its boundary values."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 3)
params = {
    "first": jax.random.normal(keys[0], (1, 16)),
    "second": jax.random.normal(keys[1], (16, 16)) / 4,
    "out": jax.random.normal(keys[2], (16,)) / 4,
}
points = jnp.linspace(0, 1, 64)


def u(params, x):
    hidden = jnp.tanh(x[None] @ params["first"] + 1.0)
    return jnp.tanh(hidden @ params["second"]) @ params["out"]


def losses(params, points):
    """u'' = -π² sin πx inside, u = 0 at both ends: two losses."""
    bend = jax.vmap(jax.grad(jax.grad(u, 1), 1), (None, 0))(params, points)
    inside = jnp.mean((bend + jnp.pi**2 * jnp.sin(jnp.pi * points)) ** 2)
    return jnp.stack([inside, u(params, jnp.array(0.0)) ** 2 + u(params, jnp.array(1.0)) ** 2])


@jax.jit
def train(params):
    def step(_, p):
        slope = jax.grad(lambda p: losses(p, points).sum())(p)
        return jax.tree.map(lambda w, g: w - 2e-3 * g, p, slope)

    return jax.lax.fori_loop(0, 5000, step, params)


trained = train(params)
H = hessspec.HessianOperator(losses, trained, data=points)
spectrum = hessspec.density(H, key=jax.random.key(1), num_steps=H.dim)  # small: exact
figure, ax = plt.subplots()
for task, name in enumerate(("residual of the equation", "boundary values")):
    one = spectrum.task(task)
    values = np.sort(np.abs(one.nodes[0]))[::-1]
    (line,) = ax.semilogy(1 + np.arange(H.dim), values, ".", ms=3, label=name)
    ax.axhline(float(one.resolution), color=line.get_color(), ls=":")
    above = int((values > float(one.resolution)).sum())
    print(f"{name}: largest {values[0]:.3g}, {above} of {H.dim} above what float32 resolves")
ax.set(xlabel="rank", ylabel="|eigenvalue|", ylim=(1e-6, 3e3))
ax.legend(title="dotted: the resolution of float32")
print("losses after training:", np.asarray(losses(trained, points)))
