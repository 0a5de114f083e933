"""Which leaves of a tree are the parameters of an operator, and which are held constant."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hessspec._base.signatures import explained
from hessspec._base.space import leaf_path

Where = Callable[[str, Array], bool]


def choose(params: PyTree, where: Where | None, name: str = "params") -> tuple[PyTree, PyTree]:
    """`params` as (chosen, held): float arrays that `where` wants, and all the rest.

    Raises:
        TypeError: if `where` is not callable with a path and a leaf.
        ValueError: if a leaf is complex or nothing is chosen; `name` is what the caller was given.
    """

    def is_chosen(path: tuple[Any, ...], leaf: Any) -> bool:
        if not eqx.is_array_like(leaf) or not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            return False
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"`{name}` must be real, got {leaf.dtype} at `{leaf_path(path)}`; "
                "split it into real and imaginary parts."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return False
        if where is None:
            return True
        given = (leaf_path(path), jnp.asarray(leaf))
        with explained(where, given, "where(path, leaf)", "let it take both"):
            answer = where(*given)
        if np.ndim(answer) != 0:
            raise ValueError(
                f"`where` must say True or False of a whole leaf, got shape {np.shape(answer)} at "
                f"`{leaf_path(path)}`; H can be restricted to leaves, not to entries of one."
            )
        return bool(answer)

    chosen, held = eqx.partition(params, jax.tree.map_with_path(is_chosen, params))
    chosen = jax.tree.map(jnp.asarray, chosen)
    if sum(leaf.size for leaf in jax.tree.leaves(chosen)) == 0:
        paths = [leaf_path(path) for path, _ in jax.tree.leaves_with_path(params)]
        shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        reason = "holds no float array with entries" if where is None else "nothing was chosen"
        if any(isinstance(leaf, float) for leaf in jax.tree.leaves(params)):
            reason += " (Python's numbers are constants; make arrays of them by `jnp.asarray`)"
        raise ValueError(
            f"`{name if where is None else 'where'}` must select at least one parameter, "
            f"but {reason}; the leaves are: {shown or 'none'}."
        )
    return chosen, held
