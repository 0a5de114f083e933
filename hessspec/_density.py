"""The verb `density`: the spectral density of H by Lanczos quadrature with exact atoms."""

from collections.abc import Callable
from dataclasses import replace
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from hessspec._atoms import MAX_ANGLE, multiplicities, product_error
from hessspec._calls import resolve_call
from hessspec._checks import check_finite, check_symmetric
from hessspec._krylov import KrylovRun, RowOperator, krylov
from hessspec._memory import resolve_budget
from hessspec._operators import AbstractOperator
from hessspec._probes import gaussian
from hessspec._progress import ProgressBar, progress_bar
from hessspec._quadrature import RitzPairs, ritz_pairs
from hessspec._selection import Where
from hessspec._spectral_density import SpectralDensity

DEFAULT_PROBES = 2  # the least that can prove a multiplicity
DEFAULT_STEPS = 60


@overload
def density(
    loss_fn: Callable[..., Array],
    params: PyTree,
    key: PRNGKeyArray,
    *,
    data: PyTree = None,
    where: Where | None = None,
    num_probes: int = DEFAULT_PROBES,
    num_steps: int = DEFAULT_STEPS,
    reorthogonalize: bool = True,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> SpectralDensity: ...


@overload
def density(
    loss_fn: AbstractOperator,
    /,
    *,
    key: PRNGKeyArray,
    num_probes: int = DEFAULT_PROBES,
    num_steps: int = DEFAULT_STEPS,
    reorthogonalize: bool = True,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> SpectralDensity: ...


def density(
    loss_fn: Callable[..., Array] | AbstractOperator,
    params: PyTree = None,
    key: PRNGKeyArray | None = None,
    *,
    data: PyTree = None,
    where: Where | None = None,
    num_probes: int = DEFAULT_PROBES,
    num_steps: int = DEFAULT_STEPS,
    reorthogonalize: bool = True,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> SpectralDensity:
    """Estimate how the eigenvalues of H are distributed: nodes, weights and their errors.

    A start q uniform on the sphere sees the measure Σ (q'uᵢ)² δ(λ - λᵢ), whose mean over q is
    the spectral density (1/P) Σ δ(λ - λᵢ). m Lanczos steps give its m-point Gauss rule, exact
    for polynomials of degree 2m - 1. Converged outliers, whose random weights would be the
    largest error, become atoms of weight r/P where the probes prove their multiplicity r.

    If P <= `num_steps`, H is formed by P products and its spectrum is exact.

    Args:
        loss_fn: a loss, scalar or with shape (T,), or an operator in place of loss and params.
        params: tree of float arrays at which H is taken.
        key: probe i is drawn with `fold_in(key, i)`.
        data: passed to the loss as second argument; `Batches` for a data set.
        where: chooses the parameters that H is taken in.
        num_probes: random starts, in lockstep. At least 2 to prove multiplicities; with 1 they
            are assumed to be 1, and the result says so.
        num_steps: m, lowered to P if larger. Cost: num_probes × m products for each task.
        reorthogonalize: False needs a few vectors instead of m for each probe, and gives no
            atoms (Ritz values may repeat).
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes that the bases may take; by default set from the device.

    Returns:
        The density, with a leading task axis if the loss has one.

    Raises:
        ValueError: if a count is below 1, or a product is not finite or not symmetric.
        MemoryError: if the bases exceed `memory_budget`, with the ways out.
    """
    for name, count in (("num_probes", num_probes), ("num_steps", num_steps)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}")
    operator, key = resolve_call("density", loss_fn, params, key, data, where, memory_budget)
    dim, dtype = operator.dim, jnp.dtype(operator.dtype)
    starts = gaussian(key, jnp.arange(num_probes), dim, dtype)
    tasks = 1 if operator.num_tasks is None else operator.num_tasks
    products = tasks * (dim if dim <= num_steps else num_probes * num_steps)
    budget = resolve_budget(memory_budget)

    def of(scalar: RowOperator, bar: ProgressBar) -> SpectralDensity:
        if dim <= num_steps:
            return dense_spectrum(scalar, starts, bar)
        run = krylov(
            scalar,
            starts,
            num_steps,
            reorthogonalize=reorthogonalize,
            memory_budget=budget,
            bar=bar,
        )
        return spectrum(run, dim, dtype)

    with progress_bar(products, "density", enabled=progress) as bar:
        if operator.num_tasks is None:
            return of(operator, bar)
        return stacked([of(operator.task(t), bar) for t in range(tasks)])


def spectrum(
    run: KrylovRun, dim: int, dtype: np.dtype, max_angle: float = MAX_ANGLE
) -> SpectralDensity:
    """The density that a finished run holds: quadrature, atoms, the rest rescaled."""
    eps = float(jnp.finfo(dtype).eps)
    k, m = run.alpha.shape
    pairs = [
        ritz_pairs(run.alpha[p, :n], run.beta[p, :n]) for p, n in enumerate(run.num_valid_steps)
    ]
    resolution = product_error(pairs, eps, run.asymmetry)
    proved = k > 1 and bool(run.chunks)
    settled = [np.zeros(p.values.size, int) for p in pairs]
    if run.chunks:
        gram = run.ritz_gram if k > 1 else None
        settled = multiplicities(pairs, gram, dim, eps, resolution, max_angle)
        settled = _settle_all_or_none(pairs, settled, dim)
    rows = [_row(p, s, dim, m) for p, s in zip(pairs, settled, strict=True)]
    nodes, weights, multiples, residuals = (np.stack(c) for c in zip(*rows, strict=True))
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        multiplicities=multiples,
        residuals=residuals,
        alpha=run.alpha,
        beta=run.beta,
        num_valid_steps=run.num_valid_steps,
        resolution=np.asarray(resolution),
        exact=np.asarray(proved and _all_settled(pairs, settled, resolution)),
        dim=dim,
        num_matvecs=run.num_matvecs,
        multiplicities_proved=proved,
        reorthogonalized=bool(run.chunks),
    )


def dense_spectrum(
    operator: RowOperator, starts: Float[Array, "k dim"], bar: ProgressBar
) -> SpectralDensity:
    """The exact density of a small H, from its P columns.

    Every row holds all eigenvalues with weight 1/P. The Lanczos coefficients of the starts, which
    `plain` needs, come from the matrix, at no further product.
    """
    dim, dtype = operator.dim, starts.dtype
    rows = operator.rows(jnp.eye(dim, dtype=dtype))
    bar.update(dim)
    check_finite(rows, operator.space, "the Hessian")
    size = float(jnp.max(jnp.abs(rows)))
    check_symmetric(rows, rows.T, size, dtype)
    matrix = 0.5 * (rows + rows.T)
    run = krylov(_Matrix(operator, matrix), starts, dim)
    eigenvalues = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    shape = (starts.shape[0], dim)
    norm = float(np.max(np.abs(eigenvalues)))
    return SpectralDensity(
        nodes=np.broadcast_to(eigenvalues, shape).copy(),
        weights=np.full(shape, 1.0 / dim),
        multiplicities=np.zeros(shape, int),
        residuals=np.zeros(shape),
        alpha=run.alpha,
        beta=run.beta,
        num_valid_steps=run.num_valid_steps,
        resolution=np.asarray(8.0 * float(jnp.finfo(dtype).eps) * norm),
        exact=np.asarray(True),
        dim=dim,
        num_matvecs=dim,
    )


def stacked(spectra: list[SpectralDensity]) -> SpectralDensity:
    """Densities of the tasks as one record with a leading task axis."""
    total = sum(s.num_matvecs for s in spectra)
    alike = [replace(s, num_matvecs=total) for s in spectra]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *alike)


class _Matrix:
    """A dense matrix where a Krylov run expects an operator."""

    def __init__(self, like: RowOperator, matrix: Float[Array, "dim dim"]) -> None:
        self.space, self.dim, self.dtype = like.space, like.dim, like.dtype
        self._matrix = matrix

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        return jnp.matmul(block, self._matrix, precision="highest")


def _settle_all_or_none(
    pairs: list[RitzPairs], settled: list[np.ndarray], dim: int
) -> list[np.ndarray]:
    """Multiplicities that leave room for the rest, or none at all.

    If every value is settled and they do not add up to P, one of them is wrong.
    """
    for p, s in zip(pairs, settled, strict=True):
        atoms = int(s[s > 0].sum())
        rest = float(p.weights[s == 0].sum())
        if atoms > dim or (atoms < dim and not rest > 0) or (atoms == dim and np.any(s == 0)):
            return [np.zeros_like(s) for s in settled]
    return settled


def _row(
    pairs: RitzPairs, settled: np.ndarray, dim: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights in force, multiplicities and residuals of one probe, padded to its slots."""
    n = pairs.values.size
    share = np.where(settled > 0, settled / dim, 0.0)
    rest = np.where(settled == 0, pairs.weights, 0.0)
    if rest.sum() > 0:
        rest = rest * ((1.0 - share.sum()) / rest.sum())
    nodes, weights, residuals = (np.zeros(num_steps) for _ in range(3))
    multiples = np.zeros(num_steps, int)
    nodes[:n], nodes[n:] = pairs.values, pairs.values[-1]
    weights[:n], residuals[:n], multiples[:n] = share + rest, pairs.residuals, settled
    return nodes, weights, multiples, residuals


def _all_settled(pairs: list[RitzPairs], settled: list[np.ndarray], resolution: float) -> bool:
    """Whether all eigenvalues were found, and all multiplicities but one at most.

    The one left over follows from the others, for they sum to P.
    """
    for p, s in zip(pairs, settled, strict=True):
        left = p.values[s == 0]
        if np.any(p.residuals > 8 * resolution) or (left.size and np.ptp(left) > 2 * resolution):
            return False
    return True
