"""Losses that close over arrays, made into losses that take them as arguments.

A compiler that meets the data as constants folds operations on them at compile time, for minutes
in a graph network. So a loss is traced once, and the arrays it closed over become leaves. The
trace also tells when two functions are the same program, so a loss that is defined anew for each
checkpoint does not compile anew, and when a loss has changed although its name has not.
"""

import functools
import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Never, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import Array, PyTree

from hessspec._base.meshes import automatic, on_explicit_axes, on_mesh_of
from hessspec._base.signatures import explained
from hessspec._base.space import apart
from hessspec._operators.modes import Modes, is_doubtful
from hessspec._operators.precision import full_products
from hessspec._operators.traces import (
    evaluated,
    explicit_mesh,
    holds_nested_constants,
    open_jits,
    opened,
)

_BIND = "bind further arguments with `functools.partial`"

# The text of a trace is the whole program unless it holds custom derivative rules or callbacks,
# which print as names only. The rules of `custom_jvp` show in the trace of the second derivative;
# other such programs are remembered for their own function alone.
_HOST = ("callback", "ffi_call")
_HIDDEN = ("custom_vjp_call", *_HOST)
_OPAQUE = ("custom_jvp_call", *_HIDDEN)

# How float dtypes stand in the text of a trace, narrower ones first.
_FLOATS = ("f8_", "f16[", "f32[")

# So many programs are kept although nothing uses them, the latest ones. A program that an operator
# or one of JAX's compiled functions still holds is found whatever its age.
KEPT_PROGRAMS = 128


