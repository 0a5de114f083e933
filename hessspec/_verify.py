"""The verb `verify`: on a small operator, every estimator against the dense truth."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from hessspec._base.checks import check_symmetric
from hessspec._base.intervals import mean_interval
from hessspec._krylov.eigenpairs import EigenPairs, eigenpairs
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.verbs import Call, verb
from hessspec._spectrum.density import density
from hessspec._spectrum.record import SpectralDensity
from hessspec._trace.diagonal import DiagonalEstimate, diagonal
from hessspec._trace.estimate import MIN_RELIABLE_SAMPLES, TraceEstimate
from hessspec._trace.verb import METHODS, trace

MAX_DIM = 2000
# Each check fails a correct estimate once in a thousand keys, or less.
LEVEL = 0.999
# Several probes, so that their spread can be told; few steps, so that the rule is no dense one.
_PROBES, _STEPS, _MATVECS, _PAIRS = 8, 30, 64, 6
# Hutch++ spends two thirds of its products on its basis.
_FOR_SAMPLES = 3 * MIN_RELIABLE_SAMPLES
_CDF_POINTS = 200
_ROUNDING_UNITS = 64.0


@dataclass(frozen=True)
class Check:
    """One number, estimated and true.

    Attributes:
        quantity: what it is.
        truth: from the dense matrix in float64.
        estimate: what the estimator says.
        error: the error that the estimator states: a standard error, half the width of a band,
            or a residual.
        z: (estimate - truth) / error, with rounding added to the error.
        ok: whether the truth lies within what the estimator promises.
    """

    quantity: str
    truth: float
    estimate: float
    error: float
    z: float
    ok: bool


@dataclass(frozen=True, repr=False)
class Verification:
    """What `verify` found; prints as a table.

    Attributes:
        checks: one for each quantity, task after task.
        skipped: quantities that were not checked, each with the reason.
        dim: P of the operator.
        num_matvecs: products executed, those for the dense matrix included.
    """

    checks: tuple[Check, ...]
    dim: int
    num_matvecs: int
    skipped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        width = max(len(check.quantity) for check in self.checks)
        head = f"{'quantity':<{width}}  {'truth':>12}  {'estimate':>12}  {'error':>9}  {'z':>6}  ok"
        lines = [
            f"{c.quantity:<{width}}  {c.truth:>12.5g}  {c.estimate:>12.5g}  {c.error:>9.2g}  "
            f"{c.z:>6.1f}  {'yes' if c.ok else 'NO'}"
            for c in self.checks
        ]
        failed = sum(not check.ok for check in self.checks)
        verdict = "all hold" if failed == 0 else f"{failed} FAILED"
        foot = (
            f"{len(self.checks)} checks of {self.dim} parameters, {self.num_matvecs} products: "
            f"{verdict}"
        )
        skipped = [f"skipped: {what}" for what in self.skipped]
        return "\n".join([head, "-" * len(head), *lines, foot, *skipped])


@verb
def verify(
    call: Call,
    *,
    memory_budget: int | None = None,
) -> Verification:
    """Run every estimator on a small operator and compare it with the dense truth.

    Shrink your model until it has at most 2,000 parameters, keep its architecture, loss and
    dtype, and see whether what the estimators promise holds there:

    - the trace by each method, inside its 99.9 % interval, where that is said to be reliable;
    - of one density: trace, distribution function inside its uniform band; by its rule without
      atoms: mean square eigenvalue, an eigenvalue within the residual of either end's node;
    - the norm of the diagonal's error against the stated one;
    - eigenpairs of both ends within their residuals.

    The matrix itself is checked for symmetry. Keys are fixed by `key`: a failure can be had
    again. The budgets are small on purpose, so that errors are there to be compared; with up to
    8 parameters the traces are exact, since nothing is left to sample. Traces whose interval is
    not `reliable`, as below 25 parameters most are not, are skipped by name.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params, data, where: as for `trace`.
        key: estimator i uses `fold_in(key, i)`.
        memory_budget: bytes for the dense matrices of all tasks.

    Returns:
        The table; `str` prints it, `ok` says whether all of it holds. Cost: P products for the
        matrix and about 600 more, for each task.

    Raises:
        ValueError: if the operator has more than 2,000 parameters, or fails a guard.
        TypeError: for a call that mixes the two forms.
        MemoryError: if the dense matrix exceeds `memory_budget`.

    Source: derived here: every bound it checks is the one that the estimator itself documents.
    """
    operator, key = call.resolve(memory_budget)
    dim = operator.dim
    if dim > MAX_DIM:
        raise ValueError(
            f"`verify` forms the dense matrix and takes at most {MAX_DIM} parameters, got {dim}; "
            "shrink the model (fewer layers, narrower), or let `where` choose one layer."
        )
    truths = _truths(operator, memory_budget)
    results = _Results.of(operator, key)
    tasks = [None] if operator.num_tasks is None else range(operator.num_tasks)
    checks = [
        check
        for task, truth in zip(tasks, truths, strict=True)
        for check in _checks(truth, results, task)
    ]
    products = results.num_matvecs + dim * len(truths)
    return Verification(tuple(checks), dim, products, tuple(results.skipped))


@dataclass(frozen=True)
class _Truth:
    """A dense H in float64 and what rounding of its products may change."""

    matrix: Float[np.ndarray, "dim dim"]
    eigenvalues: Float[np.ndarray, " dim"]
    eps: float

    @property
    def resolution(self) -> float:
        """Rounding of one product."""
        return _ROUNDING_UNITS * self.eps * float(np.abs(self.eigenvalues).max())

    @property
    def trace_rounding(self) -> float:
        """Rounding of a sum over the spectrum."""
        return _ROUNDING_UNITS * self.eps * float(np.abs(self.eigenvalues).sum())


def _truths(operator: AbstractOperator, memory_budget: int | None) -> list[_Truth]:
    dense = np.asarray(operator.dense(memory_budget=memory_budget), np.float64)
    eps = float(jnp.finfo(operator.dtype).eps)
    matrices = dense.reshape(-1, operator.dim, operator.dim)
    for matrix in matrices:
        check_symmetric(matrix, matrix.T, float(np.abs(matrix).max()), operator.dtype)
    return [_Truth(matrix, np.linalg.eigvalsh((matrix + matrix.T) / 2), eps) for matrix in matrices]


@dataclass(frozen=True)
class _Results:
    """What the estimators say, all tasks together."""

    traces: dict[str, TraceEstimate]
    spectrum: SpectralDensity
    diagonal: DiagonalEstimate
    pairs: EigenPairs
    operator: AbstractOperator = field(repr=False)

    @classmethod
    def of(cls, operator: AbstractOperator, key: PRNGKeyArray) -> "_Results":
        dim = operator.dim
        # Half of what an exact answer takes, where that is less.
        # At least what 8 samples by every method take, unless that is no sampling any more.
        count = min(_MATVECS, max(dim // 2, min(dim - 1, _FOR_SAMPLES)))
        if dim <= MIN_RELIABLE_SAMPLES:
            count = dim
        # A rule of one node does not integrate λ²: two steps, where there are two dimensions.
        steps = min(_STEPS, max(dim // 2, 2), dim)
        keys = [jax.random.fold_in(key, i) for i in range(3 + len(METHODS))]
        return cls(
            traces={
                method: trace(operator, key=k, method=method, num_matvecs=count, progress=False)
                for method, k in zip(METHODS, keys[3:], strict=True)
            },
            spectrum=density(
                operator, key=keys[0], num_probes=_PROBES, num_steps=steps, progress=False
            ),
            diagonal=diagonal(operator, key=keys[1], num_matvecs=count, progress=False),
            pairs=eigenpairs(operator, key=keys[2], k=min(_PAIRS, dim), which="BE", progress=False),
            operator=operator,
        )

    @property
    def skipped(self) -> list[str]:
        """Traces whose interval is not said to hold."""
        few = [name for name, trace in self.named_traces() if not trace.reliable]
        return [f"{name} (its interval is not `reliable`)" for name in few]

    def named_traces(self) -> list[tuple[str, TraceEstimate]]:
        """All traces, that of the density among them."""
        by_method = [(f"trace, {method}", trace) for method, trace in self.traces.items()]
        return [*by_method, ("trace, density", self.spectrum.trace())]

    @property
    def num_matvecs(self) -> int:
        parts = [*self.traces.values(), self.spectrum, self.diagonal, self.pairs]
        return sum(part.num_matvecs for part in parts)


def _checks(truth: _Truth, results: _Results, task: int | None) -> Iterator[Check]:
    prefix = "" if task is None else f"task {task}: "
    index = () if task is None else (task,)
    spectrum = results.spectrum if task is None else results.spectrum.task(task)
    pairs = results.pairs if task is None else results.pairs.task(task)
    for name, estimate in results.named_traces():
        if estimate.reliable:
            yield _trace_check(prefix + name, truth, estimate, index)
    yield _square_check(f"{prefix}mean square, plain density", truth, spectrum)
    yield _cdf_check(f"{prefix}cdf, density", truth, spectrum)
    # Ritz values: that an eigenvalue lies within the residual is a theorem for them alone.
    extremes = spectrum.plain().extremes()
    for end in ("smallest", "largest"):
        value, residual = getattr(extremes, end), getattr(extremes, f"{end}_residual")
        nearest = truth.eigenvalues[np.argmin(np.abs(truth.eigenvalues - value))]
        yield _bounded(
            f"{prefix}{end} node, plain density", nearest, value, residual, truth.resolution
        )
    yield _diagonal_check(f"{prefix}diagonal, norm of the error", truth, results, index)
    rising = np.sort(np.asarray(pairs.values))
    low = rising.size // 2
    places = [*range(low), *range(low - rising.size, 0)]
    order = np.argsort(np.asarray(pairs.values), kind="stable")
    for place, i in zip(places, order, strict=True):
        name = f"{prefix}eigenvalue {place + 1 if place >= 0 else place}"
        yield _bounded(
            name,
            truth.eigenvalues[place],
            float(np.asarray(pairs.values)[i]),
            float(np.asarray(pairs.residuals)[i]),
            truth.resolution,
        )


def _trace_check(
    name: str, truth: _Truth, estimate: TraceEstimate, index: tuple[int, ...]
) -> Check:
    target, slack = float(np.trace(truth.matrix)), truth.trace_rounding
    low, high = (float(np.asarray(end)[index]) for end in estimate.confidence_interval(LEVEL))
    error = float(np.asarray(estimate.standard_error)[index])
    value = float(np.asarray(estimate.value)[index])
    ok = low - slack <= target <= high + slack
    return Check(name, target, value, error, _ratio(value - target, error, slack), ok)


def _square_check(name: str, truth: _Truth, spectrum: SpectralDensity) -> Check:
    """By the rule without atoms, whose rows are independent and, for two moments, unbiased."""
    target = float(np.mean(truth.eigenvalues**2))
    plain = spectrum.plain()
    rows = (np.asarray(plain.weights) * np.asarray(plain.nodes) ** 2).sum(axis=1)
    value = float(rows.mean())
    error = float(rows.std(ddof=1)) / rows.size**0.5
    slack = _ROUNDING_UNITS * truth.eps * max(target, value)
    low, high = (float(end) for end in mean_interval(rows, LEVEL))
    ok = low - slack <= target <= high + slack
    return Check(name, target, value, error, _ratio(value - target, error, slack), ok)


def _cdf_check(name: str, truth: _Truth, spectrum: SpectralDensity) -> Check:
    """The point of the distribution function that lies worst in its uniform band."""
    every = max(1, truth.eigenvalues.size // _CDF_POINTS)
    points = truth.eigenvalues[::every]
    exact = np.searchsorted(truth.eigenvalues, points, side="right") / truth.eigenvalues.size
    low, high = spectrum.cdf_band(points, LEVEL, uniform=True)
    found = spectrum.cdf(points)
    outside = np.maximum(low - exact, exact - high)
    worst = int(np.argmax(outside))
    half = float(high[worst] - low[worst]) / 2
    difference = float(found[worst] - exact[worst])
    # Shares are multiples of 1/P.
    slack = 1e-9
    return Check(
        f"{name} (worst of {points.size})",
        float(exact[worst]),
        float(found[worst]),
        half,
        _ratio(difference, half, slack),
        bool(outside[worst] <= slack),
    )


def _diagonal_check(name: str, truth: _Truth, results: _Results, index: tuple[int, ...]) -> Check:
    """|d̂ - d| against the root of the sum of the stated variances."""
    value, error = (
        np.asarray(_flat(results.operator, tree), np.float64)[index]
        for tree in (results.diagonal.value, results.diagonal.standard_error)
    )
    found = float(np.linalg.norm(value - np.diag(truth.matrix)))
    stated = float(np.linalg.norm(error))
    slack = truth.resolution * value.size**0.5
    ratio = _ratio(found, stated, slack)
    return Check(name, 0.0, found, stated, ratio, ratio <= 3.0)


def _flat(operator: AbstractOperator, tree: PyTree) -> Float[Array, "*T dim"]:
    if operator.num_tasks is None:
        return operator.space.flatten(tree)
    return operator.space.flatten_block(tree)


def _bounded(name: str, truth: float, value: float, error: float, slack: float) -> Check:
    """A value that promises to lie within `error` of the truth."""
    ratio = _ratio(float(value - truth), float(error), slack)
    return Check(name, float(truth), float(value), float(error), ratio, abs(ratio) <= 1.0)


def _ratio(difference: float, error: float, slack: float) -> float:
    whole = error + slack
    if whole > 0:
        return difference / whole
    return 0.0 if difference == 0 else float(np.copysign(np.inf, difference))


__all__ = ["Check", "Verification", "verify"]
