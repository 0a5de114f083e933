"""Operators that sum over data: one compiled loop for each batch shape, or batches as they come."""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from hessspec._base.checks import check_losses, check_precision
from hessspec._base.memory import platform_of, resolve_budget
from hessspec._base.meshes import (
    Layouts,
    automatic,
    entries_on_device,
    explicit_layouts,
    laid_out,
    off_explicit_axes,
    rows_over,
)
from hessspec._base.selection import Where, choose
from hessspec._base.space import VectorSpace, leaf_paths
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.batches import Batches, BatchGroup, StreamedData, collect, hint_at_batches
from hessspec._operators.examples import EACH_EXAMPLE, check_alike, warn_of_examples
from hessspec._operators.lift import LiftedFunction, Unpicklable, lift
from hessspec._operators.modes import FORWARD_OVER_REVERSE, Modes, find_modes, least
from hessspec._operators.moved import flat_point, parameters_at
from hessspec._operators.plan import BLOCK_ROWS, Demand, ProductPlan, linearised_bound, nbytes
from hessspec._operators.planned import PlannedOperator
from hessspec._operators.precision import narrowed
from hessspec._operators.rows import compiled_forms, compiled_rows, mesh_of_rows
from hessspec._operators.words import data_operator_words

# How the loss is called, without a batch and with one, and what to do if it cannot be.
_CALLS = (
    ("loss_fn(params)", "pass its second argument as `data=batch`"),
    ("loss_fn(params, batch)", "leave out `data`, or let it take the batch as second argument"),
)

# For each group of batches their places in the data, and the paths of their arrays.
Sources = tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]


class Chunk(eqx.Module):
    """Batches of equal shape and the functions traced at that shape."""

    functions: tuple[LiftedFunction, ...]
    group: BatchGroup


class _Source(Unpicklable):
    """The user's functions, needed to trace them at another shape, and where batches come from.

    All compare equal.

    The traces identify the program; the functions themselves must not, or a loss that is
    defined anew for each checkpoint would compile anew.
    """

    def __init__(self, functions: tuple[Callable[..., PyTree], ...]) -> None:
        self.functions = functions
        self.groups: Sources = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source)

    def __hash__(self) -> int:
        return hash(_Source)


