"""A positive diagonal, given as people have it: a tree, or a function of the path of a leaf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import shown
from hessspec._base.signatures import explained
from hessspec._base.space import VectorSpace, leaf_paths

Scale = PyTree | Callable[[str], Any]


def diagonal_of(space: VectorSpace, scale: Scale) -> Float[Array, " dim"]:
    """The entries of D, in the order of flat vectors.

    Args:
        space: the chosen parameters.
        scale: a tree that has every chosen leaf at its place (others are ignored), or a function
            of the path of a leaf; a number stands for all entries of its leaf.

    Raises:
        ValueError: if a leaf is missing, of another shape, or not positive and finite.
        TypeError: if it is a function that does not take a path alone.
    """
    known = None if callable(scale) else dict(zip(leaf_paths(scale), _leaves(scale), strict=True))
    parts = []
    for path, shape in zip(space.paths, space.shapes, strict=True):
        if known is not None and path not in known:
            if jax.tree.structure(scale) == jax.tree.structure(0):
                raise ValueError(
                    "`scale` must be a tree like the chosen parameters, or a function of the path "
                    f"of a leaf, got {shown(scale)}; one number for all is `lambda path: number`, "
                    "and flat entries become a tree by `jax.flatten_util.ravel_pytree`."
                )
            raise ValueError(
                f"`scale` must have every chosen parameter at its place, but lacks `{path}`; it "
                f"has {', '.join(known) or 'no leaf'}: add it, or let `where` choose what has one."
            )
        leaf = _answer(scale, path) if known is None else known[path]
        parts.append(jnp.ravel(_as_large(leaf, shape, path)).astype(space.dtype))
    diagonal = jnp.concatenate(parts)
    if not isinstance(diagonal, Tracer):
        _require_positive(diagonal, space)
    return diagonal


def _answer(scale: Any, path: str) -> Any:
    with explained(scale, (path,), "scale(path)", "let it take the path of a leaf alone"):
        return scale(path)


def _leaves(scale: PyTree) -> list[Any]:
    return jax.tree.leaves(scale)


def _as_large(leaf: Any, shape: tuple[int, ...], path: str) -> Array:
    if not isinstance(leaf, Tracer) and np.asarray(leaf).dtype.kind not in "fiuV":
        raise ValueError(f"`scale` must be made of real numbers, got {shown(leaf)} at `{path}`")
    if np.ndim(leaf) and np.shape(leaf) != shape:
        raise ValueError(
            f"`scale` must have one number, or one for each entry of a leaf: shape {shape} at "
            f"`{path}`, got {np.shape(leaf)}"
        )
    return jnp.broadcast_to(jnp.asarray(leaf), shape)


def _require_positive(diagonal: Float[Array, " dim"], space: VectorSpace) -> None:
    # Numbers below the smallest normal one are 0 in compiled programs.
    if bool(_all_positive(diagonal)):
        return
    numbers = np.asarray(diagonal, np.float64)
    wrong = ~((numbers >= np.finfo(space.dtype).tiny) & np.isfinite(numbers))
    first = int(np.flatnonzero(wrong)[0])
    leaf = int(np.searchsorted(np.cumsum(space.sizes), first, side="right"))
    raise ValueError(
        f"`scale` must be positive and finite in {space.dtype.name}, got {numbers[first]:g} at "
        f"`{space.paths[leaf]}`: D H D has the eigenvalues of a preconditioned H only for D > 0; "
        "give parameters that are to be left out to `where` instead."
    )


@jax.jit
def _all_positive(diagonal: Float[Array, " dim"]) -> Array:
    tiny = jnp.finfo(diagonal.dtype).tiny
    return jnp.all((diagonal >= tiny) & (diagonal < jnp.inf))
