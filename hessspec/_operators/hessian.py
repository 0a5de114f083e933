"""Operators made from losses: the Hessian and its Gauss-Newton part."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.meshes import automatic, off_explicit_axes
from hessspec._base.selection import Where
from hessspec._base.signatures import called_as
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.batches import Batches, BatchGroup
from hessspec._operators.lift import LiftedFunction, lift
from hessspec._operators.linearised import LinearisedOperator
from hessspec._operators.modes import FORWARD_OVER_REVERSE, REVERSE_OVER_REVERSE
from hessspec._operators.moved import flat_point
from hessspec._operators.over_data import Chunk, DataOperator
from hessspec._operators.products import (
    Gradient,
    block_products,
    gauss_newton_products,
    map_rows,
    task_forms,
    task_gradients,
    weighted_gradient,
)


class HessianOperator(DataOperator):
    """H = ∇²L(params) of a loss, restricted to the chosen parameters.

    Products are Pearlmutter's: H v = d/dε ∇L(θ + εv) at ε = 0, by linearising the gradient once
    for a block of vectors. If the loss returns shape (T,), there are T Hessians of the same
    parameters: every result has a leading task axis, and all tasks see the same vectors.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` if `data` is given; returns a
            float scalar or shape (T,). Arrays it closes over are passed as arguments.
        params: any pytree. Floats are parameters, in arrays and as Python's numbers (those in an
            equinox module are its settings); all else is held constant. The loss gets the
            parameters of H in the widest of their dtypes, at least float32; vectors and results
            that are trees have the dtypes of `params`.
        data: one batch (any pytree, never split), or `Batches`.
        where: chooses the parameters of H; the others are held constant. `where(path, leaf)`, the
            path as text such as `encoder/0/kernel`; `where(leaf)`, such as
            `eqx.is_inexact_array`; a type whose nodes hold them, such as `nnx.Param`, or a tuple
            of types; or a tree of True and False that begins like `params`. Default: all.
        memory_budget: bytes that products may take, by default set from the device; batches
            beyond a quarter of it are read again for each product.
        block_rows, rematerialize, abreast: how products are computed; by default chosen for the
            device and to fit the budget. `operator.plan` says what was chosen.

    Raises:
        MemoryError: if a product cannot fit the budget, with the ways out.
        TypeError: if `loss_fn` cannot be called so: `data` forgotten, or given where none is taken.
        ValueError: if `where` chooses nothing, the loss is not a float scalar or vector, or it
            is random.

    H has the units of loss / parameter². It is a pytree whose leaves are parameters, data and
    task weights, so that a new checkpoint of the same shapes reuses every compiled program.
    Source: Pearlmutter (1994), as used in New et al. (2022), section 2.1 [new2022].
    """

    @called_as("HessianOperator(loss_fn, params, data=batch)")
    def __init__(
        self,
        loss_fn: Callable[..., Array],
        params: PyTree,
        *,
        data: PyTree | Batches | None = None,
        where: Where | None = None,
        memory_budget: int | None = None,
        block_rows: int | None = None,
        rematerialize: bool | None = None,
        abreast: int | None = None,
    ) -> None:
        choices = (memory_budget, block_rows, rematerialize, abreast)
        super().__init__((loss_fn,), params, data, where, *choices)

    @property
    def form_cost(self) -> float:
        # Forward over forward: about 5 forward passes for all tasks; a product is about 8 alone.
        by_forward = self.num_tasks is not None and self.plan.modes.forms
        return 5.0 / 8.0 if by_forward else super().form_cost

    @off_explicit_axes
    def gradients(self) -> Float[Array, "*T dim"]:
        """∇L at the operator's parameters as a flat vector, for each task. Cost: one gradient each.

        In the order of `jax.tree.leaves` of the chosen parameters, as rows are.
        """
        return self._over_stream(_gradients)

    def linearised(self, rows: int, memory_budget: int) -> AbstractOperator:
        usual = self.plan.modes.products == FORWARD_OVER_REVERSE
        if self.streamed is not None or self.plan.rematerialize or not usual:
            return self
        shapes = eqx.filter_eval_shape(_linearised, self)
        plan = shapes.fitting(rows, min(memory_budget, self.plan.memory_budget))
        if plan is None:
            return self
        if any(f.program.asks_host for chunk in self.chunks for f in chunk.functions):
            self.validate()
        found = _linearised(self)
        if not np.all(np.isfinite(found.losses)):
            self.validate()  # which knows the batches apart
        return replace(found, plan=plan, takes_one=rows == 1)

    def _gradient(self, functions: tuple[LiftedFunction, ...], batch: PyTree) -> Gradient:
        """The gradient on one batch, with a leading task axis if the operator has one."""

        def losses(y: Array) -> Array:
            return self._values(functions, y, batch)

        if self.num_tasks is not None:
            return task_gradients(losses, self.num_tasks, self.dtype, self.plan.abreast)
        return weighted_gradient(losses, self._scalar_weights())

    def _ordered(
        self,
        order: str,
        functions: tuple[LiftedFunction, ...],
        batch: PyTree,
        block: Float[Array, "k dim"],
        rematerialize: bool,
    ) -> Float[Array, "*T k dim"]:
        x = flat_point(self.space, self.chosen)
        if order == REVERSE_OVER_REVERSE and self.num_tasks is not None:
            # A pullback takes one row to one gradient: the tasks come one after the other.
            def of(weights: Float[Array, " T"]) -> Float[Array, "k dim"]:
                one = weighted_gradient(lambda y: self._values(functions, y, batch), weights)
                return block_products(one, x, block, rematerialize, order, self.plan.abreast)

            return jax.lax.map(of, jnp.eye(self.num_tasks, dtype=self.dtype))
        gradient = self._gradient(functions, batch)
        products = block_products(gradient, x, block, rematerialize, order, self.plan.abreast)
        return jnp.moveaxis(products, 0, -2)

    def _linearised(self, functions: tuple[LiftedFunction, ...], batch: PyTree) -> PyTree:
        """The map of trees dθ ↦ H dθ, and the losses (T,), which come on the way."""

        def losses(chosen: PyTree) -> Float[Array, " T"]:
            value = functions[0](*self._arguments_at(chosen, batch))
            return jnp.atleast_1d(value).astype(self.dtype)

        def gradient(chosen: PyTree) -> tuple[PyTree, Float[Array, " T"]]:
            values, pullback = jax.vjp(losses, chosen)
            if self.num_tasks is None:
                return pullback(self._scalar_weights())[0], values
            units = jnp.eye(self.num_tasks, dtype=self.dtype)
            return map_rows(lambda unit: pullback(unit)[0], units, self.plan.abreast), values

        _, linear, values = jax.linearize(gradient, self._wide, has_aux=True)
        return linear, values

    @property
    def _forms_by_products(self) -> bool:
        modes = self.plan.modes
        return not modes.forms or (self.num_tasks is None and modes.products is not None)

    @property
    def skips_zeros(self) -> bool:
        return self.plan.abreast == 1 and self.mesh is None and not self._forms_by_products

    def _quadratic(self, block: Float[Array, "k dim"], used: Any = None) -> Float[Array, "*T k"]:
        if self._forms_by_products:
            return super()._quadratic(block)
        forms = self._sum(
            lambda functions, batch: self._forward_forms(functions, batch, block, used)
        )
        if self.num_tasks is not None:
            return forms
        return jnp.einsum("t,tk->k", self._scalar_weights(), forms, precision="highest")

    def _forward_forms(
        self, functions: tuple[LiftedFunction, ...], batch: PyTree, block: Array, used: Any = None
    ) -> Float[Array, "T k"]:
        def losses(y: Array) -> Array:
            return self._values(functions, y, batch)

        x = flat_point(self.space, self.chosen)
        return task_forms(losses, x, block, self.plan.abreast, used)


@eqx.filter_jit
def _gradients(hessian: HessianOperator) -> Float[Array, "*T dim"]:
    x = hessian.space.flatten(hessian.chosen)
    return hessian._sum(lambda functions, batch: hessian._gradient(functions, batch)(x))


@eqx.filter_jit
def _linearised(hessian: HessianOperator) -> LinearisedOperator:
    found = [
        chunk.group.mapped(functools.partial(hessian._linearised, chunk.functions))
        for chunk in hessian.chunks
    ]
    losses = [group.weighted_sum(lambda pair: pair[1]) for group in found]
    shape = () if hessian.num_losses is None else (hessian.num_losses,)
    return LinearisedOperator(
        maps=tuple(BatchGroup(g.arrays[0], g.constants[0], g.weights) for g in found),
        losses=functools.reduce(operator.add, losses).reshape(shape),
        starts=tuple(jnp.asarray(start) for start in hessian.space.starts),
        space=hessian.space,
        num_tasks=hessian.num_tasks,
        plan=replace(hessian.plan, kept=True),
    )


class GaussNewtonOperator(DataOperator):
    """G = J'(∇²ℓ)J, the Gauss-Newton matrix of ℓ(model(params)): H without the model's curvature.

    Positive semidefinite where ℓ is convex in the outputs, and equal to H where the model is
    linear in its parameters or the outputs' gradient is 0.

    Args:
        model_fn: `model_fn(params, batch)`, the outputs, an array.
        loss_fn: `loss_fn(outputs, batch)`, a scalar or shape (T,).
        params, data, where, memory_budget, block_rows, rematerialize, abreast: as for
            `HessianOperator`; `data` is required, since both functions take the batch.

    Raises:
        TypeError: if `model_fn` or `loss_fn` cannot be called so.
        ValueError: without `data`, or if `model_fn` does not return one array of floats; and as
            `HessianOperator`.
        MemoryError: if a product cannot fit the budget, with the ways out.

    Source: derived here from the chain rule; checked against the dense J'(∇²ℓ)J in the tests.
    """

    @called_as("GaussNewtonOperator(model_fn, loss_fn, params, data)")
    def __init__(
        self,
        model_fn: Callable[[PyTree, PyTree], Array],
        loss_fn: Callable[[Array, PyTree], Array],
        params: PyTree,
        data: PyTree | Batches,
        *,
        where: Where | None = None,
        memory_budget: int | None = None,
        block_rows: int | None = None,
        rematerialize: bool | None = None,
        abreast: int | None = None,
    ) -> None:
        if data is None:
            raise ValueError("`data` is required: model_fn(params, batch), loss_fn(outputs, batch)")
        choices = (memory_budget, block_rows, rematerialize, abreast)
        super().__init__((model_fn, loss_fn), params, data, where, *choices)

    def _lift(self, group: BatchGroup) -> tuple[Chunk, Any]:
        model_fn, loss_fn = self.source.functions
        batch = group.example()
        model, outputs = lift(model_fn, self._point, batch, call="model_fn(params, batch)")
        _check_outputs(outputs)
        zeros = jnp.zeros(outputs.shape, outputs.dtype)
        outer, shape = lift(loss_fn, zeros, batch, call="loss_fn(outputs, batch)")
        return Chunk((model, outer), automatic(group.traced())), shape

    def _values(self, functions: tuple[LiftedFunction, ...], x: Array, batch: PyTree) -> Array:
        model, outer = functions
        value = outer(model(*self._arguments(x, batch)), batch)
        return jnp.atleast_1d(value).astype(self.dtype)

    def _ordered(
        self,
        order: str,
        functions: tuple[LiftedFunction, ...],
        batch: PyTree,
        block: Float[Array, "k dim"],
        rematerialize: bool,
    ) -> Float[Array, "*T k dim"]:
        model, outer = functions
        x = flat_point(self.space, self.chosen)

        def outputs(y: Array) -> Array:
            return model(*self._arguments(y, batch))

        def products(weights: Float[Array, " T"]) -> Float[Array, "k dim"]:
            def scalar(z: Array) -> Float[Array, ""]:
                values = jnp.atleast_1d(outer(z, batch))
                weighted = weights.astype(values.dtype)
                return jnp.vdot(weighted, values, precision="highest")

            choices = (rematerialize, order, self.plan.abreast)
            return gauss_newton_products(outputs, scalar, x, block, *choices)

        if self.num_tasks is not None:
            return jax.lax.map(products, jnp.eye(self.num_tasks, dtype=self.dtype))
        return products(self._scalar_weights())

    def _forward_forms(
        self, functions: tuple[LiftedFunction, ...], batch: PyTree, block: Array, used: Any = None
    ) -> Float[Array, "T k"]:
        raise ValueError("the Gauss-Newton matrix is multiplied: v'Gv needs J v as G v does")

    def _linearised(self, functions: tuple[LiftedFunction, ...], batch: PyTree) -> PyTree:
        x = flat_point(self.space, self.chosen)
        return jax.linearize(lambda y: functions[0](*self._arguments(y, batch)), x)[1]


def _check_outputs(outputs: PyTree) -> None:
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise ValueError(
            "`model_fn` must return one array, got a tree of them, "
            f"{jax.tree.structure(outputs)}; stack or concatenate its leaves, and let `loss_fn` "
            "split them again."
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(f"`model_fn` must return floats, got {outputs.dtype}{outputs.shape}")
