import jax
import jax.numpy as jnp

import hessspec

labels = jnp.arange(500) % 5  # points of five classes, in ten dimensions
points = 3 * jnp.eye(10)[labels] + jax.random.normal(jax.random.key(0), (500, 10))
params = {
    "hidden": 0.3 * jax.random.normal(jax.random.key(1), (10, 40)),
    "out": 0.3 * jax.random.normal(jax.random.key(2), (40, 5)),
}


def loss_fn(params, batch):
    inputs, classes = batch
    logits = jnp.tanh(inputs @ params["hidden"]) @ params["out"]
    return -jax.nn.log_softmax(logits)[jnp.arange(classes.size), classes].mean()


slope = jax.jit(jax.grad(loss_fn))
for _ in range(100):  # any training will do
    params = jax.tree.map(lambda p, g: p - 0.3 * g, params, slope(params, (points, labels)))

spectrum = hessspec.density(loss_fn, params, jax.random.key(3), data=(points, labels))
spectrum.plot().figure.savefig("spectrum.png")
