"""Traces of functions, read in the one way that every supported version of JAX understands.

A trace lists equations, from inputs to outputs. Arrays that the function closed over are inputs of
it too, its constants. Their values stand beside a `Jaxpr` in older versions, where the two together
are another class, and inside it in newer ones. Here they always stand beside it, and the constants
are the first of its inputs: a trace that is remembered then keeps nobody's data alive.
"""

from collections.abc import Iterator
from typing import Any

from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr


def opened(trace: Any) -> Jaxpr:
    """The equations of what `jax.make_jaxpr` gave; its inputs are the constants and the others."""
    jaxpr = trace if isinstance(trace, Jaxpr) else trace.jaxpr
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    return jaxpr.replace(constvars=[], invars=inputs, debug_info=jaxpr.debug_info)


def evaluated(jaxpr: Jaxpr, *inputs: Any) -> list[Any]:
    """The outputs of an opened trace."""
    return eval_jaxpr(jaxpr, [], *inputs)


def explicit_mesh(jaxpr: Jaxpr) -> Any:
    """The mesh whose Explicit axes inputs of an opened trace lie on; None if there is none."""
    for variable in jaxpr.invars:
        mesh = getattr(getattr(variable.aval, "sharding", None), "mesh", None)
        if getattr(mesh, "explicit_axes", ()):
            return mesh
    return None


def is_literal(atom: Any) -> bool:
    """Whether an input of an equation is a number written in the trace, not a variable."""
    return hasattr(atom, "val")


def inner_jit(equation: Any) -> Any:
    """The trace that an equation of an inner `jax.jit` applies; None for other equations."""
    return equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None


def inner_traces(equation: Any) -> Iterator[Any]:
    """All traces among the parameters of an equation: bodies of loops, branches, inner calls."""
    for value in equation.params.values():
        for body in value if isinstance(value, tuple | list) else (value,):
            if hasattr(body, "eqns"):
                yield body


def holds_nested_constants(trace: Any) -> bool:
    """Whether a function inside an inner `jit` closed over arrays."""
    bodies = [body for body in map(inner_jit, trace.eqns) if body is not None]
    return any(body.consts or holds_nested_constants(body) for body in bodies)


def open_jits(trace: Any, arguments: list[Any]) -> list[Any]:
    """Evaluate with inner `jit`s opened, so that their constants come to the outside."""
    jaxpr = opened(trace)
    values: dict[Any, Any] = dict(zip(jaxpr.invars, [*trace.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if is_literal(atom) else values[atom]

    for equation in jaxpr.eqns:
        body = inner_jit(equation)
        if body is not None:
            outputs = open_jits(body, [read(atom) for atom in equation.invars])
        else:
            # One equation at a time through JAX's own evaluator, which knows how to bind it.
            names = list({atom: None for atom in equation.invars if not is_literal(atom)})
            one = jaxpr.replace(
                invars=names,
                outvars=equation.outvars,
                eqns=[equation],
                debug_info=jaxpr.debug_info,
            )
            outputs = evaluated(one, *map(read, names))
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
