"""What a trace costs: stated and true errors of three methods."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 3)
y = jnp.arange(500) % 5
x = 3 * jnp.eye(20)[y] + jax.random.normal(keys[0], (500, 20))
params = {
    "hidden": 0.2 * jax.random.normal(keys[1], (20, 32)),
    "out": 0.2 * jax.random.normal(keys[2], (32, 5)),
}


def loss_fn(params, batch):
    logits = jax.nn.sigmoid(batch[0] @ params["hidden"]) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], 1).mean()


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(loss_fn)(p, (x, y)))

    return jax.lax.fori_loop(0, 100, step, params)


H = hessspec.HessianOperator(loss_fn, train(params), data=(x, y))
truth = np.trace(np.asarray(H.dense(), np.float64))
budgets, seeds = (12, 24, 48, 96, 192), range(6)
figure, ax = plt.subplots()
inside, intervals = 0, 0
for method in ("hutchinson", "xtrace", "auto"):
    true, stated = [], []
    for budget in budgets:
        runs = [
            hessspec.trace(H, key=jax.random.key(s), num_matvecs=budget, method=method)
            for s in seeds
        ]
        true.append(np.mean([(float(r.value) - truth) ** 2 for r in runs]) ** 0.5)
        stated.append(np.mean([float(r.standard_error) ** 2 for r in runs]) ** 0.5)
        ends = np.array([r.confidence_interval(0.95) for r in runs])
        inside += int(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).sum())
        intervals += len(runs)
    (line,) = ax.loglog(budgets, np.array(true) / abs(truth), "o", label=method)
    ax.loglog(budgets, np.array(stated) / abs(truth), "-", color=line.get_color())
ax.set(xlabel="products", ylabel="relative error of the trace", xticks=budgets, xticklabels=budgets)
ax.minorticks_off()
ax.legend(title="dots: true rms of 6 keys\nlines: stated")
print(f"{inside} of {intervals} intervals of 95 % hold the true trace {truth:.2f}")
