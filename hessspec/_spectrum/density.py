"""The verb `density`: the spectral density of H by Lanczos quadrature with exact atoms."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hessspec._base.arguments import whole_number
from hessspec._base.checks import check_finite
from hessspec._base.kept import KeptRun
from hessspec._base.later import special
from hessspec._base.memory import resolve_budget
from hessspec._base.probes import gaussian_on
from hessspec._base.progress import ProgressBar, progress_bar
from hessspec._krylov.lockstep import KrylovRun, RowOperator, krylov, krylov_bytes, require_room
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import warn_of_tasks
from hessspec._operators.checkpoint import Folder, checkpoint_in
from hessspec._operators.fingerprint import origin_of
from hessspec._operators.symmetry import Symmetry
from hessspec._operators.verbs import Call, verb
from hessspec._spectrum.atoms import MAX_ANGLE, Candidates, Eigenvectors, assumed, product_error
from hessspec._spectrum.deflation import Deflated, DeflatedRule
from hessspec._spectrum.quadrature import RitzPairs, ritz_pairs
from hessspec._spectrum.record import SpectralDensity

DEFAULT_PROBES = 2  # the least in which one probe can help another
DEFAULT_STEPS = 60
# A weight this small, in units of 1/P, is rounding: a start has less of an eigenvector once in a
# thousand times.
_DUST = 1e-6


@verb
def density(
    call: Call,
    *,
    num_probes: int = DEFAULT_PROBES,
    num_steps: int = DEFAULT_STEPS,
    reorthogonalize: bool = True,
    checkpoint: Folder | None = None,
    progress: bool | None = None,
    memory_budget: int | None = None,
) -> SpectralDensity:
    """Estimate how the eigenvalues of H are distributed: nodes, weights and their errors.

    A start q uniform on the sphere sees the measure Σ (q'uᵢ)² δ(λ - λᵢ), whose mean over q is
    the spectral density (1/P) Σ δ(λ - λᵢ). m Lanczos steps give its m-point Gauss rule, exact
    for polynomials of degree 2m - 1. The outliers' random weights would be the largest error, so
    eigenvectors on which a probe has converged become atoms of weight 1/P in the rows of the
    others, and are taken out of their starts: without bias, whatever the multiplicities.

    If P <= `num_steps`, H is formed by P products and its spectrum is exact.

    Args:
        loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`; returns a scalar or
            shape (T,). Or an operator, then with `key` by name and nothing else beside it.
        params: tree of float arrays at which H is taken.
        key: probe i is drawn with `fold_in(key, i)`.
        data: one batch (never split), or `Batches` for a data set.
        where: chooses the parameters that H is taken in, as for `HessianOperator`.
        num_probes: random starts, in lockstep. At least 2 for atoms that assume nothing; with 1
            converged values are assumed to be simple, and the result says so.
        num_steps: m, lowered to P if larger. Cost: num_probes × m products for each task.
        reorthogonalize: False needs a few vectors instead of m for each probe, and gives no
            atoms (Ritz values may repeat).
        checkpoint: a folder of this run's own, in which it is kept on its way: called again with
            the same arguments, a run that was killed goes on from the last step written, and ends
            with the same numbers (on the same devices to the last bit). Takes the bytes of the
            bases on disk, at most a twentieth of the time, and at the end some kilobytes.
        progress: show a bar; by default where a person is looking.
        memory_budget: bytes that the bases may take; by default set from the device.

    Returns:
        The density, with a leading task axis if the loss has one.

    Raises:
        ValueError: if a count is below 1, the loss is not finite or is random, a product is not
            finite or not symmetric, or `checkpoint` holds a run of another loss, point, data, key
            or setting.
        TypeError: if a count is no whole number, or for a call that mixes the two forms.
        RuntimeError: if another run works in the folder `checkpoint`.
        OSError: if nothing can be written there; what was kept before is there still.
        MemoryError: if the bases exceed `memory_budget`, with the ways out.

    Source: Lanczos runs from random starts for a spectral density as in New et al. (2022), section
    2.1 [new2022]; the rule of T after Golub and Welsch as restated in the introduction of
    [li2024quadrature]; atoms, their proof and all errors are derived in this package, see
    `docs/density.md`.
    """
    num_probes = whole_number("num_probes", num_probes)
    num_steps = whole_number("num_steps", num_steps)
    operator, key = call.resolve(memory_budget, validate=False)
    warn_of_tasks(operator)
    dim, dtype = operator.dim, jnp.dtype(operator.dtype)
    tasks = 1 if operator.num_tasks is None else operator.num_tasks
    products = tasks * (dim if dim <= num_steps else num_probes * num_steps)
    budget = resolve_budget(memory_budget)
    steps = num_steps if reorthogonalize else 0
    kept = krylov_bytes(num_probes, steps, dim, dtype, operator.mesh)
    require_room(kept, budget, num_probes, num_steps)  # before the starts are drawn
    starts = gaussian_on(key, jnp.arange(num_probes), dim, dtype, operator.mesh)
    # Without the bases nothing else is kept either: who leaves them out is short of memory.
    room = budget - kept if reorthogonalize else 0

    def of(
        scalar: AbstractOperator, bar: ProgressBar, on_disk: KeptRun | None = None
    ) -> SpectralDensity:
        if dim <= num_steps:
            scalar.validate()
            found = dense_spectrum(scalar, starts, bar)
            return replace(found, product_plan=scalar.product_plan)
        scalar = scalar.linearised(num_probes, room)
        scalar.validate()  # here, since what is linearised has met the losses on the way
        run = krylov(
            scalar,
            starts,
            num_steps,
            reorthogonalize=reorthogonalize,
            memory_budget=budget,
            bar=bar,
            kept=on_disk,
        )
        return replace(spectrum(run, dim, dtype), product_plan=scalar.product_plan)

    asked = {"`num_probes`": num_probes, "`num_steps`": num_steps}
    asked |= {"`reorthogonalize`": bool(reorthogonalize)}
    scalars = [operator]
    if operator.num_tasks is not None:
        scalars = [operator.task(t) for t in range(tasks)]
    with ExitStack() as held:
        bar = held.enter_context(progress_bar(products, "density", enabled=progress))
        if checkpoint is None:
            each = [of(scalar, bar) for scalar in scalars]
        else:
            folder = held.enter_context(checkpoint_in(checkpoint, "density", key, operator, asked))
            each = [
                folder.of_task(t, scalar, partial(of, scalar, bar), SpectralDensity)
                for t, scalar in enumerate(scalars)
            ]
    found = each[0] if operator.num_tasks is None else stacked(each)
    return replace(found, origin=origin_of(key, operator))


def spectrum(
    run: KrylovRun, dim: int, dtype: np.dtype, max_angle: float = MAX_ANGLE
) -> SpectralDensity:
    """The density that a finished run holds: atoms, and the quadrature of the rest."""
    eps = float(jnp.finfo(dtype).eps)
    k, m = run.alpha.shape
    pairs = [
        ritz_pairs(run.alpha[p, :n], run.beta[p, :n]) for p, n in enumerate(run.num_valid_steps)
    ]
    resolution = product_error(pairs, eps, run.asymmetry, run.parts)
    every = None
    if run.bases is None:
        rows = [_plain_row(p, m) for p in pairs]
    else:
        found = Candidates(pairs, run.basis_gram(), eps, resolution, max_angle)
        every = found.spectrum(dim, run.combined_lengths)
        if every is not None:
            values, multiplicities, radius = every
            resolution = max(resolution, radius)
            rows = [_exact_row(values, multiplicities, dim, m, resolution)] * k
        else:
            rows = [_row(run, pairs, found, p, dim, eps) for p in range(k)]
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
        exact=np.asarray(every is not None),
        dim=dim,
        num_matvecs=run.num_matvecs,
        multiplicities_proved=k > 1 and run.bases is not None,
        reorthogonalized=run.bases is not None,
    )


def dense_spectrum(
    operator: RowOperator, starts: Float[Array, "k dim"], bar: ProgressBar
) -> SpectralDensity:
    """The exact density of a small H, from its P columns.

    Every row holds all eigenvalues with weight 1/P. The Lanczos coefficients of the starts, which
    `plain` needs, come from the matrix, at no further product.
    """
    dim, dtype = operator.dim, starts.dtype
    rows, lengths = operator.measured_rows(jnp.eye(dim, dtype=dtype))
    bar.update(dim)
    check_finite(rows, operator.space, "the Hessian")
    parts = 0.0 if lengths is None else float(jnp.max(lengths))
    size = max(float(jnp.max(jnp.abs(rows))), parts)
    symmetry = Symmetry(operator)
    computed = np.asarray(rows, np.float64)
    symmetry.check_matrix(computed, size)
    skew, noise = symmetric_error(computed), float(symmetry.noise) * size
    matrix = 0.5 * (rows + rows.T)
    run = krylov(_Matrix(operator, matrix), starts[:, :dim], dim)
    eigenvalues = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    shape = (starts.shape[0], dim)
    norm = max(float(np.max(np.abs(eigenvalues))), parts)
    return SpectralDensity(
        nodes=np.broadcast_to(eigenvalues, shape).copy(),
        weights=np.full(shape, 1.0 / dim),
        multiplicities=np.zeros(shape, int),
        residuals=np.zeros(shape),
        alpha=run.alpha,
        beta=run.beta,
        num_valid_steps=run.num_valid_steps,
        resolution=np.asarray(max(8.0 * float(jnp.finfo(dtype).eps) * norm, skew, noise)),
        exact=np.asarray(True),
        dim=dim,
        num_matvecs=dim + symmetry.num_matvecs,
    )


def symmetric_error(matrix: Float[np.ndarray, "dim dim"]) -> float:
    """How far rounding may have moved the eigenvalues of (M + M')/2, as M - M' tells.

    Take the rounding E of M for entries of one variance s². Those of E - E' then have 2 s², from
    which m = P (P - 1)/2 of them tell an upper bound of s at 95 % (they are few in a small M), and
    the norm of (E + E')/2 is about s (2P)^(1/2), s more at most.
    """
    skew = np.triu(matrix - matrix.T, 1)
    count = matrix.shape[0] * (matrix.shape[0] - 1) // 2
    if not skew.any():
        return 0.0
    quantile = 2 * float(special.gammaincinv(count / 2, 0.05))  # of chi squared
    deviation = (float(np.square(skew).sum()) / (2 * quantile)) ** 0.5
    whole = float(np.linalg.norm(skew - skew.T, 2))
    return max(whole, deviation * ((2 * matrix.shape[0]) ** 0.5 + 1))


def stacked(spectra: list[SpectralDensity]) -> SpectralDensity:
    """Densities of the tasks as one record with a leading task axis."""
    total = sum(s.num_matvecs for s in spectra)
    alike = [replace(s, num_matvecs=total) for s in spectra]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *alike)


class _Matrix:
    """A dense matrix where a Krylov run expects an operator."""

    mesh = None

    def __init__(self, like: RowOperator, matrix: Float[Array, "dim dim"]) -> None:
        self.space, self.dim, self.dtype = like.space, like.dim, like.dtype
        self._matrix = matrix

    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "k dim"]:
        return jnp.matmul(block, self._matrix, precision="highest")

    def measured_rows(self, block: Float[Array, "k dim"]) -> tuple[Float[Array, "k dim"], None]:
        return self.rows(block), None

    def product_bytes(self, rows: int) -> int:
        return rows * self.dim * self.dtype.itemsize


class _Row(NamedTuple):
    """One probe's slots: nodes, weights in force, multiplicities and residuals."""

    nodes: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    multiplicities: Int[np.ndarray, " n"]
    residuals: Float[np.ndarray, " n"]

    def padded(self, num_steps: int) -> "_Row":
        """In ascending order; unused slots repeat the last node with no weight."""
        order = np.argsort(self.nodes, kind="stable")
        nodes, weights, multiplicities, residuals = (column[order] for column in self)
        spare = num_steps - nodes.size
        return _Row(
            np.pad(nodes, (0, spare), mode="edge"),
            *(np.pad(c, (0, spare)) for c in (weights, multiplicities, residuals)),
        )


def _plain_row(pairs: RitzPairs, num_steps: int) -> _Row:
    none = np.zeros(pairs.values.size, int)
    return _Row(pairs.values, pairs.weights, none, pairs.residuals).padded(num_steps)


def _exact_row(
    values: np.ndarray, multiplicities: np.ndarray, dim: int, num_steps: int, resolution: float
) -> _Row:
    weights, residuals = multiplicities / dim, np.full(values.size, resolution)
    return _Row(values, weights, multiplicities, residuals).padded(num_steps)


def _row(
    run: KrylovRun, pairs: list[RitzPairs], found: Candidates, probe: int, dim: int, eps: float
) -> _Row:
    """The rule of one probe: what the others have found, and the quadrature of the rest.

    As many nodes as there are steps. A probe that has not found all of the atoms itself has more
    Ritz values and atoms than that; the rest then has a smaller Gauss rule.
    """
    k, m = run.alpha.shape
    known = found.found_without(probe) if k > 1 else found.found_by(assumed(found, dim))
    known = _outermost(known, run.alpha[:, 0], m - 1)
    if known.values.size == 0:
        return _plain_row(pairs[probe], m)
    n = run.num_valid_steps[probe]
    rest = Deflated(run.alpha[probe, :n], run.beta[probe, :n], known, probe, eps, found.floor)
    atoms = _merged(known, found.floor, dim)
    share = float(known.values.size / dim)
    if known.values.size >= dim or rest.size == 0:
        return _plain_row(pairs[probe], m)
    for size in range(rest.size, 0, -1):
        row = _joined(atoms, _cleaned(rest.rule(size), pairs, dim), 1.0 - share, found.floor)
        if row.nodes.size <= m:
            return row.padded(m)
    return _plain_row(pairs[probe], m)


def _outermost(known: Eigenvectors, first_alpha: np.ndarray, count: int) -> Eigenvectors:
    """At most `count` of the eigenvectors, those farthest from the middle of the spectrum."""
    if known.values.size <= count:
        return known
    far = np.argsort(-np.abs(known.values - np.median(first_alpha)), kind="stable")
    return known.restricted(np.sort(far[:count]))


def _merged(known: Eigenvectors, floor: float, dim: int) -> _Row:
    """Atoms: eigenvectors whose values rounding cannot tell apart share one node."""
    values = known.values
    first = np.flatnonzero(np.diff(values, prepend=-np.inf) > 2 * floor)
    counts = np.diff(np.append(first, values.size))
    nodes = np.add.reduceat(values, first) / counts
    radii = np.maximum.reduceat(known.radii, first)
    return _Row(nodes, counts / dim, counts, radii)


def _cleaned(rest: DeflatedRule, pairs: list[RitzPairs], dim: int) -> DeflatedRule:
    """Without nodes that only rounding has given a weight, and inside the spectrum seen.

    A node outside all Ritz values by no more than its error is moved to the end of them.
    """
    used = rest.weights > _DUST / dim
    rest = DeflatedRule(*(column[used] for column in rest))
    values = np.concatenate([p.values for p in pairs])
    moved = np.clip(rest.nodes, values.min(), values.max())
    within = np.abs(moved - rest.nodes) <= rest.residuals
    return rest._replace(nodes=np.where(within, moved, rest.nodes))


def _joined(atoms: _Row, rest: DeflatedRule, share: float, floor: float) -> _Row:
    """Atoms and the rest, scaled to fill `share`.

    A node of the rest that has converged to an atom's value is what the start has of that
    eigenspace beside the vectors found: it joins the atom, whose weight is then more than its
    multiplicity accounts for.
    """
    weights = rest.weights * (share / rest.weights.sum())
    nearest = np.argmin(np.abs(rest.nodes[:, None] - atoms.nodes[None]), axis=1)
    close = np.abs(rest.nodes - atoms.nodes[nearest]) <= 2 * floor
    close &= rest.residuals <= 2 * floor
    whole = atoms.weights + np.bincount(nearest[close], weights[close], minlength=atoms.nodes.size)
    return _Row(
        np.concatenate([atoms.nodes, rest.nodes[~close]]),
        np.concatenate([whole, weights[~close]]),
        np.concatenate([atoms.multiplicities, np.zeros(int(np.sum(~close)), int)]),
        np.concatenate([atoms.residuals, rest.residuals[~close]]),
    )
