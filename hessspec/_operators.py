"""What is multiplied: symmetric operators on parameter trees, from a loss or from a matvec."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._batches import Batches, BatchGroup, StreamedData, collect
from hessspec._checks import check_losses
from hessspec._hvp import gauss_newton_products, task_forms, task_products, weighted_products
from hessspec._lift import LiftedFunction, lift
from hessspec._memory import require_memory, resolve_budget
from hessspec._space import VectorSpace, leaf_path

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Where = Callable[[str, Array], bool]


class AbstractOperator(eqx.Module):
    """A symmetric linear map H on a tree of parameters, or T of them that share their vectors.

    Estimators need `rows` alone: a block of flat vectors in, the block of products out.
    `num_tasks` is None for one map; otherwise results have a leading axis of that length.
    """

    space: eqx.AbstractVar[VectorSpace]
    num_tasks: eqx.AbstractVar[int | None]

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        """H v for each row v of `block`: shape (k, dim), or (T, k, dim) for T tasks.

        Cost: k products (T·k for T tasks). Compiled once for each k and dispatched without
        waiting for the result.
        """
        return _rows(self, block)

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        """v'Hv for each row v of `block`, by the cheaper way: shape (k,) or (T, k)."""
        return _forms(self, block)

    def task(self, index: int) -> AbstractOperator:
        """The scalar operator H_index. All tasks share one compiled program.

        Raises:
            ValueError: if the operator has no task axis.
            IndexError: if there is no such task.
        """
        count = self._require_tasks("task")
        if not -count <= index < count:
            raise IndexError(f"`index` must name one of {count} tasks, got {index}")
        return self.weighted(np.eye(count)[index])

    def weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        """The scalar operator Σ_t w_t H_t. The weights are a leaf: changing them costs nothing."""
        count = self._require_tasks("weighted")
        weights = jnp.asarray(weights, dtype=self.space.dtype)
        if weights.shape != (count,):
            raise ValueError(
                f"`weights` must have one entry for each of {count} tasks, "
                f"got shape {weights.shape}"
            )
        return self._weighted(weights)

    def _require_tasks(self, verb: str) -> int:
        if self.num_tasks is None:
            raise ValueError(
                f"`{verb}` needs an operator with a task axis, but this loss is a scalar; "
                "return shape (T,) from the loss, or use the operator as it is."
            )
        return self.num_tasks

    def validate(self) -> None:
        """Raise ValueError if the losses are not finite or not deterministic here."""

    @property
    def dim(self) -> int:
        """P, the number of selected parameters."""
        return self.space.dim

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which products are computed and returned as rows."""
        return self.space.dtype

    @property
    def form_cost(self) -> float:
        """Cost of v'Hv for all tasks, in products with one task's H."""
        return float(self.num_tasks or 1)

    def matvec(self, vector: PyTree) -> PyTree:
        """H v as a tree like the selected parameters (with a leading task axis for T tasks).

        Raises:
            ValueError: if `vector` is not a tree like the selected parameters.
        """
        product = self.rows(self.space.flatten(vector)[None])
        return self.space.unflatten_block(product[..., 0, :])

    def matmat(self, block: PyTree) -> PyTree:
        """H applied to k vectors stacked along a leading axis of every leaf."""
        return self.space.unflatten_block(self.rows(self.space.flatten_block(block)))

    def quadratic_forms(self, block: PyTree) -> Float[Array, "*T k"]:
        """v'Hv for k vectors stacked along a leading axis of every leaf."""
        return self.forms(self.space.flatten_block(block))

    def dense(self, *, memory_budget: int | None = None) -> Float[Array, "*T dim dim"]:
        """H as a matrix, rows and columns in the order of `jax.tree.leaves`. Cost: P products.

        Raises:
            MemoryError: if the matrix exceeds the budget.
        """
        tasks = self.num_tasks or 1
        require_memory(
            2 * tasks * self.dim**2 * self.dtype.itemsize,
            resolve_budget(memory_budget),
            f"the dense matrix of {self.dim:,} parameters",
            "`density`, `trace` and `eigenpairs` answer most questions without it; or let "
            "`where` select fewer parameters",
        )
        chunk = min(self.dim, 64)
        starts = range(0, self.dim, chunk)
        identity = np.eye(chunk, dtype=self.dtype)
        parts = []
        for start in starts:
            block = np.zeros((chunk, self.dim), self.dtype)
            size = min(chunk, self.dim - start)
            block[:size, start : start + size] = identity[:size, :size]
            parts.append(self.rows(jnp.asarray(block))[..., :size, :])
        return jnp.concatenate(parts, axis=-2)

    def as_scipy(self) -> LinearOperator:
        """This operator for `scipy.sparse.linalg` (a scalar operator; products on the device)."""
        from scipy.sparse.linalg import LinearOperator

        if self.num_tasks is not None:
            raise ValueError("`as_scipy` needs one task; call it on `operator.task(t)`")

        def matmat(columns: np.ndarray) -> np.ndarray:
            block = jnp.asarray(np.atleast_2d(columns.T), dtype=self.dtype)
            return np.asarray(self.rows(block)).T

        return LinearOperator(  # pyright: ignore[reportCallIssue]
            shape=(self.dim, self.dim),
            matvec=lambda column: matmat(column.reshape(-1, 1))[:, 0],  # pyright: ignore
            rmatvec=lambda column: matmat(column.reshape(-1, 1))[:, 0],  # pyright: ignore
            matmat=matmat,  # pyright: ignore
            rmatmat=matmat,  # pyright: ignore
            dtype=self.dtype,
        )

    def __add__(self, other: AbstractOperator) -> SumOperator:
        return SumOperator(self, other)

    def __sub__(self, other: AbstractOperator) -> SumOperator:
        return SumOperator(self, ScaledOperator(other, -1.0))

    def __mul__(self, scale: float) -> ScaledOperator:
        return ScaledOperator(self, scale)

    __rmul__ = __mul__

    def __neg__(self) -> ScaledOperator:
        return ScaledOperator(self, -1.0)

    # What a class implements; called inside the compiled programs below.

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        raise TypeError(f"{type(self).__name__} does not define products")

    def _quadratic(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return jnp.einsum("...kp,kp->...k", self._products(block), block)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return WeightedOperator(self, weights)


@eqx.filter_jit
def _rows(linear: AbstractOperator, block: Array) -> Array:
    return linear._products(block.astype(linear.dtype))


@eqx.filter_jit
def _forms(linear: AbstractOperator, block: Array) -> Array:
    return linear._quadratic(block.astype(linear.dtype))


class _Chunk(eqx.Module):
    """Batches of equal shape and the functions traced at that shape."""

    functions: tuple[LiftedFunction, ...]
    group: BatchGroup


class _Source:
    """The user's functions, needed to trace them at another shape. All compare equal.

    The traces identify the program; the functions themselves must not, or a loss that is
    defined anew for each checkpoint would compile anew.
    """

    def __init__(self, functions: tuple[Callable[..., PyTree], ...]) -> None:
        self.functions = functions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source)

    def __hash__(self) -> int:
        return hash(_Source)


