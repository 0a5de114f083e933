"""Between a model and its loss: Hessians in the outputs, their square roots, and pull-backs."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._operators.hessian import GaussNewtonOperator
from hessspec._operators.over_data import Chunk
from hessspec._operators.products import map_rows


@eqx.filter_jit
def outer_blocks(
    gauss_newton: GaussNewtonOperator, chunk: Chunk, per_example: bool
) -> Float[Array, "batches looks T n o o"]:
    """∂²ℓ_t/∂z_i∂z_i for the outputs z_i of each example i, or of all of them as one.

    Column j of all blocks at once is the product with Σ_i ε_i e_ij, for signs ε. Blocks beside the
    diagonal would show: they come with ε_i ε_k, which differ between looks (no signs, those of
    even and odd places, random ones). Cost: three times as many products with the loss alone as an
    example has outputs.
    """
    x = gauss_newton.space.flatten(gauss_newton.chosen)
    model, outer = chunk.functions

    def of(batch: Any) -> Array:
        outputs = model(*gauss_newton._arguments(x, batch))
        count = outputs.shape[0] if per_example else 1
        flat = outputs.reshape(count, -1)
        ones = jnp.ones(count, flat.dtype)
        drawn = jax.random.rademacher(jax.random.key(0), (count,), flat.dtype)
        signs = jnp.stack([ones, ones.at[1::2].set(-1), drawn] if count > 1 else [ones])

        def slopes(z: Array) -> Array:
            return jax.jacrev(lambda w: jnp.atleast_1d(outer(w.reshape(outputs.shape), batch)))(z)

        def column(tangent: Array, epsilon: Array) -> Array:
            product = jax.jvp(slopes, (flat,), (epsilon[:, None] * tangent[None],))[1]
            return product * epsilon[None, :, None]

        units = jnp.eye(flat.shape[1], dtype=flat.dtype)
        found = jax.lax.map(
            lambda epsilon: jax.lax.map(lambda unit: column(unit, epsilon), units), signs
        )
        return jnp.moveaxis(found, 1, -1)

    return chunk.group.mapped(of).arrays


@eqx.filter_jit
def outputs_of(
    gauss_newton: GaussNewtonOperator, chunk: Chunk
) -> Float[Array, "batches n *output"]:
    """What the model returns for each batch."""
    x = gauss_newton.space.flatten(gauss_newton.chosen)

    def of(batch: Any) -> Array:
        return chunk.functions[0](*gauss_newton._arguments(x, batch))

    return chunk.group.mapped(of).arrays


@eqx.filter_jit
def pulled_squares(
    gauss_newton: GaussNewtonOperator, chunk: Chunk, rows: Float[Array, "batches R m"]
) -> tuple[Float[Array, "batches R"], Float[Array, " R"]]:
    """|J's|² for rows s of each batch, and for the first batch s'J(J's), by a forward pass.

    Cost: a reverse pass for each row.
    """

    def outputs_on(arrays: Any) -> Any:
        batch = chunk.group.batch(arrays)
        return lambda chosen: chunk.functions[0](
            *gauss_newton._arguments_at(chosen, batch)
        ).reshape(-1)

    def square(pull: Any, row: Array) -> Array:
        return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(pull(row)[0])))

    def of(item: tuple[Any, Array]) -> Array:
        z, pull = jax.vjp(outputs_on(item[0]), gauss_newton._wide)
        block = item[1].astype(z.dtype)
        return map_rows(lambda row: square(pull, row), block, gauss_newton.plan.abreast)

    first = outputs_on(jax.tree.map(lambda leaf: leaf[0], chunk.group.arrays))

    def again(row: Array) -> Array:
        z, pull = jax.vjp(first, gauss_newton._wide)
        tangent = jax.jvp(first, (gauss_newton._wide,), (pull(row.astype(z.dtype))[0],))[1]
        return jnp.sum(tangent * row.astype(z.dtype))

    return jax.lax.map(of, (chunk.group.arrays, rows)), jax.lax.map(again, rows[0])


class SignedRoots(NamedTuple):
    """Rows s and signs with Σ ± s sᵀ = H for each block H, those of task after task.

    Attributes:
        rows: zero where a block has fewer than another.
        signs: of the eigenvalue behind each row.
        tasks: the task of each of the R rows.
    """

    rows: Float[np.ndarray, "*lead R o"]
    signs: Float[np.ndarray, "*lead R"]
    tasks: np.ndarray


def signed_roots(blocks: Float[np.ndarray, "*lead T o o"], eps: float) -> SignedRoots:
    """√|λ| u for the eigenpairs of each block; those lost in its rounding are left out."""
    values, vectors = np.linalg.eigh(blocks)
    order = np.argsort(-np.abs(values), axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    vectors = np.take_along_axis(vectors, order[..., None, :], axis=-1)
    size = blocks.shape[-1]
    held = np.abs(values) > size * eps * np.abs(values[..., :1])
    values = np.where(held, values, 0.0)
    rows = np.moveaxis(vectors * np.sqrt(np.abs(values))[..., None, :], -1, -2)
    counts = held.sum(axis=-1).reshape(-1, blocks.shape[-3]).max(axis=0)
    kept = [(t, i) for t, count in enumerate(counts) for i in range(count)]
    tasks, places = np.array(kept, int).reshape(-1, 2).T
    return SignedRoots(rows[..., tasks, places, :], np.sign(values)[..., tasks, places], tasks)
