"""A small transformer: how curved its blocks are, parameter by parameter."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import hessspec

WIDTH, HEADS, LENGTH, TOKENS = 16, 2, 12, 8
SHAPES = {
    "embedding": (TOKENS, WIDTH),
    "places": (LENGTH, WIDTH),
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "output": (WIDTH, WIDTH),
    "up": (WIDTH, 4 * WIDTH),
    "down": (4 * WIDTH, WIDTH),
    "logits": (WIDTH, TOKENS),
}
keys = dict(zip(SHAPES, jax.random.split(jax.random.key(0), len(SHAPES)), strict=True))
params = {name: jax.random.normal(keys[name], s) / s[0] ** 0.5 for name, s in SHAPES.items()}
start = jax.random.randint(jax.random.key(1), (64, 2), 0, TOKENS)
text = [start[:, 0], start[:, 1]]
for _ in range(LENGTH - 1):  # each token is the sum of the two before it
    text.append((text[-1] + text[-2]) % TOKENS)
text = jnp.stack(text, axis=1)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


def loss_fn(p, text):
    x = p["embedding"][text[:, :-1]] + p["places"]
    q, k, v = (
        (normalised(x) @ p[name]).reshape(*x.shape[:2], HEADS, -1)
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e9)
    mixed = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(x.shape) @ p["output"]
    x = x + jax.nn.gelu(normalised(x) @ p["up"]) @ p["down"]
    chosen = jax.nn.log_softmax(normalised(x) @ p["logits"])
    return -jnp.take_along_axis(chosen, text[:, 1:, None], -1).mean()


@jax.jit
def train(params):
    def step(_, p):
        return jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(loss_fn)(p, text))

    return jax.lax.fori_loop(0, 300, step, params)


params = train(params)
figure, ax = plt.subplots()
for i, name in enumerate(SHAPES):
    H = hessspec.HessianOperator(
        loss_fn, params, data=text, where=lambda path, leaf, name=name: path == name
    )
    spectrum = hessspec.density(H, key=jax.random.key(2), num_steps=40)
    top = float(spectrum.extremes().largest)
    low, high = (float(end) / H.dim for end in spectrum.trace().confidence_interval())
    value = float(spectrum.trace().value) / H.dim
    ax.errorbar(i, value, [[value - low], [high - value]], fmt="o", color="C0", capsize=4)
    ax.plot(i, top, "^", color="C1")
    mean = f"{value:.1e} [{low:.1e}, {high:.1e}]"
    print(f"{name:9} {H.dim:5} parameters: mean {mean}, largest {top:.1e}")
ax.plot([], [], "o", color="C0", label="mean eigenvalue of its block")
ax.plot([], [], "^", color="C1", label="largest")
ax.set(yscale="log", xticks=range(len(SHAPES)), xticklabels=SHAPES)
ax.tick_params(axis="x", labelrotation=25)
ax.legend()
print(f"loss {float(loss_fn(params, text)):.3f}")
