"""By which orders of forward and reverse mode JAX can differentiate a loss twice.

Products H v by forward over reverse are the cheapest, and nearly every loss allows them. A
`custom_vjp` may not: its rule is a function of its own, which forward mode cannot enter where it
calls what has that rule again, as those of ODE solvers do. Reverse over reverse then works, since
H v is also the gradient of <∇L, v>. A loop whose length depends on its values has no reverse mode
at all, but forward over forward gives the forms v'Hv, which a trace is made of.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
from jaxtyping import Array

FORWARD_OVER_REVERSE = "forward over reverse"
REVERSE_OVER_REVERSE = "reverse over reverse"

# Primitives, as they stand in the text of a trace, that some order of modes cannot differentiate.
# A loss without them is not tried: differentiating a large network costs a second.
_DOUBTFUL = (
    *("custom_vjp_call", "custom_lin", "while[", "linear_call", "custom_transpose_call"),
    *("callback", "ffi_call", "reduce_window["),
)
# Rules of `custom_jvp` are users' own but for these of JAX, which have both modes.
_RULED = re.compile(r"custom_jvp_call\[\s*name=(\w+)")
_RULED_BY_JAX = frozenset(
    ("relu", "relu6", "logaddexp", "logaddexp2", "_softmax", "log_ndtr", "xlogy", "xlog1py")
)


@dataclass(frozen=True)
class Modes:
    """What JAX can do for a loss.

    Attributes:
        products: the order in which products H v are computed; None if none works.
        forms: whether v'Hv can be computed by forward over forward.
        obstacle: why there are no products, and what to do.
    """

    products: str | None = FORWARD_OVER_REVERSE
    forms: bool = True
    obstacle: str = ""

    def require_products(self) -> str:
        """The order of products.

        Raises:
            ValueError: if there is none, naming the primitive and the way out.
        """
        if self.products is not None:
            return self.products
        instead = " `hessspec.trace` works, by forms v'Hv alone." if self.forms else ""
        raise ValueError(f"products H v with this loss do not exist: {self.obstacle}.{instead}")

    def __str__(self) -> str:
        """The order taken, in words, where it is not the usual one."""
        if self.products == FORWARD_OVER_REVERSE:
            return ""
        return self.products or "forms v'Hv alone, forward over forward"


USUAL = Modes()


def least(all_modes: Iterable[Modes]) -> Modes:
    """What can be done with every one of several programs."""
    together = Modes()
    for modes in all_modes:
        unusual = together if together.products != FORWARD_OVER_REVERSE else modes
        if modes.products is None:
            unusual = modes
        together = replace(unusual, forms=together.forms and modes.forms)
    return together


def is_doubtful(text: str) -> bool:
    """Whether a program with this text may have no forward over reverse, or no forms."""
    own_rules = set(_RULED.findall(text)) - _RULED_BY_JAX
    return bool(own_rules) or any(name in text for name in _DOUBTFUL)


def find_modes(
    products: Callable[[str, Any], Array], forms: Callable[[Any], Array], argument: Any, text: str
) -> Modes:
    """What JAX can lower of `products(order, argument)` and `forms(argument)`.

    Nothing is compiled. `text` is that of the loss, in which the primitive is looked up where
    JAX's message does not name it.
    """
    has_forms = _failure(forms, argument) is None
    error: Exception | None = None
    for order in (FORWARD_OVER_REVERSE, REVERSE_OVER_REVERSE):
        error = _failure(lambda arg, order=order: products(order, arg), argument)
        if error is None:
            return Modes(order, has_forms)
    return Modes(None, has_forms, _obstacle(str(error), text))


def _failure(function: Callable[[Any], Array], argument: Any) -> Exception | None:
    """What differentiating raises: any exception, since rules are the user's own code.

    Inside loops some rules are asked for only where the program is lowered.
    """
    try:
        eqx.filter_jit(function).lower(argument)  # type: ignore[attr-defined]
    except Exception as error:
        return error
    return None


_RULE = "give it a rule by `jax.custom_jvp`, which both modes can differentiate"
_OBSTACLES = (
    (
        r"lax.while_loop",
        "`lax.while_loop` has no reverse mode; use `lax.scan`, a `fori_loop` of fixed length, or "
        "equinox's loops with `kind='bounded'` or `'checkpointed'`; diffrax has "
        "`adjoint=diffrax.DirectAdjoint()`",
    ),
    (r"Pure callbacks", f"`jax.pure_callback` has no derivative; {_RULE}"),
    (r"IO callbacks", f"`jax.experimental.io_callback` has no derivative; {_RULE}"),
    (r"ffi_call", f"`jax.ffi.ffi_call` has no derivative; {_RULE}"),
    (
        r"custom_vjp",
        "the rule of a `jax.custom_vjp` cannot be differentiated again; write it with operations "
        "that can, or as a `jax.custom_jvp`; diffrax has `adjoint=diffrax.DirectAdjoint()`",
    ),
    # What JAX says where it cannot transpose: an assertion without words, or an appeal.
    (
        r"^$|open an issue at",
        "a rule of `jax.custom_jvp` does to its tangents what JAX cannot transpose (`nan_to_num`, "
        "an iterative solver); do it to what multiplies them, or solve by "
        "`jax.lax.custom_linear_solve`",
    ),
    (r"(?:ule|ules) .*for '([\w-]+)'", f"the primitive `{{}}` has no derivative there; {_RULE}"),
)


def _obstacle(message: str, text: str) -> str:
    for pattern, words in _OBSTACLES:
        found = re.search(pattern, message)
        if found:
            return words.format(*found.groups())
    first = message.strip().split("\n")[0].rstrip(".")
    named = [name.rstrip("[") for name in _DOUBTFUL if name in text]
    if not named:
        return f"JAX says: {first}; {_RULE.replace('it', 'the primitive it names', 1)}"
    return f"the primitive `{named[0]}` has no derivative there ({first}); {_RULE}"