class _DataOperator(AbstractOperator):
    """Common part of the operators that sum over data. Not for users."""

    chosen: PyTree
    held: PyTree
    chunks: tuple[_Chunk, ...]
    streamed: StreamedData | None
    weights: Float[Array, " T"] | None
    num_losses: int | None = eqx.field(static=True)
    source: _Source = eqx.field(static=True)
    takes_batch: bool = eqx.field(static=True)
    label: str = eqx.field(static=True)

    def __init__(
        self,
        functions: tuple[Callable[..., PyTree], ...],
        params: PyTree,
        data: PyTree | Batches | None,
        where: Where | None,
        memory_budget: int | None,
    ) -> None:
        self.source = _Source(functions)
        self.chosen, self.held = _choose(params, where)
        self.takes_batch = data is not None
        self.weights = None
        groups = collect(() if data is None else data, resolve_budget(memory_budget))
        if isinstance(groups, StreamedData):
            self.streamed, self.chunks = groups, ()
            first = next(groups.groups())
        else:
            self.streamed, first = None, groups
        chunks, shape = self._lift_all(first)
        if self.streamed is None:
            self.chunks = chunks
        self.num_losses = _num_tasks(shape)
        self.label = _describe(data)

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The trees of selected parameters."""
        return VectorSpace.of(self.chosen)

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """T if the loss has shape (T,) and no weights were chosen, else None."""
        return self.num_losses if self.weights is None else None

    @property
    def params(self) -> PyTree:
        """The parameters at which the operator stands, whole."""
        return eqx.combine(self.chosen, self.held)

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self._over_stream(_rows, block)

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return self._over_stream(_forms, block)

    def validate(self) -> None:
        first, second = (np.asarray(self._over_stream(_loss_values)) for _ in range(2))
        shape = () if self.num_losses is None else (self.num_losses,)
        check_losses(first.reshape(shape), second.reshape(shape), self.dtype)

    def losses(self) -> Float[Array, "*T"]:
        """The loss at the operator's parameters: a scalar, or shape (T,)."""
        values = self._over_stream(_loss_values)
        return values[0] if self.num_losses is None else values

    def __repr__(self) -> str:
        space = self.space
        leaves = [
            f"    {path}: {dtype.name}{list(shape)}"
            for path, shape, dtype in zip(space.paths, space.shapes, space.dtypes, strict=True)
        ]
        if len(leaves) > 24:
            leaves = [*leaves[:20], f"    ... and {len(leaves) - 20} more leaves"]
        tasks = "" if self.num_tasks is None else f", {self.num_tasks} tasks"
        return "\n".join(
            [f"{type(self).__name__} of {self.dim:,} parameters{tasks}, {self.label}:", *leaves]
        )

    def _over_stream(self, program: Callable[..., Array], *arguments: Array) -> Array:
        if self.streamed is None:
            return program(self, *arguments)
        total: Any = None
        for groups in self.streamed.groups():
            chunks, _ = self._lift_all(groups)
            view = eqx.tree_at(
                lambda o: (o.chunks, o.streamed), self, (chunks, None), is_leaf=lambda x: x is None
            )
            part = program(view, *arguments)
            total = part if total is None else total + part
        return total

    def _lift_all(self, groups: tuple[BatchGroup, ...]) -> tuple[tuple[_Chunk, ...], Any]:
        lifted = [self._lift(group) for group in groups]
        return tuple(chunk for chunk, _ in lifted), lifted[0][1]

    def _lift(self, group: BatchGroup) -> tuple[_Chunk, Any]:
        batch = group.batch(jax.tree.map(lambda leaf: leaf[0], group.arrays))
        function, shape = lift(self.source.functions[0], self.params, *([batch] * self.takes_batch))
        return _Chunk((function,), group), shape

    def _sum(self, per_batch: Callable[[tuple[LiftedFunction, ...], PyTree], Array]) -> Array:
        """Σ over all batches of weight · per_batch, one compiled loop for each batch shape."""
        parts = [_sum_chunk(chunk, per_batch) for chunk in self.chunks]
        return functools.reduce(operator.add, parts)

    def _arguments(self, x: Float[Array, " dim"], batch: PyTree) -> tuple[PyTree, ...]:
        params = eqx.combine(self.space.unflatten(x), self.held)
        return (params, batch) if self.takes_batch else (params,)

    def _values(self, functions: tuple[LiftedFunction, ...], x: Array, batch: PyTree) -> Array:
        """The losses of one batch as an array of shape (T,), T = 1 for a scalar."""
        value = jnp.atleast_1d(functions[0](*self._arguments(x, batch)))
        return value.astype(self.dtype)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return eqx.tree_at(lambda o: o.weights, self, weights, is_leaf=lambda x: x is None)

    def _scalar_weights(self) -> Float[Array, " T"]:
        return jnp.ones((1,), self.dtype) if self.weights is None else self.weights


