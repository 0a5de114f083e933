"""Losses that close over arrays, made into losses that take them as arguments.

A compiler that meets the data as constants folds operations on them at compile time, for minutes
in a graph network. So a loss is traced once, and the arrays it closed over become leaves. The
trace also tells when two functions are the same program, so a loss that is defined anew for each
checkpoint does not compile anew, and when a loss has changed although its name has not.
"""

import weakref
from collections.abc import Callable
from typing import Any, Never

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import Array, PyTree

from hessspec._base.signatures import explained
from hessspec._base.space import apart
from hessspec._operators.traces import evaluated, holds_nested_constants, open_jits, opened

_BIND = "bind further arguments with `functools.partial`"

# The text of a trace is the whole program unless it holds custom derivative rules or callbacks,
# which print as names only. The rules of `custom_jvp` show in the trace of the second derivative;
# other such programs are remembered for their own function alone.
_HOST = ("callback", "ffi_call")
_HIDDEN = ("custom_vjp_call", *_HOST)
_OPAQUE = ("custom_jvp_call", *_HIDDEN)
_BY_TEXT: dict[str, "_Program"] = {}
_BY_FUNCTION: weakref.WeakKeyDictionary[Callable[..., Any], dict[str, "_Program"]] = (
    weakref.WeakKeyDictionary()
)


class _Program:
    """A trace without its constants. Compared by identity: one object, one compiled program."""

    def __init__(self, trace: Jaxpr, out_tree: Any, asks_host: bool) -> None:
        self.trace = trace
        self.out_tree = out_tree
        self.asks_host = asks_host  # only such a program can give two answers

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Program":
        return self

    def __reduce__(self) -> Never:
        raise TypeError(
            "an operator cannot be pickled: it holds a traced loss. Pickle its parameters and "
            "data, and make it again where it is needed, as by `HessianOperator(loss_fn, params, "
            "data=data)`; results are kept by their `save`."
        )


class LiftedFunction(eqx.Module):
    """A traced function whose closed-over arrays are leaves."""

    constants: tuple[Array, ...]
    program: _Program = eqx.field(static=True)

    def __call__(self, *arguments: PyTree) -> PyTree:
        arrays = jax.tree.leaves(eqx.filter(arguments, eqx.is_array))
        out = evaluated(self.program.trace, *self.constants, *arrays)
        return jax.tree.unflatten(self.program.out_tree, out)


def lift(
    function: Callable[..., PyTree], *arguments: PyTree, call: str, way_out: str = _BIND
) -> tuple[LiftedFunction, PyTree]:
    """`function` traced at the shapes of `arguments`, and the shapes of its output.

    `call` is how the user's documentation writes this call, and `way_out` what to do if the
    function cannot be called so.

    Raises:
        TypeError: if it cannot.
        ValueError: if two traces differ, as those of a loss that draws random numbers do.
    """
    with explained(inspect_wrapped(function), arguments, call, way_out):
        closed, shapes = _trace(function, arguments)
    text = str(closed)
    programs, whole = _BY_TEXT, text
    if any(name in text for name in _OPAQUE):
        try:
            programs = _BY_FUNCTION.setdefault(function, {})
        except TypeError:  # not hashable or not weakly referable: remembered for this call only
            programs = {}
        if text not in programs:
            rules = _second_derivative(function, arguments, closed.consts)
            whole = None if rules is None else text + rules
            if whole in _BY_TEXT:
                programs[text] = _BY_TEXT[whole]
    if text not in programs:
        again, _ = _trace(function, arguments)
        if text != str(again) or not _equal(closed.consts, again.consts):
            raise ValueError(
                "the loss is random: tracing it twice gave two different functions (numbers "
                "drawn from numpy, a changing global?); pass what is drawn as `data`, or fix it."
            )
        programs[text] = _Program(
            opened(closed), jax.tree.structure(shapes), any(name in text for name in _HOST)
        )
        if whole is not None:
            _BY_TEXT[whole] = programs[text]
    constants = tuple(jnp.asarray(value) for value in closed.consts)
    return LiftedFunction(constants, programs[text]), shapes


def _trace(function: Callable[..., PyTree], arguments: PyTree) -> tuple[Any, PyTree]:
    dynamic, static = apart(arguments, eqx.is_array)
    inner = inspect_wrapped(function)

    def on_arrays(arrays: PyTree) -> PyTree:
        return inner(*eqx.combine(arrays, static))

    closed, shapes = jax.make_jaxpr(on_arrays, return_shape=True)(dynamic)
    if holds_nested_constants(closed):
        closed = jax.make_jaxpr(lambda leaves: open_jits(closed, leaves))(jax.tree.leaves(dynamic))
    return closed, shapes


def _second_derivative(
    function: Callable[..., PyTree], arguments: PyTree, constants: list[Any]
) -> str | None:
    """The text of the second derivative, in which rules of `custom_jvp` are written out.

    A call that is left there gives a value; its rule would enter a third derivative. None if
    something is not shown: other rules, callbacks, or arrays that only a rule closes over, which
    would not be among the arguments of the program.
    """
    dynamic, static = apart(arguments, eqx.is_array)
    floats, rest = apart(dynamic, eqx.is_inexact_array)
    inner = inspect_wrapped(function)

    def first(x: PyTree, v: PyTree, rest: PyTree) -> PyTree:
        return jax.jvp(lambda y: inner(*eqx.combine(y, rest, static)), (x,), (v,))

    def second(x: PyTree, v: PyTree, w: PyTree, rest: PyTree) -> PyTree:
        return jax.jvp(lambda y: first(y, v, rest), (x,), (w,))

    closed = jax.make_jaxpr(second)(floats, floats, floats, rest)
    text = str(closed)
    known = {id(value) for value in constants}
    hidden = holds_nested_constants(closed) or any(id(v) not in known for v in closed.consts)
    return None if hidden or any(name in text for name in _HIDDEN) else text


def inspect_wrapped(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function inside `jax.jit`, so that what it closed over is seen."""
    is_jitted = hasattr(function, "lower") and hasattr(function, "__wrapped__")
    return function.__wrapped__ if is_jitted else function  # type: ignore[attr-defined]


def _equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )
