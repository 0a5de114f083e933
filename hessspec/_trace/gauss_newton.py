"""The exact trace of a Gauss-Newton matrix, from few pull-backs of a square root of ∇²ℓ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.checks import MOST_ASYMMETRY
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.meshes import entry_of
from hessspec._base.selection import Where
from hessspec._operators.batches import Batches, BatchGroup
from hessspec._operators.calls import require_values
from hessspec._operators.hessian import GaussNewtonOperator
from hessspec._operators.outer import (
    SignedRoots,
    outer_blocks,
    outputs_of,
    pulled_squares,
    signed_roots,
)
from hessspec._operators.over_data import Chunk
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE

METHOD = "gauss-newton"
INDEFINITE = "gauss-newton, indefinite in the outputs"
COUPLED = 1e3  # units of rounding above which examples are coupled, or terms negative
_WAY_OUT = (
    "leave out `independent`, or pass `data=hessspec.Batches(...)` of one example each, whose mean "
    "couples nothing"
)


def gauss_newton_trace(
    model_fn: Callable[[PyTree, PyTree], Array],
    loss_fn: Callable[[Array, PyTree], Array],
    params: PyTree,
    data: PyTree | Batches,
    *,
    where: Where | None = None,
    independent: bool = False,
    memory_budget: int | None = None,
) -> TraceEstimate:
    r"""tr G of G = J'(∇²ℓ)J without sampling, for each of T tasks: what of tr H the model's own is.

    With eigenpairs ∇²ℓ = Σ λ u uᵀ of the loss's Hessian in the outputs of a batch,
    tr G = Σ λ |J'u|² = Σ ± |J's|², s = √|λ| u: one pull-back through the model for each s. Of a
    batch with m outputs there are up to m for each task; of a squared error of T outputs, one a
    task and example. tr H - tr G is then the trace of Σ ∇ℓ · ∇²f, which no Gauss-Newton method
    sees.

    With `independent`, examples are pulled back each alone, all in one pass over the data for each
    row s of an example. That holds where `model_fn` maps entry i of every array of the batch, and
    no other, to entry i of its outputs, and the loss is a sum or mean over entries. It is checked:
    the Hessian in the outputs by random signs, the outputs of every example alone, and the
    pull-backs of two.

    Args:
        model_fn: `model_fn(params, batch)`, the outputs, an array.
        loss_fn: `loss_fn(outputs, batch)`, a scalar or shape (T,).
        params, data, where, memory_budget: as for `GaussNewtonOperator`. Batches of one example
            each need no `independent`.
        independent: examples along the leading axis of outputs and batch do not see each other.

    Returns:
        A `TraceEstimate` without samples, in loss / parameter². `systematic`, the size of rounding,
        is measured: |J's|² beside s'J(J's), and the Hessian in the outputs beside its transpose.
        `num_matvecs` counts pull-backs of the whole data, each at about a quarter of a product's
        cost. `method` says whether ∇²ℓ had negative eigenvalues: then G has, and terms of both
        signs cancel.

    Raises:
        ValueError: if `independent` does not hold, a derivative is not finite, or as
            `GaussNewtonOperator`.
        TypeError: as `GaussNewtonOperator`, or inside `jit`.
        MemoryError: if the Hessians in the outputs exceed `memory_budget`, or with `independent`
            the data are too large to be kept.

    Source: derived here from the chain rule; checked against dense matrices in the tests.
    """
    budget = resolve_budget(memory_budget)
    options: dict[str, Any] = {"where": where, "memory_budget": memory_budget}
    operator = GaussNewtonOperator(model_fn, loss_fn, params, data, **options)
    require_values("gauss_newton_trace", operator)
    operator.validate()
    if not independent:
        parts = [_whole(view, budget) for view in _views(operator)]
    else:
        if operator.streamed is not None:
            raise MemoryError(
                "`independent` takes data that fit into a quarter of `memory_budget`; raise it, or "
                "add up the traces of parts of the data."
            )
        singles = _singles(operator, data)
        alone = GaussNewtonOperator(model_fn, loss_fn, params, singles, **options)
        parts = [_by_example(operator, alone, budget)]
    return _record(operator, parts)


class Part(NamedTuple):
    """Σ ± |J's|² and Σ |J's|² of each task, the share that rounding may have, and passes."""

    signed: Float[np.ndarray, " T"]
    absolute: Float[np.ndarray, " T"]
    rounding: Float[np.ndarray, " T"]
    passes: int


def _record(operator: GaussNewtonOperator, parts: list[Part]) -> TraceEstimate:
    signed = np.sum([part.signed for part in parts], axis=0)
    systematic = np.sum([part.rounding * part.absolute for part in parts], axis=0)
    absolute = np.sum([part.absolute for part in parts], axis=0)
    eps = float(np.finfo(operator.dtype).eps)
    indefinite = bool(np.any(absolute - signed > COUPLED * eps * absolute))
    if operator.num_tasks is None:
        signed, systematic = signed[0], systematic[0]
    return TraceEstimate.from_samples(
        np.zeros((*np.shape(signed), 0)),
        exact=signed,
        systematic=np.asarray(systematic),
        method=INDEFINITE if indefinite else METHOD,
        dim=operator.dim,
        num_matvecs=max(part.passes for part in parts),
    )


def _views(operator: GaussNewtonOperator) -> Iterator[GaussNewtonOperator]:
    if operator.streamed is None:
        yield operator
        return
    for groups in operator.streamed.groups():
        yield operator._view(groups)  # type: ignore[misc]


def _blocks(
    operator: GaussNewtonOperator, chunk: Chunk, per_example: bool, budget: int
) -> tuple[Float[np.ndarray, "batches n T o o"], float]:
    """The Hessians in the outputs with the batches' weights, and how far they are off, relatively.

    Raises:
        ValueError: if examples are coupled by the loss, or second derivatives are not finite.
    """
    shape = eqx.filter_eval_shape(outer_blocks, operator, chunk, per_example).shape
    require_memory(
        3 * 8 * int(np.prod(shape)),
        budget,
        f"the Hessians of {shape[2]} losses in {shape[4]:,} outputs",
        "pass smaller batches or, where examples are independent, `independent=True`",
    )
    found = np.asarray(outer_blocks(operator, chunk, per_example), np.float64)
    _check_blocks(found)
    largest = float(np.max(np.abs(found), initial=0.0)) or 1.0
    eps = float(np.finfo(operator.dtype).eps)
    gap = float(np.max(np.abs(found[:, :1] - found))) / largest
    if gap > COUPLED * eps:
        raise ValueError(
            f"`independent` does not hold: the loss couples examples, by {gap:.1e} of its second "
            f"derivatives; {_WAY_OUT}."
        )
    blocks = np.moveaxis(found[:, 0], 2, 1)
    skew = float(np.max(np.abs(blocks - np.swapaxes(blocks, -1, -2)))) / largest
    blocks = (blocks + np.swapaxes(blocks, -1, -2)) / 2
    blocks = blocks * np.asarray(chunk.group.weights, np.float64)[:, None, None, None, None]
    return blocks, max(gap, skew, eps)


def _check_blocks(found: Float[np.ndarray, "batches s T n o o"]) -> None:
    """What is not finite would be no eigenvalue, and so be left out of the trace."""
    if not np.isfinite(found).all():
        raise ValueError(
            "the second derivative of the loss in the outputs is not finite, although the loss is: "
            "it does not exist there (`jnp.sqrt` or a norm at 0, a `jnp.where` whose unused branch "
            "is not finite)."
        )


def _whole(operator: GaussNewtonOperator, budget: int) -> Part:
    """Batches as they are."""
    eps = float(np.finfo(operator.dtype).eps)
    found = []
    for chunk in operator.chunks:
        blocks, share = _blocks(operator, chunk, False, budget)
        roots = signed_roots(blocks[:, 0], eps)
        found.append(_pulled(operator, chunk, roots, blocks.shape[2], share))
    return _added(found)


def _pulled(
    operator: GaussNewtonOperator, chunk: Chunk, roots: SignedRoots, tasks: int, share: float
) -> Part:
    """Σ ± |J's|² over the batches of a chunk.

    Raises:
        ValueError: if one of them is not finite.
    """
    zeros = np.zeros(tasks)
    if roots.tasks.size == 0:
        return Part(zeros, zeros, np.full(tasks, share), 0)
    rows = jnp.asarray(roots.rows, operator.dtype)
    squares, again = (np.asarray(v, np.float64) for v in pulled_squares(operator, chunk, rows))
    if not np.isfinite(squares).all():
        raise ValueError(
            "the derivative of the outputs is not finite, although the outputs are: it does not "
            "exist there (`jnp.sqrt` or a norm at 0, a `jnp.where` whose unused branch is not "
            "finite), or its square overflows; then scale the loss down."
        )
    gaps = np.abs(squares[0] - again) / np.maximum(squares[0], np.finfo(np.float64).tiny)
    worst = max(float(np.max(np.where(squares[0] > 0, gaps, 0.0))), share)
    one_hot = (roots.tasks[:, None] == np.arange(tasks)).astype(float)
    signed = np.einsum("br,br,rt->t", roots.signs, squares, one_hot)
    return Part(
        signed,
        np.einsum("br,rt->t", squares, one_hot),
        np.full(tasks, SURE * worst),
        roots.tasks.size,
    )


def _added(parts: list[Part]) -> Part:
    return Part(
        np.sum([part.signed for part in parts], axis=0),
        np.sum([part.absolute for part in parts], axis=0),
        np.max([part.rounding for part in parts], axis=0),
        max(part.passes for part in parts),
    )


def _singles(operator: GaussNewtonOperator, data: PyTree | Batches) -> Batches:
    """Every example as a batch of its own, in order."""
    batches = list(data) if isinstance(data, Batches) else [data]
    counts = {
        place: eqx.filter_eval_shape(outputs_of, operator, chunk).shape[1:2]
        for chunk, (places, _) in zip(operator.chunks, operator.source.groups, strict=True)
        for place in places
    }
    singles = []
    for place, batch in enumerate(batches):
        if not counts[place]:
            raise ValueError(
                "`independent` needs outputs with a leading axis of examples, got one number; "
                f"{_WAY_OUT}."
            )
        singles += _split(batch, counts[place][0], place)
    return Batches(singles, sizes=[1] * len(singles))


def _split(batch: PyTree, count: int, place: int) -> list[PyTree]:
    def entry(leaf: Any, i: int) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        if leaf.shape[:1] != (count,):
            raise ValueError(
                f"`independent` needs arrays with one entry for each of the {count} outputs of "
                f"batch {place}, got one of shape {tuple(leaf.shape)}; {_WAY_OUT}."
            )
        return entry_of(leaf, i)

    return [jax.tree.map(lambda leaf, i=i: entry(leaf, i), batch) for i in range(count)]


def _by_example(operator: GaussNewtonOperator, alone: GaussNewtonOperator, budget: int) -> Part:
    """Each example pulled back alone, after it was checked that this is what the batch does."""
    eps = float(np.finfo(operator.dtype).eps)
    blocks: dict[int, np.ndarray] = {}
    outputs: dict[int, np.ndarray] = {}
    share = 0.0
    for chunk, (places, _) in zip(operator.chunks, operator.source.groups, strict=True):
        found, gap = _blocks(operator, chunk, True, budget)
        share = max(share, gap)
        values = np.asarray(outputs_of(operator, chunk), np.float64)
        blocks |= dict(zip(places, found, strict=True))
        outputs |= dict(zip(places, values, strict=True))
    each = [block for place in sorted(blocks) for block in blocks[place]]
    values = [value for place in sorted(outputs) for value in outputs[place]]
    parts = []
    for chunk, (places, _) in zip(alone.chunks, alone.source.groups, strict=True):
        _check_outputs(alone, chunk, np.stack([values[i] for i in places]))
        roots = signed_roots(np.stack([each[i] for i in places]), eps)
        parts.append(_pulled(alone, chunk, roots, each[0].shape[0], share))
    _check_pullbacks(operator, alone, [len(outputs[place]) for place in sorted(outputs)])
    return _added(parts)


def _check_outputs(
    alone: GaussNewtonOperator, chunk: Chunk, wanted: Float[np.ndarray, "n *output"]
) -> None:
    found = np.asarray(outputs_of(alone, chunk), np.float64)[:, 0]
    gap = float(np.max(np.abs(found - wanted))) / (float(np.max(np.abs(wanted))) or 1.0)
    if gap > COUPLED * float(np.finfo(alone.dtype).eps):
        raise ValueError(
            "`independent` does not hold: alone, an example has other outputs than in its batch, "
            f"by {gap:.1e} of the largest; {_WAY_OUT}."
        )


def _check_pullbacks(
    operator: GaussNewtonOperator, alone: GaussNewtonOperator, counts: list[int]
) -> None:
    """|J'1|² of the outputs of two examples of one batch, in that batch and alone."""
    place = operator.source.groups[0][0][0]
    chunk, count = _only(operator, place), counts[place]
    size = int(np.prod(eqx.filter_eval_shape(outputs_of, operator, chunk).shape[2:]))
    both = sorted({0, count - 1})
    rows = np.zeros((1, len(both), count, size))
    rows[0, np.arange(len(both)), both] = 1.0
    block = jnp.asarray(rows.reshape(1, len(both), -1), operator.dtype)
    squares = np.asarray(pulled_squares(operator, chunk, block)[0], np.float64)[0]
    for square, example in zip(squares, both, strict=True):
        one = _only(alone, sum(counts[:place]) + example)
        row = jnp.ones((1, 1, size), alone.dtype)
        found = float(pulled_squares(alone, one, row)[0][0, 0])
        if abs(found - square) > MOST_ASYMMETRY * max(found, square):
            raise ValueError(
                "`independent` does not hold: alone, an example has another derivative than in "
                f"its batch (squared lengths {found:.6g} and {square:.6g}); {_WAY_OUT}."
            )


def _only(operator: GaussNewtonOperator, place: int) -> Chunk:
    """The batch at this place of the data."""
    for chunk, (places, _) in zip(operator.chunks, operator.source.groups, strict=True):
        if place in places:
            only, group = slice(i := places.index(place), i + 1), chunk.group
            arrays = jax.tree.map(itemgetter(only), group.arrays)
            one = BatchGroup(arrays, group.constants, group.weights[only])
            return Chunk(chunk.functions, one)
    raise AssertionError(f"no batch {place}")
