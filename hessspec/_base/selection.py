"""Which leaves of a tree are the parameters of an operator, and which are held constant."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hessspec._base.signatures import explained
from hessspec._base.space import leaf_paths

# A function of path and leaf, or of the leaf alone; types of the nodes around leaves; or a tree of
# True and False that begins like the parameters.
Where = (
    Callable[[str, Array], bool] | Callable[[Any], bool] | type | tuple[type, ...] | PyTree[bool]
)


def choose(params: PyTree, where: Where | None, name: str = "params") -> tuple[PyTree, PyTree]:
    """`params` as (chosen, held): the floats that `where` wants, as arrays, and all the rest.

    Python's floats count as `jax.grad` counts them, except in equinox modules, where they are
    settings (the rate of a dropout), as equinox counts them.

    Raises:
        TypeError: if `where` is nothing that can choose.
        ValueError: if a leaf is complex or nothing is chosen; `name` is what the caller was given.
    """
    leaves, treedef = jax.tree.flatten(params)
    paths = leaf_paths(params)
    in_module = _inside(params, eqx.Module)
    could_be = [_is_parameter(*found, name) for found in zip(leaves, paths, in_module, strict=True)]
    wanted = _wanted(params, where, leaves, paths, could_be)
    flags = [could and want for could, want in zip(could_be, wanted, strict=True)]
    if not any(np.size(leaf) for leaf, flag in zip(leaves, flags, strict=True) if flag):
        raise ValueError(_nothing_chosen(leaves, paths, where, name))
    dtype = _dtype_of_numbers(leaves)
    chosen, held = eqx.partition(params, jax.tree.unflatten(treedef, flags))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if type(x) is float else None), chosen), held


def held_numbers(held: PyTree) -> list[tuple[str, Any]]:
    """Paths and leaves of the numbers and arrays that are held constant."""
    pairs = zip(leaf_paths(held), jax.tree.leaves(held), strict=True)
    return [(path, leaf) for path, leaf in pairs if eqx.is_array(leaf) or _is_number(leaf)]


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) and not isinstance(leaf, bool)


def _is_parameter(leaf: Any, path: str, in_module: bool, name: str) -> bool:
    if type(leaf) is float:
        return not in_module
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise ValueError(
            f"`{name}` must be real, got {leaf.dtype} at `{path}`; split it into real and "
            "imaginary parts."
        )
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _dtype_of_numbers(leaves: list[Any]) -> np.dtype:
    """What Python's floats are beside these leaves: as in JAX, they widen no array."""
    arrays = [jnp.asarray(leaf) for leaf in leaves if eqx.is_inexact_array(leaf)]
    if not arrays or any(array.dtype == np.float64 for array in arrays):
        return np.dtype(jnp.result_type(float))
    return np.dtype(np.float32)


def _wanted(
    params: PyTree,
    where: Where | None,
    leaves: list[Any],
    paths: tuple[str, ...],
    could_be: list[bool],
) -> list[bool]:
    """What `where` says of each leaf; a function is asked about those that could be parameters."""
    if where is None:
        return [True] * len(leaves)
    if _all_are(type, where):
        return _inside(params, tuple(jax.tree.leaves(where)))
    if _all_are(bool | np.bool_, where):
        return _spread(where, params)
    _require_function(where)
    function: Any = where
    takes_leaf = _takes_leaf_alone(function)
    ask = _filter if takes_leaf else _explained_filter
    answers: list[bool] = []
    try:
        for could, path, leaf in zip(could_be, paths, leaves, strict=True):
            answers.append(could and _whole(ask(function, path, leaf), path))
    finally:
        asked = {answer for answer, could in zip(answers, could_be, strict=False) if could}
        if takes_leaf and len(asked) < 2 and _tells_paths_apart(function, paths):
            raise TypeError(
                "`where` has one argument, so it is asked about leaves, but it looks for text in "
                "paths; let it take both: `where=lambda path, leaf: ...`."
            )
    return answers