class DataOperator(PlannedOperator):
    """Common part of the operators that sum over data. Not for users."""

    chosen: PyTree
    held: PyTree
    chunks: tuple[Chunk, ...]
    streamed: StreamedData | None
    weights: Float[Array, " T"] | None
    num_losses: int | None = eqx.field(static=True)
    source: _Source = eqx.field(static=True)
    takes_batch: bool = eqx.field(static=True)
    plan: ProductPlan = eqx.field(static=True)
    label: str = eqx.field(static=True)
    layouts: Layouts = eqx.field(static=True)

    def __init__(
        self,
        functions: tuple[Callable[..., PyTree], ...],
        params: PyTree,
        data: PyTree | Batches | None,
        where: Where | None,
        memory_budget: int | None,
        block_rows: int | None,
        rematerialize: bool | None,
        abreast: int | None,
    ) -> None:
        budget = resolve_budget(memory_budget)
        self.source = _Source(functions)
        chosen, held = choose(params, where)
        self.layouts = explicit_layouts(eqx.combine(chosen, held))
        self.chosen, self.held = automatic((chosen, held))
        self.takes_batch = data is not None
        self.weights = None
        with hint_at_batches(data):
            self.streamed, chunks, shape = self._lift_data(data, budget)
        self.chunks = chunks if self.streamed is None else ()
        self.num_losses = _num_tasks(shape)
        self.label = _describe(data)
        # What is tried and measured beforehand takes one row at a time.
        self.plan = ProductPlan(1, False, self._demand(0.0), budget)
        modes = least(self._modes(chunk) for chunk in chunks)
        plan = self._planned(chunks, budget, (block_rows, rematerialize, modes, abreast))
        self.plan = replace(plan, narrow=max(map(self._narrow, chunks)))

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The trees of chosen parameters."""
        return VectorSpace.of(self.chosen)

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """T if the loss has shape (T,) and no weights were chosen, else None."""
        return self.num_losses if self.weights is None else None

    def product_bytes(self, rows: int) -> int:
        return self.plan.product_bytes(rows)

    @property
    def params(self) -> PyTree:
        """The parameters at which the operator stands, whole."""
        return laid_out(eqx.combine(self.chosen, self.held), self.layouts)

    @off_explicit_axes
    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self._over_stream(compiled_rows, automatic(block), mesh_of_rows(self, block))

    @off_explicit_axes
    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        mesh = mesh_of_rows(self, block)
        skips = self.skips_zeros and len(block) > 1 and not isinstance(block, Tracer)
        return self._over_stream(compiled_forms, automatic(block), mesh, skips)

    def validate(self) -> None:
        check_precision(self.plan.narrow, self.dtype)
        first, second = (np.asarray(self._over_stream(loss_values, self.mesh)) for _ in range(2))
        shape = () if self.num_losses is None else (self.num_losses,)
        check_losses(first.reshape(shape), second.reshape(shape), self.dtype, self._blame)
        warn_of_examples(self, loss_values)

    def _blame(self) -> str:
        """Which parameter or batch makes the loss what is not finite; "" if there is no data."""
        for path, leaf in zip(leaf_paths(self.params), jax.tree.leaves(self.params), strict=True):
            if _not_finite(leaf):
                return f"`params` is not finite at `{path}`"
        for place, losses, arrays in self._batch_by_batch():
            if _not_finite(losses):
                return f"of {place}{_flaw(arrays)}" if self.takes_batch else ""
        return "only of all batches together: their sum overflows"

    def _batch_by_batch(self) -> Iterator[tuple[str, Array, list[tuple[str, Array]]]]:
        """The name of each batch, its losses, and the paths of its arrays with them."""
        several = self.streamed is not None or [p for p, _ in self.source.groups] != [(0,)]

        def of(view: DataOperator, sources: Sources) -> Iterator[Any]:
            parts = zip(view.chunks, _losses_by_batch(view), sources, strict=True)
            for chunk, losses, (places, paths) in parts:
                for row, place in enumerate(places):
                    arrays = [leaf[row] for leaf in chunk.group.arrays]
                    name = f"batch {place} of `data`" if several else "`data`"
                    yield name, losses[row], list(zip(paths, arrays, strict=True))

        if self.streamed is None:
            yield from of(self, self.source.groups)
            return
        for groups in self.streamed.groups():
            yield from of(self._view(groups), _sources(groups))

    @off_explicit_axes
    def losses(self) -> Float[Array, "*T"]:
        """The loss at the operator's parameters: a scalar, or shape (T,)."""
        values = self._over_stream(loss_values, self.mesh)
        return values[0] if self.num_losses is None else values

    def __repr__(self) -> str:
        return data_operator_words(self)

    def _over_stream(self, program: Callable[..., Array], *arguments: Any) -> Array:
        if self.streamed is None:
            return program(self, *arguments)
        total: Any = None
        for groups in self.streamed.groups():
            part = program(self._view(groups), *arguments)
            total = part if total is None else total + part
        return total

    def _view(self, groups: tuple[BatchGroup, ...]) -> DataOperator:
        """The operator of these batches alone."""
        chunks, shape = self._lift_all(groups)
        expected = () if self.num_losses is None else (self.num_losses,)
        check_alike([jax.ShapeDtypeStruct(expected, self.dtype), shape])
        return eqx.tree_at(
            lambda o: (o.chunks, o.streamed), self, (chunks, None), is_leaf=lambda x: x is None
        )

    def _lift_data(
        self, data: PyTree, budget: int
    ) -> tuple[StreamedData | None, tuple[Chunk, ...], Any]:
        """The stream, if the data are one, and the chunks: of all data, or of the first batch."""

        def lifted(by_value: bool) -> tuple[StreamedData | None, tuple[Chunk, ...], Any]:
            groups = collect(() if data is None else data, budget, by_value=by_value)
            if isinstance(groups, StreamedData):
                return groups, *self._lift_all(next(groups.groups()))
            self.source.groups = _sources(groups)
            return None, *self._lift_all(groups)

        try:
            return lifted(by_value=False)
        except (TypeError, IndexError):  # the latter for a bound of a slice
            if not isinstance(data, Batches):
                raise
        # A loss that reads text, or a number as a value (a count of segments), needs a program
        # for each value. Where that is not the cause, the same error comes again.
        return lifted(by_value=True)

    def _lift_all(self, groups: tuple[BatchGroup, ...]) -> tuple[tuple[Chunk, ...], Any]:
        lifted = [self._lift(group) for group in groups]
        check_alike([shape for _, shape in lifted])
        return tuple(chunk for chunk, _ in lifted), lifted[0][1]

    def _lift(self, group: BatchGroup) -> tuple[Chunk, Any]:
        batch = group.example()
        arguments = (self._point, batch) if self.takes_batch else (self._point,)
        call, way_out = _CALLS[self.takes_batch]
        function, shape = lift(self.source.functions[0], *arguments, call=call, way_out=way_out)
        return Chunk((function,), automatic(group.traced())), shape

    def _planned(
        self,
        chunks: tuple[Chunk, ...],
        budget: int,
        choices: tuple[int | None, bool | None, Modes, int | None],
    ) -> ProductPlan:
        bound = max(
            sum(linearised_bound(f.program.trace) for f in chunk.functions) for chunk in chunks
        )
        demand = self._demand(bound)
        # Differentiating costs a second for a large network: only where the bound does not settle.
        is_usual = choices[2].products == FORWARD_OVER_REVERSE
        # Measured on a CPU: one row after the other is faster. A callback may know no batches.
        asks_host = any(f.program.asks_host for chunk in chunks for f in chunk.functions)
        vectorised = platform_of(self.chosen) != "cpu" and not asks_host
        if is_usual and demand.of(BLOCK_ROWS, False, BLOCK_ROWS if vectorised else 1) > budget:
            demand = self._demand(max(map(self._linearised_bytes, chunks)))
        return demand.plan(budget, *choices, vectorised)

    def _demand(self, linearised: float) -> Demand:
        tree = entries_on_device(self.chosen) * self.dtype.itemsize
        return Demand(self.row_bytes, self.num_losses or 1, linearised, tree)

    def _modes(self, chunk: Chunk) -> Modes:
        """How JAX can differentiate the functions of a chunk, tried once for each program."""
        programs = [function.program for function in chunk.functions]
        doubtful = [program for program in programs if program.modes is None]
        if doubtful:
            zero = jnp.zeros((1, self.dim), self.dtype)
            arrays = jax.tree.map(lambda leaf: leaf[0], chunk.group.arrays)

            def products(order: str, arrays: PyTree) -> Array:
                batch = chunk.group.batch(arrays)
                return self._ordered(order, chunk.functions, batch, zero, rematerialize=False)

            def forms(arrays: PyTree) -> Array:
                return self._forward_forms(chunk.functions, chunk.group.batch(arrays), zero)

            text = " ".join(str(program.trace) for program in doubtful)
            found = find_modes(products, forms, arrays, text)
            for program in doubtful:
                program.modes = found
        return least(program.modes or Modes() for program in programs)

    def _linearised_bytes(self, chunk: Chunk) -> float:
        """Bytes that the linearised function keeps of one batch beside the batch itself."""
        arrays = jax.tree.map(lambda leaf: leaf[0], chunk.group.arrays)
        kept = eqx.filter_eval_shape(
            lambda arrays: self._linearised(chunk.functions, chunk.group.batch(arrays)), arrays
        )
        given = (arrays, chunk.functions, self.chosen, self.held)
        return max(0.0, nbytes(kept) - nbytes(given))

    def _narrow(self, chunk: Chunk) -> str:
        """A dtype narrower than the operator's in which a chunk computes with parameters, or ""."""
        names = {"f8_", "f16[", "f32["} if self.dtype == np.float64 else {"f8_", "f16["}
        marks = eqx.combine(
            jax.tree.map(lambda _: True, self.chosen),
            jax.tree.map(lambda _: False, eqx.filter(self.held, eqx.is_array)),
        )
        # A first function has the parameters as its first argument, a second what that returns.
        for function, marked in zip(
            chunk.functions, (jax.tree.leaves(marks), [True]), strict=False
        ):
            if names & function.program.floats:
                trace, closed_over = function.program.trace, len(function.constants)
                rest = len(trace.invars) - closed_over - len(marked)
                varied = [False] * closed_over + marked + [False] * rest
                if found := narrowed(trace, varied, self.dtype):
                    return found
        return ""

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        order = self.plan.modes.require_products()
        again = self.plan.rematerialize
        return self._sum(
            lambda functions, batch: self._ordered(order, functions, batch, block, again)
        )

    @abc.abstractmethod
    def _ordered(
        self,
        order: str,
        functions: tuple[LiftedFunction, ...],
        batch: PyTree,
        block: Float[Array, "k dim"],
        rematerialize: bool,
    ) -> Float[Array, "*T k dim"]:
        """Products on one batch by this order of modes."""

    @abc.abstractmethod
    def _forward_forms(
        self, functions: tuple[LiftedFunction, ...], batch: PyTree, block: Array, used: Any = None
    ) -> Float[Array, "T k"]:
        """v'Hv of each loss on one batch, without a reverse pass."""

    @abc.abstractmethod
    def _linearised(self, functions: tuple[LiftedFunction, ...], batch: PyTree) -> PyTree:
        """What products are made of, linearised on one batch: a tree of all that it keeps."""

    def _sum(self, per_batch: Callable[[tuple[LiftedFunction, ...], PyTree], Array]) -> Array:
        """Σ over all batches of weight · per_batch, one compiled loop for each batch shape."""
        parts = [
            chunk.group.weighted_sum(functools.partial(per_batch, chunk.functions))
            for chunk in self.chunks
        ]
        return functools.reduce(operator.add, parts)

    @property
    def _point(self) -> PyTree:
        """The parameters as the loss gets them: those of H in the dtype of vectors.

        A vector rounded to bfloat16 on its way in, and a product on its way out, would belong to
        no symmetric matrix.
        """
        return laid_out(eqx.combine(self._wide, self.held), self.layouts)

    @property
    def _wide(self) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype), self.chosen)

    def _arguments(self, x: Float[Array, " width"], batch: PyTree) -> tuple[PyTree, ...]:
        return self._arguments_at(parameters_at(self.space, self._wide, x), batch)

    def _arguments_at(self, chosen: PyTree, batch: PyTree) -> tuple[PyTree, ...]:
        params = eqx.combine(chosen, self.held)
        return (params, batch) if self.takes_batch else (params,)

    def _values(self, functions: tuple[LiftedFunction, ...], x: Array, batch: PyTree) -> Array:
        """The losses of one batch as an array of shape (T,), T = 1 for a scalar."""
        value = jnp.atleast_1d(functions[0](*self._arguments(x, batch)))
        return value.astype(self.dtype)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return eqx.tree_at(lambda o: o.weights, self, weights, is_leaf=lambda x: x is None)

    def _scalar_weights(self) -> Float[Array, " T"]:
        return jnp.ones((1,), self.dtype) if self.weights is None else self.weights