def _sum_chunk(
    chunk: _Chunk, per_batch: Callable[[tuple[LiftedFunction, ...], PyTree], Array]
) -> Array:
    group = chunk.group

    def weighted(arrays: PyTree, weight: Array) -> Array:
        value = per_batch(chunk.functions, group.batch(arrays))
        return value * weight.astype(value.dtype)

    first = jax.tree.map(lambda leaf: leaf[0], group.arrays)
    if group.weights.size == 1:
        return weighted(first, group.weights[0])
    shape = jax.eval_shape(weighted, first, group.weights[0])
    total, _ = jax.lax.scan(
        lambda carry, item: (carry + weighted(*item), None),
        jnp.zeros(shape.shape, shape.dtype),
        (group.arrays, group.weights),
    )
    return total


@eqx.filter_jit
def _loss_values(hessian: _DataOperator) -> Array:
    x = hessian.space.flatten(hessian.chosen)
    return hessian._sum(lambda functions, batch: hessian._values(functions, x, batch))


class HessianOperator(_DataOperator):
    """H = ∇²L(params) of a loss, restricted to the selected parameters.

    Products are Pearlmutter's: H v = d/dε ∇L(θ + εv) at ε = 0, by linearising the gradient once
    for a block of vectors. If the loss returns shape (T,), there are T Hessians of the same
    parameters: every result has a leading task axis, and all tasks see the same vectors.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` if `data` is given; returns a
            float scalar or shape (T,). Arrays it closes over are passed as arguments.
        params: any pytree. Float arrays are parameters; all else is held constant.
        data: one batch (any pytree, never split), or `Batches`.
        where: `where(path, leaf)` chooses the parameters of H, the path as text such as
            `encoder/0/kernel`; the others are held constant. Default: all.
        memory_budget: bytes; batches beyond a quarter of it are read again for each product.

    Raises:
        ValueError: if `where` chooses nothing, the loss is not a float scalar or vector, or it
            is random.

    H has the units of loss / parameter². It is a pytree whose leaves are parameters, data and
    task weights, so that a new checkpoint of the same shapes reuses every compiled program.
    Source: Pearlmutter (1994), as used in New et al. (2022), section 2.1 [new2022].
    """

    def __init__(
        self,
        loss_fn: Callable[..., Array],
        params: PyTree,
        *,
        data: PyTree | Batches | None = None,
        where: Where | None = None,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__((loss_fn,), params, data, where, memory_budget)

    @property
    def form_cost(self) -> float:
        # Forward over forward: about 5 forward passes for all tasks; a product is about 8 alone.
        return 5.0 / 8.0 if self.num_tasks is not None else 1.0

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        x = self.space.flatten(self.chosen)

        def per_batch(functions: tuple[LiftedFunction, ...], batch: PyTree) -> Array:
            def losses(y: Array) -> Array:
                return self._values(functions, y, batch)

            if self.num_tasks is not None:
                return task_products(losses, self.num_tasks, x, block)
            return weighted_products(losses, self._scalar_weights(), x, block)

        return self._sum(per_batch)

    def _quadratic(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        if self.num_tasks is None:
            return super()._quadratic(block)
        x = self.space.flatten(self.chosen)
        return self._sum(
            lambda functions, batch: task_forms(
                lambda y: self._values(functions, y, batch), x, block
            )
        )


class GaussNewtonOperator(_DataOperator):
    """G = J'(∇²ℓ)J, the Gauss-Newton matrix of ℓ(model(params)): H without the model's curvature.

    Positive semidefinite where ℓ is convex in the outputs, and equal to H where the model is
    linear in its parameters or the outputs' gradient is 0.

    Args:
        model_fn: `model_fn(params, batch)`, the outputs, an array.
        loss_fn: `loss_fn(outputs, batch)`, a scalar or shape (T,).
        params, data, where, memory_budget: as for `HessianOperator`; `data` is required, since
            both functions take the batch.

    Source: derived here from the chain rule; checked against the dense J'(∇²ℓ)J in the tests.
    """

    def __init__(
        self,
        model_fn: Callable[[PyTree, PyTree], Array],
        loss_fn: Callable[[Array, PyTree], Array],
        params: PyTree,
        data: PyTree | Batches,
        *,
        where: Where | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if data is None:
            raise ValueError("`data` is required: model_fn(params, batch), loss_fn(outputs, batch)")
        super().__init__((model_fn, loss_fn), params, data, where, memory_budget)

    def _lift(self, group: BatchGroup) -> tuple[_Chunk, Any]:
        model_fn, loss_fn = self.source.functions
        batch = group.batch(jax.tree.map(lambda leaf: leaf[0], group.arrays))
        model, outputs = lift(model_fn, self.params, batch)
        outer, shape = lift(loss_fn, jnp.zeros(outputs.shape, outputs.dtype), batch)
        return _Chunk((model, outer), group), shape

    def _values(self, functions: tuple[LiftedFunction, ...], x: Array, batch: PyTree) -> Array:
        model, outer = functions
        value = outer(model(*self._arguments(x, batch)), batch)
        return jnp.atleast_1d(value).astype(self.dtype)

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        x = self.space.flatten(self.chosen)

        def per_batch(functions: tuple[LiftedFunction, ...], batch: PyTree) -> Array:
            model, outer = functions

            def outputs(y: Array) -> Array:
                return model(*self._arguments(y, batch))

            def products(weights: Float[Array, " T"]) -> Float[Array, "k dim"]:
                def scalar(z: Array) -> Float[Array, ""]:
                    values = jnp.atleast_1d(outer(z, batch))
                    return jnp.vdot(weights.astype(values.dtype), values)

                return gauss_newton_products(outputs, scalar, x, block)

            if self.num_tasks is not None:
                return jax.lax.map(products, jnp.eye(self.num_tasks, dtype=self.dtype))
            return products(self._scalar_weights())

        return self._sum(per_batch)


class FunctionOperator(AbstractOperator):
    """Any symmetric linear map, given as `matvec(tree) -> tree` on trees like `like`.

    Args:
        matvec: traceable by JAX; for several maps of the same vectors, a leading axis of
            `num_tasks` on every leaf of its result.
        like: a tree of float arrays (or `jax.ShapeDtypeStruct`s): what vectors look like.
        num_tasks: number of maps, or None for one.

    Symmetry is the caller's promise; the estimators check it where that costs no product.
    """

    function: LiftedFunction
    space: VectorSpace = eqx.field(static=True)
    num_tasks: int | None = eqx.field(static=True)

    def __init__(
        self, matvec: Callable[[PyTree], PyTree], like: PyTree, *, num_tasks: int | None = None
    ) -> None:
        chosen, _ = _choose(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like), None
        )
        self.space = VectorSpace.of(chosen)
        self.num_tasks = num_tasks
        self.function, shapes = lift(matvec, chosen)
        lead = () if num_tasks is None else (num_tasks,)
        expected = jax.tree.map(lambda leaf: (*lead, *leaf.shape), chosen)
        found = jax.tree.map(lambda leaf: tuple(leaf.shape), shapes)
        if expected != found:
            raise ValueError(
                f"`matvec` must return a tree with leaves of shapes {expected}, got {found}"
            )

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        lead = 0 if self.num_tasks is None else 1

        def product(v: Float[Array, " dim"]) -> Array:
            tree = self.function(self.space.unflatten(v))
            leaves = [
                jnp.reshape(leaf, (*leaf.shape[:lead], -1)).astype(self.dtype)
                for leaf in jax.tree.leaves(tree)
            ]
            return jnp.concatenate(leaves, axis=-1)

        return jnp.moveaxis(jax.lax.map(product, block), 0, lead)


class SumOperator(AbstractOperator):
    """The sum of two operators on the same vectors."""

    first: AbstractOperator
    second: AbstractOperator

    def __init__(self, first: AbstractOperator, second: AbstractOperator) -> None:
        if first.space != second.space or first.num_tasks != second.num_tasks:
            raise ValueError(
                "operators that are added must act on the same parameters and tasks, got "
                f"{first.dim} parameters with tasks {first.num_tasks} and {second.dim} with "
                f"{second.num_tasks}"
            )
        self.first, self.second = first, second

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The space of both."""
        return self.first.space

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """The tasks of both."""
        return self.first.num_tasks

    @property
    def form_cost(self) -> float:
        return self.first.form_cost + self.second.form_cost

    def validate(self) -> None:
        self.first.validate()
        self.second.validate()

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self.first.rows(block) + self.second.rows(block)

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return self.first.forms(block) + self.second.forms(block)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return SumOperator(self.first.weighted(weights), self.second.weighted(weights))


class ScaledOperator(AbstractOperator):
    """A number times an operator."""

    operator: AbstractOperator
    scale: Float[Array, ""]

    def __init__(self, operator: AbstractOperator, scale: float) -> None:
        if np.ndim(scale) != 0 or not np.isfinite(scale):
            raise ValueError(f"`scale` must be one finite number, got {scale!r}")
        self.operator = operator
        self.scale = jnp.asarray(scale, operator.dtype)

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The space of the operator."""
        return self.operator.space

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """The tasks of the operator."""
        return self.operator.num_tasks

    @property
    def form_cost(self) -> float:
        return self.operator.form_cost

    def validate(self) -> None:
        self.operator.validate()

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self.scale * self.operator.rows(block)

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return self.scale * self.operator.forms(block)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return ScaledOperator(self.operator.weighted(weights), self.scale)  # type: ignore[arg-type]


class WeightedOperator(AbstractOperator):
    """Σ_t w_t H_t of an operator with tasks."""

    operator: AbstractOperator
    weights: Float[Array, " T"]

    def __init__(self, operator: AbstractOperator, weights: Float[Array, " T"]) -> None:
        self.operator, self.weights = operator, weights

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The space of the operator."""
        return self.operator.space

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """None: the tasks are summed."""
        return None

    def validate(self) -> None:
        self.operator.validate()

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        return jnp.einsum("t,tkp->kp", self.weights, self.operator.rows(block))

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, " k"]:
        return jnp.einsum("t,tk->k", self.weights, self.operator.forms(block))


def _choose(params: PyTree, where: Where | None) -> tuple[PyTree, PyTree]:
    """`params` as (chosen, held): float arrays that `where` wants, and all the rest."""

    def is_chosen(path: tuple[Any, ...], leaf: Any) -> bool:
        if not eqx.is_array_like(leaf) or not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            return False
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"`params` must be real, got {leaf.dtype} at `{leaf_path(path)}`; "
                "split it into real and imaginary parts."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return False
        return where is None or bool(where(leaf_path(path), jnp.asarray(leaf)))

    chosen, held = eqx.partition(params, jax.tree.map_with_path(is_chosen, params))
    chosen = jax.tree.map(jnp.asarray, chosen)
    if sum(leaf.size for leaf in jax.tree.leaves(chosen)) == 0:
        paths = [leaf_path(path) for path, _ in jax.tree.leaves_with_path(params)]
        shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        reason = "holds no float array with entries" if where is None else "nothing was chosen"
        raise ValueError(
            f"`{'params' if where is None else 'where'}` must select at least one parameter, "
            f"but {reason}; the leaves are: {shown or 'none'}."
        )
    return chosen, held


def _num_tasks(shape: Any) -> int | None:
    leaves = jax.tree.leaves(shape)
    ok = len(leaves) == 1 and jax.tree.structure(shape) == jax.tree.structure(0)
    if not ok or len(leaves[0].shape) > 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        found = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
        raise ValueError(
            "`loss_fn` must return one float scalar, or shape (T,) for T losses, "
            f"got {found if ok else jax.tree.structure(shape)}."
        )
    if leaves[0].shape == (0,):
        raise ValueError("`loss_fn` must return at least one loss, got shape (0,)")
    return leaves[0].shape[0] if leaves[0].shape else None


def _describe(data: PyTree | Batches | None) -> str:
    if data is None:
        return "without data"
    return f"{data.reduction} over batches" if isinstance(data, Batches) else "one batch of data"
