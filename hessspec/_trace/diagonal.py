"""The verb `diagonal`: the diagonal of H as a tree of the chosen parameters, with errors."""

import os
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import whole_number
from hessspec._base.kept import Keep, KeptRun, Long, resumed
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.printing import Facts, Printed, counted, listed, with_error
from hessspec._base.progress import ProgressBar, progress_bar
from hessspec._base.records import load_record, save_record
from hessspec._base.tasks import TaskAxis
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import warn_of_tasks
from hessspec._operators.checkpoint import Folder, checkpoint_in
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.rows import tree_of_rows
from hessspec._operators.verbs import Call, verb
from hessspec._pictures.intervals import draw_leaves
from hessspec._trace.diagonal_run import DiagonalRun, Run
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.exact import ExactRun
from hessspec._trace.layers import layers
from hessspec._trace.saved import parts_of, restored

DEFAULT_MATVECS = 64
_KIND = "DiagonalEstimate"
_VECTORS = 6  # of each task: sums, the next block and the answers


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class DiagonalEstimate(Printed, TaskAxis):
    """An estimate of diag H, entry by entry, with the error of each entry.

    Attributes:
        value: a tree like the chosen parameters (with a leading task axis for T tasks), in the
            units of H.
        standard_error: the same shape; infinite with one sample, 0 where nothing was sampled.
        trace: the sum of the diagonal from the same products, with its own error, which is not
            the sum of the entries' errors.
        num_samples: samples averaged for each entry; 0 if the diagonal is exact.
        num_matvecs: products executed; one unit is one H_t v or vᵀH_t v.
        method: how it was computed.
        product_plan: how products were computed, in words: rows in a block, and how often the
            gradient was linearised.
    """

    value: PyTree
    standard_error: PyTree
    trace: TraceEstimate
    num_samples: int = field(default=0, metadata={"static": True})
    num_matvecs: int = field(default=0, metadata={"static": True})
    method: str = field(default="auto", metadata={"static": True})
    product_plan: str = field(default="", metadata={"static": True})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle); the trace is saved by its own `save`."""
        arrays = {}
        for name in ("value", "standard_error"):
            leaves = jax.tree.leaves(getattr(self, name))
            arrays |= {f"{name}.{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        arrays |= {"samples": np.asarray(self.trace.samples), "exact": np.asarray(self.trace.exact)}
        if self.trace.systematic is not None:
            arrays["systematic"] = np.asarray(self.trace.systematic)
        meta = {
            "num_samples": self.num_samples,
            "num_matvecs": self.num_matvecs,
            "method": self.method,
            "product_plan": self.product_plan,
            "trace_method": self.trace.method,
            "dim": self.trace.dim,
            "matvecs_per_sample": self.trace.matvecs_per_sample,
        }
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], like: PyTree) -> "DiagonalEstimate":
        """The record that `save` wrote to `path`, as trees with the structure of `like`.

        Raises:
            ValueError: if `like` has another number of leaves than the saved trees.
        """
        arrays, meta = load_record(path, _KIND)
        treedef = jax.tree.structure(like)
        saved = sum(name.startswith("value.") for name in arrays)
        if saved != treedef.num_leaves:
            raise ValueError(
                f"`like` must have the {saved} leaves of the saved diagonal, got "
                f"{treedef.num_leaves}; pass the parameters that were chosen by `where`."
            )
        trees = [
            jax.tree.unflatten(treedef, [jnp.asarray(arrays[f"{name}.{i}"]) for i in range(saved)])
            for name in ("value", "standard_error")
        ]
        trace = TraceEstimate.from_samples(
            arrays["samples"],
            exact=arrays["exact"],
            systematic=arrays.get("systematic"),
            method=meta["trace_method"],
            dim=meta["dim"],
            num_matvecs=meta["num_matvecs"],
            matvecs_per_sample=meta["matvecs_per_sample"],
        )
        counts = {name: meta[name] for name in ("num_samples", "num_matvecs")}
        plan = meta.get("product_plan", "")
        return cls(trees[0], trees[1], trace, method=meta["method"], product_plan=plan, **counts)

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the entries leaf by leaf: their mean as a point, nine tenths of them as a bar.

        Args:
            ax: axes to draw into; new ones by default.

        Returns:
            The axes. A loss with tasks has one colour for each.

        Raises:
            ImportError: without matplotlib.
        """
        return draw_leaves(layers(self.value, self.num_tasks), ax)

    def _facts(self) -> Facts:
        trace = self.trace
        pairs = zip(np.ravel(trace.value), np.ravel(trace.standard_error), strict=True)
        total = listed((with_error(*pair) for pair in pairs), bool(self._lead()))
        how = "" if self.num_samples == 0 else f"{self.num_samples} samples, "
        leaves = jax.tree.leaves(self.value)
        size = sum(int(np.prod(np.shape(leaf)[len(self._lead()) :])) for leaf in leaves)
        places = counted(len(leaves), "leaf", "leaves")
        rows = [
            ("entries", f"{size:,} in {places}, each with a standard error"),
            ("their sum", f"tr H = {total}"),
            ("method", f"{self.method}: {how}{self.num_matvecs:,} products"),
        ]
        many = "" if self.num_tasks is None else f" of {self.num_tasks} tasks"
        return Facts(f"DiagonalEstimate{many}", rows)

    def _lead(self) -> tuple[int, ...]:
        return self.trace._lead()

    def _task(self, index: int) -> Self:
        return replace(super()._task(index), trace=self.trace.task(index))


