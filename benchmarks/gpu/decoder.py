"""A decoder of the size of GPT-2: causal attention, tied embeddings, the loss of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Params = dict[str, Any]


@dataclass(frozen=True)
class Decoder:
    """Layers before attention and before the perceptron, GELU, no dropout; random weights and text.

    The default has P = 123,849,984 parameters, those of GPT-2 (small) with 256 places. Its layers
    are one loop over stacked weights, which compiles in a twelfth of the time.
    """

    vocabulary: int = 50_257
    places: int = 256
    width: int = 768
    heads: int = 12
    layers: int = 12
    sequences: int = 4

    @property
    def dim(self) -> int:
        """P."""
        d = self.width
        layer = 12 * d * d + 13 * d
        return (self.vocabulary + self.places) * d + self.layers * layer + 2 * d

    @property
    def forward_flops(self) -> float:
        """Multiplications and additions of the matrix products of one loss."""
        d, tokens = self.width, self.sequences * self.places
        weights = self.layers * 12 * d * d + self.vocabulary * d
        attention = self.layers * 2 * self.places * d  # scores and their mixture, for each token
        return 2.0 * tokens * (weights + attention)

    @property
    def product_flops(self) -> float:
        """The same of H v once the gradient is linearised: six products for each of a loss."""
        return 6.0 * self.forward_flops

    def params(self) -> Params:
        """Drawn with GPT-2's deviation 0.02; the weights of all layers in one array each."""
        return jax.jit(self._drawn)()  # one program, where each shape would have its own

    def _drawn(self) -> Params:
        d, n = self.width, self.layers
        shapes = {
            "qkv": (n, d, 3 * d),
            "mix": (n, d, d),
            "up": (n, d, 4 * d),
            "down": (n, 4 * d, d),
        }
        keys = jax.random.split(jax.random.key(0), len(shapes) + 2)
        layers = {
            name: {
                "kernel": 0.02 * jax.random.normal(key, shape),
                "bias": jnp.zeros((n, shape[-1])),
            }
            for key, (name, shape) in zip(keys, shapes.items(), strict=False)
        }
        norms = {name: _norm((n, d)) for name in ("before attention", "before perceptron")}
        return {
            "tokens": 0.02 * jax.random.normal(keys[-1], (self.vocabulary, d)),
            "places": 0.02 * jax.random.normal(keys[-2], (self.places, d)),
            "layers": layers | norms,
            "last": _norm((d,)),
        }

    def batch(self) -> Int[Array, "sequences places_and_one"]:
        """Random text, with the token after the last place."""
        shape = (self.sequences, self.places + 1)
        return jax.random.randint(jax.random.key(1), shape, 0, self.vocabulary)

    def loss(self, params: Params, text: Int[Array, "sequences places_and_one"]) -> Array:
        """Mean cross entropy of each next token."""
        logs = jax.nn.log_softmax(self.logits(params, text[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(logs, text[:, 1:, None], axis=-1))

    def logits(self, params: Params, tokens: Int[Array, "n places"]) -> Float[Array, "n places v"]:
        """Of the token after each place, from those up to it."""
        x = params["tokens"][tokens] + params["places"][None]
        x, _ = jax.lax.scan(lambda x, layer: (self._layer(x, layer), None), x, params["layers"])
        return _normalised(x, params["last"]) @ params["tokens"].T

    def _layer(self, x: Float[Array, "n places d"], layer: Params) -> Float[Array, "n places d"]:
        x = x + self._attention(_normalised(x, layer["before attention"]), layer)
        hidden = jax.nn.gelu(_affine(_normalised(x, layer["before perceptron"]), layer["up"]))
        return x + _affine(hidden, layer["down"])

    def _attention(self, x: Float[Array, "n places d"], layer: Params) -> Float[Array, "..."]:
        n, places, d = x.shape
        parts = _affine(x, layer["qkv"]).reshape(n, places, 3, self.heads, d // self.heads)
        q, k, v = (parts[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / (d // self.heads) ** 0.5
        causal = jnp.tril(jnp.ones((places, places), bool))[None, None]
        shares = jax.nn.softmax(jnp.where(causal, scores, -1e9))
        mixed = jnp.einsum("nhqk,nkhd->nqhd", shares, v)
        return _affine(mixed.reshape(n, places, d), layer["mix"])


def _norm(shape: tuple[int, ...]) -> Params:
    return {"scale": jnp.ones(shape), "shift": jnp.zeros(shape)}


def _affine(x: Float[Array, "n places i"], weights: Params) -> Float[Array, "n places o"]:
    return x @ weights["kernel"] + weights["bias"][None, None]


def _normalised(x: Float[Array, "n places d"], norm: Params) -> Float[Array, "n places d"]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return unit * norm["scale"][None, None] + norm["shift"][None, None]
