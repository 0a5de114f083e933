"""The verb `diagonal`: the diagonal of H as a tree of the chosen parameters, with errors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from hessspec._base.arguments import whole_number
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.meshes import over_devices
from hessspec._base.printing import Facts, Printed, counted, listed, with_error
from hessspec._base.probes import rademacher_on
from hessspec._base.progress import ProgressBar, progress_bar
from hessspec._base.records import load_record, save_record
from hessspec._base.tasks import TaskAxis
from hessspec._krylov.block_basis import (
    DIAGONAL_SHARE,
    PILOT,
    WIDTH,
    KrylovBasis,
    diagonal_share,
    growth_pays,
    off_diagonal,
)
from hessspec._krylov.blocks import combine, row_forms
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.plan import BLOCK_ROWS
from hessspec._operators.rows import tree_of_rows
from hessspec._operators.symmetry import Symmetry
from hessspec._operators.verbs import Call, verb
from hessspec._pictures.intervals import draw_leaves
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import SURE, exact_diagonal, guarded_products
from hessspec._trace.hutchpp import SKETCH_STREAM
from hessspec._trace.layers import layers

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
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> DiagonalEstimate:
    r"""Estimate diag H from products with random signs, the dominant space taken out first.

    For signs v, E[v ∘ Hv] = diag H, and entry i has variance Σ_{j≠i} H_ij² a sample: a diagonal
    H is exact from one product. With an orthonormal basis Q, Π = I - QᵀQ and T = Q H Qᵀ,

        diag H = 2 Σᵢ qᵢ ∘ Hqᵢ - Σᵢⱼ Tᵢⱼ qᵢ ∘ qⱼ + E[v ∘ Π H Π v],

    so that only what Q leaves of H is sampled. Q is a block Krylov basis; it grows while the fall
    of ‖ΠHΠ‖²_F, measured with eight probes, is worth more than the samples it costs. There is no
    Q with fewer than 24 products, or where the diagonal makes up nine tenths of ‖H‖²_F.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params: tree of float arrays at which H is taken.
        key: probe i is drawn with `fold_in(key, i)`.
        data: one batch (never split), or `Batches` for a data set.
        where: chooses the parameters that H is taken in, as for `HessianOperator`.
        num_matvecs: products with each task's H, at least 1. From P on the answer is exact, by
            P quadratic forms.
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes for data and vectors; by default set from the device. The basis
            stops growing where it ends.

    Returns:
        A `DiagonalEstimate` with trees like the chosen parameters, in loss / parameter².

    Raises:
        ValueError: if `num_matvecs` is below 1, or products are not finite or not symmetric.
        TypeError: if `num_matvecs` is no whole number, or for a call that mixes the two forms.
        MemoryError: if the vectors of the estimate exceed `memory_budget`, with the ways out.

    Source: derived here; checked against dense Hessians in `tests/hessspec/trace/test_diagonal.py`.
    """
    num_matvecs = whole_number("num_matvecs", num_matvecs)
    operator, key = call.resolve(memory_budget)
    tasks = [operator] if operator.num_tasks is None else _tasks(operator)
    budget = min(num_matvecs, operator.dim)
    row = operator.dim * operator.dtype.itemsize
    held = _VECTORS * len(tasks) + 4 * BLOCK_ROWS
    allowed = resolve_budget(memory_budget)
    require_memory(
        held * row,
        allowed,
        f"`diagonal` for {operator.dim:,} parameters and {len(tasks)} tasks",
        "raise `memory_budget`, or take the tasks one by one",
    )
    limit = (allowed // row - held) // len(tasks)  # rows that each task's basis may have
    with progress_bar(budget * len(tasks), "diagonal", enabled=progress) as bar:
        if budget >= operator.dim:
            found = _exact(operator, bar)
        else:
            runs = [_Run(task, key, limit) for task in tasks]
            for run in runs:
                run.advance(budget, bar)
            found = _estimate(operator, runs)
    return replace(found, product_plan=operator.product_plan)


def _tasks(operator: AbstractOperator) -> list[AbstractOperator]:
    return [operator.task(t) for t in range(operator.num_tasks or 0)]


class _DiagonalBasis(KrylovBasis):
    """A Krylov basis that keeps Σ qᵢ ∘ Hqᵢ."""

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, symmetry: Symmetry) -> None:
        super().__init__(operator, key, symmetry)
        self.crossed = over_devices(operator.mesh, jnp.zeros(operator.dim, operator.dtype))

    def _observe(self, block: Float[Array, "k dim"], products: Float[Array, "k dim"]) -> None:
        self.crossed = _add_products(self.crossed, block, products)

    def known(self) -> Float[Array, " dim"]:
        """diag of QᵀQH + HQᵀQ - QᵀTQ, in the units of H."""
        total = 2 * self.crossed
        for first in range(0, self.rank, BLOCK_ROWS):
            rows = self.basis.rows(first, BLOCK_ROWS)
            images = self.basis.combine(self._columns(first))
            total = _add_products(total, -rows, images)
        return total * jnp.asarray(self.scale, total.dtype)

    def _columns(self, first: int) -> Float[np.ndarray, "rank 16"]:
        columns = self.compressed[:, first : first + BLOCK_ROWS]
        return np.pad(columns, ((0, 0), (0, BLOCK_ROWS - columns.shape[1])))


class _Run:
    """The diagonal of one task's H."""

    def __init__(self, operator: AbstractOperator, key: PRNGKeyArray, max_rank: int) -> None:
        self.operator, self.key, self.max_rank = operator, key, max_rank
        self.symmetry = Symmetry(operator, is_stated=False)  # the entries' errors say nothing of it
        sketch_key = jax.random.fold_in(key, SKETCH_STREAM)
        self.basis = _DiagonalBasis(operator, sketch_key, self.symmetry)
        zeros = over_devices(operator.mesh, jnp.zeros(operator.dim, operator.dtype))
        self.count, self.mean, self.spread = 0, zeros, zeros
        self.samples: list[np.ndarray] = []
        self.drawn = 0
        self.spent = 0
        self.asymmetry = 0.0

    def advance(self, budget: int, bar: ProgressBar) -> None:
        """Spend `budget` products."""
        pilot = self._probes(min(PILOT, budget))
        found = guarded_products(self.operator, pilot, self.symmetry)
        rows, forms = found.rows * jnp.asarray(found.scale, pilot.dtype), found.forms * found.scale
        self.asymmetry = found.asymmetry
        self._spend(pilot.shape[0], bar)
        variances = [(0, off_diagonal(forms))]
        if budget >= 3 * PILOT and diagonal_share(pilot, rows) < DIAGONAL_SHARE:
            size = found.size * found.scale * self.operator.dim**0.5
            largest = max(float(np.abs(forms).max()), size)
            rounding = 8 * np.finfo(self.operator.dtype).eps * largest
            while (
                not self.basis.full
                and self.basis.rank + WIDTH <= self.max_rank
                and variances[-1][1] > rounding**2
                and growth_pays(variances, budget - self.spent, PILOT)
            ):
                self._spend(self.basis.grow(), bar)
                variances.append((self.basis.rank, off_diagonal(self._left(pilot, rows, forms))))
        self._add(pilot, self._outside(pilot, rows))
        while (more := min(PILOT, budget - self.spent)) > 0:
            probes = self._probes(more)
            norm = self.basis.size * self.basis.scale
            left = self.basis.basis.without(probes)
            images, scale, *_ = guarded_products(self.operator, left, self.symmetry, norm)
            images = self.basis.basis.without(images) * jnp.asarray(scale, images.dtype)
            self._spend(more, bar)
            self._add(probes, images)

    @property
    def rounding(self) -> float:
        """How far rounding may have moved the sum of the diagonal."""
        return SURE * max(self.asymmetry, self.basis.asymmetry)

    def _spend(self, count: int, bar: ProgressBar) -> None:
        self.spent += count
        bar.update(count)

    def _probes(self, count: int) -> Float[Array, "k dim"]:
        indices = jnp.arange(self.drawn, self.drawn + count)
        self.drawn += count
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        return rademacher_on(self.key, indices, dim, dtype, self.operator.mesh)

    def _left(
        self, pilot: Float[Array, "k dim"], rows: Float[Array, "k dim"], forms: np.ndarray
    ) -> Float[np.ndarray, "k k"]:
        """vᵢᵀΠHΠvⱼ of the pilot probes, without a further product."""
        inside = self.basis.basis.components(pilot)
        cross = inside.T @ self.basis.basis.components(rows)
        compressed = inside.T @ self.basis.compressed @ inside
        return forms - cross - cross.T + compressed * self.basis.scale

    def _outside(
        self, pilot: Float[Array, "k dim"], rows: Float[Array, "k dim"]
    ) -> Float[Array, "k dim"]:
        """ΠHΠv of the pilot probes: ΠHv less NᵀB(Qv), the part of ΠHQᵀQv that leaves the span."""
        outside = self.basis.basis.without(rows)
        last = self.basis.coupling.shape[1]
        if last == 0:
            return outside
        inside = self.basis.basis.components(pilot)[-last:]
        weights = (self.basis.coupling @ inside).T * self.basis.scale
        return outside - combine(jnp.asarray(weights, rows.dtype), self.basis.next)

    def _add(self, probes: Float[Array, "k dim"], images: Float[Array, "k dim"]) -> None:
        self.samples.append(np.asarray(row_forms(images, probes), np.float64))
        count = jnp.asarray(self.count, probes.dtype)
        self.mean, self.spread = _updated(count, self.mean, self.spread, probes, images)
        self.count += probes.shape[0]

    def result(self) -> tuple[Array, Array]:
        """The diagonal and the error of each entry."""
        value = self.mean + self.basis.known() if self.basis.rank else self.mean
        if self.count < 2:
            return value, jnp.full_like(value, jnp.inf)
        pairs = jnp.asarray(self.count * (self.count - 1), value.dtype)
        return value, jnp.sqrt(self.spread / pairs)


