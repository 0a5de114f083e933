"""Two functions whose derivatives are written for products with the Hessian.

Values and derivatives are those of `jnp.tanh` and `x @ w`; only the way to them differs. A product
with the Hessian linearises the gradient once and applies it to many vectors, so what counts is what
the linear part reads and in which order it multiplies. Measured in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


@jax.custom_jvp
def tanh(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """tanh a, with the derivative h' = 1 - h² kept as one array.

    JAX's own rule is (ȧ + ȧ h)(1 - h), so that two arrays are read where one would do.
    """
    return jnp.tanh(a)


@tanh.defjvp
def _(
    primals: tuple[Float[Array, "*shape"]], tangents: tuple[Float[Array, "*shape"]]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    h = tanh(*primals)  # itself, so that higher derivatives have the rule too
    return h, (1 - h * h) * tangents[0]


def matmul(x: Float[Array, "rows m"], w: Float[Array, "m n"]) -> Float[Array, "rows n"]:
    """x w, where the gradient of w is computed as xᵀg.

    JAX's own rule gives (gᵀx)ᵀ, the same numbers. With many rows and m small beside n, the product
    with the narrow matrix on the right has half the speed on a CPU.
    """
    return _xw.bind(x, w)


def _bilinear(
    name: str, product: Callable[[Array, Array], Array], axes: tuple[int, int]
) -> Primitive:
    """A primitive for `product`, whose result has axis `axes[i]` of its argument i."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(product))
    primitive.def_abstract_eval(
        lambda a, b: ShapedArray((a.shape[axes[0]], b.shape[axes[1]]), a.dtype)
    )
    mlir.register_lowering(primitive, mlir.lower_fun(product, multiple_results=False))

    def mapped(arguments: tuple[Array, Array], dims: tuple[int | None, int | None]) -> tuple:
        return jax.vmap(product, in_axes=dims)(*arguments), 0

    batching.primitive_batchers[primitive] = mapped
    return primitive


# Closed under transposition: each is linear in either argument, and its transposes are the others.
_xw = _bilinear("matmul_xw", lambda x, w: x @ w, (0, 1))
_gw = _bilinear("matmul_gwT", lambda g, w: g @ w.T, (0, 0))
_xg = _bilinear("matmul_xTg", lambda x, g: x.T @ g, (1, 1))
ad.defbilinear(_xw, lambda y, x, w: _gw.bind(y, w), lambda y, x, w: _xg.bind(x, y))
ad.defbilinear(_gw, lambda y, g, w: _xw.bind(y, w), lambda y, g, w: _xg.bind(y, g))
ad.defbilinear(_xg, lambda y, x, g: _gw.bind(g, y), lambda y, x, g: _xw.bind(x, y))
