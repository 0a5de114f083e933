"""The networks and data that are measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec import HessianOperator


@dataclass(frozen=True)
class TanhNetwork:
    """A tanh network with a mean squared error: weights and data from NumPy, the same anywhere.

    Attributes:
        sizes: inputs, hidden layers, outputs. The default has P = 560,644 parameters.
        num_examples: examples in the one batch.
    """

    sizes: tuple[int, ...] = (64, 512, 512, 512, 4)
    num_examples: int = 1024

    @property
    def dim(self) -> int:
        """P, biases included."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.layers)

    @property
    def layers(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """kernel_i (in, out) and bias_i of each layer, `inputs`, `targets`; float32."""
        rng = np.random.default_rng(0)
        arrays = {}
        for i, (n_in, n_out) in enumerate(self.layers):
            arrays[f"kernel_{i}"] = rng.normal(size=(n_in, n_out)) / n_in**0.5
            arrays[f"bias_{i}"] = 0.1 * rng.normal(size=n_out)
        arrays["inputs"] = rng.normal(size=(self.num_examples, self.sizes[0]))
        arrays["targets"] = rng.normal(size=(self.num_examples, self.sizes[-1]))
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    def params_and_batch(self) -> tuple[list[dict[str, Array]], tuple[Array, Array]]:
        arrays = {name: jnp.asarray(array) for name, array in self.arrays().items()}
        params = [
            {"bias": arrays[f"bias_{i}"], "kernel": arrays[f"kernel_{i}"]}
            for i in range(len(self.layers))
        ]
        return params, (arrays["inputs"], arrays["targets"])

    def operator(self, **choices: Any) -> HessianOperator:
        params, batch = self.params_and_batch()
        return HessianOperator(mean_squared_error, params, data=batch, **choices)

    @property
    def gradient_flops(self) -> float:
        """Multiplications and additions of one gradient in its matrix products.

        Forward X W, backward Xᵀ D and, but for the first layer, D Wᵀ.
        """
        inner = sum(n_in * n_out for n_in, n_out in self.layers)
        first = self.layers[0][0] * self.layers[0][1]
        return 2.0 * self.num_examples * (3 * inner - first)

    @property
    def product_flops(self) -> float:
        """The same for H v once the gradient is linearised.

        Each of the three products of a gradient has two factors that vary, so it becomes two:
        dX W + X dW and so on; but the first layer's input does not vary, which leaves X dW and
        Xᵀ dD of it.
        """
        inner = sum(n_in * n_out for n_in, n_out in self.layers)
        first = self.layers[0][0] * self.layers[0][1]
        return 2.0 * self.num_examples * (6 * inner - 4 * first)


def mean_squared_error(
    params: list[dict[str, Array]], batch: tuple[Array, Array]
) -> Float[Array, ""]:
    """Mean over examples and outputs."""
    x, targets = batch
    for i, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"][None, :]
        if i < len(params) - 1:
            x = jnp.tanh(x)
    return jnp.mean((x - targets) ** 2)


@dataclass(frozen=True)
class Transformer:
    """A small decoder: layer norms before causal attention and a GELU network, cross-entropy.

    The default has P = 109,824 parameters. Weights and tokens from NumPy, the same anywhere.
    """

    vocabulary: int = 64
    width: int = 64
    heads: int = 4
    layers: int = 2
    length: int = 32
    num_texts: int = 8

    def sizes(self) -> dict[str, Any]:
        """What was run, for whoever repeats it."""
        return {"network": str(self)}

    def params_and_batch(self) -> tuple[dict[str, Any], Array]:
        rng, width = np.random.default_rng(0), self.width

        def weights(*shape: int) -> Array:
            return jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)

        def norm() -> dict[str, Array]:
            return {"scale": jnp.ones(width), "shift": jnp.zeros(width)}

        blocks = [
            {
                "norm_1": norm(),
                "qkv": weights(width, 3 * width),
                "mix": weights(width, width),
                "norm_2": norm(),
                "up": weights(width, 4 * width),
                "up_bias": jnp.zeros(4 * width),
                "down": weights(4 * width, width),
                "down_bias": jnp.zeros(width),
            }
            for _ in range(self.layers)
        ]
        params = {
            "tokens": weights(self.vocabulary, width),
            "places": weights(self.length, width),
            "blocks": blocks,
            "norm": norm(),
            "out": weights(width, self.vocabulary),
        }
        texts = rng.integers(0, self.vocabulary, size=(self.num_texts, self.length + 1))
        return params, jnp.asarray(texts, jnp.int32)

    def loss(self, params: dict[str, Any], texts: Array) -> Float[Array, ""]:
        """Mean over texts and places of -log p(next token)."""
        x = params["tokens"][texts[:, :-1]] + params["places"][None]
        for block in params["blocks"]:
            x = x + self._attention(block, _normalised(x, block["norm_1"]))
            hidden = _normalised(x, block["norm_2"]) @ block["up"] + block["up_bias"][None, None]
            x = x + jax.nn.gelu(hidden) @ block["down"] + block["down_bias"][None, None]
        log_p = jax.nn.log_softmax(_normalised(x, params["norm"]) @ params["out"])
        return -jnp.take_along_axis(log_p, texts[:, 1:, None], -1).mean()

    def _attention(self, block: dict[str, Any], x: Array) -> Array:
        split = (x @ block["qkv"]).reshape(*x.shape[:2], self.heads, -1)
        query, key, value = jnp.split(split, 3, axis=-1)
        scores = jnp.einsum("bihd,bjhd->bhij", query, key) / query.shape[-1] ** 0.5
        past = np.tril(np.ones((x.shape[1],) * 2, bool))[None, None]
        shares = jax.nn.softmax(jnp.where(past, scores, -1e9))
        return jnp.einsum("bhij,bjhd->bihd", shares, value).reshape(x.shape) @ block["mix"]


