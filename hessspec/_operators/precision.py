"""How exactly a loss computes: products of matrices, and dtypes narrower than the parameters'.

A loss that computes in a narrower dtype is another function, piecewise flat at the size of its
rounding, and the derivatives that JAX takes of it are rounded in every operation: products are
right to two digits in bfloat16, and forms and products are rounded alike, so that none shows the
error of the other.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessspec._operators.traces import inner_traces, is_literal, opened

_LOOPS = ("scan", "while")
_STOP = "stop_gradient"


def full_products() -> AbstractContextManager[object]:
    """While a loss is traced: its products of float32 matrices are in float32, not in TF32.

    Left to themselves GPUs round what goes into a product to 10 bits. On an H200 products with a
    Hessian were then wrong by 4e-4 of their size and asymmetric by 94 units of rounding, too little
    to be told from an ill-conditioned loss (docs/gpu.md). Whoever sets JAX's
    `default_matmul_precision`, or a precision in the loss, has what was set. A CPU knows no other.
    """
    is_set = jax.config.jax_default_matmul_precision is not None  # type: ignore[attr-defined]
    if is_set or jax.default_backend() == "cpu":
        return nullcontext()
    return jax.default_matmul_precision("highest")


def narrowed(jaxpr: Any, varied: list[bool], dtype: np.dtype) -> str:
    """The first float dtype narrower than `dtype` between varied inputs and outputs; "" if none.

    `varied` says which inputs of the trace are differentiated. What is only printed, compared, or
    behind a `stop_gradient` has no part in derivatives, so it may be as narrow as it likes.
    """
    reached = {v for v, flag in zip(jaxpr.invars, varied, strict=True) if flag}
    used = _differentiated(jaxpr)
    for equation in jaxpr.eqns:
        flags = [not is_literal(atom) and atom in reached for atom in equation.invars]
        floats = [v for v in equation.outvars if v in used]
        if not any(flags) or not floats or equation.primitive.name == _STOP:
            continue
        for variable in floats:
            if variable.aval.dtype.itemsize < dtype.itemsize:
                return variable.aval.dtype.name
        for body in map(opened, inner_traces(equation)):
            count = len(body.invars)
            # What a loop varies in one turn, it varies everywhere in the next.
            whole = equation.primitive.name in _LOOPS or count > len(flags)
            inner = [True] * count if whole else flags[len(flags) - count :]
            found = narrowed(body, inner, dtype)
            if found:
                return found
        reached.update(floats)
    return ""


def _differentiated(jaxpr: Any) -> set[Any]:
    """The floats of a trace whose derivatives are part of those of its outputs."""
    used = {v for v in jaxpr.outvars if not is_literal(v) and _is_float(v)}
    for equation in reversed(jaxpr.eqns):
        if equation.primitive.name != _STOP and not used.isdisjoint(equation.outvars):
            used.update(v for v in equation.invars if not is_literal(v) and _is_float(v))
    return used


def _is_float(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
