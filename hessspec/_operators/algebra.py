"""What is multiplied: symmetric operators on parameter trees, and their algebra.

Operators and sums stand in one file, since each needs the other: a sum can be added again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import in_dtype
from hessspec._base.memory import resolve_budget
from hessspec._base.meshes import mesh_of, off_explicit_axes, over_devices, row_bytes
from hessspec._base.space import VectorSpace
from hessspec._base.tasks import task_number
from hessspec._operators import rows as flat
from hessspec._operators import words
from hessspec._operators.matrices import dense_matrix, scipy_operator
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.scales import Scale, diagonal_of
from hessspec._operators.words import Naming

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class AbstractOperator(eqx.Module):
    """A symmetric linear map H on a tree of parameters, or T of them that share their vectors.

    Estimators need `rows` alone: a block of flat vectors in, the block of products out.
    `num_tasks` is None for one map; otherwise results have a leading axis of that length.
    """

    space: eqx.AbstractVar[VectorSpace]
    num_tasks: eqx.AbstractVar[int | None]

    # numpy would spread an operator over the entries of an array: `__rmul__` is to decide.
    __array_ufunc__ = None

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        """H v for each row v of `block`: shape (k, dim), or (T, k, dim) for T tasks.

        Cost: k products (T·k for T tasks). Compiled once for each k and dispatched without
        waiting for the result. Any other shape of `block` is a ValueError.
        """
        return flat.applied(flat.compiled_rows, self, block)

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "*T k dim"], Float[Array, "*T k"] | None]:
        """`rows`, and for each the summed length of the parts it was added up from.

        A sum carries the rounding of its parts, however small it is itself. None where a product
        is computed in one piece, and its own length says what its rounding is.
        """
        return self.rows(block), None

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        """v'Hv for each row v of `block`, by the cheaper way: shape (k,) or (T, k)."""
        return flat.applied(flat.compiled_forms, self, block)

    def task(self, index: int) -> AbstractOperator:
        """The scalar operator H_index. All tasks share one compiled program.

        Raises:
            ValueError: if the operator has no task axis.
            TypeError: if `index` is no whole number.
            IndexError: if there is no such task.
        """
        count = self._require_tasks("task")
        return self.weighted(np.eye(count)[task_number(index, count)])

    def weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        """The scalar operator Σ_t w_t H_t. The weights are a leaf: changing them costs nothing.

        Raises:
            ValueError: if the operator has no task axis, or `weights` is not one entry a task,
                finite, and in the range of the operator's dtype.
            TypeError: if `weights` are not real numbers.
        """
        count = self._require_tasks("weighted")
        weights = in_dtype("weights", weights, self.dtype)
        if weights.shape != (count,):
            raise ValueError(
                f"`weights` must have one entry for each of {count} tasks, "
                f"got shape {weights.shape}"
            )
        return self._weighted(weights)

    def congruent(self, scale: Scale) -> CongruentOperator:
        """D H D for a diagonal D > 0: the curvature in the coordinates D⁻¹θ.

        Its eigenvalues are those of D²H and of the pencil Hx = λ D⁻²x, an eigenvector y is the
        direction Dy of parameters. `scale`: a tree of positive numbers with the chosen
        parameters at their places, or a function of the path of a leaf; a number counts for all
        entries of its leaf. D is a leaf of the operator: another one compiles nothing.

        Raises:
            ValueError: if a chosen leaf is missing, of another shape, or not positive and finite.
        """
        return CongruentOperator(self, diagonal_of(self.space, scale))

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
        """P, the number of chosen parameters."""
        return self.space.dim

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which products are computed and returned as rows."""
        return self.space.dtype

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share its long vectors, on Auto axes; None for one device."""
        return mesh_of(self)

    @property
    def row_bytes(self) -> int:
        """Bytes of one of its long vectors on each device."""
        return row_bytes(self.mesh, self.dim, self.dtype)

    @property
    def block_rows(self) -> int:
        """How many vectors estimators should multiply together."""
        return BLOCK_ROWS

    @property
    def has_products(self) -> bool:
        """Whether JAX can compute H v; where it cannot, it may still compute v'Hv."""
        return True

    @property
    def product_plan(self) -> str:
        """How products are computed, in words; empty where that is not this package's choice."""
        return ""

    def product_bytes(self, rows: int) -> int:
        """Estimate of the memory that a block of products takes, its vectors included."""
        return rows * (1 + (self.num_tasks or 1)) * self.row_bytes

    def linearised(self, rows: int, memory_budget: int) -> AbstractOperator:
        """The same operator for many blocks of `rows` vectors, one after the other.

        What all products have in common is computed now and kept, if `memory_budget` bytes have
        room for that and for a block. If not, or if there is nothing to keep: the operator itself.
        """
        return self

    @property
    def form_cost(self) -> float:
        """Cost of v'Hv for all tasks, in products with one task's H."""
        return float(self.num_tasks or 1)

    @off_explicit_axes
    def matvec(self, vector: PyTree) -> PyTree:
        """H v as a tree like the chosen parameters (with a leading task axis for T tasks).

        Raises:
            ValueError: if `vector` is not a tree like the chosen parameters.
        """
        product = self.rows(flat.flat_vector(self, vector)[None])
        return flat.tree_of_rows(self, product[..., 0, :])

    def matmat(self, block: PyTree) -> PyTree:
        """H applied to k vectors stacked along a leading axis of every leaf."""
        return flat.tree_of_rows(self, self.rows(flat.flat_block(self, block)))

    def quadratic_forms(self, block: PyTree) -> Float[Array, "*T k"]:
        """v'Hv for k vectors stacked along a leading axis of every leaf."""
        return self.forms(flat.flat_block(self, block))

    @off_explicit_axes
    def dense(self, *, memory_budget: int | None = None) -> Float[Array, "*T dim dim"]:
        """H as a matrix, rows and columns in the order of `jax.tree.leaves`. Cost: P products.

        Raises:
            MemoryError: if the matrix exceeds the budget.
        """
        return dense_matrix(self, resolve_budget(memory_budget))

    def as_scipy(self) -> LinearOperator:
        """This operator for `scipy.sparse.linalg` (a scalar operator; products on the device).

        Raises:
            ValueError: if the operator has a task axis.
        """
        return scipy_operator(self)

    def __add__(self, other: AbstractOperator) -> SumOperator:
        return SumOperator(self, other)

    def __radd__(self, other: Any) -> AbstractOperator:
        is_zero = isinstance(other, int) and other == 0  # what `sum` begins with
        return self if is_zero else SumOperator(_summand(other), self)

    def __sub__(self, other: AbstractOperator) -> SumOperator:
        return SumOperator(self, ScaledOperator(other, -1.0))

    def __rsub__(self, other: Any) -> SumOperator:
        return SumOperator(other, -self)

    def __mul__(self, scale: float) -> ScaledOperator:
        return ScaledOperator(self, scale)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> ScaledOperator:
        return ScaledOperator(self, 1.0 / _number(divisor))

    def __neg__(self) -> ScaledOperator:
        return ScaledOperator(self, -1.0)

    def __repr__(self) -> str:
        return words.operator_words(self)

    def _repr_html_(self) -> str:
        return words.operator_page(self)

    def _formula(self, name: Naming) -> str:
        """How this operator is written in a sum, where `name` gives the letter of a part."""
        return name(self)

    # What a class implements; called inside the compiled programs below.

    def _products(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        raise TypeError(f"{type(self).__name__} does not define products")

    def _quadratic(self, block: Float[Array, "k dim"], used: Any = None) -> Float[Array, "*T k"]:
        return jnp.einsum("...kp,kp->...k", self._products(block), block, precision="highest")

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return WeightedOperator(self, weights)


def _summand(other: Any) -> AbstractOperator:
    if isinstance(other, AbstractOperator):
        return other
    raise TypeError(
        f"an operator adds to an operator, got {type(other).__name__}; the multiple of the "
        "identity is `c * hessspec.FunctionOperator(lambda v: v, like=params)`."
    )


def _number(factor: Any) -> Any:
    if not isinstance(factor, AbstractOperator) and np.ndim(factor) == 0:
        return factor
    raise TypeError(
        f"an operator is multiplied or divided by one real number, got {type(factor).__name__}; "
        "H v is `H.matvec(v)`, a block of products `H.matmat(block)`, a sum of tasks "
        "`H.weighted(weights)`, and a product of operators is not symmetric in general."
    )


class ComposedOperator(AbstractOperator):
    """Made of operators on the same vectors: what it has from them. Not for users."""

    parts: tuple[AbstractOperator, ...]

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """The space of all parts."""
        return self.parts[0].space

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """The tasks of all parts."""
        return self.parts[0].num_tasks

    @property
    def block_rows(self) -> int:
        return min(part.block_rows for part in self.parts)

    @property
    def has_products(self) -> bool:
        return all(part.has_products for part in self.parts)

    @property
    def product_plan(self) -> str:
        return " + ".join(dict.fromkeys(p.product_plan for p in self.parts if p.product_plan))

    def product_bytes(self, rows: int) -> int:
        # One part after the other, the result so far waiting.
        return super().product_bytes(rows) + max(part.product_bytes(rows) for part in self.parts)

    @property
    def form_cost(self) -> float:
        return sum(part.form_cost for part in self.parts)

    def validate(self) -> None:
        for part in self.parts:
            part.validate()


class SumOperator(ComposedOperator):
    """The sum of two operators on the same vectors.

    Raises:
        TypeError: if one of them is no operator.
        ValueError: if they act on other parameters or tasks.
    """

    def __init__(self, first: AbstractOperator, second: AbstractOperator) -> None:
        first, second = _summand(first), _summand(second)
        if first.space != second.space or first.num_tasks != second.num_tasks:
            raise ValueError(words.no_sum(first, second))
        self.parts = first, second

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        first, second = self.parts
        return first.rows(block) + second.rows(block)

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "*T k dim"], Float[Array, "*T k"]]:
        first, second = (flat.with_lengths(part, block) for part in self.parts)
        return first[0] + second[0], first[1] + second[1]

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        first, second = self.parts
        return first.forms(block) + second.forms(block)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        first, second = self.parts
        return SumOperator(first.weighted(weights), second.weighted(weights))

    def _formula(self, name: Naming) -> str:
        first, second = (part._formula(name) for part in self.parts)
        return words.sum_of(first, second)


