"""One update, from the host: eigenpairs, samples of the trace and shares of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.checks import check_finite, check_symmetric
from hessspec._krylov.blocks import gram, row_forms, spherical
from hessspec._krylov.eigenpairs import SMALLEST_TOL_UNITS
from hessspec._operators.algebra import AbstractOperator, CongruentOperator
from hessspec._trace.guards import block_sizes
from hessspec._tracking.kernel import begin, finish, take_in
from hessspec._tracking.state import TrackedPairs, TrackerState

_begin = jax.jit(begin)
_take_in = jax.jit(take_in, donate_argnums=1)
_finish = jax.jit(finish)


def follow(
    scalar: AbstractOperator,
    state: TrackerState,
    *,
    tol: float | None,
    max_matvecs: int,
    memory_budget: int,
) -> tuple[TrackerState, TrackedPairs]:
    """`track` with products one after the other, which may come from a stream.

    All products share a gradient that is linearised once, if `memory_budget` has room for it.

    Raises:
        ValueError: if a product is not finite or not symmetric.
    """
    eps = float(jnp.finfo(scalar.dtype).eps)
    tol = max(eps ** (2 / 3) if tol is None else tol, SMALLEST_TOL_UNITS * eps)
    kept = scalar.linearised(1, memory_budget)
    work = _begin(state, kept.rows(state.rows), tol)
    for _ in range(max_matvecs - state.rows.shape[0]):
        if bool(work.done):
            break
        work = _take_in(state, work, kept.rows(work.direction[None])[0], tol)
    new, on_device = _finish(state, work, tol)
    small = jax.device_get(on_device._replace(images=on_device.norm))
    found = small._replace(images=on_device.images)
    if not (np.isfinite(found.norm) and np.all(np.isfinite(found.values))):
        check_finite(found.images, scalar.space, "a product with the operator")
    check_symmetric(found.asymmetry, np.zeros(()), found.norm, scalar.dtype)
    return new, found


def trace_samples(
    operator: AbstractOperator,
    key: PRNGKeyArray,
    count: int,
    rows: Sequence[Float[Array, "k dim"]],
    found: Sequence[TrackedPairs],
) -> Float[np.ndarray, "*tasks count"]:
    """Unbiased samples of tr H for each task, the vectors that are followed deflated.

    Probes depend on the key alone, and forms are those of the probes themselves: what a task's own
    vectors contribute is known from their products.
    """
    parts, drawn = [], 0
    for size in block_sizes(count, operator.block_rows):
        probes = spherical(key, drawn, size, operator.dim, operator.dtype)
        forms = np.asarray(operator.forms(probes), np.float64).reshape(len(rows), size)
        known = zip(forms, rows, found, strict=True)
        parts.append(np.stack([_deflated(form, probes, q, pairs) for form, q, pairs in known]))
        drawn += size
    samples = np.concatenate(parts, axis=1)
    return samples if operator.num_tasks is not None else samples[0]


def _deflated(
    forms: Float[np.ndarray, " n"],
    probes: Float[Array, "n dim"],
    rows: Float[Array, "k dim"],
    found: TrackedPairs,
) -> Float[np.ndarray, " n"]:
    """tr QHQᵀ + (P - k) / |r|² · rᵀHr with r = v - QᵀQv, from vᵀHv and the products with Q."""
    (k, dim), values = rows.shape, np.asarray(found.values, np.float64)
    if k == dim:
        return np.full(forms.shape, values.sum())
    inside = gram(rows, probes)
    images = gram(found.images, probes)
    rest = forms - 2 * np.sum(inside * images, axis=0) + values @ inside**2
    lengths = dim - np.sum(inside**2, axis=0)
    return values.sum() + rest * (dim - k) / lengths


def gradient_shares(
    gradients: Float[Array, "*T dim"] | None,
    states: Sequence[TrackerState],
    tasks: int | None,
) -> Float[np.ndarray, "*tasks"]:
    """|Q∇L|² / |∇L|² for each task; nan where there is no gradient."""
    if gradients is None:
        return np.full(lead(tasks), np.nan)
    shares = []
    for state, gradient in zip(states, jnp.atleast_2d(gradients), strict=True):
        # At unit size, since squares of a small gradient would underflow.
        largest = jnp.max(jnp.abs(gradient))
        one = (gradient / jnp.where(largest > 0, largest, 1))[None]
        whole = float(np.asarray(row_forms(one, one))[0])
        shares.append(np.sum(gram(state.rows, one) ** 2) / whole if whole > 0 else np.nan)
    return joined(shares, tasks)


def scaled_rows(operator: CongruentOperator, rows: Float[Array, "*T dim"]) -> Array:
    """D times each row: gradients in the coordinates of D H D."""
    return rows * jnp.broadcast_to(operator.diagonal, rows.shape)


def lead(tasks: int | None) -> tuple[int, ...]:
    """The axis of tasks, if there is one."""
    return () if tasks is None else (tasks,)


def joined(parts: list[Any], tasks: int | None, dtype: type = float) -> np.ndarray:
    """One array of what belongs to each task."""
    return np.asarray(parts if tasks is not None else parts[0], dtype)
