"""Claim: intervals of traces of several tasks hold, with probes of their own and given directions.

    python -m benchmarks.accuracy_tasks_coverage [--seeds 2000] [--calls 100] [--output PATH]

Three tasks with correlated Hessians of P = 120, each a sum over four groups of batches: parts that
groups share and tasks share in part, and parts of their own, all of one of four spectra.
`agreeing` groups share nine tenths, `unlike` ones a tenth. The methods are those of
`hessspec.trace` for several tasks: `hutchinson`, `auto`, and `auto` beside six directions that
were given, the product of the first task with random ones.

The first table emulates: forms are products of small matrices in NumPy, and the decisions (growth,
whose probes), the record and its interval are the package's. The last columns are the bias, in
standard deviations of the estimate, with its standard error. The choices look at samples that are
averaged too, so a bias is looked for: that of the samples looked at alone, since all others are
drawn after the choice. The second table calls `hessspec.trace` itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy_trace_coverage import p_value, spectra
from hessspec import Batches, HessianOperator, TraceEstimate, trace
from hessspec._krylov.block_basis import PILOT, WIDTH
from hessspec._trace.choice import LEAST, geometric_mean, next_rank
from hessspec._trace.costs import Costs
from hessspec._trace.strata import Strata

DIM, TASKS, GROUPS, GIVEN = 120, 3, 4, 6
FORM_COST = 0.6  # of a form of all tasks, in products
LOOKS = 2
AGREEMENT = {"agreeing": 0.9, "unlike": 0.1}
SPECTRA = spectra(DIM, decades=3)


@cache
def hessians(spectrum: str, groups: str) -> np.ndarray:
    """(group, task, P, P), to be summed over groups."""
    eigenvalues, share = SPECTRA[spectrum], AGREEMENT[groups]
    rng = np.random.default_rng([1, list(AGREEMENT).index(groups)])

    def rotated() -> np.ndarray:
        basis, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
        return (basis * eigenvalues) @ basis.T

    all_tasks = rotated()
    of_tasks = [0.7 * all_tasks + 0.3 * rotated() for _ in range(TASKS)]
    found = np.empty((GROUPS, TASKS, DIM, DIM))
    for b in range(GROUPS):
        for t in range(TASKS):
            found[b, t] = (share * of_tasks[t] + (1.0 - share) * rotated()) / GROUPS
    return found


class Groups(Strata):
    """The package's decision, with forms by NumPy."""

    def __init__(self, matrices: np.ndarray, rng: np.random.Generator) -> None:
        self.parts = [None] * GROUPS  # type: ignore[list-item]
        self.costs = Costs(FORM_COST, FORM_COST)  # products and forms are all there is
        self.shares = np.full(GROUPS, 1.0 / GROUPS)
        self.side_by_side = np.moveaxis(matrices, 2, 0).reshape(DIM, -1)
        self.rng, self.drawn = rng, 0
        self.begin_again()

    def common(self, rows: np.ndarray) -> np.ndarray:  # type: ignore[override]
        products = (rows @ self.side_by_side).reshape(len(rows), GROUPS * TASKS, DIM)
        forms = np.einsum("kbp,kp->bk", products, rows)
        return forms.reshape(GROUPS, TASKS, len(rows))

    def draw(self, count: int, project: Callable) -> np.ndarray:
        self.drawn += count
        found = []
        signs = self.rng.choice([-1.0, 1.0], (self.groups, count, DIM))
        shared = [
            rows for rows, m in zip(signs, self._members(self.groups), strict=True) for _ in m
        ]
        for b in range(GROUPS):
            rows = project(shared[b])
            own = self.side_by_side.reshape(DIM, GROUPS, TASKS * DIM)[:, b]
            products = (rows @ own).reshape(count, TASKS, DIM)
            found.append(np.einsum("ktp,kp->tk", products, rows))
        return np.stack(found)


@dataclass(frozen=True)
class Found:
    """An estimate, and what the samples that a choice looked at have added to its error."""

    estimate: TraceEstimate
    pull: np.ndarray


def spherical(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, DIM))
    return rows * (DIM**0.5 / np.linalg.norm(rows, axis=1, keepdims=True))


def _found(strata: Groups, exact: np.ndarray, truth: np.ndarray, looked: int) -> Found:
    samples = np.concatenate(strata.samples, axis=-1).sum(axis=0)
    looked = looked // 2 if strata.looked else looked
    ahead = samples[:, :looked].sum(axis=-1) - looked * (truth - exact)
    estimate = TraceEstimate.from_samples(samples, exact=exact, dim=DIM, probes=strata.words)
    return Found(estimate, ahead / samples.shape[-1])


