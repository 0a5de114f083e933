"""Arrays on meshes of devices: a loss sees the mesh its user made, all else lies on Auto axes.

On Explicit axes (the default of `jax.make_mesh`) the type of an array says how it is laid out, and
many operations have to be told how their result is to be. On Auto axes the compiler decides. Both
are views of one memory: what comes in is seen on Auto axes, and a loss that was traced on Explicit
ones is evaluated on them. No mesh is made but the Auto view of one that is given.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Random signs are drawn in words of so many; a device has whole words of a long vector.
_WORD = 32

_ROWS_OVER: ContextVar[Mesh | None] = ContextVar("_ROWS_OVER", default=None)

# How each leaf of a tree lies on a mesh with Explicit axes; None for any other leaf.
Layouts = tuple[NamedSharding | None, ...]


def explicit_layouts(tree: PyTree) -> Layouts:
    """For each leaf its layout, where that is on a mesh with Explicit axes."""
    return tuple(map(_explicit_layout, jax.tree.leaves(tree)))


def laid_out(tree: PyTree, layouts: Layouts) -> PyTree:
    """The leaves laid out as their `explicit_layouts` were before `automatic`."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, layouts, strict=True)
    laid = [leaf if layout is None else jax.device_put(leaf, layout) for leaf, layout in pairs]
    return jax.tree.unflatten(treedef, laid)


def automatic(tree: PyTree) -> PyTree:
    """The same arrays where they are, on meshes with Auto axes."""
    return jax.tree.map(_automatic, tree)


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh of the first array of a tree that lies on several devices, its axes all Auto."""
    if jax.device_count() == 1:
        return None
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            layout = leaf.sharding
            if isinstance(layout, NamedSharding) and layout.mesh.size > 1:
                return _auto_view(layout.mesh)
    return None


def width_on(mesh: Mesh | None, dim: int) -> int:
    """Entries of a long vector on the devices of a mesh: `dim`, and zeros up to equal shares.

    JAX hands no array out of a program in unequal pieces: one that is cut into as many pieces as
    there are devices, and no other, lies whole on none of them.
    """
    if mesh is None:
        return dim
    return mesh.size * _WORD * math.ceil(dim / (mesh.size * _WORD))


def row_bytes(mesh: Mesh | None, dim: int, dtype: np.dtype) -> int:
    """Bytes of a long vector on each device."""
    devices = 1 if mesh is None else mesh.size
    return width_on(mesh, dim) // devices * np.dtype(dtype).itemsize


def entries_on_device(tree: PyTree) -> int:
    """How many numbers of the arrays of a tree each device has."""
    return sum(math.prod(_share(leaf)) for leaf in jax.tree.leaves(tree))


def bytes_on_device(tree: PyTree) -> float:
    """Bytes of the arrays of a tree on each device."""
    arrays = (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
    return float(sum(math.prod(_share(leaf)) * leaf.dtype.itemsize for leaf in arrays))


def cut_along(mesh: Mesh, axis: int) -> NamedSharding:
    """The layout of arrays whose `axis` is cut over all devices of a mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def over_devices(mesh: Mesh | None, rows: Array) -> Array:
    """Rows cut over the devices of a mesh, and filled up with zeros to `width_on` if not yet so."""
    return rows if mesh is None else _over_devices(mesh, rows)


@functools.partial(jax.jit, static_argnums=0)
def _over_devices(mesh: Mesh, rows: Array) -> Array:
    dim, lead = rows.shape[-1], rows.ndim - 1
    wide = jnp.pad(rows, [*[(0, 0)] * lead, (0, width_on(mesh, dim) - dim)])
    return jax.lax.with_sharding_constraint(wide, cut_along(mesh, lead))


@contextmanager
def rows_over(mesh: Mesh | None) -> Iterator[None]:
    """Inside, flat vectors of trees are cut over the devices of a mesh and filled up with zeros."""
    token = _ROWS_OVER.set(mesh)
    try:
        yield
    finally:
        _ROWS_OVER.reset(token)


def rows_are_over() -> Mesh | None:
    """The mesh of the innermost `rows_over`; None outside."""
    return _ROWS_OVER.get()


