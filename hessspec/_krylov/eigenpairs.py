"""The verb `eigenpairs`: a few eigenvalues of H at an end of its spectrum, with their vectors."""

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from hessspec._base.arguments import real_number, whole_number
from hessspec._base.kept import KeptRun
from hessspec._base.memory import require_memory, resolve_budget
from hessspec._base.origin import digest
from hessspec._base.printing import Facts, Printed, with_error
from hessspec._base.progress import ProgressBar, progress_bar
from hessspec._base.records import load_record, save_record
from hessspec._base.space import VectorSpace, leaf_path
from hessspec._base.tasks import TaskAxis, task_labels
from hessspec._krylov.given import orthonormal_span, task_rows
from hessspec._krylov.matrix import dense_pairs, dense_products
from hessspec._krylov.restarted import WIDTH, FoundPairs, Which, search
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import warn_of_tasks
from hessspec._operators.checkpoint import Checkpoint, Folder, checkpoint_in
from hessspec._operators.fingerprint import array_digest
from hessspec._operators.rows import tree_of_rows
from hessspec._operators.verbs import Call, verb
from hessspec._pictures.frame import small_figure
from hessspec._pictures.intervals import Pairs, draw_pairs

_KIND = "EigenPairs"
DEFAULT_COUNT = 10
# The error of a product, in units of eps |H|: no residual can be told to be smaller.
SMALLEST_TOL_UNITS = 16.0
# A matrix of this size is decomposed in seconds.
DENSE_DIM = 2000


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class EigenPairs(Printed, TaskAxis):
    """k eigenvalues of H and their eigenvectors, the most wanted first.

    A loss with T values adds a leading task axis to every array.

    Attributes:
        values: θ = v'Hv, float64, in the units of H, loss / parameter². An eigenvalue lies
            within `residuals` of each.
        vectors: trees of the chosen parameters with a leading axis k (after the task axis),
            orthonormal: vectors of length 1 before they are cast to the dtype of each leaf.
        residuals: |Hv - θv|, measured by a product with each vector, in the units of H.
        converged: whether the residual is at most `tol` times the norm of H.
        tol: the tolerance in force.
        dim: P, the number of chosen parameters.
        num_matvecs: products executed, for all tasks together; one unit is one H_t v.
        product_plan: how products were computed, in words: rows in a block, and how often the
            gradient was linearised.
    """

    values: Float[Array | np.ndarray, "*tasks k"]
    vectors: PyTree
    residuals: Float[Array | np.ndarray, "*tasks k"]
    converged: Bool[Array | np.ndarray, "*tasks k"]
    tol: float = field(metadata={"static": True})
    dim: int = field(metadata={"static": True})
    num_matvecs: int = field(metadata={"static": True})
    product_plan: str = field(default="", metadata={"static": True})

    @property
    def rows(self) -> Float[Array, "*tasks k dim"]:
        """The vectors as flat rows, in the order of `jax.tree.leaves`."""
        lead = np.shape(self.values)
        leaves = jax.tree.leaves(self.vectors)
        dtype = _vector_space(self.vectors, len(lead)).dtype
        return jnp.concatenate(
            [jnp.reshape(leaf, (*lead, -1)).astype(dtype) for leaf in leaves], axis=-1
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        space = _vector_space(self.vectors, np.ndim(self.values))
        arrays = {
            "values": np.asarray(self.values),
            "residuals": np.asarray(self.residuals),
            "converged": np.asarray(self.converged),
            "rows": np.asarray(self.rows),
        }
        meta = {
            "tol": self.tol,
            "dim": self.dim,
            "num_matvecs": self.num_matvecs,
            "product_plan": self.product_plan,
            "leaves": {p: list(s) for p, s in zip(space.paths, space.shapes, strict=True)},
        }
        save_record(path, _KIND, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], like: PyTree) -> "EigenPairs":
        """The record that `save` wrote to `path`.

        Args:
            path: the file.
            like: the parameters, whole or the chosen ones: they give the tree its structure
                and its leaves their dtypes. Leaves that were not chosen become None.

        Raises:
            ValueError: if `like` lacks a chosen leaf or has it with another shape.
        """
        arrays, meta = load_record(path, _KIND)
        return cls(
            values=arrays["values"],
            vectors=_unflatten_like(like, arrays["rows"], meta["leaves"]),
            residuals=arrays["residuals"],
            converged=arrays["converged"],
            tol=meta["tol"],
            dim=meta["dim"],
            num_matvecs=meta["num_matvecs"],
            product_plan=meta.get("product_plan", ""),
        )

    def plot(self, *, ax: Any = None, label: str | None = None) -> Any:
        """Draw the eigenvalues in order, with their residuals; hollow what has not converged.

        Args:
            ax: axes to draw into; new ones by default.
            label: legend entry; with tasks, " 0", " 1", ... are added.

        Returns:
            The axes. A loss with tasks has one colour for each.

        Raises:
            ImportError: without matplotlib.
        """
        singles = [self] if self.num_tasks is None else [*map(self.task, range(self.num_tasks))]
        drawn = [
            Pairs(one.values, one.residuals, one.converged, entry)
            for one, entry in zip(singles, task_labels(label, self.num_tasks), strict=True)
        ]
        return draw_pairs(drawn, ax)

    def _facts(self) -> Facts:
        values, residuals, converged = (
            np.asarray(c).reshape(-1, np.shape(self.values)[-1])
            for c in (self.values, self.residuals, self.converged)
        )
        missed, spent = int((~converged).sum()), f"{self.num_matvecs:,} products"
        rows = []
        for task, columns in enumerate(zip(values, residuals, converged, strict=True)):
            name = "θ" if self.num_tasks is None else f"task {task}, θ"
            rows += [
                (f"{name} {i + 1}", with_error(value, error) + ("" if ok else "  NOT converged"))
                for i, (value, error, ok) in enumerate(zip(*columns, strict=True))
            ]
        told = "all converged" if missed == 0 else f"{missed} NOT converged"
        many = "" if self.num_tasks is None else f" for each of {self.num_tasks} tasks"
        title = f"EigenPairs: {values.shape[1]} of P = {self.dim:,}{many}, {told} "
        return Facts(f"{title}(± residual; {spent})", rows)

    def _draw_small(self) -> Any:
        return small_figure(lambda ax: self.plot(ax=ax))

    def _lead(self) -> tuple[int, ...]:
        return np.shape(self.values)[:-1]