@verb
def diagonal(
    call: Call,
    *,
    num_matvecs: int = DEFAULT_MATVECS,
    checkpoint: Folder | None = None,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> DiagonalEstimate:
    r"""Estimate diag H from products with random signs, the dominant space taken out first.

    For signs v, E[v ∘ Hv] = diag H, and entry i has variance Σ_{j≠i} H_ij² a sample: a diagonal
    H is exact from one product. With an orthonormal basis Q, Π = I - QᵀQ and T = Q H Qᵀ,

        diag H = 2 Σᵢ qᵢ ∘ Hqᵢ - Σᵢⱼ Tᵢⱼ qᵢ ∘ qⱼ + E[v ∘ Π H Π v],

    so that only what Q leaves of H is sampled. Q is a block Krylov basis; it grows while the fall
    of ‖ΠHΠ‖²_F, measured with eight probes, is worth more than the samples it costs. There is no
    Q with fewer than 24 products, or where the diagonal makes up nine tenths of ‖H‖²_F. Groups of
    batches have a v of their own where the first samples find that this pays, for all tasks alike.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params: tree of float arrays at which H is taken.
        key: probe i is drawn with `fold_in(key, i)`.
        data: one batch (never split), or `Batches` for a data set.
        where: chooses the parameters that H is taken in, as for `HessianOperator`.
        num_matvecs: products with each task's H, at least 1. From P on the answer is exact, by
            P quadratic forms.
        checkpoint: a folder of this run's own, in which it is kept on its way: called again with
            the same arguments, a run that was killed goes on from the last block of products
            written, and ends with the same numbers (on the same devices to the last bit); one that
            is over is read. Takes the bytes of the bases on disk, at most a twentieth of the time,
            and at the end those of the answer.
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes for data and vectors; by default set from the device. The basis
            stops growing where it ends.

    Returns:
        A `DiagonalEstimate` with trees like the chosen parameters, in loss / parameter².

    Raises:
        ValueError: if `num_matvecs` is below 1, products are not finite or not symmetric, or
            `checkpoint` holds a run of another loss, point, data, key or setting.
        TypeError: if `num_matvecs` is no whole number, or for a call that mixes the two forms.
        RuntimeError: if another run works in the folder `checkpoint`.
        OSError: if nothing can be written there; what was kept before is there still.
        MemoryError: if the vectors of the estimate exceed `memory_budget`, with the ways out.

    Source: derived here; checked against dense Hessians in `tests/hessspec/trace/test_diagonal.py`.
    """
    num_matvecs = whole_number("num_matvecs", num_matvecs)
    operator, key = call.resolve(memory_budget, validate=False)
    warn_of_tasks(operator)
    tasks = [operator] if operator.num_tasks is None else _tasks(operator)
    budget = min(num_matvecs, operator.dim)
    row = operator.row_bytes
    held = _VECTORS * len(tasks) + 4 * BLOCK_ROWS
    allowed = resolve_budget(memory_budget)
    require_memory(
        held * row,
        allowed,
        f"`diagonal` for {operator.dim:,} parameters and {len(tasks)} tasks",
        "raise `memory_budget`, or take the tasks one by one",
    )
    room = allowed - held * row

    def compute(kept: KeptRun | None = None) -> _Found:
        with progress_bar(budget * len(tasks), "diagonal", enabled=progress) as shown:
            if budget >= operator.dim:
                if kept is None:
                    operator.validate()
                exact = ExactRun(operator)
                return _exact(exact, *resumed(exact, kept, shown))
            run = DiagonalRun([Run(task, key, room, len(tasks)) for task in tasks])
            run.advance(budget, *resumed(run, kept, shown))
            return _estimate(operator, run.runs)

    if checkpoint is None:
        found = compute()
    else:
        asked = {"`num_matvecs`": num_matvecs}
        with checkpoint_in(checkpoint, "diagonal", key, operator, asked) as folder:
            found = folder.of_run("run0", operator, compute, _Found)
    counts = {name: getattr(found, name) for name in ("num_samples", "num_matvecs", "method")}
    values, errors = (_tree(operator, rows) for rows in (found.values, found.errors))
    plan = operator.product_plan
    return DiagonalEstimate(values, errors, found.trace, product_plan=plan, **counts)


class _Found(NamedTuple):
    """A diagonal as rows, one for each task, and what else is told of it."""

    values: Float[Array, "T dim"]
    errors: Float[Array, "T dim"]
    trace: TraceEstimate
    num_samples: int
    num_matvecs: int
    method: str

    def state(self) -> dict[str, Any]:
        """As a run that is over is kept on disk."""
        arrays, meta = parts_of(self.trace, "")
        long = {"values": Long(lambda: self.values), "errors": Long(lambda: self.errors)}
        return {**self._asdict(), **long, "trace": {"arrays": arrays, "meta": meta}}

    @classmethod
    def read(cls, state: dict[str, Any]) -> "_Found":
        """What `state` returned."""
        trace = restored(TraceEstimate, state["trace"]["arrays"], "", state["trace"]["meta"])
        long = {name: state[name].rows() for name in ("values", "errors")}
        return cls(**{**state, **long, "trace": trace})


def _tasks(operator: AbstractOperator) -> list[AbstractOperator]:
    return [operator.task(t) for t in range(operator.num_tasks or 0)]


def _estimate(operator: AbstractOperator, runs: list[Run]) -> _Found:
    values, errors = zip(*(run.result() for run in runs), strict=True)
    # Each task's basis has its own size, so budgets leave them different numbers of samples; the
    # first of them belong to the same probes.
    num_samples = min(run.count for run in runs)
    samples = np.stack([np.concatenate(run.samples)[:num_samples] for run in runs])
    exact = np.array([np.trace(run.basis.compressed) * run.basis.scale for run in runs])
    num_matvecs = sum(run.spent + run.symmetry.num_matvecs for run in runs)
    method = "deflated" if any(run.basis.rank for run in runs) else "hutchinson"
    scalar = operator.num_tasks is None
    trace = TraceEstimate.from_samples(
        samples[0] if scalar else samples,
        exact=exact[0] if scalar else exact,
        systematic=np.squeeze([run.rounding for run in runs], 0 if scalar else ()),
        probes=runs[0].strata.words,
        method=method,
        dim=operator.dim,
        num_matvecs=num_matvecs,
        matvecs_per_sample=float(len(runs)),
    )
    rows = jnp.stack(values), jnp.stack(errors)
    return _Found(*rows, trace, num_samples, num_matvecs, method)


def _exact(run: ExactRun, bar: ProgressBar, keep: Keep) -> _Found:
    """H_ii = eᵢᵀHeᵢ: P quadratic forms for each task."""
    operator, found = run.operator, run.advance(bar, keep)
    values = jnp.asarray(np.atleast_2d(found.entries), operator.dtype)
    common = {"method": "exact", "num_matvecs": found.num_matvecs}
    trace = TraceEstimate.from_samples(
        np.zeros((*found.entries.shape[:-1], 0)),
        exact=found.entries.sum(axis=-1),
        systematic=found.systematic,
        dim=operator.dim,
        **common,
    )
    return _Found(values, jnp.zeros_like(values), trace, num_samples=0, **common)


def _tree(operator: AbstractOperator, rows: Float[Array, "T dim"]) -> PyTree:
    return tree_of_rows(operator, rows[0] if operator.num_tasks is None else rows)
