"""The verb `trace`: tr H and its error from products with H."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Literal, cast

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import did_you_mean, real_number, whole_number
from hessspec._base.kept import KeptRun, resumed
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.meshes import over_devices
from hessspec._base.origin import digest
from hessspec._base.probes import TRACE_STREAM
from hessspec._base.progress import progress_bar
from hessspec._krylov.block_basis import PILOT
from hessspec._krylov.given import given_rows, orthonormal_span
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import warn_of_tasks
from hessspec._operators.checkpoint import Folder, checkpoint_in
from hessspec._operators.fingerprint import array_digest, origin_of
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.verbs import Call, verb_by_block
from hessspec._trace.blocks import BlockTraces
from hessspec._trace.by_block import LOOKED, Blockwise, By, blocks_of, by_name, looked_at
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import LOOKS, tasks_counted
from hessspec._trace.run import FIRST_LOOK, TraceRun, beside, deflates, estimator_for, first_look

Method = Literal["auto", "xtrace", "hutch++", "hutchinson"]
METHODS = ("auto", "xtrace", "hutch++", "hutchinson")
KEPT = ("auto", "hutchinson")  # go on from a state on disk
DEFLATING = ("auto", "hutch++")  # have a basis that `directions` can stand in
DEFAULT_MATVECS = 64
DEFAULT_CAP = 4096  # with a tolerance and no `num_matvecs`


@verb_by_block(BlockTraces)
def trace(
    call: Call,
    by: By | None = None,
    *,
    method: Method = "auto",
    num_matvecs: int | None = None,
    directions: PyTree = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    checkpoint: Folder | None = None,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> TraceEstimate:
    r"""Estimate tr H, or tr H_t for each of T tasks, from products with H.

    Every method returns samples, a standard error and an interval that holds for skewed samples too
    (`TraceEstimate.confidence_interval`). Every one is unbiased but for the choice of the rank by
    `"auto"`, which looks at eight of the samples averaged: its share of the error is measured in
    `docs/trace.md`. With probes E[v vᵀ] = I,

    - `"hutchinson"`: the mean of vᵀHv over random signs, variance 2 (‖H‖²_F - Σ H_ii²) a sample.
      For T tasks quadratic forms alone, several times cheaper than products.
    - `"hutch++"`: tr QHQᵀ + mean of vᵀHv, Q an orthonormal basis of HΩ, v orthogonal to Q; a third
      of the products each for HΩ, HQᵀ and the probes.
    - `"xtrace"`: half of the products sketch; each test vector in turn is left out of the sketch
      and serves as its probe. The stated error counts the covariance of these samples.
    - `"auto"` (default): the identity of Hutch++ with Q a block Krylov basis, which grows while
      the variance that eight probes see falls fast enough to pay for the samples it costs. T
      tasks share one Q, the Krylov basis of one weighted sum of them, and all the rest is forms
      of all tasks at once; it costs no more than Hutchinson with the same `num_matvecs`. A
      scalar H that is all but diagonal gets random signs. Below 48 products it is XTrace.

    With very few products (below 4, Hutch++ below 6) each is Hutchinson, as `method` of the result
    says. XTrace and Hutch++ keep a basis of their own for each task.

    With `rtol` or `atol`, looks are taken at 48, 96, 192, ... products, and the run ends when the
    interval at 95 % is within atol + rtol |value| for every task. The j-th look may spend the share
    6/(πj)² of the error probability; the shares sum to 1, so by Boole's inequality the interval
    returned covers the truth with the stated probability although one peeked.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params: tree of float arrays at which H is taken.
        key: probe i is drawn with `fold_in(key, i)` from a stream that belongs to traces alone;
            chunks change nothing but rounding.
        data: one batch (never split), or `Batches` for a data set.
        where: chooses the parameters that H is taken in, as for `HessianOperator`.
        method: see above.
        num_matvecs: products with each task's H, at most; default 64, or 4096 with a tolerance.
            From P on the answer is exact and costs P quadratic forms a task.
        directions: vectors that Q is to hold, before what `auto` and `hutch++` find themselves:
            a tree like the chosen parameters with leading axes on every leaf, such as task
            gradients or the `vectors` of `eigenpairs`; flat rows of shape (k, P); or a list of
            such. They are made orthonormal, and what depends on others is left out. Each costs a
            product, for several tasks a form of all. They may come from any verb or sampler with
            the same `key`, whose stream for the probes of a trace no other one draws from; but the
            estimate is biased if they depend on a trace with that key.
        by: `by(path, leaf)` names the block to which a leaf belongs; the answer is then a
            `BlockTraces`, a mapping from each name to the `TraceEstimate` of its block, Σ H_ii over
            its entries. Blocks
            share basis and samples, and add up to the trace. For `auto` (Hutchinson's mean below 48
            products), `hutchinson` and exact answers. Cost: products of each task where the trace
            itself takes forms, and 4 more to see rounding.
        rtol, atol: tolerance on the distance from `value` to the farther end of its interval.
        checkpoint: a folder of this run's own, in which it is kept on its way: called again with
            the same arguments, a run that was killed goes on from the last block of products
            written, with the same looks, and ends with the same numbers (on the same devices to
            the last bit); one that is over is read. For `auto`, `hutchinson` and exact answers.
            Takes the bytes of the basis on disk, at most a twentieth of the time, and at the end
            those of the samples.
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes for data and vectors; by default set from the device.

    Returns:
        A `TraceEstimate` (with `by`, `BlockTraces`: a mapping to them) in the units of H,
        loss / parameter². Its error is that of the probes, given the data, and `systematic`: what
        products and forms, or products of two vectors, disagree by, the size of rounding in an
        ill-conditioned loss.

    Raises:
        ValueError: for arguments out of range, a loss that is not finite or is random, products
            that are not finite (naming the parameters), and products that are not symmetric, or
            differ from forms, by more than rounding: a thousand units of it, or more where a few
            products of scaled vectors (on top of `num_matvecs`) show that the loss has more. In an
            exact trace by more than 1 %.
            Also for `directions` of other shapes, not finite, too many for `num_matvecs`, or
            beside a method that deflates nothing; and if `checkpoint` holds a run of another loss,
            point, data, key or setting, or the method cannot be kept.
        TypeError: for an argument that is no number where one is needed, or a call that mixes the
            two forms.
        RuntimeError: if another run works in the folder `checkpoint`.
        OSError: if nothing can be written there; what was kept before is there still.
        MemoryError: if the vectors of the method exceed `memory_budget`, with the ways out.

    Source: Hutchinson's estimator as in New et al. (2022), section 2.1 [new2022]; Hutch++ as
    restated in the pylops documentation of algorithm 1 of [meyer2021hutchpp]; XTrace after the
    abstract of [epperly2024xtrace]; the leave-one-out formulas, their covariance, the Krylov
    deflation shared by tasks and the interval are derived in this package.
    """
    if method not in METHODS:
        near = did_you_mean(method, METHODS)
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}{near}")
    if num_matvecs is not None:
        num_matvecs = whole_number("num_matvecs", num_matvecs)
    rtol, atol = real_number("rtol", rtol), real_number("atol", atol)
    if not (rtol >= 0.0 and atol >= 0.0):
        raise ValueError(f"`rtol` and `atol` must be at least 0, got {rtol} and {atol}")
    if checkpoint is not None and method not in KEPT:
        raise ValueError(
            f"`checkpoint` needs method='auto' or 'hutchinson', got {method!r}, which cannot go on "
            "from within."
        )
    operator, own_key = call.resolve(memory_budget, validate=False)
    key = jax.random.fold_in(own_key, TRACE_STREAM)
    adaptive = rtol > 0.0 or atol > 0.0
    wanted = num_matvecs or (DEFAULT_CAP if adaptive else DEFAULT_MATVECS)
    budget, room = min(wanted, operator.dim), resolve_budget(memory_budget)
    if checkpoint is None and by is None:
        first = min(budget, FIRST_LOOK) if adaptive else budget
        is_exact = budget >= operator.dim
        linearises = not is_exact and deflates(method, first, directions is not None)
        _validate(operator, linearises, not is_exact and method == "hutchinson", room)
    given = None if directions is None else _span(operator, method, directions, budget)
    settings = {"`method`": method, "`num_matvecs`": wanted, "`rtol`": rtol, "`atol`": atol}
    settings["`directions`"] = "none" if given is None else array_digest(given)
    settings["`by`"] = "none"
    sizes: dict[Hashable, int] = {}
    asked = operator
    if by is not None:
        operator, sizes = _blockwise(asked, by, method, budget, room)
        settings["`by`"] = digest([str(operator.blocks)])
        wanted, budget = wanted - LOOKED, budget - LOOKED * (budget < operator.dim)
    _check_memory(operator, method, budget, 0 if given is None else given.shape[0], memory_budget)

    def estimate(kept: KeptRun | None = None) -> TraceEstimate:
        if kept is not None:
            asked.validate()
        run = TraceRun(
            operator,
            method,
            lambda first, goal: estimator_for(operator, key, method, first, room, given, goal),
            wanted if adaptive else budget,
            first_look(operator, method, given),
            rtol,
            atol,
        )
        with progress_bar(budget, "trace", enabled=progress) as shown:
            bar, keep = resumed(run, kept, shown)
            found = run.advance(bar, keep)
        found = replace(found, product_plan=operator.product_plan)
        if by is None:
            return found
        # Forms of blocks have no products to be seen beside: those of the whole tell the rounding.
        assert isinstance(operator, Blockwise)
        rounding = looked_at(operator.inner)
        return replace(found, systematic=np.repeat(rounding, len(sizes)))

    if checkpoint is None:
        found = estimate()
    else:
        with checkpoint_in(checkpoint, "trace", own_key, asked, settings) as folder:
            found = folder.of_task(0, asked, estimate, TraceEstimate)
    found = replace(found, origin=origin_of(own_key, asked))
    if by is None:
        return found
    # With `by` it is a mapping: checkers of types are told so by `verb_by_block`.
    return cast(TraceEstimate, by_name(found, sizes, asked))


def _blockwise(
    operator: AbstractOperator, by: By, method: str, budget: int, room: int
) -> tuple[Blockwise, dict[Hashable, int]]:
    if method not in ("auto", "hutchinson"):
        raise ValueError(
            f"`by` needs method='auto' or 'hutchinson', got {method!r}, whose samples have no "
            "parts."
        )
    if not operator.has_products:
        raise ValueError(
            "`by` needs products H v, which this loss does not have (no reverse mode); leave it "
            "out, or take each block apart with `where`."
        )
    if budget <= LOOKED:
        raise ValueError(
            f"`num_matvecs` must be above {LOOKED} with `by`, which spends as many to see how far "
            f"rounding goes, got {budget}"
        )
    blocks = blocks_of(by, operator.space)
    inner = operator.linearised(PILOT, room // 2)
    inner.validate()  # here, since what is linearised has met the losses on the way
    entries = operator.space.sizes
    sizes = {name: sum(entries[leaf] for leaf in leaves) for name, leaves in blocks.items()}
    return Blockwise(inner, tuple(map(tuple, blocks.values()))), sizes


def _check_memory(
    operator: AbstractOperator, method: str, budget: int, given: int, memory_budget: int | None
) -> None:
    """What the sketching methods hold at once: test vectors, products, basis, its products."""
    tasks = tasks_counted(operator)
    sketch = {"xtrace": budget // 2, "hutch++": budget // 3}.get(method, BLOCK_ROWS) + given
    require_memory(
        (sketch * (1 + 3 * tasks) + 2 * BLOCK_ROWS) * operator.row_bytes,
        resolve_budget(memory_budget),
        f"`trace` by {method!r} with {budget} products for {operator.dim:,} parameters",
        "lower `num_matvecs`, raise `memory_budget`, or use `method='hutchinson'`, which keeps "
        "a few vectors only",
    )


def _span(
    operator: AbstractOperator, method: str, directions: PyTree, budget: int
) -> Float[Array, "r dim"]:
    """The directions that were given, orthonormal, if this method has a use for them."""
    if method not in DEFLATING:
        raise ValueError(
            f"`directions` need a method that deflates ({' or '.join(map(repr, DEFLATING))}), got "
            f"method={method!r}"
        )
    if not operator.has_products:
        raise ValueError(
            "`directions` need products H v, which this loss does not have (no reverse mode); "
            "leave them out."
        )
    rows = orthonormal_span(given_rows("directions", directions, operator.space))
    rows = over_devices(operator.mesh, rows)
    least = rows.shape[0] + beside(operator, method, rows.shape[0])
    if least > budget < operator.dim:
        raise ValueError(
            f"`num_matvecs` must be at least {min(least, operator.dim)} for {rows.shape[0]} "
            "independent `directions`, "
            f"which take as many, and the probes beside them, got {budget}; raise it, or give "
            "fewer."
        )
    return rows


def _validate(operator: AbstractOperator, linearises: bool, looks: bool, room: int) -> None:
    """That the losses are finite and not random, if the run itself does not find out.

    Alone they would be a program of their own to compile. Where a run linearises a gradient, they
    come with it: `Deflated` validates there. With several tasks it is done here, with the gradient
    of one of them, by the program that the run has for a sum of them, or task by task.

    Args:
        linearises: whether the run has a basis, and so linearises.
        looks: whether it linearises for a few products alone, if there are several tasks.
    """
    several = operator.num_tasks is not None
    if not operator.has_products or not (linearises or (several and looks)):
        operator.validate()
    elif several:
        warn_of_tasks(operator)
        operator.task(0).linearised(LOOKS, room // 2).validate()


__all__ = ["TraceEstimate", "trace"]