def _flaw(arrays: list[tuple[str, Array]]) -> str:
    """What is wrong with a batch: numbers that are none, or no items; nothing if neither is."""
    for path, leaf in arrays:
        flaw = "not finite" if _not_finite(leaf) else "empty" if leaf.size == 0 else None
        if flaw is not None:
            return f", {flaw}" + (f" at `{path}`" if path else "")
    return ""


def _not_finite(leaf: Any) -> bool:
    is_float = eqx.is_inexact_array(leaf)
    return is_float and not bool(jnp.all(jnp.isfinite(leaf)))


def _sources(groups: tuple[BatchGroup, ...]) -> Sources:
    return tuple((group.places, group.constants.array_paths) for group in groups)


@eqx.filter_jit
def _losses_by_batch(hessian: DataOperator) -> list[Array]:
    """For each chunk the losses of each of its batches, shape (batches, T)."""
    x = hessian.space.flatten(hessian.chosen)
    return [
        chunk.group.mapped(
            lambda batch, chunk=chunk: hessian._values(chunk.functions, x, batch)
        ).arrays
        for chunk in hessian.chunks
    ]


@eqx.filter_jit
def loss_values(hessian: DataOperator, mesh: Mesh | None = None) -> Array:
    with rows_over(mesh):
        x = flat_point(hessian.space, hessian.chosen)
        return hessian._sum(lambda functions, batch: hessian._values(functions, x, batch))


def _num_tasks(shape: Any) -> int | None:
    leaves = jax.tree.leaves(shape)
    ok = len(leaves) == 1 and jax.tree.structure(shape) == jax.tree.structure(0)
    if not ok or len(leaves[0].shape) > 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        found = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
        way_out = f" ({EACH_EXAMPLE})" if ok and leaves[0].shape else ""
        if isinstance(shape, tuple | list | dict) and len(shape) > 1:
            way_out = (
                " (if it is a loss with auxiliary outputs, as `has_aux=True` has them, pass "
                "`lambda *arguments: loss_fn(*arguments)[0]`; if these are several losses, return "
                "`jnp.stack(jax.tree.leaves(losses))`)"
            )
        raise ValueError(
            "`loss_fn` must return one float scalar, or shape (T,) for T losses, "
            f"got {found if ok else jax.tree.structure(shape)}{way_out}."
        )
    if leaves[0].shape == (0,):
        raise ValueError("`loss_fn` must return at least one loss, got shape (0,)")
    return leaves[0].shape[0] if leaves[0].shape else None


def _describe(data: PyTree | Batches | None) -> str:
    if data is None:
        return "without data"
    return f"{data.reduction} over batches" if isinstance(data, Batches) else "one batch of data"
