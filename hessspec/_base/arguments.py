"""Arguments of the right kind and in range, named where they are not."""

import difflib
import operator
import reprlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from hessspec._base.meshes import automatic


def whole_number(name: str, value: Any, least: int | None = 1) -> int:
    """The argument `name` as an int: one of Python or numpy, at least `least`.

    Raises:
        TypeError: for any other type; 2.0, "2" and True are none.
        ValueError: if it is below `least`.
    """
    is_bool = isinstance(value, bool | np.bool_)
    try:
        number = None if is_bool else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        hint = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"`{name}` must be a whole number, got {shown(value)}{hint}.")
    if least is not None and number < least:
        raise ValueError(f"`{name}` must be at least {least}, got {number}.")
    return number


def real_number(name: str, value: Any, kind: str = "a number") -> float:
    """The argument `name` as a float; messages say which `kind` of number it must be.

    Raises:
        TypeError: if it is not one real number.
    """
    if isinstance(value, bool) or np.ndim(value) != 0 or not _is_real(np.asarray(value)):
        raise TypeError(f"`{name}` must be {kind}, got {shown(value)}.")
    return float(value)


def in_dtype(name: str, values: Any, dtype: np.dtype) -> Array:
    """The factors `name` in `dtype`, none of which may become 0 or infinite by the cast.

    Numbers below the smallest normal one count as 0, since compiled programs flush them to 0.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if they are not finite, before the cast or after it.
    """
    if isinstance(values, Tracer):
        return values.astype(dtype)
    given = np.asarray(values)
    if not _is_real(given):
        raise TypeError(f"`{name}` must be real, got {shown(values)}.")
    given = given.astype(np.float64)
    if not np.all(np.isfinite(given)):
        raise ValueError(f"`{name}` must be finite, got {reprlib.repr(values)}.")
    sizes = np.abs(given)
    least, most = (float(end) for end in (jnp.finfo(dtype).tiny, jnp.finfo(dtype).max))
    lost = (sizes > most) | ((sizes > 0) & (sizes < least))
    if np.any(lost):
        wider = "" if dtype == np.float64 else ", or take `params` in float64 (`jax_enable_x64`)"
        raise ValueError(
            f"`{name}` must have a size between {least:.2g} and {most:.2g}, or it becomes 0 or "
            f"infinite in {np.dtype(dtype).name}, the dtype of this operator; got "
            f"{given[lost].flat[0]:g}: scale the results instead{wider}."
        )
    return jnp.asarray(given, dtype)


def check_key(key: Any) -> PRNGKeyArray:
    """`key` as one new-style key; old-style arrays of two numbers are accepted.

    Raises:
        TypeError: if it is missing or something else.
    """
    if isinstance(key, jax.Array):
        key = automatic(key)
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return key
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(key)
    found = "nothing" if key is None else shown(key)
    raise TypeError(f"`key` must be one random key, such as `jax.random.key(0)`, got {found}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise TypeError unless the argument `name` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {kind.__name__}, got {type(value).__name__}.")


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """The nearest of the words that are known, as a question in brackets; nothing if none is."""
    names = {str(name).lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f" (did you mean {names[near[0]]!r}?)" if near else ""


def shown(value: Any) -> str:
    """The type of a value and as much of it as fits a message."""
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"


def _is_real(values: np.ndarray) -> bool:
    return any(jnp.issubdtype(values.dtype, kind) for kind in (np.floating, np.integer))
