"""What is drawn of spectra holds what is true: intervals of bins against dense matrices.

Networks of several kinds, at the start and trained, 20 keys each, as in `docs/density.md`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import HessianOperator

pytestmark = [pytest.mark.slow, pytest.mark.any_dtype]

KEYS, STEPS = 20, 40
RNG = np.random.default_rng(0)


def f32(values):
    return jnp.asarray(values, jnp.float32)


PROTOTYPES = RNG.normal(size=(10, 36))
LABELS = RNG.integers(0, 10, 400)
IMAGES = f32(np.maximum(PROTOTYPES[LABELS] + 0.8 * RNG.normal(size=(400, 36)), 0))
INPUTS = f32(RNG.normal(size=(200, 8)))
TARGETS = f32(np.sin(np.asarray(INPUTS) @ RNG.normal(size=(8, 1))))
SEQUENCES, SUMMARIES = f32(RNG.normal(size=(64, 6, 8))), f32(RNG.normal(size=(64, 8)))


def cross_entropy(logits):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(LABELS)[:, None], 1)
    return -chosen.mean()


def classifier(p):
    return cross_entropy(jax.nn.relu(IMAGES @ p["in"] + p["b"][None]) @ p["out"] + p["c"][None])


def convolution(p):
    layout = ("NHWC", "HWIO", "NHWC")
    images = IMAGES.reshape(-1, 6, 6, 1)
    maps = jax.lax.conv_general_dilated(
        images, p["kernel"], (1, 1), "SAME", dimension_numbers=layout
    )
    pooled = jax.nn.gelu(maps).reshape(-1, 3, 2, 3, 2, 8).mean((2, 4)).reshape(-1, 72)
    return cross_entropy(pooled @ p["out"] + p["c"][None])


def deep_regression(p):
    hidden = INPUTS
    for layer in p["layers"]:
        hidden = jnp.tanh(hidden @ layer)
    return ((hidden @ p["out"] - TARGETS) ** 2).mean()


def attention(p):
    query, key, value = (SEQUENCES @ p[name] for name in ("q", "k", "v"))
    hidden = SEQUENCES + jax.nn.softmax(query @ key.swapaxes(1, 2) / 8**0.5) @ value
    hidden = hidden + jax.nn.silu(hidden @ p["up"]) @ p["down"]
    return ((hidden.mean(1) - SUMMARIES) ** 2).mean()


NETWORKS = {
    classifier: {"in": (36, 14), "b": (14,), "out": (14, 10), "c": (10,)},
    convolution: {"kernel": (3, 3, 1, 8), "out": (72, 10), "c": (10,)},
    deep_regression: {"layers": [(8, 14), (14, 14), (14, 14)], "out": (14, 1)},
    attention: {"q": (8, 8), "k": (8, 8), "v": (8, 8), "up": (8, 20), "down": (20, 8)},
}


def weights(shapes):
    """Normal kernels over the square root of their inputs; biases of 0."""
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            jax.random.normal(key, shape, jnp.float32) / shape[-2] ** 0.5
            if len(shape) > 1
            else jnp.zeros(shape, jnp.float32)
            for key, shape in zip(keys, leaves, strict=True)
        ],
    )


def trained(loss, params, steps):
    step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p)))
    for _ in range(steps):
        params = step(params)
    return params


def misses(found, eigenvalues):
    """How many of the bins do not hold the true count in their interval."""
    edges = np.concatenate([[-np.inf], found.edges[1:-1], [np.inf]])
    bins = itertools.pairwise(edges)
    truth = np.array([((eigenvalues > a) & (eigenvalues <= b)).sum() for a, b in bins])
    return int(((truth < found.lower) | (truth > found.upper)).sum())


@pytest.mark.parametrize("steps", [0, 400], ids=["at the start", "trained"])
@pytest.mark.parametrize("loss", NETWORKS, ids=lambda loss: loss.__name__)
def test_drawn_intervals_hold_the_true_counts_at_their_level(loss, steps):
    operator = HessianOperator(loss, trained(loss, weights(NETWORKS[loss]), steps))
    eigenvalues = np.linalg.eigvalsh(np.asarray(operator.dense(), np.float64))
    spectra = [
        hessspec.density(operator, key=jax.random.key(i), num_steps=STEPS) for i in range(KEYS)
    ]
    for scale, level in itertools.product(("symlog", "log", "linear"), (0.95, 0.5)):
        found = [spectrum.histogram(scale, level=level) for spectrum in spectra]
        bins = sum(one.counts.size for one in found)
        missed = sum(misses(one, eigenvalues) for one in found)
        assert missed <= (1 - level) * bins, (scale, level, missed, bins)
        assert bins >= 5 * KEYS  # one box would hold everything, and show nothing
