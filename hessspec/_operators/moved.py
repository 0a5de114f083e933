"""Parameters as a function of a flat vector that lies over the devices of a mesh.

Made flat and split again, parameters would leave the layout that their user chose for them. So they
stay as they are, and what is flat is how far they are moved, which is 0: derivatives alone pass
between flat vectors and trees.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessspec._base.meshes import rows_are_over, width_on
from hessspec._base.space import VectorSpace


def flat_point(space: VectorSpace, chosen: PyTree) -> Float[Array, " width"]:
    """The x at which `parameters_at` are these: flat, or 0 where rows lie over a mesh."""
    mesh = rows_are_over()
    if mesh is None:
        return space.flatten(chosen)
    return jnp.zeros(width_on(mesh, space.dim), space.dtype)


def parameters_at(space: VectorSpace, point: PyTree, x: Float[Array, " width"]) -> PyTree:
    """The chosen parameters at x, in the dtype of `point`, which are those at `flat_point`."""
    return space.widened(x) if rows_are_over() is None else _moved(space, point, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moved(space: VectorSpace, point: PyTree, x: Float[Array, " width"]) -> PyTree:
    """`point` + x at x = 0, with its derivatives along x; `point` itself is held constant."""
    leaves, treedef = jax.tree.flatten(point)
    # It depends on x, so that what is computed afresh for each vector is not taken out of the loop.
    *tied, _ = jax.lax.optimization_barrier((*leaves, x))
    return jax.tree.unflatten(treedef, tied)


@_moved.defjvp
def _moved_along(
    space: VectorSpace, primals: tuple[PyTree, Array], tangents: tuple[PyTree, Array]
) -> tuple[PyTree, PyTree]:
    return _moved(space, *primals), space.widened(tangents[1])