def _normalised(x: Array, norm: dict[str, Array]) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / deviation * norm["scale"][None, None] + norm["shift"][None, None]


@dataclass(frozen=True, eq=False)
class GraphProblem:
    """The paper's network, its shared parameters' Hessians, and the molecules they are taken on.

    Attributes:
        losses: (params, batch) to the losses of the four tasks.
        batch: all the molecules as one padded batch.
        source: which molecules these are.
        state: "initial", or how the network was trained.
        network: its sizes and tasks.
        graphs, targets: the molecules one by one, to be cut into batches.
    """

    losses: Callable[[Any, Any], Float[Array, " tasks"]]
    params: Any
    batch: Any
    num_graphs: int
    tasks: tuple[str, ...]
    source: str
    state: str
    network: Any
    graphs: list[Any]
    targets: np.ndarray

    def batches(self, size: int) -> list[Any]:
        """The molecules in batches of one shape."""
        from hessspec_mtl.graphs import balanced_batches

        return balanced_batches(self.graphs, self.targets, size)

    def operator(self, **choices: Any) -> HessianOperator:
        """The Hessians of all tasks with respect to the shared parameters."""
        given = {"data": self.batch, "where": is_shared, **choices}
        return HessianOperator(self.losses, self.params, **given)


def cache_folder() -> Path:
    """Where trained networks and long references are kept for the next run.

    The folder HESSSPEC_BENCHMARKS names, else one among the temporary files.
    """
    named = os.environ.get("HESSSPEC_BENCHMARKS")
    return Path(named) if named else Path(tempfile.gettempdir()) / "hessspec-benchmarks"


FORWARD_FLOPS = 75e6
"""Of the network of the paper on one molecule of QM8, two for a multiply-add."""


def is_shared(path: str, leaf: Any) -> bool:
    """Whether a leaf is a shared parameter."""
    del leaf
    return path.startswith("shared/")


