"""One product with the Hessian, for those who want nothing else."""

from collections.abc import Callable
from typing import overload

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hessspec._base.checks import check_finite
from hessspec._base.selection import Where
from hessspec._base.signatures import called_as
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.batches import Batches
from hessspec._operators.calls import resolve_operator
from hessspec._operators.rows import flat_vector, tree_of_rows


@overload
def hvp(
    loss_or_operator: Callable[..., Array],
    params: PyTree,
    vector: PyTree,
    *,
    data: PyTree | Batches | None = None,
    where: Where | None = None,
    memory_budget: int | None = None,
) -> PyTree: ...


@overload
def hvp(loss_or_operator: AbstractOperator, *, vector: PyTree) -> PyTree: ...


@called_as("hvp(loss_fn, params, vector, data=batch)", "hvp(operator, vector=v)")
def hvp(
    loss_or_operator: Callable[..., Array] | AbstractOperator,
    params: PyTree = None,
    vector: PyTree = None,
    *,
    data: PyTree | Batches | None = None,
    where: Where | None = None,
    memory_budget: int | None = None,
) -> PyTree:
    """H v as a tree like the chosen parameters; a leading task axis if the loss has shape (T,).

    H v = d/dε ∇L(θ + εv) at ε = 0, exact up to rounding. Call `hvp(loss_fn, params, vector,
    data=batch)` or `hvp(operator, vector=v)`; for many products build a `HessianOperator` once
    and use its `matmat`, which linearises the gradient once for all of them.

    Args:
        loss_or_operator: `loss_fn(params)`, `loss_fn(params, batch)` with `data`, or an operator.
        params, data, where, memory_budget: see `HessianOperator`.
        vector: tree of the chosen parameters (None at the others).

    Cost: one product, about 8/3 of a gradient at first and 5/3 within a block.

    Raises:
        TypeError: for a call that mixes the two forms.
        ValueError: if the loss or the product is not finite, or `vector` is no such tree or not
            finite.

    Source: Pearlmutter (1994), as used in New et al. (2022), section 2.1 [new2022].
    """
    if vector is None:
        raise TypeError(
            "`vector` is missing; call `hessspec.hvp(loss_fn, params, vector, data=batch)` or "
            "`hessspec.hvp(operator, vector=v)`."
        )
    operator = resolve_operator("hvp", loss_or_operator, params, data, where, memory_budget)
    flat = flat_vector(operator, vector)
    if not jnp.all(jnp.isfinite(flat)):
        raise ValueError("`vector` must be finite, got a tree with nan or infinite entries")
    rows = operator.rows(flat[None])
    check_finite(rows, operator.space, "the product H v")
    return tree_of_rows(operator, rows[..., 0, :])