class ScaledOperator(ComposedOperator):
    """A number times an operator.

    Raises:
        TypeError: if `operator` is none, or `scale` is not one real number.
        ValueError: if `scale` is not finite, or becomes 0 or infinite in the operator's dtype.
    """

    scale: Float[Array, ""]

    def __init__(self, operator: AbstractOperator, scale: float) -> None:
        self.parts = (_summand(operator),)
        self.scale = in_dtype("scale", _number(scale), operator.dtype)

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self.scale * self.parts[0].rows(block)

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "*T k dim"], Float[Array, "*T k"] | None]:
        rows, parts = self.parts[0].measured_rows(block)
        return self.scale * rows, None if parts is None else jnp.abs(self.scale) * parts

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return self.scale * self.parts[0].forms(block)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return ScaledOperator(self.parts[0].weighted(weights), self.scale)  # type: ignore[arg-type]

    def _formula(self, name: Naming) -> str:
        return words.multiple_of(self.scale, self.parts[0]._formula(name))


class WeightedOperator(ComposedOperator):
    """Σ_t w_t H_t of an operator with tasks."""

    weights: Float[Array, " T"]

    def __init__(self, operator: AbstractOperator, weights: Float[Array, " T"]) -> None:
        self.parts, self.weights = (operator,), weights

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """None: the tasks are summed."""
        return None

    @property
    def form_cost(self) -> float:
        # All tasks are computed, for a product as for a form.
        return 1.0

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        rows = self.parts[0].rows(block)
        return jnp.einsum("t,tkp->kp", self.weights, rows, precision="highest")

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "k dim"], Float[Array, " k"]]:
        rows, parts = flat.with_lengths(self.parts[0], block)
        whole = jnp.einsum("t,tkp->kp", self.weights, rows, precision="highest")
        return whole, jnp.einsum("t,tk->k", jnp.abs(self.weights), parts, precision="highest")

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, " k"]:
        forms = self.parts[0].forms(block)
        return jnp.einsum("t,tk->k", self.weights, forms, precision="highest")

    def _formula(self, name: Naming) -> str:
        return f"({words.task_words(self.weights)} of {self.parts[0]._formula(name)})"