@verb
def eigenpairs(
    call: Call,
    *,
    k: int = DEFAULT_COUNT,
    which: Which = "LM",
    tol: float | None = None,
    max_matvecs: int | None = None,
    start: PyTree = None,
    checkpoint: Folder | None = None,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> EigenPairs:
    """Find k eigenpairs of H: Hv = θv up to the residual that is given with each.

    Block Lanczos from a block of two random starts, with thick restarts: when the basis is full
    it is replaced by its best Ritz vectors and grows on. Eigenvalues of any multiplicity are found
    with all their copies; a further search with a new random block stops when none is left but
    with probability 1e-6. If the basis could hold the whole space, or P is at most 2,000 and P
    products did not suffice, H is formed by P products and the pairs are those of the matrix.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params: tree of float arrays at which H is taken.
        key: the random starts are drawn from it.
        data: one batch (never split), or `Batches` for a data set.
        where: chooses the parameters that H is taken in, as for `HessianOperator`.
        k: number of pairs, at most P.
        which: "LM" for the largest |θ|, in falling order of it; "LA" for the largest θ, falling;
            "SA" for the smallest θ, rising; "BE" for both ends, high and low in turns.
        tol: residual to reach, relative to the norm of H; by default eps^(2/3), 2e-5 in float32
            and 4e-11 in float64. An isolated eigenvalue is then good to about tol². Raised to
            16 eps, the error of a product, if smaller.
        max_matvecs: products to spend at most, for each task; by default 40 (k + 10). Pairs that
            have not converged by then are returned as they are, and flagged. An end inside a
            dense bulk ("SA" of many networks) takes far more than outliers do: ask for fewer
            pairs, a larger `tol`, or raise the budget.
        start: vectors along which the first block is to lie, such as the `vectors` of an epoch
            before: a tree like the chosen parameters with leading axes on every leaf (of tasks
            and vectors, or of vectors for all tasks), flat rows of shape (n, P), or a list of
            such. Half of the block stays random, so that what they have not seen is found too.
        checkpoint: a folder of this run's own, in which it is kept on its way: called again with
            the same arguments, a run that was killed goes on from the last block written, and ends
            with the same numbers (on the same devices to the last bit); one that is over is read.
            Takes the bytes of the basis on disk, those of two bases for a moment at a restart, at
            most a twentieth of the time, and at the end the bytes of the vectors.
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes that the basis may take, by default set from the device. It holds
            max(3 k, k + 48) vectors or, with more restarts and products, as few as k + 15.

    Returns:
        The pairs, with a leading task axis if the loss has one. The residuals are measured by
        one more product with each vector, which is counted.

    Raises:
        ValueError: if `k` exceeds P, `start` has other shapes or is not finite, `max_matvecs` is
            too small to return k pairs, an option is unknown, the loss is not finite or is random,
            a product is not finite or not symmetric, or `checkpoint` holds a run of another loss,
            point, data, key or setting.
        TypeError: for an argument that is no number where one is needed, or a call that mixes the
            two forms.
        RuntimeError: if another run works in the folder `checkpoint`.
        OSError: if nothing can be written there; what was kept before is there still.
        MemoryError: if even the smallest basis exceeds `memory_budget`.

    Cost: at most `max_matvecs` products for each task; isolated outliers take a few per pair,
    dense parts of a spectrum many more. `num_matvecs` says how many were spent.

    Source: derived here (block Rayleigh-Ritz with thick restarts, residuals measured, copies found
    by new random blocks); checked against dense matrices in
    `tests/hessspec/krylov/test_eigenpairs.py`.
    """
    if which not in get_args(Which):
        raise ValueError(
            '`which` must be "LA" (the largest eigenvalues), "SA" (the smallest), "LM" (largest in '
            f'magnitude) or "BE" (both ends), got {which!r}.'
        )
    if tol is not None and not 0.0 <= real_number("tol", tol) < 1.0:
        raise ValueError(f"`tol` must lie in [0, 1), relative to the norm of H, got {tol}")
    k = whole_number("k", k, least=None)
    if max_matvecs is not None:
        max_matvecs = whole_number("max_matvecs", max_matvecs)
    operator, key = call.resolve(memory_budget, validate=False)
    warn_of_tasks(operator)
    dim, eps = operator.dim, float(jnp.finfo(operator.dtype).eps)
    if not 1 <= k <= dim:
        raise ValueError(
            f"`k` must lie in [1, {dim}] for {dim} chosen parameters, got {k}; "
            "lower `k` or let `where` choose more."
        )
    wanted = eps ** (2 / 3) if tol is None else float(tol)
    goal = max(wanted, SMALLEST_TOL_UNITS * eps)
    tasks = 1 if operator.num_tasks is None else operator.num_tasks
    limit = 40 * (k + 10) if max_matvecs is None else max_matvecs
    plan = _Plan.of(k, dim, limit, tasks, operator.row_bytes, resolve_budget(memory_budget))
    starts = _starts(start, operator)

    asked = {"`k`": k, "`which`": which, "`tol`": goal, "`max_matvecs`": limit}
    folder: Checkpoint | None = None

    def from_matrix(scalar: AbstractOperator, bar: ProgressBar, kept: KeptRun | None) -> FoundPairs:
        if kept is None:
            scalar.validate()
        found = dense_pairs(scalar, k, which, bar, kept)
        return replace(found, product_plan=scalar.product_plan)

    def searched(
        scalar: AbstractOperator, first: Array | None, bar: ProgressBar, kept: KeptRun | None
    ) -> FoundPairs:
        assert plan.capacity is not None
        inner = scalar.linearised(WIDTH, plan.room)
        inner.validate()  # here, since what is linearised has met the losses on the way
        limits = plan.search_limit, plan.capacity
        found = search(inner, key, k, which, goal, *limits, bar, first, kept)
        return replace(found, product_plan=inner.product_plan)

    def once(
        name: str, scalar: AbstractOperator, compute: Callable[[KeptRun | None], FoundPairs]
    ) -> FoundPairs:
        return compute(None) if folder is None else folder.of_run(name, scalar, compute, FoundPairs)

    def of(task: int, scalar: AbstractOperator, bar: ProgressBar) -> FoundPairs:
        if plan.capacity is None:
            return once(f"matrix{task}", scalar, partial(from_matrix, scalar, bar))
        found = once(f"run{task}", scalar, partial(searched, scalar, starts[task], bar))
        if plan.may_be_dense and np.any(found.residuals > goal * found.norm):
            exact = once(f"matrix{task}", scalar, partial(from_matrix, scalar, bar))
            return replace(exact, num_matvecs=exact.num_matvecs + found.num_matvecs)
        return found

    with ExitStack() as held:
        if checkpoint is not None:
            given = [array_digest(first) for first in starts if first is not None]
            asked["`start`"] = digest(given) if given else "none"
            opened = checkpoint_in(checkpoint, "eigenpairs", key, operator, asked)
            folder = held.enter_context(opened)
        bar = held.enter_context(progress_bar(plan.products(tasks), "eigenpairs", enabled=progress))
        lead = () if operator.num_tasks is None else (tasks,)
        scalars = [operator.task(t) for t in range(tasks)] if lead else [operator]
        found = [of(task, scalar, bar) for task, scalar in enumerate(scalars)]
    return replace(_record(found, operator, goal, lead), product_plan=found[0].product_plan)


def _starts(start: PyTree, operator: AbstractOperator) -> list[Array | None]:
    """The given starts of each task, orthonormal."""
    tasks = operator.num_tasks
    if start is None:
        return [None] * (tasks or 1)
    return [orthonormal_span(rows) for rows in task_rows("start", start, operator.space, tasks)]


@dataclass(frozen=True)
class _Plan:
    """How the pairs will be looked for.

    Attributes:
        capacity: vectors that the basis may hold; None where the matrix is formed at once.
        search_limit: products for the search.
        may_be_dense: whether the matrix may be formed where the search does not succeed.
        dim: P.
        room: bytes left for what products keep.
    """

    capacity: int | None
    search_limit: int
    may_be_dense: bool
    dim: int
    room: int

    @classmethod
    def of(cls, k: int, dim: int, limit: int, tasks: int, row: int, budget: int) -> "_Plan":
        count = WIDTH * math.ceil(k / WIDTH)
        least, usual = count + 3 * WIDTH, max(3 * count, count + 48)
        at_search, at_dense = 2 * count + 4 * WIDTH, dense_products(dim)
        if limit < min(at_dense, at_search):
            raise ValueError(
                f"`max_matvecs` must be at least {min(at_dense, at_search)} for {k} pairs of "
                f"{dim} parameters and their residuals, got {limit}; raise it or lower `k`."
            )
        beside = tasks * k + 8 * WIDTH
        fits = budget // row - beside
        dense = at_dense <= limit and dim <= usual + 2 * WIDTH
        require_memory(
            ((dim if dense else least) + beside) * row,
            budget,
            f"a search for {k} eigenpairs of {dim:,} parameters",
            "lower `k`, raise `memory_budget`, or let `where` choose fewer parameters",
        )
        if dense:
            return cls(None, 0, True, dim, 0)
        may_be_dense = dim <= min(fits, DENSE_DIM) and limit - at_dense >= at_search
        search_limit = min(max(dim, at_search), limit - at_dense) if may_be_dense else limit
        capacity = min(usual, fits, search_limit - count, dim - 2 * WIDTH)
        room = budget - (capacity + beside) * row
        return cls(WIDTH * (capacity // WIDTH), search_limit, may_be_dense, dim, room)

    def products(self, tasks: int) -> int | None:
        """Products in all, if that is known."""
        return None if self.capacity is not None else tasks * dense_products(self.dim)


def _record(
    found: list[FoundPairs], operator: AbstractOperator, tol: float, lead: tuple[int, ...]
) -> EigenPairs:
    def joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.stack(parts) if lead else parts[0]

    # Those of one task may come from its whole matrix, where another's lie over a mesh.
    widest = max(f.rows.shape[1] for f in found)
    filled = [jnp.pad(f.rows, ((0, 0), (0, widest - f.rows.shape[1]))) for f in found]
    rows = jnp.stack(filled) if lead else found[0].rows
    return EigenPairs(
        values=joined([f.values for f in found]),
        vectors=tree_of_rows(operator, rows),
        residuals=joined([f.residuals for f in found]),
        converged=joined([f.residuals <= tol * f.norm for f in found]),
        tol=tol,
        dim=operator.dim,
        num_matvecs=sum(f.num_matvecs for f in found),
    )


def _vector_space(vectors: PyTree, num_lead: int) -> VectorSpace:
    """The space of the trees without their leading axes."""
    return VectorSpace.of(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[num_lead:], leaf.dtype), vectors)
    )


def _unflatten_like(
    like: PyTree, rows: Float[np.ndarray, "*lead dim"], leaves: dict[str, list[int]]
) -> PyTree:
    """`rows` split into the named leaves, placed in the tree `like`; None elsewhere."""
    sizes = [math.prod(shape) for shape in leaves.values()]
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=-1)
    known = dict(zip(leaves, parts, strict=True))

    def place(path: tuple[Any, ...], leaf: Any) -> Array | None:
        name = leaf_path(path)
        if name not in known:
            return None
        if list(np.shape(leaf)) != leaves[name]:
            raise ValueError(
                f"`like` must have the shapes of the saved vectors; expected {leaves[name]} at "
                f"`{name}`, got {list(np.shape(leaf))}"
            )
        part = known.pop(name).reshape(*rows.shape[:-1], *leaves[name])
        return jnp.asarray(part).astype(leaf.dtype)

    tree = jax.tree.map_with_path(place, like)
    if known:
        raise ValueError(
            f"`like` must hold every leaf of the saved vectors, but lacks {', '.join(known)}"
        )
    return tree


__all__ = ["EigenPairs", "eigenpairs"]