def _require_function(where: Any) -> None:
    """An error if it is text or a filter of flax, which would be called but misunderstood."""
    if isinstance(where, str):
        raise TypeError(
            f"`where` must be a function, a type or a tree of True and False, got text {where!r}; "
            f"to choose by path: `where=lambda path, leaf: {where!r} in path`."
        )
    if type(where).__module__.startswith("flax.nnx"):
        name = type(where).__name__
        raise TypeError(
            f"`where` cannot be the filter nnx.{name}: that looks at variables, `where` gets their "
            "arrays; pass a type, `where=nnx.Param`, or split the module with the filter first "
            "(`nnx.split`) and pass its part as `params`."
        )


def _all_are(kind: Any, where: Any) -> bool:
    """Whether `where` is a tree of such leaves and no function with arguments bound to it."""
    found = [] if isinstance(where, functools.partial) else jax.tree.leaves(where)
    return len(found) > 0 and all(isinstance(leaf, kind) for leaf in found)


def _inside(tree: PyTree, kinds: type | tuple[type, ...]) -> list[bool]:
    """For each leaf, whether it lies in a node of one of these types."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return [isinstance(node, kinds) for node in nodes for _ in jax.tree.leaves(node)]


def _spread(where: PyTree[bool], params: PyTree) -> list[bool]:
    """A tree of answers, each for all leaves at its place, as one answer for each leaf."""
    try:
        answers = jax.tree.map(
            lambda answer, part: jax.tree.map(lambda _: bool(answer), part), where, params
        )
    except ValueError as error:
        raise ValueError(
            "`where`, a tree of True and False, must begin like `params`; it has the structure "
            f"{jax.tree.structure(where)}, and `params` {jax.tree.structure(params)}."
        ) from error
    return jax.tree.leaves(answers)


def _filter(where: Callable[[Any], Any], path: str, leaf: Any) -> Any:
    del path
    return where(leaf)


def _explained_filter(where: Callable[[str, Array], Any], path: str, leaf: Any) -> Any:
    given = (path, jnp.asarray(leaf))
    with explained(where, given, "where(path, leaf)", "let it take both, or the leaf alone"):
        return where(*given)


def _whole(answer: Any, path: str) -> bool:
    if np.ndim(answer) != 0:
        raise ValueError(
            f"`where` must say True or False of a whole leaf, got shape {np.shape(answer)} at "
            f"`{path}`; H can be restricted to leaves, not to entries of one."
        )
    return bool(answer)


def _takes_leaf_alone(where: Any) -> bool:
    """Whether it is a filter of leaves, as equinox has them; one of paths would need both."""
    try:
        signature = inspect.signature(where)
        signature.bind(None)
    except (TypeError, ValueError):
        return False
    first, *others = signature.parameters.values()
    takes_two = any(other.kind is not other.KEYWORD_ONLY for other in others)
    return not takes_two and first.kind is not first.VAR_POSITIONAL and "path" not in first.name


def _tells_paths_apart(where: Callable[[Any], Any], paths: tuple[str, ...]) -> bool:
    """Whether it gives both answers to paths: `"bias" not in leaf` is true of every array."""
    try:
        return len({bool(where(path)) for path in paths}) == 2
    except Exception:  # a filter of leaves, which texts are not
        return False


def _nothing_chosen(
    leaves: list[Any], paths: tuple[str, ...], where: Where | None, name: str
) -> str:
    shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
    reason = "holds no float array with entries" if where is None else "nothing was chosen"
    if len(leaves) == 1 and callable(leaves[0]):
        reason = "is a function (the loss comes first, the parameters second)"
    if where is not None and _all_are(type, where):
        reason = f"no float lies in a {' or '.join(t.__name__ for t in jax.tree.leaves(where))}"
    elif any(map(_is_number, leaves)):
        reason += (
            " (Python's whole numbers are constants, and so is every number in an equinox module; "
            "make arrays of them by `jnp.asarray(x, float)`)"
        )
    return (
        f"`{name if where is None else 'where'}` must choose at least one parameter, but {reason}; "
        f"the leaves are: {shown or 'none'}."
    )
