"""The largest stable step of gradient descent is 2 over the largest eigenvalue."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

x = jax.random.normal(jax.random.key(0), (200, 12)) * jnp.linspace(0.2, 2.0, 12)
batch = (x, jnp.where(x @ jnp.ones(12) > 0, 1.0, -1.0))


def loss_fn(w, batch):
    """Logistic regression with weight decay: convex, one minimum."""
    return jax.nn.softplus(-batch[1] * (batch[0] @ w)).mean() + 0.005 * (w**2).sum()


@jax.jit
def descend(w, rate, steps):
    step = lambda _, w: w - rate * jax.grad(loss_fn)(w, batch)  # noqa: E731
    return jax.lax.fori_loop(0, steps, step, w)


minimum = descend(jnp.zeros(12), 0.5, 20_000)
top = hessspec.eigenpairs(loss_fn, minimum, jax.random.key(1), data=batch, k=1, which="LA")
limit = 2 / float(top.values[0])

rates = limit * np.geomspace(0.05, 1.5, 40)
start = minimum + 0.01 * jax.random.normal(jax.random.key(2), (12,))
distance = [float(jnp.linalg.norm(descend(start, rate, 300) - minimum)) for rate in rates]

figure, ax = plt.subplots()
ax.loglog(rates, np.maximum(distance, 1e-8), "o-", ms=3)
ax.axvline(
    limit, color="C1", ls="--", label=f"2 / λ = {limit:.3f}, λ from {top.num_matvecs} products"
)
ax.axhline(float(jnp.linalg.norm(start - minimum)), color="grey", ls=":", label="where it started")
ax.set(xlabel="step of gradient descent", ylabel="distance to the minimum\nafter 300 steps")
ax.legend()
still = rates[np.asarray(distance) < float(jnp.linalg.norm(start - minimum))].max()
print(f"2/λ = {limit:.4f}; the largest of the steps tried that came closer: {still:.4f}")
