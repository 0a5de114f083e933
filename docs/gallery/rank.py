"""More parameters than data: as many directions are curved as there are examples."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 3)
params = {
    "hidden": jax.random.normal(keys[0], (10, 100)) / 10**0.5,
    "out": jax.random.normal(keys[1], (100, 1)) / 10,
}
inputs = jax.random.normal(keys[2], (160, 10))


def loss_fn(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["hidden"]) @ params["out"] - batch[1]) ** 2)


@jax.jit
def train(params, batch):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 5000, step, params)


figure, ax = plt.subplots()
numbers = (10, 20, 40, 80, 160)
for color, fit in (("C0", True), ("C1", False)):
    found = []
    for n in numbers:
        batch = (inputs[:n], jnp.sign(inputs[:n, :1]))
        at = train(params, batch) if fit else params
        H = hessspec.HessianOperator(loss_fn, at, data=batch)
        spectrum = hessspec.density(H, key=jax.random.key(1), num_steps=100)
        top = float(spectrum.extremes().largest)
        count = spectrum.count(1e-3 * top, np.inf)
        found.append([float(count), count.lower, count.upper])
        words = f"{'trained' if fit else 'at the start'}, {n} examples: {float(count):.0f}"
        print(f"{words} [{count.lower:.0f}, {count.upper:.0f}] of {H.dim}")
    value, low, high = np.array(found).T
    bars = np.maximum([value - low, high - value], 0)
    name = "trained" if fit else "at the start"
    ax.errorbar(numbers, value, bars, fmt="o-", color=color, capsize=4, label=name)
ax.plot(numbers, numbers, "k:", label="as many as examples")
ax.set(xscale="log", yscale="log", xlabel="examples")
ax.set_ylabel("eigenvalues above\na thousandth of the largest")
ax.legend()
