"""Functions whose trace computes the same thing twice, made to compute it once."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import Array

from hessspec._operators.traces import evaluated, is_literal, open_jits, opened


def without_repeats(function: Callable[..., Array], *arguments: Array) -> Callable[..., Array]:
    """`function`, traced at the shapes of `arguments`, with equal equations evaluated once.

    Two equations are equal if they apply the same operation to the same values, which is told in
    their order; bodies of loops and branches are left as they are.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    flat = jax.make_jaxpr(lambda *values: open_jits(closed, [*values]))(*arguments)
    jaxpr, constants = _deduplicated(opened(flat)), flat.consts
    return lambda *values: evaluated(jaxpr, *constants, *values)[0]


def _deduplicated(jaxpr: Jaxpr) -> Jaxpr:
    same: dict[Any, Any] = {}  # a variable that repeats another, and that other
    found: dict[Hashable, list[Any]] = {}
    equations = []

    def first(atoms: list[Any]) -> list[Any]:
        return [atom if is_literal(atom) else same.get(atom, atom) for atom in atoms]

    for equation in jaxpr.eqns:
        equation = equation.replace(invars=first(equation.invars))
        key = _key(equation)
        if key in found:
            same.update(zip(equation.outvars, found[key], strict=True))
            continue
        equations.append(equation)
        if key is not None:
            found[key] = equation.outvars
    return jaxpr.replace(eqns=equations, outvars=first(jaxpr.outvars), debug_info=jaxpr.debug_info)


def _key(equation: Any) -> Hashable | None:
    """What the results are a function of; None where that cannot be told."""
    unused = any(str(variable) == "_" for variable in equation.outvars)
    if equation.effects or unused:
        return None
    inputs = tuple(
        (str(atom.aval), np.asarray(atom.val).tobytes()) if is_literal(atom) else atom
        for atom in equation.invars
    )
    key = (equation.primitive, tuple(sorted(equation.params.items())), inputs)
    try:
        hash(key)
    except TypeError:
        return None
    return key
