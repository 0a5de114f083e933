"""What to say where a function of the user cannot be called with what it is given.

Errors from inside such a function are the user's own and pass as they are.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from hessspec._base.arguments import did_you_mean, shown
from hessspec._base.meshes import off_explicit_axes

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def called_as(
    *calls: str,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator for public functions: a call that does not fit is answered with one that does."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)
        right = " or ".join(f"`{call}`" for call in calls)

        @functools.wraps(function)
        def checked(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            try:
                signature.bind(*arguments, **named)
            except TypeError as error:
                name, why = calls[0].split("(")[0], misspelt(error, signature, named)
                raise TypeError(f"`{name}` cannot be called so ({why}); call {right}.") from None
            return off_explicit_axes(function)(*arguments, **named)

        return checked

    return decorate


def misspelt(error: TypeError, signature: inspect.Signature, named: Iterable[str]) -> str:
    """What Python says of a call, with the argument that an unknown name may stand for."""
    unknown = next((name for name in named if name not in signature.parameters), None)
    return str(error) + ("" if unknown is None else did_you_mean(unknown, signature.parameters))


@contextmanager
def explained(function: Any, arguments: tuple[Any, ...], call: str, way_out: str) -> Iterator[None]:
    """The body calls `function` with `arguments`: written for the user, that is `call`.

    Raises:
        TypeError: if it is no function, or if the call failed and its signature says why; the
            failure is then the cause.
    """
    name = call.split("(")[0]
    if not callable(function):
        raise TypeError(f"`{name}` must be a function, called as `{call}`, got {shown(function)}.")
    try:
        yield
    except TypeError as error:
        misfit = _misfit(function, arguments)
        if misfit is None:
            raise
        raise TypeError(f"`{name}` is called as `{call}`, but it {misfit}: {way_out}.") from error


def _misfit(function: Any, arguments: tuple[Any, ...]) -> str | None:
    """Why `function` cannot even be entered with `arguments`; None if it can, or who knows."""
    try:
        # What a decorator shows of the function inside need not be how it is called.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        return f"takes {inspect.Signature(bare)}, {error}"
    return None
