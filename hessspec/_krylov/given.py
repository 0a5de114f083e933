"""Vectors that are given, as trees or as flat rows: read, and made orthonormal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.meshes import automatic
from hessspec._base.space import VectorSpace
from hessspec._krylov.blocks import combine, orthonormal_rows


def given_rows(name: str, given: PyTree, space: VectorSpace) -> Float[Array, "k dim"]:
    """The vectors that a caller gave, as flat rows in the dtype of the space.

    Args:
        name: of the argument, for errors.
        given: a tree like the chosen parameters whose leaves share any number of leading axes
            (none: one vector), flat rows of shape (k, P), or a list or tuple of such.
        space: of the chosen parameters.

    Raises:
        TypeError: for what is neither, or holds no real numbers.
        ValueError: for other shapes, or entries that are not finite.
    """
    rows = jnp.concatenate([_rows(name, part, space) for part in _parts(given, space)])
    bad = np.flatnonzero(~np.asarray(jnp.all(jnp.isfinite(rows), axis=1)))
    if bad.size:
        raise ValueError(
            f"`{name}` must be finite, but vector {bad[0]} of {rows.shape[0]} is not; leave out "
            "vectors that overflowed."
        )
    return rows


def task_rows(
    name: str, given: PyTree, space: VectorSpace, num_tasks: int | None
) -> list[Float[Array, "k dim"]]:
    """`given_rows` for each task: its own, if the first of two leading axes is that of tasks."""
    rows = given_rows(name, given, space)
    lead = _lead(given, space)
    if num_tasks is not None and len(lead) == 2 and lead[0] == num_tasks:
        by_task = rows.reshape(*lead, space.dim)
        return [by_task[t] for t in range(num_tasks)]
    return [rows] * (num_tasks or 1)


def orthonormal_span(rows: Float[Array, "k dim"]) -> Float[Array, "r dim"]:
    """Orthonormal rows with the span of `rows`; what depends on others up to rounding adds none.

    Rows are brought to one length first: which of them matters does not depend on their scale.
    """
    unit, is_zero = _unit(rows)
    unit = unit[~np.asarray(is_zero)]
    dim, dtype = rows.shape[1], rows.dtype
    if unit.shape[0] == 0:
        return unit
    # More rows than dimensions have no triangular factor with as many columns.
    basis, factor = orthonormal_rows(unit)
    left, singular, _ = np.linalg.svd(factor)
    tolerance = max(unit.shape[0], 8) * float(np.finfo(dtype).eps) * singular[0]
    rank = int(np.sum(singular > tolerance))
    if rank == basis.shape[0] <= dim:
        return basis
    return combine(jnp.asarray(left[:, :rank].T, dtype), basis)


def _parts(given: PyTree, space: VectorSpace) -> list[PyTree]:
    """`given` alone, or its entries if it is a sequence of such and no tree of the parameters."""
    is_tree = jax.tree.structure(given) == space.treedef
    if isinstance(given, list | tuple) and given and not is_tree:
        return list(given)
    return [given]


def _rows(name: str, part: PyTree, space: VectorSpace) -> Float[Array, "k dim"]:
    part = automatic(part)
    leaves, treedef = jax.tree.flatten(part)
    for leaf in leaves:
        _check_real(name, leaf)
    if treedef == space.treedef and (lead := _lead_of_tree(leaves, space)) is not None:
        count = int(np.prod(lead, dtype=int))
        flat = [
            _cast(leaf, space).reshape(count, size)
            for leaf, size in zip(leaves, space.sizes, strict=True)
        ]
        return jnp.concatenate(flat, axis=1)
    if len(leaves) == 1 and leaves[0] is part and np.shape(part)[-1:] == (space.dim,):
        return _cast(part, space).reshape(-1, space.dim)
    found = [tuple(np.shape(leaf)) for leaf in leaves]
    raise ValueError(
        f"`{name}` must be a tree like the chosen parameters, with the same leading axes on "
        f"every leaf ({', '.join(space.paths[:4])}{', ...' if len(space.paths) > 4 else ''} of "
        f"shapes {list(space.shapes[:4])}), or rows of shape (k, {space.dim}), or a list of such; "
        f"got {treedef if len(leaves) > 1 else 'an array'} of shapes {found[:4]}."
    )


def _cast(leaf: Any, space: VectorSpace) -> Array:
    # What overflows is infinite, and that is told in a sentence.
    with np.errstate(over="ignore"):
        return jnp.asarray(leaf).astype(space.dtype)


def _check_real(name: str, leaf: Any) -> None:
    if isinstance(leaf, int | float) and not isinstance(leaf, bool):
        return  # Python's numbers are parameters too
    kind = getattr(leaf, "dtype", None)
    if kind is None or not (
        jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    ):
        shown = type(leaf).__name__ if kind is None else kind
        raise TypeError(f"`{name}` must hold arrays of real numbers, got {shown}")


def _lead(given: PyTree, space: VectorSpace) -> tuple[int, ...]:
    """The leading axes of a single tree or array of rows; none of a sequence of them."""
    leaves, treedef = jax.tree.flatten(given)
    if treedef == space.treedef:
        return _lead_of_tree(leaves, space) or ()
    return tuple(np.shape(given)[:-1]) if len(leaves) == 1 and leaves[0] is given else ()


def _lead_of_tree(leaves: list[Any], space: VectorSpace) -> tuple[int, ...] | None:
    """The axes that all leaves have before those of their parameter, or None."""
    leads = set()
    for leaf, shape in zip(leaves, space.shapes, strict=True):
        whole = tuple(np.shape(leaf))
        cut = len(whole) - len(shape)
        if cut < 0 or whole[cut:] != shape:
            return None
        leads.add(whole[:cut])
    return leads.pop() if len(leads) == 1 else None


@jax.jit
def _unit(rows: Float[Array, "k dim"]) -> tuple[Float[Array, "k dim"], Array]:
    """Rows of length 1, computed without overflow, and which of them are zero."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    lengths = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / jnp.where(lengths > 0, lengths, 1), largest[:, 0] == 0
