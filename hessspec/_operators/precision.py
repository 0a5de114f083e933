"""Where a loss computes with its parameters in a narrower dtype than they have.

Such a loss is another function, piecewise flat at the size of its rounding, and the derivatives
that JAX takes of it are rounded in every operation: products are right to two digits in bfloat16,
and forms and products are rounded alike, so that none shows the error of the other.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from hessspec._operators.traces import inner_traces, is_literal, opened

_LOOPS = ("scan", "while")


def narrowed(jaxpr: Any, varied: list[bool], dtype: np.dtype) -> str:
    """The first float dtype narrower than `dtype` that the varied inputs reach; "" if none.

    `varied` says which inputs of the trace are differentiated.
    """
    reached = {v for v, flag in zip(jaxpr.invars, varied, strict=True) if flag}
    for equation in jaxpr.eqns:
        flags = [not is_literal(atom) and atom in reached for atom in equation.invars]
        if not any(flags) or equation.primitive.name == "stop_gradient":
            continue
        floats = [v for v in equation.outvars if _is_float(v)]
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


def _is_float(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
