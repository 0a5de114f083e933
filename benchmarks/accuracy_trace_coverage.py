"""Claim: the intervals of a trace cover the truth as often as they say, whatever the method.

    python -m benchmarks.accuracy_trace_coverage [--seeds 2000] [--methods auto] [--output PATH]

P = 500 eigenvalues in a random orthogonal basis; flat, decaying and outlier-dominated spectra;
every method with few samples, with 16 and 64, and stopped by an absolute or a relative tolerance
(looks at 48, 96, 192, ... products). The width is given relative to the ideal one, 2 x 1.96 times
the true rms error of the same estimates.

The first table emulates: the probes of the deflating methods are uniform on a sphere, which looks
the same in every basis, so they are drawn in the eigenbasis, and inner products are all the
methods need. The samples go through the package's own leave-one-out formulas, growth rule, record
and interval. The second table calls `hessspec.trace` itself, with fewer seeds, and gives the
emulated coverage of the same row beside it, with the probability of a difference that large if
both had one law. Of methods that are not asked for, the rows of the page stay.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks.machine import revision
from benchmarks.redrawn import drawn_at, text_of, with_others
from hessspec import HessianOperator, TraceEstimate, trace
from hessspec._krylov.block_basis import (
    DIAGONAL_SHARE,
    PILOT,
    WIDTH,
    Measured,
    growth_pays,
    off_diagonal,
)
from hessspec._trace.costs import Costs
from hessspec._trace.xtrace import leave_one_out, pair_covariance

DIM = 500
BUDGETS = (48, 96, 192, 384)  # the looks of adaptive stopping
Estimates = Iterator[TraceEstimate]  # of growing budgets, for one seed


def spectra(dim: int = DIM, decades: int = 4) -> dict[str, np.ndarray]:
    """Spectra of `dim` eigenvalues, outliers first, the largest so many decades above the bulk."""
    rng = np.random.default_rng(0)
    one, ten = rng.normal(size=(2, dim))
    one[0] = 10.0**decades
    ten[:10] = np.logspace(decades, 1, 10) * rng.choice([-1.0, 1.0], 10)
    return {
        "flat": np.linspace(2.0, 1.0, dim),
        "decaying": 1.0 / np.arange(1, dim + 1),
        "one outlier": one,
        "ten outliers": ten,
    }


def spherical(rng: np.random.Generator, count: int) -> np.ndarray:
    """Columns uniform on the sphere of radius √P."""
    rows = rng.normal(size=(DIM, count))
    return rows * (DIM**0.5 / np.linalg.norm(rows, axis=0))


def record(samples: np.ndarray, **rest) -> TraceEstimate:
    return TraceEstimate.from_samples(samples, dim=DIM, **rest)


def hutchinson(eigenvalues: np.ndarray, seed: int, budgets: tuple[int, ...]) -> Estimates:
    """Random signs in a random basis (one basis: the seeds draw the signs)."""
    matrix = dense(eigenvalues)
    rng = np.random.default_rng([seed, 1])
    samples = np.zeros(0)
    for budget in budgets:
        signs = rng.choice(np.array([-1.0, 1.0], np.float32), size=(budget - samples.size, DIM))
        forms = np.einsum("kp,kp->k", signs @ matrix, signs, dtype=np.float64)
        samples = np.concatenate([samples, forms])
        yield record(samples, num_matvecs=budget)


_MATRICES: dict[bytes, np.ndarray] = {}


def dense(eigenvalues: np.ndarray) -> np.ndarray:
    """The matrix with these eigenvalues in a fixed random basis, float32."""
    key = eigenvalues.tobytes()
    if key not in _MATRICES:
        basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, DIM)))
        _MATRICES[key] = ((basis * eigenvalues) @ basis.T).astype(np.float32)
    return _MATRICES[key]


def deflated(basis: np.ndarray, eigenvalues: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """vᵀHv for the probes made orthogonal to the basis (columns) and put back on the sphere."""
    rest = probes - basis @ (basis.T @ probes)
    forms = eigenvalues @ rest**2
    return forms * (DIM - basis.shape[1]) / np.sum(rest**2, axis=0)


def orthonormal(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """QR by Cholesky: enough in float64 for spectra over five decades, and much faster."""
    lower = np.linalg.cholesky(columns.T @ columns)
    inverse = np.linalg.inv(lower).T
    return columns @ inverse, lower.T


def hutchpp(eigenvalues: np.ndarray, seed: int, budgets: tuple[int, ...]) -> Estimates:
    rng = np.random.default_rng([seed, 2])
    size = budgets[0] // 3
    basis, _ = orthonormal(eigenvalues[:, None] * spherical(rng, size))
    exact = float(eigenvalues @ np.sum(basis**2, axis=1))
    samples = np.zeros(0)
    for budget in budgets:
        probes = spherical(rng, budget - 2 * size - samples.size)
        samples = np.concatenate([samples, deflated(basis, eigenvalues, probes)])
        yield record(samples, exact=exact, num_matvecs=budget)


def xtrace(eigenvalues: np.ndarray, seed: int, budgets: tuple[int, ...]) -> Estimates:
    rng = np.random.default_rng([seed, 3])
    tests = np.zeros((DIM, 0))
    for budget in budgets:
        tests = np.concatenate([tests, spherical(rng, budget // 2 - tests.shape[1])], axis=1)
        basis, factor = orthonormal(eigenvalues[:, None] * tests)
        directions = np.linalg.inv(factor).T
        found = leave_one_out(
            DIM,
            directions / np.linalg.norm(directions, axis=0),
            basis.T @ tests,
            basis.T @ (eigenvalues[:, None] * basis),
            factor,
            eigenvalues @ tests**2,
        )
        covariance = pair_covariance([found.influence])[0, 0]
        yield record(found.samples, pair_covariance=covariance, num_matvecs=budget)


def _diagonal_share(eigenvalues: np.ndarray) -> float:
    """Σ H_ii² / |H|², of which eight probes are as sure as they need to be: .96 or next to 0."""
    return float(np.sum(np.diagonal(dense(eigenvalues)) ** 2) / np.sum(eigenvalues**2))


def auto(eigenvalues: np.ndarray, seed: int, budgets: tuple[int, ...]) -> Estimates:
    """One scalar operator: a block Krylov basis as far as it pays, then probes.

    Random signs where almost all of H is on its diagonal, which the pilot tells.
    """
    if budgets[0] < BUDGETS[0]:
        yield from xtrace(eigenvalues, seed, budgets)
        return
    if _diagonal_share(eigenvalues) > DIAGONAL_SHARE:
        beside = tuple(budget - PILOT for budget in budgets)
        for estimate in hutchinson(eigenvalues, seed, beside):
            yield replace(estimate, num_matvecs=estimate.num_matvecs + PILOT)
        return
    rng = np.random.default_rng([seed, 4])
    rest = spherical(rng, PILOT)
    block, _ = orthonormal(rng.normal(size=(DIM, WIDTH)))
    basis = np.zeros((DIM, 0))
    exact, spent, samples = 0.0, PILOT, np.zeros(0)
    measured: Measured = []
    fall = 0.0
    for budget in budgets:
        while True:
            lengths = np.sum(rest**2, axis=0)
            unit = rest * ((DIM - basis.shape[1]) / lengths) ** 0.5
            forms = unit.T @ (eigenvalues[:, None] * unit)
            if not measured or measured[-1][0] < basis.shape[1]:
                measured.append((basis.shape[1], 2.0 * off_diagonal(forms), fall))
            left = budget - spent
            if not growth_pays(measured, left, PILOT, lost=samples.size, costs=prices()):
                break
            samples = np.zeros(0)
            products = eigenvalues[:, None] * block
            spent += WIDTH
            exact += float(np.sum(products * block))
            corner = block.T @ products
            rest = rest - block @ (block.T @ rest)
            basis = np.concatenate([basis, block], axis=1)
            for _ in range(2):
                products = products - basis @ (basis.T @ products)
            block, coupling = orthonormal(products)
            fall = 2.0 * float(np.sum(corner**2) + 2.0 * np.sum(coupling**2))
        probes = spherical(rng, budget - spent)
        spent = budget
        samples = np.concatenate([samples, deflated(basis, eigenvalues, probes)])
        whole = np.concatenate([np.diagonal(forms), samples])
        yield record(whole, exact=exact, num_matvecs=budget)


# Products that give few, 16 and 64 samples; for auto 24 to 32 and about 100, since below 48
# products it is XTrace.
METHODS: dict[str, tuple[Callable[..., Estimates], tuple[int, ...]]] = {
    "hutchinson": (hutchinson, (2, 4, 6, 16, 64)),
    "hutch++": (hutchpp, (12, 48, 192)),
    "xtrace": (xtrace, (8, 32, 128)),
    "auto": (auto, (48, 128)),
}


def stopped(estimates: Estimates, atol: float = 0.0, rtol: float = 0.0) -> TraceEstimate:
    """The estimate at which the stopping rule of `trace` ends."""
    estimate = None
    for look, estimate in enumerate(estimates, start=1):
        estimate = replace(estimate, error_share=6.0 / (np.pi * look) ** 2)
        if estimate.half_width() <= atol + rtol * abs(estimate.value):
            break
    assert estimate is not None
    return estimate


def true_trace(method: str, eigenvalues: np.ndarray) -> float:
    """What the estimates of `method` are estimates of: random signs use a rounded matrix."""
    signs = method == "hutchinson" or (
        method == "auto" and _diagonal_share(eigenvalues) > DIAGONAL_SHARE
    )
    if signs:
        return float(np.trace(dense(eigenvalues).astype(np.float64)))
    return float(eigenvalues.sum())


def quadratic(x, matrix):
    """The loss whose Hessian is `matrix`."""
    return jnp.einsum("p,pq,q->", x, matrix, x, precision="highest") / 2


def operator(matrix: np.ndarray) -> HessianOperator:
    """A Hessian that is this matrix."""
    array = jnp.asarray(matrix)
    return HessianOperator(quadratic, jnp.zeros(DIM, array.dtype), data=array)


@cache
def prices() -> Costs:
    """Those of the calls: they count the loss, whatever the matrix is."""
    return Costs.of(operator(np.eye(DIM, dtype=np.float32)))


def called(method: str, eigenvalues: np.ndarray, seed: int, **options) -> TraceEstimate:
    """What `hessspec.trace` says."""
    key, hessian = jax.random.key(seed), operator(dense(eigenvalues))
    return trace(hessian, key=key, method=method, progress=False, **options)  # type: ignore


def study(estimates: list[TraceEstimate], truth: float) -> dict[str, float]:
    """Coverage, width, error and products."""
    intervals = np.array([estimate.confidence_interval() for estimate in estimates])
    errors = np.array([estimate.value - truth for estimate in estimates])
    stated = np.array([estimate.standard_error for estimate in estimates])
    rms = float(np.sqrt(np.mean(errors**2)))
    return {
        "coverage": float(np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))),
        "rms": rms,
        "width": float(np.mean(intervals[:, 1] - intervals[:, 0])) / (2 * 1.96 * rms),
        "stated": float(np.sqrt(np.mean(stated**2))) / rms,
        "products": float(np.mean([estimate.num_matvecs for estimate in estimates])),
        "samples": float(np.mean([estimate.num_samples for estimate in estimates])),
        "reliable": float(np.mean([estimate.reliable for estimate in estimates])),
    }


def p_value(found: dict[str, float], calls: int, other: dict[str, float], seeds: int) -> float:
    """How likely two coverages of the same law differ as much as these (Fisher's exact test)."""
    hits = np.array([round(found["coverage"] * calls), round(other["coverage"] * seeds)])
    return float(stats.fisher_exact([hits, np.array([calls, seeds]) - hits]).pvalue)


def emulated(method: str, name: str, seeds: int) -> dict[str, dict[str, float]]:
    """The rows of one method on one spectrum, by what was asked for."""
    run, budgets = METHODS[method]
    eigenvalues = spectra()[name]
    truth = true_trace(method, eigenvalues)
    rows = {
        f"{budget} products": study(
            [next(run(eigenvalues, seed, (budget,))) for seed in range(seeds)], truth
        )
        for budget in budgets
    }
    # What the largest budget above reaches, with room for the level of a look; two digits.
    atol = float(f"{4.0 * rows[f'{budgets[-1]} products']['rms']:.2g}")
    rtol = float(f"{atol / abs(truth):.2g}")
    for tolerance in ({"atol": atol}, {"rtol": rtol}):
        ((kind, value),) = tolerance.items()
        found = [stopped(run(eigenvalues, seed, BUDGETS), **tolerance) for seed in range(seeds)]
        rows[f"{kind} = {value:g}"] = study(found, truth)
    return rows


def options_of(asked: str) -> dict[str, float]:
    """The arguments of `trace` behind a label of `emulated`."""
    if asked.endswith("products"):
        return {"num_matvecs": int(asked.split()[0])}
    name, _, value = asked.partition(" = ")
    return {name: float(value), "num_matvecs": BUDGETS[-1]}


HEAD = (
    "| method | spectrum | asked for | products | samples | reliable | coverage | width / ideal "
    "| stated / true error | true error / trace |\n|---|---|---|---|---|---|---|---|---|---|"
)
HEAD_OF_CALLS = (
    "| method | spectrum | asked for | products: called, emulated | error: called / emulated "
    "| coverage: called, emulated | p |\n|---|---|---|---|---|---|---|"
)
CALLED_SPECTRA = ("decaying", "ten outliers")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2000, help="of the emulation")
    parser.add_argument("--calls", type=int, default=300, help="calls of `trace` in each row")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    lines, calls = [], []
    for method in options.methods:
        for name, eigenvalues in spectra().items():
            begin = time.process_time()
            truth = float(eigenvalues.sum())
            rows = emulated(method, name, options.seeds)
            for asked, r in rows.items():
                lines.append(
                    f"| {method} | {name} | {asked} | {r['products']:.0f} | {r['samples']:.0f} | "
                    f"{'yes' if r['reliable'] == 1 else 'no'} | {r['coverage']:.1%} | "
                    f"{r['width']:.2f} | {r['stated']:.2f} | {r['rms'] / abs(truth):.2g} |"
                )
                print(lines[-1], flush=True)
            if name in CALLED_SPECTRA and options.calls:
                exact = float(np.trace(dense(eigenvalues).astype(np.float64)))
                # The last but one budget gives about 16 samples, the last row stops by `rtol`.
                for asked in (list(rows)[-4], list(rows)[-1]):
                    arguments = options_of(asked)
                    found = study(
                        [called(method, eigenvalues, s, **arguments) for s in range(options.calls)],
                        exact,
                    )
                    r = rows[asked]
                    p = p_value(found, options.calls, r, options.seeds)
                    calls.append(
                        f"| {method} | {name} | {asked} | {found['products']:.0f}, "
                        f"{r['products']:.0f} | {found['rms'] / r['rms']:.2f} | "
                        f"{found['coverage']:.1%}, {r['coverage']:.1%} | {p:.2f} |"
                    )
                    print(calls[-1], flush=True)
            print(f"  {time.process_time() - begin:.0f} s of CPU", flush=True)
    if options.output:
        before, asked = text_of(options.output), options.methods
        first, second = (
            with_others(before, head, rows, asked, list(METHODS))
            for head, rows in ((HEAD, lines), (HEAD_OF_CALLS, calls))
        )
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            "# Coverage of the intervals of a trace\n\n"
            "Written by `python -m benchmarks.accuracy_trace_coverage --output "
            f"docs/studies/trace_coverage.md` with jax {jax.__version__}: {options.seeds} seeds, "
            f"P = {DIM} in a random orthogonal basis, nominal level 95 %. Ideal width: 2 × 1.96 "
            "times the true rms error. Estimates from fewer than 8 samples say themselves that "
            "they are not `reliable`. Below 48 products `auto` is `xtrace`; where almost all of "
            "H is on its diagonal, as in a flat spectrum, `hutchinson`. Stopped by a "
            "tolerance: looks at 48, 96, 192 and 384 products. "
            f"{drawn_at(before, asked, revision(), list(METHODS))}\n\n"
            "## Emulated in the eigenbasis\n\n" + first + "\n\n"
            f"## `hessspec.trace` itself, {options.calls} calls a row\n\n"
            "In float32, on the dense matrix. p: probability of two coverages that far apart if "
            "both had one law (Fisher's exact test). The ratio of errors is known to "
            f"{(0.5 / max(options.calls, 1)) ** 0.5:.1%}.\n\n" + second + "\n"
        )


if __name__ == "__main__":
    main()
