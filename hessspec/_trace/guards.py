"""Products and forms that are checked as they come, and how far rounding may have moved them.

An answer without sampling error is not without error. Two orders of differentiation round in
different places, so what they disagree by tells the size of the rounding: products of two vectors,
u'Hv and v'Hu, and a form v'Hv beside the product it could have been read off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.checks import (
    MOST_ASYMMETRY,
    asymmetric,
    check_finite,
)
from hessspec._krylov.blocks import gram, measured, row_forms, unit_scale
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import Parted
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.task_by_task import TaskByTask

LOOKS = 2  # products for the guard of forms: two, so that they show an asymmetry too
# Student's t at 95 % with three degrees of freedom, the disagreements that two products and their
# forms show: what they scatter by, the error stays below.
SURE = 3.2


def block_sizes(count: int, rows: int = BLOCK_ROWS) -> list[int]:
    """`count` rows as full blocks and one remainder: two shapes, so two compiled programs."""
    return [rows] * (count // rows) + [count % rows] * (count % rows > 0)


def tasks_counted(operator: AbstractOperator) -> int:
    """Products that `num_matvecs` counts for a form of all tasks; blocks of a task share theirs."""
    return int(getattr(operator, "tasks_counted", operator.num_tasks or 1))


class Guarded(NamedTuple):
    """Products with a scalar operator, divided by a power of two.

    Attributes:
        rows: H v of each probe, over `scale`.
        scale: the power of two.
        forms: vᵢᵀHvⱼ, over `scale`.
        size: the largest |Hv| / |v|, over `scale`; that of its parts if H is a sum of several.
        squares: |Hv|² of each, over `scale` squared.
    """

    rows: Float[Array, "k dim"]
    scale: float
    forms: Float[np.ndarray, "k k"]
    size: float
    squares: Float[np.ndarray, " k"]

    @property
    def asymmetry(self) -> float:
        """The root mean square of vᵢᵀHvⱼ - vⱼᵀHvᵢ, i ≠ j: ‖H - Hᵀ‖_F if E[v vᵀ] = I."""
        k = self.forms.shape[0]
        squares = np.sum((self.forms - self.forms.T) ** 2)
        return self.scale * float(np.sqrt(squares / max(k * (k - 1), 1)))

    @property
    def whole_asymmetry(self) -> float:
        """‖V (H - Hᵀ) Vᵀ‖_F of the block as it is: of an orthonormal one, what its trace has."""
        return self.scale * float(np.linalg.norm(self.forms - self.forms.T))


def guarded_products(
    operator: AbstractOperator | Parted,
    probes: Float[Array, "k dim"],
    symmetry: Symmetry,
    norm: float = 0.0,
) -> Guarded:
    """H v for each row of a scalar operator.

    `symmetry` is that of the run. `norm` is a lower bound of ‖H‖, for probes that were made
    orthogonal to the dominant space: what is left of H v may be nothing but rounding of H.

    Raises:
        ValueError: if a product is not finite, or vᵢᵀHvⱼ and vⱼᵀHvᵢ differ by more than rounding.
    """
    return guarded(*operator.measured_rows(probes), probes, symmetry, norm)


def guarded(
    rows: Float[Array, "k dim"],
    parts: Float[Array, " k"] | None,
    probes: Float[Array, "k dim"],
    symmetry: Symmetry,
    norm: float = 0.0,
) -> Guarded:
    """The same of products that were made, as `measured_rows` returns them."""
    found = measured(rows, probes)
    rows, scale = found.products, float(found.scale)
    forms = np.asarray(found.forms, np.float64)
    if not np.isfinite(forms).all():
        check_finite(rows, symmetry.operator.space, "the product H v")
    lengths = np.sqrt(np.asarray(found.row_squares, np.float64))
    images = np.sqrt(np.asarray(found.squares, np.float64))
    if parts is not None:
        images = np.asarray(parts, np.float64) / scale
    size = max(float(np.max(images / np.maximum(lengths, 1e-30))), norm / scale)
    allowed = size * lengths[:, None] * lengths
    symmetry.check(forms, forms.T, allowed, probes, scale * size)
    return Guarded(rows, scale, forms, size, np.asarray(found.squares, np.float64))


def row_lengths(rows: Float[Array, "k dim"]) -> Float[np.ndarray, " k"]:
    """Euclidean length of each row, on the host."""
    return np.sqrt(np.asarray(row_forms(rows, rows), np.float64))


def finite_forms(
    operator: AbstractOperator, probes: Float[Array, "k dim"]
) -> Float[np.ndarray, "*T k"]:
    """vᵀHv for each row, on the host.

    Raises:
        ValueError: if one is not finite, naming the parameters that cause it.
    """
    forms = np.asarray(operator.forms(probes), np.float64)
    if not np.isfinite(forms).all():
        if operator.has_products:
            rows = operator.rows(probes[:1])
            check_finite(rows, operator.space, "the product H v")
        raise ValueError("v'Hv is not finite although H v is: it overflows; scale the loss down.")
    return forms


def disagreement(
    operator: AbstractOperator | TaskByTask,
    probes: Float[Array, "k dim"],
    forms: Float[np.ndarray, "*T k"],
    symmetry: Symmetry | None = None,
) -> Float[np.ndarray, "*T"]:
    """How far an average of forms may be off, from products with the same probes, E[v vᵀ] = I.

    The differences of v'(Hv) and the form have as mean the difference of the two traces, and
    u'Hv - v'Hu has the size of ‖H - Hᵀ‖_F. Cost: k products for each task.

    Raises:
        ValueError: if a product is not finite, or one of the differences is more of |Hv| |v| than
            `symmetry` finds to be rounding; without one, more than `MOST_ASYMMETRY`.
    """
    rows, parts = operator.measured_rows(probes)
    check_finite(rows, operator.space, "the product H v")
    scale = unit_scale(rows.reshape(-1, rows.shape[-1]))
    rows = rows / jnp.asarray(scale, rows.dtype)
    lengths = row_lengths(probes)
    images = np.sqrt(np.asarray(_row_squares(rows), np.float64))
    if parts is not None:
        images = np.asarray(parts, np.float64) / scale
    size = np.max(images / lengths, axis=-1)
    found = [_disagreements(one, probes, f) for one, f in _by_task(rows, forms / scale)]
    worst = np.array([np.max(np.abs(gaps)) for gaps in found]).reshape(size.shape)
    shares = np.divide(worst, size, where=size > 0, out=np.zeros_like(worst))
    shares = shares / float(np.max(lengths)) ** 2
    fine = np.all(shares <= MOST_ASYMMETRY)
    if symmetry is not None:
        fine = symmetry.allows(shares, probes, scale * size)
    if not fine:
        share = float(np.max(shares))
        raise asymmetric(
            f"v'Hv, v'(Hv), u'Hv and v'Hu differ by up to {share:.1e} of |H| |u| |v|",
            share,
            operator.dtype,
            "forms v'Hv and products H v do not belong to one symmetric matrix",
            None if symmetry is None else symmetry.explains(shares),
        )
    spread = np.array([np.sqrt(np.mean(gaps**2)) for gaps in found]).reshape(size.shape)
    return SURE * scale * spread


def _by_task(rows: Array, forms: np.ndarray) -> list[tuple[Array, np.ndarray]]:
    if rows.ndim == 2:
        return [(rows, forms)]
    return [(rows[t], forms[t]) for t in range(rows.shape[0])]


def _disagreements(
    rows: Float[Array, "k dim"], probes: Float[Array, "k dim"], forms: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " n"]:
    inner = gram(probes, rows)
    pairs = np.triu_indices(probes.shape[0], 1)
    return np.concatenate([np.diagonal(inner) - forms, (inner - inner.T)[pairs]])


@jax.jit
def _row_squares(rows: Float[Array, "*T k dim"]) -> Float[Array, "*T k"]:
    return jnp.sum(rows**2, axis=-1)
