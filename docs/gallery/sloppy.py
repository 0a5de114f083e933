"""Fitting rates of an ODE: eigenvalues spread evenly over decades, a sloppy model."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

jax.config.update("jax_enable_x64", True)
RATES = np.array([2.0, 1.0, 0.7, 0.5, 0.3, 0.2])
TIMES = jnp.linspace(0.0, 8.0, 161)


def chain(log_rates):
    """A -> B -> C -> ... -> G: the amount of the last one over time, by Runge and Kutta."""
    rates, dt = jnp.exp(log_rates), TIMES[1]

    def slope(c):
        flow = rates * c[:-1]
        return jnp.concatenate([-flow[:1], flow[:-1] - flow[1:], flow[-1:]])

    def step(c, _):
        k1 = slope(c)
        k2 = slope(c + dt / 2 * k1)
        k3 = slope(c + dt / 2 * k2)
        c = c + dt / 6 * (k1 + 2 * k2 + 2 * k3 + slope(c + dt * k3))
        return c, c[-1]

    return jax.lax.scan(step, jnp.eye(7)[0], TIMES[1:])[1]


def loss_fn(log_rates, measured):
    return jnp.mean((chain(log_rates) - measured) ** 2) / 2


truth = jnp.log(jnp.asarray(RATES))
pairs = hessspec.eigenpairs(loss_fn, truth, jax.random.key(0), data=chain(truth), k=6, which="LA")
figure, (left, right) = plt.subplots(1, 2, width_ratios=(1, 2))
left.hlines(np.asarray(pairs.values), 0, 1, color="C0")
left.set(yscale="log", xticks=[], ylabel="eigenvalue by the logarithms of the rates")
shown = right.imshow(np.asarray(pairs.vectors), cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
right.set(
    xticks=range(6),
    xticklabels=[f"k{i}" for i in range(1, 7)],
    ylabel="eigenvector, stiffest first",
)
right.grid(visible=False)
figure.colorbar(shown)
print("eigenvalues ", " ".join(f"{v:.1e}" for v in pairs.values))
print("residuals   ", " ".join(f"{v:.1e}" for v in pairs.residuals))
print("ratio to the next", " ".join(f"{r:.0f}" for r in pairs.values[:-1] / pairs.values[1:]))
