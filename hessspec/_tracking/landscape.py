"""The loss on a line or a plane through the parameters, beside its quadratic model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import in_dtype, real_number, whole_number
from hessspec._base.checks import check_finite
from hessspec._base.printing import Facts, Printed, number
from hessspec._base.records import load_record, record_parts, save_record
from hessspec._base.selection import Where
from hessspec._base.signatures import called_as
from hessspec._base.tasks import TaskAxis
from hessspec._krylov.blocks import gram
from hessspec._krylov.given import given_rows
from hessspec._operators.batches import Batches
from hessspec._operators.calls import require_values
from hessspec._operators.hessian import HessianOperator

_KIND = "Landscape"
# Points of the grid whose losses are computed in one call.
_BLOCK = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Landscape(Printed, TaskAxis):
    """Losses at θ + Σ cᵢ dᵢ, and L + g'c + c'Mc/2 beside them, on a line or a plane.

    A loss with T values adds a leading task axis to every array but `coordinates`.

    Attributes:
        coordinates: c along each direction: shape (d, n), d = 1 or 2.
        values: the loss at each point, shape (n,) or (n, n); the first axis is that of the first
            direction.
        loss: the loss in the middle, L(θ).
        gradient: g, its slopes dᵢ'∇L.
        curvature: M, dᵢ'Hdⱼ.
        num_matvecs: products executed, for all tasks.
    """

    coordinates: Float[Array | np.ndarray, "d n"]
    values: Float[Array | np.ndarray, "*tasks_and_points"]
    loss: Float[Array | np.ndarray, "*tasks"]
    gradient: Float[Array | np.ndarray, "*tasks d"]
    curvature: Float[Array | np.ndarray, "*tasks d d"]
    num_matvecs: int = field(default=0, metadata={"static": True})

    @property
    def quadratic(self) -> Float[np.ndarray, "..."]:
        """The quadratic model at the points of `values`."""
        axes = np.meshgrid(*np.asarray(self.coordinates, np.float64), indexing="ij")
        c = np.stack(axes, axis=-1)
        loss = np.asarray(self.loss, np.float64)
        loss = loss.reshape(*loss.shape, *[1] * len(axes))
        slope = np.einsum("...i,gi->...g", self.gradient, c.reshape(-1, len(axes)))
        bend = np.einsum(
            "gi,...ij,gj->...g", c.reshape(-1, len(axes)), self.curvature, c.reshape(-1, len(axes))
        )
        return loss + (slope + bend / 2).reshape(np.shape(self.values))

    def plot(self, *, ax: Any = None, label: str | None = None) -> Any:
        """Draw the loss and, dashed, its quadratic model: curves, or contours of a plane.

        Args:
            ax: axes to draw into; new ones by default. A plane has one axes for each task.
            label: entry in the legend, or title of a plane; tasks add " 0", " 1", ...

        Returns:
            The axes, those of a plane with several tasks in a list.

        Raises:
            ImportError: without matplotlib.
        """
        from hessspec._tracking.drawing import draw_landscape

        singles = [self] if self.num_tasks is None else [*map(self.task, range(self.num_tasks))]
        return draw_landscape(
            [
                (np.asarray(one.coordinates), np.asarray(one.values), one.quadratic)
                for one in singles
            ],
            ax,
            label,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        save_record(path, _KIND, *record_parts(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Landscape:
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _KIND)
        return cls(**arrays, **meta)

    def _facts(self) -> Facts:
        count = np.shape(self.coordinates)
        shape = " by ".join([str(count[1])] * count[0])
        off = np.abs(np.asarray(self.values) - self.quadratic)
        lead = tuple(range(np.ndim(self.loss), np.ndim(self.values)))
        rows = [
            ("loss in the middle", ", ".join(map(number, np.ravel(self.loss)))),
            ("largest loss", ", ".join(map(number, np.ravel(np.max(self.values, axis=lead))))),
            ("farthest from quadratic", ", ".join(map(number, np.ravel(np.max(off, axis=lead))))),
        ]
        return Facts(f"Landscape of {shape} points", rows)

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.loss)

    def _task(self, index: int) -> Landscape:
        values, loss = np.asarray(self.values)[index], np.asarray(self.loss)[index]
        model = np.asarray(self.gradient)[index], np.asarray(self.curvature)[index]
        return Landscape(self.coordinates, values, loss, *model, self.num_matvecs)


@called_as(
    "landscape(loss_fn, params, directions, data=batch)", "landscape(operator, directions=block)"
)
def landscape(
    loss_or_operator: Callable[..., Array] | HessianOperator,
    params: PyTree = None,
    directions: PyTree = None,
    *,
    data: PyTree | Batches | None = None,
    where: Where | None = None,
    span: float | Sequence[float] = 1.0,
    num_points: int = 41,
    memory_budget: int | None = None,
) -> Landscape:
    """The loss along one or two directions through the parameters, and the quadratic model there.

    L(θ + Dc) is evaluated on a grid of c, in blocks; the model L(θ) + g'c + c'Mc/2 has
    g = D∇L and M = DHDᵀ, so that what lies between the two is the share of third and higher
    derivatives. Along eigenvectors (`eigenpairs(...).vectors`) M is diagonal and holds the values.

    Args:
        loss_or_operator: `loss_fn(params)`, `loss_fn(params, batch)` with `data`, or a
            `HessianOperator`.
        params, data, where, memory_budget: see `HessianOperator`.
        directions: a tree of the chosen parameters with a leading axis of 1 or 2, flat rows, or a
            list of one or two such vectors; they are taken as long as they are.
        span: c runs from -span to span; one number, or one for each direction.
        num_points: points along a direction, odd: the one in the middle is θ.

    Returns:
        The losses, with a leading task axis if the loss has one, and the model.

    Raises:
        TypeError: for a call that mixes the two forms or is inside `jit`, an operator without a
            loss, or a `span` that is no number.
        ValueError: if there are not 1 or 2 directions, they are no such trees or not finite,
            `num_points` is even or `span` not positive.
        MemoryError: if a product cannot fit the budget.

    Cost: `num_points` to the power of the number of directions passes forward, a gradient, and one
    product for each direction and task.

    Source: derived here, Taylor's expansion; checked against polynomials in
    `tests/hessspec/tracking/test_landscape.py`.
    """
    operator = _operator(loss_or_operator, params, data, where, memory_budget, directions)
    require_values("landscape", (operator, directions))
    rows = _as_rows(operator, directions)
    count = whole_number("num_points", num_points, least=3)
    if count % 2 == 0:
        raise ValueError(
            f"`num_points` must be odd, so that one point is the parameters, got {count}"
        )
    spans = _spans(span, operator, rows.shape[0])
    unit = np.linspace(-1.0, 1.0, count)
    coordinates = np.stack([one * unit for one in spans])
    operator.validate()
    products = operator.rows(rows)
    check_finite(products, operator.space, "the product H v")
    lead = () if operator.num_tasks is None else (operator.num_tasks,)
    by_task = products.reshape(-1, *rows.shape)
    curvature = np.stack([gram(rows, one) for one in by_task])
    gradients = jnp.atleast_2d(operator.gradients())
    slopes = np.stack([gram(rows, one[None])[:, 0] for one in gradients])
    grid = np.stack(np.meshgrid(*coordinates, indexing="ij"), axis=-1).reshape(-1, rows.shape[0])
    values = _values_at(operator, rows, grid)
    d = rows.shape[0]
    return Landscape(
        coordinates=coordinates,
        values=values.T.reshape(*lead, *[count] * d),
        loss=np.asarray(values[grid.shape[0] // 2], np.float64).reshape(lead),
        gradient=slopes.reshape(*lead, d),
        curvature=((curvature + curvature.swapaxes(1, 2)) / 2).reshape(*lead, d, d),
        num_matvecs=d * (operator.num_tasks or 1),
    )


def _operator(
    given: Callable[..., Array] | HessianOperator,
    params: PyTree,
    data: Any,
    where: Any,
    memory_budget: int | None,
    directions: PyTree,
) -> HessianOperator:
    calls = (
        "call `hessspec.landscape(loss_fn, params, directions, data=batch)` or "
        "`hessspec.landscape(operator, directions=directions)`"
    )
    if directions is None:
        raise TypeError(f"`directions` is missing; {calls}.")
    if isinstance(given, HessianOperator):
        if params is not None or data is not None or where is not None:
            raise TypeError(f"an operator already holds its parameters and data; {calls}.")
        return given
    if not callable(given):
        raise TypeError(
            "the first argument of `landscape` must be a loss function or a HessianOperator, got "
            f"{type(given).__name__}; {calls}."
        )
    if params is None:
        raise TypeError(f"`params` is missing; {calls}.")
    return HessianOperator(given, params, data=data, where=where, memory_budget=memory_budget)


def _as_rows(operator: HessianOperator, directions: PyTree) -> Float[Array, "d dim"]:
    rows = given_rows("directions", directions, operator.space)
    if rows.shape[0] not in (1, 2):
        raise ValueError(
            f"`directions` must be 1 or 2, stacked along a leading axis, got {rows.shape[0]}; take "
            "some of them by `jax.tree.map(lambda leaf: leaf[:2], directions)`."
        )
    return rows


def _spans(span: Any, operator: HessianOperator, count: int) -> list[float]:
    """How far c goes along each of `count` directions."""
    is_several = isinstance(span, list | tuple) or np.ndim(span) == 1
    spans = [real_number("span", one) for one in (span if is_several else [span])]
    if len(spans) not in (1, count) or not all(0 < one < np.inf for one in spans):
        raise ValueError(
            f"`span` must be positive, one number or one for each direction, got {span} for {count}"
        )
    in_dtype("span", spans, operator.dtype)
    return spans * count if len(spans) == 1 else spans


def _values_at(
    operator: HessianOperator, rows: Float[Array, "d dim"], grid: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n T"]:
    """The losses at all points, block by block of one shape."""
    count = grid.shape[0]
    size = min(_BLOCK, count)
    parts = []
    for start in range(0, count, size):
        # The last block is moved back, so that all have one shape.
        begin = min(start, count - size)
        block = jnp.asarray(grid[begin : begin + size], operator.dtype)
        found = operator._over_stream(_losses_along, rows, block)
        parts.append(np.asarray(found, np.float64)[start - begin :])
    values = np.concatenate(parts)
    if operator.weights is not None:
        return (values @ np.asarray(operator.weights, np.float64))[:, None]
    return values


@eqx.filter_jit
def _losses_along(
    operator: HessianOperator, rows: Float[Array, "d dim"], points: Float[Array, "n d"]
) -> Float[Array, "n T"]:
    x = operator.space.flatten(operator.chosen)

    def losses(functions: Any, batch: PyTree) -> Float[Array, "n T"]:
        def at(point: Float[Array, " d"]) -> Float[Array, " T"]:
            moved = x + jnp.einsum("d,dp->p", point, rows, precision="highest")
            return operator._values(functions, moved, batch)

        return jax.lax.map(at, points)

    return operator._sum(losses)


__all__ = ["Landscape", "landscape"]
