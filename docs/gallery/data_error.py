"""Two errors: of the probes, which products cure, and of the data, which they do not."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 4)
params = {
    "hidden": 0.3 * jax.random.normal(keys[0], (16, 32)),
    "out": 0.3 * jax.random.normal(keys[1], (32, 4)),
}
x = jax.random.normal(keys[2], (1600, 16))
y = jnp.argmax(x[:, :4] + 0.5 * jax.random.normal(keys[3], (1600, 4)), axis=1)


def loss_fn(params, batch):
    logits = jnp.tanh(batch[0] @ params["hidden"]) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], 1).mean()


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(loss_fn)(p, (x, y)))

    return jax.lax.fori_loop(0, 500, step, params)


params = train(params)
figure, ax = plt.subplots()
for row, n in enumerate((25, 100, 400)):
    parts = [(x[i : i + n], y[i : i + n]) for i in range(0, min(1600, 12 * n), n)]
    found = [hessspec.trace(loss_fn, params, jax.random.key(1), data=part) for part in parts]
    value = np.array([float(e.value) for e in found])
    ends = np.array([e.confidence_interval() for e in found])
    place = row + np.linspace(-0.3, 0.3, len(parts))
    ax.errorbar(place, value, np.abs(ends.T - value), fmt=".", capsize=2, color=f"C{row}")
    probes = np.mean([float(e.standard_error) for e in found])
    print(
        f"{n:4} examples each: {value.mean():.3f}, spread between parts {value.std(ddof=1):.3f}, "
        f"error of the probes {probes:.3f}"
    )
batches = hessspec.Batches([(x[i : i + 100], y[i : i + 100]) for i in range(0, 1600, 100)])
whole = hessspec.trace(loss_fn, params, jax.random.key(1), data=batches)
probes, data = float(whole.standard_error), float(whole.data_standard_error)
print(f"all 1600 examples: {float(whole.value):.3f}")
print(f"    as `Batches`: error of the probes {probes:.3f}, of the data {data:.3f}")
ax.axhline(float(whole.value), color="k", ls=":", label="all 1600 examples")
ax.set(
    xticks=range(3), xticklabels=["25", "100", "400"], xlabel="examples in a part", ylabel="trace"
)
ax.legend()
