"""Claim: intervals of traces of several tasks hold, with probes of their own and given directions.

    python -m benchmarks.accuracy_tasks_coverage [--seeds 2000] [--calls 100] [--page PATH]

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

Each row is added to `benchmarks/results/accuracy_tasks_coverage.csv` with the revision at which it
was drawn, so a run may be stopped and gone on with; delete the file where the draws have changed.
Matrices are small, so that one thread is faster than several: a row of 2,000 seeds takes seconds.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before NumPy is imported.
    from hessspec_mtl.files.threads import keep_to_one_thread

    keep_to_one_thread()

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy_trace_coverage import p_value, spectra
from benchmarks.machine import revision
from hessspec import Batches, HessianOperator, TraceEstimate, trace
from hessspec._krylov.block_basis import PILOT, WIDTH
from hessspec._trace.choice import LEAST, geometric_mean, next_rank
from hessspec._trace.costs import Costs
from hessspec._trace.strata import Strata

DIM, TASKS, GROUPS, GIVEN = 120, 3, 4, 6
FORM_COST = 5 / 8  # of a form of all tasks, in products: `HessianOperator.form_cost`
LOOKS = 2
AGREEMENT = {"agreeing": 0.9, "unlike": 0.1}
SPECTRA = spectra(DIM, decades=3)
RESULTS = Path(__file__).parent / "results" / "accuracy_tasks_coverage.csv"


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


@cache
def prices() -> Costs:
    """Those of the calls: they count the loss, whatever the matrices are."""
    return Costs.of(operator("flat", "unlike"))


class Groups(Strata):
    """The package's decision, with forms by NumPy."""

    def __init__(self, matrices: np.ndarray, rng: np.random.Generator) -> None:
        self.parts = [None] * GROUPS  # type: ignore[list-item]
        self.costs, self.eps = prices(), float(np.finfo(matrices.dtype).eps)
        self.shares = np.full(GROUPS, 1.0 / GROUPS)
        self.side_by_side = np.moveaxis(matrices, 2, 0).reshape(DIM, -1)
        self.rng, self.drawn = rng, 0
        self.begin_again()

    def common(self, rows: np.ndarray) -> np.ndarray:  # type: ignore[override]
        products = (rows @ self.side_by_side).reshape(len(rows), GROUPS * TASKS, DIM)
        forms = (products @ rows[:, :, None])[..., 0].T
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
            found.append((products @ rows[:, :, None])[..., 0].T)
        return np.stack(found)


@dataclass(frozen=True)
class Found:
    """An estimate, what the samples that a choice looked at have added to its error, the rank."""

    estimate: TraceEstimate
    pull: np.ndarray
    rank: int


def signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], (count, DIM))


def _found(strata: Groups, exact: np.ndarray, truth: np.ndarray, looked: int, rank: int) -> Found:
    samples = np.concatenate(strata.samples, axis=-1).sum(axis=0)
    looked = looked // 2 if strata.looked else looked
    ahead = samples[:, :looked].sum(axis=-1) - looked * (truth - exact)
    estimate = TraceEstimate.from_samples(samples, exact=exact, dim=DIM, probes=strata.words)
    return Found(estimate, ahead / samples.shape[-1], rank)


def hutchinson(matrices: np.ndarray, truth: np.ndarray, seed: int, budget: int) -> Found:
    """`hessspec._trace.hutchinson.Hutchinson` for several tasks."""
    rng = np.random.default_rng([seed, 1])
    strata = Groups(matrices, rng)
    strata.samples.append(strata.common(signs(rng, PILOT)))
    left = budget - PILOT - LOOKS
    if strata.decide(left):
        strata.samples.append(strata.draw(left, lambda rows: rows))
    else:
        strata.samples.append(strata.common(signs(rng, left)))
    return _found(strata, np.zeros(TASKS), truth, PILOT, 0)


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
        strata.begin_again()
        strata.samples = [strata.common(without(pilot))]
        samples = strata.samples[0].sum(axis=0)
        variances.append((len(basis), samples.var(axis=-1, ddof=1)))

    def left() -> int:
        return int((budget * FORM_COST - cost) / FORM_COST + 1e-9)

    pilot, variances, cost = signs(rng, PILOT), [], (PILOT * FORM_COST + LOOKS)
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
        strata.samples.append(strata.common(without(signs(rng, more))))
    exact = np.sum((basis @ whole) * basis, axis=(1, 2))
    return _found(strata, exact, truth, looked, len(basis))


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
        "own": float(np.mean([estimate.probes != "common" for estimate in estimates])),
    }


# What is kept of a row, in the order of the file; `way` is "emulated" or "called".
KEYS: tuple[str, ...] = ("way", "method", "spectrum", "groups", "budget")
NUMBERS = ("seeds", "samples", "own", "coverage", "worst", "paired", "ratio", "bias", "bias_error")


def emulated(method: str, spectrum: str, groups: str, budget: int, seeds: int) -> dict[str, float]:
    """What `study` finds of the emulation, and the bias of the samples that were looked at."""
    matrices = hessians(spectrum, groups)
    truth = np.einsum("btpp->t", matrices)
    found = [METHODS[method](matrices, truth, seed, budget) for seed in range(seeds)]
    errors = np.array([f.estimate.value - truth for f in found])
    pulls = np.array([f.pull for f in found]) / errors.std(axis=0)
    worst = int(np.argmax(np.abs(pulls.mean(axis=0))))
    bias = {
        "bias": float(pulls.mean(axis=0)[worst]),
        "bias_error": float(pulls.std(axis=0)[worst] / seeds**0.5),
    }
    return study([f.estimate for f in found], truth) | bias