class Unpicklable:
    """What copies of an operator share, and what no other process could use."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Never:
        raise TypeError(
            "an operator cannot be pickled: it holds a traced loss. Pickle its parameters and "
            "data, and make it again where it is needed, as by `HessianOperator(loss_fn, params, "
            "data=data)`; results are kept by their `save`."
        )


class _Program(Unpicklable):
    """A trace without its constants. Compared by identity: one object, one compiled program."""

    def __init__(self, trace: Jaxpr, out_tree: Any, text: str, whole: str | None) -> None:
        self.trace = trace
        self.out_tree = out_tree
        self.mesh = explicit_mesh(trace)
        self.asks_host = any(name in text for name in _HOST)  # only such can give two answers
        self.floats = {name for name in _FLOATS if name in text}
        # How it can be differentiated twice: None where that must be tried.
        self.modes = None if whole is None or is_doubtful(whole) else Modes()

    def __call__(self, *inputs: Array) -> list[Array]:
        """The outputs, on the axes that the trace was made on."""
        run = functools.partial(evaluated, self.trace)
        if self.mesh is not None:
            avals: list[Any] = [variable.aval for variable in self.trace.invars]
            specs = tuple(aval.sharding.spec for aval in avals)
            run = on_explicit_axes(run, self.mesh, specs)
        return run(*inputs)


class _Programs:
    """The programs known, by what identifies them."""

    def __init__(self) -> None:
        self._alive: weakref.WeakValueDictionary[bytes, _Program] = weakref.WeakValueDictionary()
        self._latest: OrderedDict[bytes, _Program] = OrderedDict()

    def __len__(self) -> int:
        return len(self._latest)

    def get(self, text: str) -> _Program | None:
        name = _name(text)
        program = self._alive.get(name)
        if program is not None:
            self._keep(name, program)
        return program

    def put(self, text: str, program: _Program) -> None:
        name = _name(text)
        self._alive[name] = program
        self._keep(name, program)

    def _keep(self, name: bytes, program: _Program) -> None:
        self._latest[name] = program
        self._latest.move_to_end(name)
        while len(self._latest) > KEPT_PROGRAMS:
            self._latest.popitem(last=False)


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


_BY_TEXT = _Programs()
_BY_FUNCTION: weakref.WeakKeyDictionary[Callable[..., Any], _Programs] = weakref.WeakKeyDictionary()


class LiftedFunction(eqx.Module):
    """A traced function whose closed-over arrays are leaves."""

    constants: tuple[Array, ...]
    program: _Program = eqx.field(static=True)

    def __call__(self, *arguments: PyTree) -> PyTree:
        arrays = jax.tree.leaves(eqx.filter(arguments, eqx.is_array))
        with full_products():  # rules of derivatives are traced here
            out = self.program(*self.constants, *arrays)
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
    text = _text(closed)
    is_opaque = any(name in text for name in _OPAQUE)
    known = _programs_of(function) if is_opaque else _BY_TEXT
    program = known.get(text)
    if program is None:
        whole = _whole_text(function, arguments, text, closed.consts) if is_opaque else text
        program = None if whole is None else _BY_TEXT.get(whole)
        if program is None:
            _require_repeatable(function, arguments, text, closed.consts)
            program = _Program(opened(closed), jax.tree.structure(shapes), text, whole)
        if whole is not None:
            _BY_TEXT.put(whole, program)
        known.put(text, program)
    constants = tuple(automatic(jnp.asarray(value)) for value in closed.consts)
    return LiftedFunction(constants, program), shapes


def _trace(function: Callable[..., PyTree], arguments: PyTree) -> tuple[Any, PyTree]:
    dynamic, static = apart(arguments, eqx.is_array)
    inner = inspect_wrapped(function)

    def on_arrays(arrays: PyTree) -> PyTree:
        return inner(*eqx.combine(arrays, static))

    with full_products(), on_mesh_of(dynamic):
        closed, shapes = jax.make_jaxpr(on_arrays, return_shape=True)(dynamic)
    if holds_nested_constants(closed):
        closed = jax.make_jaxpr(lambda leaves: open_jits(closed, leaves))(jax.tree.leaves(dynamic))
    return closed, shapes


def _text(closed: Any) -> str:
    """A trace as text; of a mesh it shows no more than the names of axes."""
    mesh = explicit_mesh(opened(closed))
    return str(closed) if mesh is None else f"{closed}\n{mesh}"


def _programs_of(function: Callable[..., PyTree]) -> _Programs:
    try:
        return _BY_FUNCTION.setdefault(function, _Programs())
    except TypeError:  # not hashable or not weakly referable: remembered for this call only
        return _Programs()


def _require_repeatable(
    function: Callable[..., PyTree], arguments: PyTree, text: str, constants: list[Any]
) -> None:
    again, _ = _trace(function, arguments)
    if text != _text(again) or not _equal(constants, again.consts):
        raise ValueError(
            "the loss is random: tracing it twice gave two different functions (numbers "
            "drawn from numpy, a changing global?); pass what is drawn as `data`, or fix it."
        )


def _whole_text(
    function: Callable[..., PyTree], arguments: PyTree, text: str, constants: list[Any]
) -> str | None:
    """`text` with that of the second derivative, which writes out the rules of `custom_jvp`.

    A call that is left there gives a value; its rule would enter a third derivative. None if
    something is not shown: other rules, callbacks, arrays that only a rule closes over, which
    would not be among the arguments of the program, or rules that forward mode cannot enter.
    """
    if any(name in text for name in _HIDDEN):
        return None
    dynamic, static = apart(arguments, eqx.is_array)
    floats, rest = apart(dynamic, eqx.is_inexact_array)
    inner = inspect_wrapped(function)

    def first(x: PyTree, v: PyTree, rest: PyTree) -> PyTree:
        return jax.jvp(lambda y: inner(*eqx.combine(y, rest, static)), (x,), (v,))

    def second(x: PyTree, v: PyTree, w: PyTree, rest: PyTree) -> PyTree:
        return jax.jvp(lambda y: first(y, v, rest), (x,), (w,))

    try:
        closed = jax.make_jaxpr(second)(floats, floats, floats, rest)
    except Exception:  # rules are the user's own code
        return None
    rules = str(closed)
    known = {id(value) for value in constants}
    hidden = holds_nested_constants(closed) or any(id(v) not in known for v in closed.consts)
    return None if hidden or any(name in rules for name in _HIDDEN) else text + rules


def inspect_wrapped(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function inside `jax.jit`, so that what it closed over is seen."""
    is_jitted = hasattr(function, "lower") and hasattr(function, "__wrapped__")
    return function.__wrapped__ if is_jitted else function  # type: ignore[attr-defined]


def _equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )
