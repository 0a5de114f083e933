"""Which layer is most curved? The trace of each layer's own block of H, with its error."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import hessspec

SIZES = (16, 32, 32, 32, 4)
keys = jax.random.split(jax.random.key(0), len(SIZES))
params = {
    f"layer_{i}": {"kernel": jax.random.normal(keys[i], (m, n)) / m**0.5, "bias": jnp.zeros(n)}
    for i, (m, n) in enumerate(itertools.pairwise(SIZES))
}
x = jax.random.normal(keys[-1], (500, 16))
batch = (x, jnp.argmax(x[:, :4] + x[:, 4:8] ** 2, axis=1))


def loss_fn(params, batch):
    x = batch[0]
    for name in sorted(params):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = jax.nn.gelu(x) if name != "layer_3" else x
    return -jnp.take_along_axis(jax.nn.log_softmax(x), batch[1][:, None], 1).mean()


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.2 * g, p, jax.grad(loss_fn)(p, batch))

    return jax.lax.fori_loop(0, 400, step, params)


params = train(params)
blocks = hessspec.trace(  # all from the same products
    loss_fn, params, jax.random.key(1), data=batch, by=lambda path, leaf: path.split("/")[0]
)
sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}

figure, axes = plt.subplots(1, 2)
for ax, share in zip(axes, (False, True), strict=True):
    for name, estimate in blocks.items():
        scale = sizes[name] if share else 1
        low, high = (float(end) / scale for end in estimate.confidence_interval())
        value = float(estimate.value) / scale
        ax.bar(name, value, yerr=[[value - low], [high - value]], color="C0", capsize=4)
    ax.set_ylabel("trace of its block" + (" / its parameters" if share else ""))
    ax.tick_params(axis="x", labelrotation=20)
for name, estimate in blocks.items():
    low, high = estimate.confidence_interval()
    value = float(estimate.value)
    print(f"{name}: {sizes[name]:5} parameters, trace {value:7.3f} in [{low:.3f}, {high:.3f}]")