def hutchinson(matrices: np.ndarray, truth: np.ndarray, seed: int, budget: int) -> Found:
    """`hessspec._trace.hutchinson.Hutchinson` for several tasks."""
    rng = np.random.default_rng([seed, 1])
    strata = Groups(matrices, rng)
    strata.samples.append(strata.common(rng.choice([-1.0, 1.0], (PILOT, DIM))))
    left = budget - PILOT - LOOKS
    if strata.decide(left):
        strata.samples.append(strata.draw(left, lambda rows: rows))
    else:
        strata.samples.append(strata.common(rng.choice([-1.0, 1.0], (left, DIM))))
    return _found(strata, np.zeros(TASKS), truth, PILOT)


def auto(matrices: np.ndarray, truth: np.ndarray, seed: int, budget: int, given: int = 0) -> Found:
    """`hessspec._trace.shared.SharedDeflation`."""
    rng = np.random.default_rng([seed, 2])
    strata = Groups(matrices, rng)
    whole = matrices.sum(axis=0)
    basis = np.zeros((0, DIM))

    def without(rows: np.ndarray) -> np.ndarray:
        for _ in range(2):
            rows = rows - (rows @ basis.T) @ basis
        return rows

    def measure() -> None:
        rows = without(pilot)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        strata.begin_again()
        strata.samples = [strata.common(rows * ((DIM - len(basis)) ** 0.5 / length))]
        samples = strata.samples[0].sum(axis=0)
        variances.append((len(basis), samples.var(axis=-1, ddof=1)))

    def left() -> int:
        return int((budget * FORM_COST - cost) / FORM_COST + 1e-9)

    pilot, variances, cost = spherical(rng, PILOT), [], (PILOT * FORM_COST + LOOKS)
    if given:
        basis = np.linalg.qr(whole[0] @ rng.normal(size=(DIM, given)))[0].T
        cost += (given + LOOKS + -(given + LOOKS) % PILOT) * FORM_COST
    measure()
    weights = (rng.uniform(size=TASKS) + 0.5) / np.sqrt(variances[0][1])
    one = np.tensordot(weights / weights.max(), whole, 1)
    block = np.linalg.qr(without(rng.normal(size=(WIDTH, DIM))).T)[0].T
    tax, looked = (1.0 + FORM_COST) / FORM_COST, 0
    while True:
        rank = len(basis)
        within = rank + PILOT * int((left() - PILOT - LEAST) / tax / PILOT)
        if rank + PILOT > min(DIM - 2 * WIDTH, within):
            break
        looked = PILOT
        strata.look()
        means = [(known, geometric_mean(v)) for known, v in variances]
        target = next_rank(
            means,
            strata.costs,
            held=PILOT // 2,
            wanted=left(),
            room=left(),
            tax=tax,
            most=DIM - 2 * WIDTH,
        )
        if (target := min(target, within)) == rank:
            break
        for _ in range((target - rank) // WIDTH):
            basis = np.concatenate([basis, block])
            block = np.linalg.qr(without(block @ one).T)[0].T
        cost += (target - rank) * (1.0 + FORM_COST) + PILOT * FORM_COST
        measure()
    more = left()
    strata.decide(more, len(basis))
    looked = PILOT if strata.looked else looked
    if strata.own:
        strata.samples.append(strata.draw(more, without))
    elif more > 0:
        rows = without(spherical(rng, more))
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        strata.samples.append(strata.common(rows * ((DIM - len(basis)) ** 0.5 / length)))
    exact = np.einsum("rp,tpq,rq->t", basis, whole, basis)
    return _found(strata, exact, truth, looked)


def directed(matrices: np.ndarray, truth: np.ndarray, seed: int, budget: int) -> Found:
    """`auto` with directions that were given."""
    return auto(matrices, truth, seed, budget, GIVEN)


METHODS = {"hutchinson": hutchinson, "auto": auto, "auto, directions given": directed}
BUDGETS = (48, 96)


def losses(x, batch):
    """Three tasks, whose Hessians are the matrices of the batch."""
    products = jnp.einsum("tpq,q->tp", batch, x, precision="highest")
    return jnp.einsum("tp,p->t", products, x, precision="highest") / 2


@cache
def operator(spectrum: str, groups: str) -> HessianOperator:
    """The same Hessians, to be multiplied by JAX; batches are averaged there."""
    matrices = GROUPS * hessians(spectrum, groups)
    batches = [jnp.asarray(group, jnp.asarray(0.0).dtype) for group in matrices]
    return HessianOperator(losses, jnp.zeros(DIM), data=Batches(batches))


def called(method: str, spectrum: str, groups: str, seed: int, budget: int) -> TraceEstimate:
    """What `hessspec.trace` says."""
    hessian, key = operator(spectrum, groups), jax.random.key(seed)
    directions = None
    if "given" in method:
        tests = jax.random.normal(jax.random.fold_in(key, 5), (GIVEN, DIM))
        directions = hessian.task(0).rows(tests)
    return trace(
        hessian,
        key=key,
        method="hutchinson" if method == "hutchinson" else "auto",
        directions=directions,
        num_matvecs=budget,
        progress=False,
    )


def study(estimates: list[TraceEstimate], truth: np.ndarray) -> dict[str, float]:
    """Coverage over seeds and tasks; the worst task's ratio of the true error to the stated one."""
    ends = np.array([estimate.confidence_interval() for estimate in estimates])
    errors = np.array([estimate.value - truth for estimate in estimates])
    stated = np.array([estimate.standard_error for estimate in estimates])
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    ratios = np.sqrt(np.mean(errors**2, axis=0) / np.mean(stated**2, axis=0))
    gap = [estimate.difference(0, 1) for estimate in estimates]
    lows, highs = np.array([pair.confidence_interval() for pair in gap]).T
    return {
        "coverage": float(held.mean()),
        "worst": float(held.mean(axis=0).min()),
        "paired": float(np.mean((lows <= truth[0] - truth[1]) & (truth[0] - truth[1] <= highs))),
        "ratio": float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        "samples": float(np.mean([estimate.num_samples for estimate in estimates])),
    }


HEAD = (
    "| method | spectrum | groups | budget | samples | own probes | coverage, worst task | "
    "of a difference | true / stated error, worst task | bias, worst task |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
HEAD_OF_CALLS = (
    "| method | spectrum | groups | budget | samples: called, emulated "
    "| coverage: called, emulated | p |\n|---|---|---|---|---|---|---|"
)


def emulated(method: str, spectrum: str, groups: str, budget: int, seeds: int) -> tuple:
    """What `study` finds, and a line of the table."""
    matrices = hessians(spectrum, groups)
    truth = np.einsum("btpp->t", matrices)
    found = [METHODS[method](matrices, truth, seed, budget) for seed in range(seeds)]
    r = study([f.estimate for f in found], truth)
    errors = np.array([f.estimate.value - truth for f in found])
    pulls = np.array([f.pull for f in found]) / errors.std(axis=0)
    worst = int(np.argmax(np.abs(pulls.mean(axis=0))))
    bias, known = pulls.mean(axis=0)[worst], pulls.std(axis=0)[worst] / seeds**0.5
    own = np.mean([f.estimate.probes != "common" for f in found])
    line = (
        f"| {method} | {spectrum} | {groups} | {budget} | {r['samples']:.0f} | {own:.0%} | "
        f"{r['worst']:.1%} | {r['paired']:.1%} | {r['ratio']:.2f} | {bias:+.3f} ± {known:.3f} |"
    )
    return r, line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2000, help="of the emulation")
    parser.add_argument("--calls", type=int, default=100, help="calls of `trace` in each row")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--spectra", nargs="+", default=list(SPECTRA))
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    lines, calls = [HEAD], [HEAD_OF_CALLS]
    for spectrum in options.spectra:
        for groups in AGREEMENT:
            begin = time.process_time()
            truth = np.einsum("btpp->t", hessians(spectrum, groups))
            for method in options.methods:
                for budget in options.budgets:
                    r, line = emulated(method, spectrum, groups, budget, options.seeds)
                    lines.append(line)
                    print(line, flush=True)
                if options.calls and spectrum in ("decaying", "ten outliers"):
                    budget = options.budgets[-1]
                    r, _ = emulated(method, spectrum, groups, budget, options.seeds)
                    found = [
                        called(method, spectrum, groups, seed, budget)
                        for seed in range(options.calls)
                    ]
                    c = study(found, truth)
                    p = p_value(c, options.calls * TASKS, r, options.seeds * TASKS)
                    calls.append(
                        f"| {method} | {spectrum} | {groups} | {budget} | {c['samples']:.0f}, "
                        f"{r['samples']:.0f} | {c['coverage']:.1%}, {r['coverage']:.1%} | {p:.2f} |"
                    )
                    print(calls[-1], flush=True)
            print(f"  {time.process_time() - begin:.0f} s of CPU", flush=True)
    if options.output:
        asked = f"--seeds {options.seeds} --calls {options.calls}"
        of_calls = (
            f"\n## `hessspec.trace` itself, {options.calls} calls a row\n\n"
            "p: probability of two coverages that far apart if both had one law (Fisher's exact "
            "test, tasks counted as independent).\n\n" + "\n".join(calls) + "\n"
        )
        options.output.write_text(
            "# Coverage of the intervals of several tasks' traces\n\n"
            f"Written by one run of `python -m benchmarks.accuracy_tasks_coverage {asked} --output "
            "docs/studies/tasks_coverage.md` "
            f"with jax {jax.__version__}: {options.seeds} seeds, "
            f"P = {DIM}, {TASKS} tasks with correlated Hessians over {GROUPS} groups of batches, "
            "nominal level 95 %. Budget: `num_matvecs`. The bias is in standard deviations of the "
            "estimate.\n\n"
            "## Emulated\n\n" + "\n".join(lines) + "\n" + (of_calls if options.calls else "")
        )


if __name__ == "__main__":
    main()
