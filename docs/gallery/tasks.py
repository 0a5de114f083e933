"""Two tasks of one network: whose curvature is larger, and is it the same directions?"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (400, 12))
targets = jnp.stack([jnp.sin(x[:, 0] + x[:, 1]), x[:, 2] * x[:, 3]], axis=1)
params = {
    "trunk": [jax.random.normal(k, (m, 32)) / m**0.5 for k, m in ((keys[1], 12), (keys[2], 32))],
    "heads": 0.1 * jax.random.normal(keys[3], (32, 2)),
}


def losses(params, batch):
    hidden = batch[0]
    for kernel in params["trunk"]:
        hidden = jnp.tanh(hidden @ kernel)
    return ((hidden @ params["heads"] - batch[1]) ** 2).mean(axis=0)  # shape (2,)


@jax.jit
def train(params, steps):
    def step(_, p):
        slope = jax.grad(lambda p: losses(p, (x, targets)).sum())(p)
        return jax.tree.map(lambda w, g: w - 0.05 * g, p, slope)

    return jax.lax.fori_loop(0, steps, step, params)


checkpoints = {steps: train(params, steps) for steps in (0, 30, 300, 3000)}
traces, angles = [], []
for at in checkpoints.values():
    H = hessspec.HessianOperator(
        losses, at, data=(x, targets), where=lambda path, leaf: path.startswith("trunk")
    )
    traces.append(hessspec.trace(H, key=jax.random.key(1), num_matvecs=64))
    pairs = hessspec.eigenpairs(H, key=jax.random.key(2), k=3)
    angles.append(np.degrees(hessspec.principal_angles(pairs.task(0), pairs.task(1))))

figure, (left, right) = plt.subplots(1, 2)
at = np.arange(len(checkpoints))
for task, name in enumerate(("sin(x₀ + x₁)", "x₂ x₃")):
    ends = np.array([t.confidence_interval() for t in traces])[:, :, task]
    value = np.array([t.value[task] for t in traces])
    left.errorbar(at + 0.06 * task, value, np.abs(ends.T - value), fmt="o-", capsize=3, label=name)
left.set(xticks=at, xticklabels=checkpoints, xlabel="steps of training", ylabel="trace")
left.legend()
right.plot(at, np.stack(angles), "o-")
right.set(xticks=at, xticklabels=checkpoints, xlabel="steps of training", ylim=(0, 92))
right.set_ylabel("angles between the three\nsharpest directions, degrees")
for steps, estimate in zip(checkpoints, traces, strict=True):
    gap = estimate.difference(0, 1)
    low, high = gap.confidence_interval()
    value = float(gap.value)
    print(f"{steps:5} steps: first trace less second {value:7.3f} in [{low:.3f}, {high:.3f}]")