class CongruentOperator(ComposedOperator):
    """D H D for a positive diagonal D, given as a flat vector. Not for users: `H.congruent`."""

    diagonal: Float[Array, " dim"]

    def __init__(self, operator: AbstractOperator, diagonal: Float[Array, " dim"]) -> None:
        self.parts, self.diagonal = (operator,), diagonal

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]:
        return self._scaled(self.parts[0].rows(self._scaled(block)))

    def measured_rows(
        self, block: Float[Array, "k dim"]
    ) -> tuple[Float[Array, "*T k dim"], Float[Array, "*T k"] | None]:
        rows, parts = self.parts[0].measured_rows(self._scaled(block))
        # Of the parts only lengths are known: a bound.
        return self._scaled(rows), None if parts is None else jnp.max(self.diagonal) * parts

    def forms(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k"]:
        return self.parts[0].forms(self._scaled(block))

    def linearised(self, rows: int, memory_budget: int) -> AbstractOperator:
        return CongruentOperator(self.parts[0].linearised(rows, memory_budget), self.diagonal)

    def _weighted(self, weights: Float[Array, " T"]) -> AbstractOperator:
        return CongruentOperator(self.parts[0].weighted(weights), self.diagonal)

    def _scaled(self, rows: Float[Array, "*k dim"]) -> Float[Array, "*k dim"]:
        diagonal = over_devices(flat.mesh_of_rows(self, rows), self.diagonal)
        return rows * jnp.broadcast_to(diagonal, rows.shape)

    def _formula(self, name: Naming) -> str:
        return f"(D {self.parts[0]._formula(name)} D)"