@jax.jit
def _updated(
    count: Float[Array, ""],
    mean: Float[Array, " dim"],
    spread: Float[Array, " dim"],
    probes: Float[Array, "k dim"],
    images: Float[Array, "k dim"],
) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """Running mean of v ∘ w and sum of squared deviations, a block more (Chan's update)."""
    samples = probes * images
    k = jnp.asarray(samples.shape[0], samples.dtype)
    block = samples.mean(axis=0)
    within = jnp.sum((samples - block[None]) ** 2, axis=0)
    shift = block - mean
    total = count + k
    return mean + shift * (k / total), spread + within + shift**2 * (count * k / total)


@jax.jit
def _add_products(
    total: Float[Array, " dim"], left: Float[Array, "k dim"], right: Float[Array, "k dim"]
) -> Float[Array, " dim"]:
    return total + jnp.einsum("kp,kp->p", left, right, precision="highest")


def _estimate(operator: AbstractOperator, runs: list[_Run]) -> DiagonalEstimate:
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
        method=method,
        dim=operator.dim,
        num_matvecs=num_matvecs,
        matvecs_per_sample=float(len(runs)),
    )
    return DiagonalEstimate(
        _tree(operator, values),
        _tree(operator, errors),
        trace,
        num_samples=num_samples,
        num_matvecs=num_matvecs,
        method=method,
    )


def _exact(operator: AbstractOperator, bar: ProgressBar) -> DiagonalEstimate:
    """H_ii = eᵢᵀHeᵢ: P quadratic forms for each task."""
    found = exact_diagonal(operator, bar)
    values = [jnp.asarray(row, operator.dtype) for row in np.atleast_2d(found.entries)]
    common = {"method": "exact", "num_matvecs": found.num_matvecs}
    trace = TraceEstimate.from_samples(
        np.zeros((*found.entries.shape[:-1], 0)),
        exact=found.entries.sum(axis=-1),
        systematic=found.systematic,
        dim=operator.dim,
        **common,
    )
    zeros = [jnp.zeros_like(value) for value in values]
    return DiagonalEstimate(_tree(operator, values), _tree(operator, zeros), trace, **common)


def _tree(operator: AbstractOperator, rows: Sequence[Array]) -> PyTree:
    return tree_of_rows(operator, rows[0] if operator.num_tasks is None else jnp.stack(rows))
