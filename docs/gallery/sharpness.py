"""Sharpness along training: small batches and large ones, with error bars."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (1024, 16))
y = jnp.argmax(x[:, :4] * x[:, 4:8] + 0.3 * jax.random.normal(keys[1], (1024, 4)), axis=1)
start = {
    "hidden": jax.random.normal(keys[2], (16, 48)) / 4,
    "out": jax.random.normal(keys[3], (48, 4)) / 7,
}


def loss_fn(params, batch):
    logits = jax.nn.relu(batch[0] @ params["hidden"]) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], 1).mean()


def epochs(size):
    """A function that trains for some epochs of batches of one size."""

    def step(p, chosen):
        slope = jax.grad(loss_fn)(p, (x[chosen], y[chosen]))
        return jax.tree.map(lambda w, g: w - 0.2 * g, p, slope), None

    def epoch(p, key):
        order = jax.random.permutation(key, 1024).reshape(-1, size)
        return jax.lax.scan(step, p, order)[0], None

    return jax.jit(lambda p, keys: jax.lax.scan(epoch, p, keys)[0])


LOOKS = (0, 2, 5, 10, 20, 40)
figure, (left, right) = plt.subplots(1, 2)
for size in (16, 256):
    train, params, done, rows = epochs(size), start, 0, []
    for look in LOOKS:
        if look > done:
            params = train(params, jax.random.split(jax.random.key(look), look - done))
            done = look
        H = hessspec.HessianOperator(loss_fn, params, data=(x, y))
        trace = hessspec.trace(H, key=jax.random.key(1), num_matvecs=48)
        top = hessspec.eigenpairs(H, key=jax.random.key(2), k=1, which="LA")
        rows.append([float(trace.value), *map(float, trace.confidence_interval()), top.values[0]])
    value, low, high, sharpest = np.array(rows).T
    left.errorbar(LOOKS, value, [value - low, high - value], fmt="o-", capsize=3)
    right.plot(LOOKS, sharpest, "o-", label=f"batches of {size}")
    loss = float(loss_fn(params, (x, y)))
    print(
        f"batches of {size}: loss {loss:.3f}, trace {value[-1]:.1f}, sharpness {sharpest[-1]:.2f}"
    )
left.set(xlabel="epoch", ylabel="trace")
right.set(xlabel="epoch", ylabel="largest eigenvalue")
right.legend()
