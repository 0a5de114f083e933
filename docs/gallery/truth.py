"""What 120 products say of 840 eigenvalues, over the dense truth."""

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from hessspec.plotting import plot_cdf

keys = jax.random.split(jax.random.key(0), 4)
params = {
    "hidden": jax.random.normal(keys[0], (20, 40)),
    "out": jax.random.normal(keys[1], (40, 1)),
}
x = jax.random.normal(keys[2], (400, 20))
batch = (x, jnp.sin(x.sum(axis=1, keepdims=True)))


def loss_fn(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["hidden"]) @ params["out"] - batch[1]) ** 2)


H = hessspec.HessianOperator(loss_fn, params, data=batch)
spectrum = hessspec.density(H, key=jax.random.key(1))
truth = np.linalg.eigvalsh(np.asarray(H.dense(), np.float64))

ax = plot_cdf(spectrum, linthresh=0.03)
ax.step(truth, np.arange(1, H.dim + 1) / H.dim, "k:", where="post", label="dense truth")
ax.legend(loc="upper left")

print(f"products {spectrum.num_matvecs}, eigenvalues {H.dim}")
low, high = spectrum.trace().confidence_interval(0.95)
value = float(spectrum.trace().value)
print(f"trace {value:.2f} in [{low:.2f}, {high:.2f}], true {truth.sum():.2f}")
for lo, hi in ((-np.inf, 0.0), (1.0, np.inf)):
    count = spectrum.count(lo, hi)
    inside = int(((truth > lo) & (truth <= hi)).sum())
    print(
        f"in ({lo}, {hi}]: {float(count):.0f} [{count.lower:.0f}, {count.upper:.0f}], true {inside}"
    )
