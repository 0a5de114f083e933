"""Single or double precision? Below the resolution, eigenvalues of float32 have no sign."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

jax.config.update("jax_enable_x64", True)
keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (40, 8)) * 3.0
batch = (x, x[:, :1] ** 2)
params = {"hidden": jax.random.normal(keys[1], (8, 24)), "out": jax.random.normal(keys[2], (24, 1))}


def model_fn(params, batch):
    return jax.nn.sigmoid(batch[0] @ params["hidden"]) @ params["out"]


def output_loss(outputs, batch):
    return jnp.mean((outputs - batch[1]) ** 2)


figure, axes = plt.subplots(1, 2, sharey=True)
for ax, dtype in zip(axes, (jnp.float32, jnp.float64), strict=True):
    at, data = jax.tree.map(lambda a, d=dtype: a.astype(d), (params, batch))
    G = hessspec.GaussNewtonOperator(model_fn, output_loss, at, data)
    spectrum = hessspec.density(G, key=jax.random.key(1), num_steps=G.dim)
    values, floor = np.sort(spectrum.nodes[0])[::-1], float(spectrum.resolution)
    rank = 1 + np.arange(G.dim)
    ax.semilogy(rank[values > 0], values[values > 0], ".", ms=3, label="positive")
    ax.semilogy(rank[values < 0], -values[values < 0], ".", ms=3, label="negative")
    ax.axhline(floor, color="k", ls=":", label="resolution")
    ax.set(title=np.dtype(dtype).name, xlabel="rank")
    above = int((values > floor).sum())
    print(f"{np.dtype(dtype).name}: resolution {floor:.1e}, {above} eigenvalues above it")
axes[0].set_ylabel("|eigenvalue| of a Gauss-Newton matrix\nof rank 40, never negative")
axes[0].legend()
