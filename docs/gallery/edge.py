"""Gradient descent takes the largest eigenvalue to 2 over its rate, Adam to 38 in its own terms."""

from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import hessspec

x = jnp.linspace(-1, 1, 20)[:, None]
y = 8 * x**4 - 8 * x**2 + 1  # the fourth polynomial of Chebyshev
shapes = {"w1": (1, 24), "b1": (24,), "w2": (24, 24), "w3": (24, 1)}
keys = dict(zip(shapes, jax.random.split(jax.random.key(0), 4), strict=True))
start = {n: jax.random.normal(keys[n], s) / s[0] ** 0.5 for n, s in shapes.items()}


def loss_fn(params):
    hidden = jnp.tanh(jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"])
    return ((hidden @ params["w3"] - y) ** 2).mean()


@partial(jax.jit, static_argnums=0)
def twenty(optimiser, params, state):
    def step(_, carry):
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, 20, step, (params, state))


figure, panels = plt.subplots(1, 2)
adam = partial(optax.adam, b1=0.9, b2=0.99, eps=1e-7)
for ax, make, limit, rates in (
    (panels[0], optax.sgd, 2, (0.1, 0.07, 0.05)),
    (panels[1], adam, 38, (4e-3, 2e-3, 1e-3)),
):
    for colour, rate in enumerate(rates):
        optimiser = make(rate)
        params, state = start, optimiser.init(start)
        tracker = hessspec.Tracker(loss_fn, jax.random.key(1), tol=1e-3)
        for step in range(20, 6001, 20):
            params, state = twenty(optimiser, params, state)
            scale = hessspec.adam_scale(state, b2=0.99, eps=1e-7) if make is adam else None
            tracker.update(step, params, scale=scale)
        sharpness = tracker.table["values"][:, 0]
        ax.plot(tracker.table["step"], sharpness, f"C{colour}", lw=0.8, label=f"rate {rate:g}")
        ax.axhline(limit / rate, color=f"C{colour}", ls="--", lw=0.8)
        share = sharpness[200:].mean() * rate / limit
        name = "Adam" if make is adam else "descent"
        print(f"{name}, rate {rate:g}: {share:.3f} of {limit} / rate over the last third")
    ax.set(xlabel="step", ylabel=f"largest eigenvalue (dashed: {limit} / rate)", title=name)
    ax.set_yscale("log" if make is adam else "linear")
    ax.legend(loc="lower right")