def joined_over(mesh: Mesh, parts: list[Array]) -> Array:
    """Parts of flat vectors one after the other, cut over the devices and filled up with zeros.

    The sum of the parts, each with zeros around it: that, the compiler makes of shares that
    devices send to one another, where it gathers what is joined by `concatenate` on all of them.
    Parts that are shorter than a share are joined, and gathered, until they have one; one such
    piece after the other, so that they are not on a device all at once.
    """
    sizes = [part.shape[-1] for part in parts]
    lead, wide = parts[0].ndim - 1, width_on(mesh, sum(sizes))
    layout = cut_along(mesh, lead)
    total = jax.lax.with_sharding_constraint(
        jnp.zeros((*parts[0].shape[:-1], wide), parts[0].dtype), layout
    )
    begin, run = 0, []
    for number, part in enumerate(parts, 1):
        run.append(part)
        size = sum(piece.shape[-1] for piece in run)
        if size * mesh.size < wide and number < len(parts):
            continue
        piece = run[0] if len(run) == 1 else jnp.concatenate(run, axis=-1)
        if size % mesh.size == 0:
            piece = jax.lax.with_sharding_constraint(piece, layout)
        piece, total = jax.lax.optimization_barrier((piece, total))
        around = [*[(0, 0)] * lead, (begin, wide - begin - size)]
        total = total + jax.lax.with_sharding_constraint(jnp.pad(piece, around), layout)
        begin, run = begin + size, []
    return total


def parts_over(mesh: Mesh, rows: Array, sizes: tuple[int, ...]) -> list[Array]:
    """The parts of `joined_over`. Each is cut out of rows that are said to lie over the devices, so
    that in a derivative its tangent is put back as `joined_over` does it."""
    layout, ends = cut_along(mesh, rows.ndim - 1), np.cumsum(sizes).tolist()
    return [
        jax.lax.with_sharding_constraint(rows, layout)[..., end - size : end]
        for size, end in zip(sizes, ends, strict=True)
    ]


def example_like(leaf: Any) -> Any:
    """One entry of the leading axis, to trace with: of its shape and layout, but all zeros."""
    zeros, layout = np.zeros(leaf.shape[1:], leaf.dtype), _explicit_layout(leaf)
    if layout is None:
        return zeros
    return jax.device_put(zeros, layout.update(spec=PartitionSpec(*layout.spec[1:])))


def entry_of(leaf: Any, number: int) -> Any:
    """One entry of the leading axis, which it keeps, laid out as the leaf is along the others."""
    layout = _explicit_layout(leaf)
    if layout is None:
        return leaf[number : number + 1]
    entry = _automatic(leaf)[number : number + 1]
    return jax.device_put(entry, layout.update(spec=PartitionSpec(None, *layout.spec[1:])))


def on_explicit_axes(
    function: Callable[..., Any], mesh: Any, specs: tuple[PartitionSpec, ...]
) -> Callable[..., Any]:
    """`function`, traced on a mesh with Explicit axes, as one of arrays on Auto axes.

    `specs`: how its arguments lie.
    """

    def called(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(_all_auto(mesh)):
            return jax.sharding.explicit_axes(function, in_sharding=specs)(*arguments)

    return called


@contextmanager
def on_mesh_of(tree: PyTree) -> Iterator[None]:
    """Inside, the mesh of the leaves with Explicit axes is the current one, if they have one."""
    layouts = [layout for layout in explicit_layouts(tree) if layout is not None]
    if not layouts:
        yield
        return
    with jax.sharding.use_abstract_mesh(layouts[0].mesh.abstract_mesh):
        yield


def off_explicit_axes(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A decorator: where the user's current mesh has Explicit axes, no mesh is current inside.

    `jax.set_mesh` makes a mesh current for all that is computed, new arrays among it; inside, each
    array is where its own layout says.
    """

    @functools.wraps(function)
    def called(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        with _without_explicit_mesh():
            return function(*arguments, **named)

    return called


@contextmanager
def _without_explicit_mesh() -> Iterator[None]:
    current = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
    if not _has_explicit_axes(current):
        yield
        return
    try:
        # An empty mesh is what JAX has where none was ever set; the user's is set again at the end.
        none = jax.set_mesh(Mesh(np.empty((), dtype=object), ()))
    except ValueError:  # inside a transformation no mesh can be set: all is as the user has it
        none = nullcontext()
    with none:
        yield


def _share(leaf: Any) -> tuple[int, ...]:
    """The shape of what each device has of an array."""
    if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
        return tuple(leaf.sharding.shard_shape(leaf.shape))
    return tuple(np.shape(leaf))


def _automatic(leaf: Any) -> Any:
    layout = _explicit_layout(leaf)
    if layout is None:
        return leaf
    return jax.device_put(leaf, layout.update(mesh=_auto_view(layout.mesh)))


def _explicit_layout(leaf: Any) -> NamedSharding | None:
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return None
    layout = leaf.sharding
    if isinstance(layout, NamedSharding) and _has_explicit_axes(layout.mesh):
        return layout
    return None


def _has_explicit_axes(mesh: Any) -> bool:
    return mesh is not None and bool(getattr(mesh, "explicit_axes", ()))


def _auto_view(mesh: Any) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=_auto_types(mesh))


def _all_auto(mesh: Any) -> Any:
    return mesh.update_axis_types(dict(zip(mesh.axis_names, _auto_types(mesh), strict=True)))


def _auto_types(mesh: Any) -> tuple[Any, ...]:
    return (jax.sharding.AxisType.Auto,) * len(mesh.axis_names)