def graph_problem(
    num_graphs: int,
    *,
    steps: int = 0,
    tiny: bool = False,
    molecules: tuple[Any, str] | None = None,
    recipe: Recipe | None = None,
) -> GraphProblem:
    """The paper's network on `num_graphs` training molecules, after `steps` steps of AdamW.

    QM8 where HESSSPEC_DATA (or the cache) holds it, else the molecules that come with the package.
    A trained network is kept in the `cache_folder`.

    Args:
        tiny: a small relative of the network, to try a benchmark out.
        molecules: a split and encoded data set and its name, in place of those.
        recipe: how it is trained, if not as molecules are.
    """
    from hessspec_mtl.curvature.follow import hessian_indices
    from hessspec_mtl.graphs import balanced_batches
    from hessspec_mtl.network.model import NetworkConfig, init_params
    from hessspec_mtl.network.tasks import partial_losses

    encoded, source = molecules or _molecules(tiny)
    tasks = tuple(task.name for task in encoded.tasks)
    sizes = {"num_steps": 2, "width": 8, "head_width": 8} if tiny else {}
    network = NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)
    if steps:
        params = _trained(network, encoded, steps, recipe or Recipe())
        state = f"after {steps} steps of AdamW"
    else:
        params, state = init_params(jax.random.key(0), network), "initial"
    chosen = hessian_indices(len(encoded.train), num_graphs, 0)
    graphs, targets = [encoded.train.graphs[i] for i in chosen], encoded.train.targets[chosen]
    (batch,) = balanced_batches(graphs, targets, num_graphs)
    return GraphProblem(
        losses=partial_losses(network),
        params=jax.tree.map(jnp.asarray, params),
        batch=jax.tree.map(jnp.asarray, batch),
        num_graphs=num_graphs,
        tasks=tasks,
        source=source,
        state=state,
        network=network,
        graphs=graphs,
        targets=targets,
    )


@cache
def _molecules(tiny: bool) -> tuple[Any, str]:
    """A split and encoded data set, and its name."""
    from hessspec_mtl.datasets.computed import load_molecules
    from hessspec_mtl.datasets.qm8 import load_qm8
    from hessspec_mtl.datasets.sources import DataError

    if tiny:
        dataset = load_molecules(num_examples=60, progress=False)
        return dataset.encode(dataset.split(0)), "60 of the molecules that come with the package"
    try:
        dataset = load_qm8(download=False, num_examples=2400, progress=False)
        source = "QM8"
    except DataError:
        dataset = load_molecules(progress=False)
        source = "the molecules that come with the package (QM8 was not at hand)"
    return dataset.encode(dataset.split(0)), source


def crystals() -> tuple[Any, str] | None:
    """The Materials Project, encoded, where HESSSPEC_ENCODED names a folder that has it.

    `python -m hessspec_mtl.encode` makes it once; the neighbours of all crystals take half an hour.
    """
    from hessspec_mtl.datasets.encoded import read_encoded

    folder = os.environ.get("HESSSPEC_ENCODED")
    if not folder or not (Path(folder) / "mp.npz").exists():
        return None
    dataset = read_encoded(Path(folder) / "mp.npz")
    encoded = dataset.encode(dataset.split(0))
    return replace(encoded, train=_head(encoded.train, 640)), "the Materials Project"


@dataclass(frozen=True)
class Recipe:
    """Sizes of batches, and steps over which the learning rate rises; crystals need the latter."""

    batch_size: int = 32
    warmup_steps: int = 0


OF_CRYSTALS = Recipe(16, 200)


def _trained(network: Any, encoded: Any, steps: int, recipe: Recipe) -> Any:
    """Parameters after `steps` steps of the package's own training, kept for the next run."""
    from hessspec_mtl.training.config import TrainConfig
    from hessspec_mtl.training.train import load_params, train

    size, most = recipe.batch_size, len(encoded.train)
    batches = max(n for n in range(1, steps + 1) if steps % n == 0 and n * size <= most)
    train_part, test_part = _head(encoded.train, batches * size), _head(encoded.test, 64)
    examples = replace(encoded, train=train_part, test=test_part)
    epochs = steps // batches
    # The constant learning rate of the paper's first half.
    config = TrainConfig(
        num_epochs=epochs,
        batch_size=size,
        decay_start=epochs,
        evaluate_every=epochs,
        warmup_steps=recipe.warmup_steps,
    )
    name = f"{encoded.name}-{network.num_steps}-{network.width}-{steps}"
    folder = cache_folder() / name
    train(config, network, examples, folder, progress=False)
    return load_params(folder, epochs)


def _head(examples: Any, count: int) -> Any:
    """The first `count` examples."""
    return replace(
        examples,
        ids=examples.ids[:count],
        graphs=examples.graphs[:count],
        targets=examples.targets[:count],
    )
