"""The two ways to call a verb: with a loss and parameters, or with an operator."""

from collections.abc import Callable

import jax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from hessspec._base.selection import Where
from hessspec._operators.algebra import AbstractOperator, ComposedOperator
from hessspec._operators.examples import warn_of_examples
from hessspec._operators.hessian import HessianOperator
from hessspec._operators.over_data import DataOperator, loss_values


def resolve_operator(
    verb: str,
    loss_or_operator: Callable[..., Array] | AbstractOperator,
    params: PyTree,
    data: PyTree,
    where: Where | None,
    memory_budget: int | None = None,
    validate: bool = True,
) -> AbstractOperator:
    """The operator that a call of `verb` means.

    Raises:
        TypeError: if an operator comes with parameters, data or `where`, or a loss without
            parameters; the message shows the right call. Also inside `jit`, `grad` and `vmap`.
        ValueError: if the loss is not finite, not deterministic, or has nothing to differentiate.
    """
    third = "vector" if verb == "hvp" else "key"
    by_loss = f"`hessspec.{verb}(loss_fn, params, {third}, data=batch)`"
    by_operator = f"`hessspec.{verb}(operator, {third}={third})`"
    if isinstance(loss_or_operator, AbstractOperator):
        extra = {"params": params, "data": data, "where": where}
        named = ", ".join(f"`{name}`" for name, value in extra.items() if value is not None)
        if named:
            by_place = params is not None and data is None and where is None
            hint = f" (beside an operator, `{third}` goes by name)" if by_place else ""
            raise TypeError(
                f"an operator already holds its parameters and data, but {named} came with it"
                f"{hint}; call {by_operator}, or {by_loss}."
            )
        operator = loss_or_operator
    elif callable(loss_or_operator):
        if params is None:
            raise TypeError(f"`params` is missing; call {by_loss} or {by_operator}.")
        operator = HessianOperator(
            loss_or_operator, params, data=data, where=where, memory_budget=memory_budget
        )
    else:
        raise TypeError(
            f"the first argument of `{verb}` must be a loss function or an operator, got "
            f"{type(loss_or_operator).__name__}; call {by_loss}."
        )
    require_values(verb, operator)
    if validate:
        operator.validate()
    return operator


def warn_of_tasks(operator: AbstractOperator) -> None:
    """Warn if examples are taken for tasks: part of `validate`, for who validates task by task."""
    if isinstance(operator, ComposedOperator):
        for part in operator.parts:
            warn_of_tasks(part)
    elif isinstance(operator, DataOperator):
        warn_of_examples(operator, loss_values)


INSIDE = "`HessianOperator(loss_fn, params).matvec(vector)` and `hessspec.lanczos` can be used"


def require_values(verb: str, given: PyTree, inside: str = INSIDE) -> None:
    """Raise TypeError if numbers of what is given are not known yet: inside `jit` and its kin.

    `inside` says what can be done there.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            f"`{verb}` looks at its numbers on the host, so it cannot run inside `jit`, `grad` or "
            f"`vmap`; call it outside. Inside, {inside}."
        )