def of_calls(method: str, spectrum: str, groups: str, budget: int, calls: int) -> dict[str, float]:
    """What `study` finds of `hessspec.trace`."""
    truth = np.einsum("btpp->t", hessians(spectrum, groups))
    found = [called(method, spectrum, groups, seed, budget) for seed in range(calls)]
    nothing = float("nan")  # the samples looked at are not told apart
    return study(found, truth) | {"bias": nothing, "bias_error": nothing}


WAYS = {"emulated": emulated, "called": of_calls}
Row = dict[str, str]


def read() -> list[Row]:
    """All rows that are kept."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def add(way: str, case: tuple[str, str, str, int], seeds: int) -> None:
    """A row of this many seeds, unless there is one already."""
    rows, key = read(), (way, *map(str, case))
    others = [row for row in rows if tuple(row[name] for name in KEYS) != key]
    if any(int(row["seeds"]) >= seeds for row in rows if row not in others):
        return
    begin = time.process_time()
    found = WAYS[way](*case, seeds) | {"seeds": seeds}
    took = time.process_time() - begin
    new = dict(zip(KEYS, key, strict=True)) | {name: f"{found[name]:.5g}" for name in NUMBERS}
    with RESULTS.open("w", newline="") as file:
        columns: list[str] = [*KEYS, *NUMBERS, "revision"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([*others, new | {"revision": revision()}])
    print(*new.values(), f"{took:.0f} s of CPU", flush=True)


HEAD = (
    "| method | spectrum | groups | budget | samples | own probes | coverage, worst task | "
    "of a difference | true / stated error, worst task | bias, worst task |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
HEAD_OF_CALLS = (
    "| method | spectrum | groups | budget | samples: called, emulated "
    "| coverage: called, emulated | p |\n|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """A row of the first table."""
    r = {name: float(row[name]) for name in NUMBERS}
    return (
        f"| {row['method']} | {row['spectrum']} | {row['groups']} | {row['budget']} | "
        f"{r['samples']:.0f} | {r['own']:.0%} | {r['worst']:.1%} | {r['paired']:.1%} | "
        f"{r['ratio']:.2f} | {r['bias']:+.3f} ± {r['bias_error']:.3f} |"
    )


def line_of_calls(row: Row, other: Row) -> str:
    """A row of the second table: calls beside the emulation of the same case."""
    c, r = ({name: float(one[name]) for name in NUMBERS} for one in (row, other))
    p = p_value(c, int(c["seeds"]) * TASKS, r, int(r["seeds"]) * TASKS)
    return (
        f"| {row['method']} | {row['spectrum']} | {row['groups']} | {row['budget']} | "
        f"{c['samples']:.0f}, {r['samples']:.0f} | {c['coverage']:.1%}, {r['coverage']:.1%} | "
        f"{p:.2f} |"
    )


def _drawn(rows: list[Row]) -> str:
    found = sorted({row["revision"] for row in rows})
    return f"drawn at revision {' and '.join(found)}"


def page() -> str:
    """The study, of all rows that are kept."""
    rows = read()
    first = [row for row in rows if row["way"] == "emulated"]
    calls = [row for row in rows if row["way"] == "called"]
    seeds = sorted({row["seeds"] for row in first}, key=int)
    by_case = {tuple(row[name] for name in KEYS[1:]): row for row in first}
    lines = [line_of_calls(row, by_case[tuple(row[n] for n in KEYS[1:])]) for row in calls]
    least = min(float(row["worst"]) for row in first)
    known = (0.05 * 0.95 / int(seeds[0])) ** 0.5
    second = (
        f"\n## `hessspec.trace` itself, {calls[0]['seeds']} calls a row\n\n"
        "p: probability of two coverages that far apart if both had one law (Fisher's exact "
        f"test, tasks counted as independent); one in twenty of {len(lines)} is expected below "
        f"0.05. {_drawn(calls).capitalize()}.\n\n" + "\n".join([HEAD_OF_CALLS, *lines]) + "\n"
        if calls
        else ""
    )
    return (
        "# Coverage of the intervals of several tasks' traces\n\n"
        "Written by `python -m benchmarks.accuracy_tasks_coverage --page "
        f"docs/studies/tasks_coverage.md` with jax {jax.__version__}, {_drawn(first)}: "
        f"{' or '.join(f'{int(s):,}' for s in seeds)} seeds a row, "
        f"P = {DIM}, {TASKS} tasks with correlated Hessians over {GROUPS} groups of batches, "
        f"nominal level 95 %. Budget: `num_matvecs`. A coverage is known to {known:.1%}; the least "
        f"of a task is {least:.1%}. The bias is in standard deviations of the estimate.\n\n"
        "## Emulated\n\n" + "\n".join([HEAD, *map(line, first)]) + "\n" + second
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2000, help="of the emulation")
    parser.add_argument("--calls", type=int, default=100, help="calls of `trace` in each row")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--spectra", nargs="+", default=list(SPECTRA), choices=list(SPECTRA))
    parser.add_argument("--page", type=Path, default=None)
    options = parser.parse_args()
    cases = [
        (method, spectrum, groups, budget)
        for spectrum in options.spectra
        for groups in AGREEMENT
        for method in options.methods
        for budget in options.budgets
    ]
    for case in cases if options.seeds else ():
        add("emulated", case, options.seeds)
    for case in cases if options.calls else ():
        if case[-1] == options.budgets[-1]:
            add("called", case, options.calls)
    if options.page:
        options.page.write_text(page())


if __name__ == "__main__":
    main()
