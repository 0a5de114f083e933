"""How far any basis and any probes could bring the traces that `bench_trace_states` times.

    python -m benchmarks.trace_limits "MP after 400 steps"   # minutes; then the next
    python -m benchmarks.trace_limits --page docs/studies/trace_limits.md

For each state: the deviation of a sample of each task beside Krylov bases and beside pull-backs of
random signs, with probes that all batches share and with probes of their own, from the same 48
probes. With the prices of `hessspec._trace.costs` these say how many products the traces of all
tasks take to the error of 500 plain samples, whatever `auto` chooses: what a better choice could
gain, and what none can.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.accuracy_network import add_row
from benchmarks.bench_trace_states import BARS, SAMPLES, problems
from benchmarks.machine import revision
from benchmarks.problems import GraphProblem
from hessspec import Batches, rademacher
from hessspec._base.kept import never
from hessspec._base.progress import progress_bar
from hessspec._krylov.block_basis import PILOT
from hessspec._krylov.blocks import orthonormal_rows, rescaled, spherical, without
from hessspec._operators.algebra import AbstractOperator
from hessspec._trace.costs import MACHINE, Costs
from hessspec._trace.shared import SharedDeflation
from hessspec._trace.strata import Strata
from hessspec_mtl.curvature.sketches import pull_backs, size_for_groups

PROBES = 48
KRYLOV, GIVEN = (16, 32), (14, 30)
SIGNS, SPHERICAL = "signs", "spherical"
NONE, OF_KRYLOV, OF_PULL_BACKS = "none", "Krylov", "pull-backs"
RESULTS = Path(__file__).parent / "results" / "trace_limits.csv"
PULL_BACK = 0.25
"""Of a product, assumed: a reverse pass alone, where the forward pass is shared."""


@dataclass(frozen=True)
class Beside:
    """The deviation of one sample of one task beside a basis.

    Attributes:
        probes: random signs, or of equal length and uniform in direction.
        groups: with probes of their own for so many groups of batches; 1 for common ones.
        before: products' worth of the basis, its forms included.
        sample: products' worth of a sample.
    """

    state: str
    basis: str
    rank: int
    probes: str
    groups: int
    task: str
    deviation: float
    before: float
    sample: float
    revision: str


def beside_each(state: str, problem: GraphProblem) -> list[Beside]:
    """All bases of a state."""
    batches = problem.batches(size_for_groups(problem.graphs, problem.num_graphs - 1))
    sizes = [batch.num_graphs for batch in batches]
    operator = problem.operator(data=Batches(jax.device_put(batches), sizes=sizes))
    costs, found = Costs.of(operator), list[Beside]()

    def note(basis: str, rows: Float[Array, "r dim"] | None, before: float) -> None:
        rank = 0 if rows is None else len(rows)
        for probes in (SIGNS, SPHERICAL):
            extra = 0.0 if probes == SIGNS else costs.sign * (MACHINE.normal / MACHINE.sign - 1)
            for groups, values in deviations(operator, rows, probes).items():
                common = costs.sample(rank) + extra
                sample = common if groups == 1 else costs.own_sample(rank, groups)
                for task, value in zip(problem.tasks, values, strict=True):
                    found.append(
                        Beside(
                            *(state, basis, rank, probes, groups, task, float(value)),
                            *(before, sample, revision()),
                        )
                    )

    note(NONE, None, 0.0)
    with progress_bar(0, "Krylov basis", enabled=False) as bar:
        grown = SharedDeflation(operator, jax.random.key(1), 2**34)
        grown._begin(bar)
        assert grown.krylov is not None
        for rank in KRYLOV:
            grown.wanted = rank
            grown._grow(bar, never)
            rows = grown.krylov.basis.rows(0, grown.krylov.rank)
            note(OF_KRYLOV, rows, sum(costs.direction(r + 1) for r in range(rank)))
    key = jax.random.key(5)
    sketches = pull_backs(problem.params, problem.network, batches, max(GIVEN), key)
    for rank in GIVEN:
        rows, _ = orthonormal_rows(sketches[:rank])
        note(OF_PULL_BACKS, rows, rank * (costs.sample(rank) + PULL_BACK))
    return found


def deviations(
    operator: AbstractOperator, rows: Float[Array, "r dim"] | None, probes: str
) -> dict[int, np.ndarray]:
    """Of each task, by the number of groups that have a probe of their own."""
    strata = Strata(operator, jax.random.key(0))
    key, dim, dtype = jax.random.key(77), operator.dim, operator.dtype
    found = []
    for first in range(0, PROBES, PILOT):
        if probes == SIGNS:
            drawn = rademacher(key, jnp.arange(first, first + PILOT), dim, dtype)
        else:
            drawn = spherical(key, first, PILOT, dim, dtype, operator.mesh)
        outside = drawn if rows is None else without(rows, drawn)
        if probes == SPHERICAL:
            outside = rescaled(outside, (dim - (0 if rows is None else len(rows))) ** 0.5)
        found.append(strata.common(outside))
    forms = np.concatenate(found, axis=-1)
    counts = (1, *strata._possible())
    return {count: np.sqrt(_variance(forms, strata._members(count))) for count in counts}


def _variance(forms: Float[np.ndarray, "B T k"], members: list[np.ndarray]) -> np.ndarray:
    return sum((forms[of].sum(axis=0).var(axis=-1, ddof=1) for of in members), np.zeros(()))


def read() -> list[Beside]:
    """What is kept."""
    if not RESULTS.exists():
        return []
    kinds = {"rank": int, "groups": int, "deviation": float, "before": float, "sample": float}
    with RESULTS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Beside(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in rows]


@dataclass(frozen=True)
class Way:
    """What all tasks take beside one basis, in products with one task's Hessian."""

    rows: tuple[Beside, ...]
    plain: tuple[Beside, ...]

    @property
    def samples(self) -> float:
        """As many as bring the slowest task to the error of 500 plain ones."""
        pairs = zip(self.rows, self.plain, strict=True)
        return SAMPLES * max(row.deviation / plain.deviation for row, plain in pairs) ** 2

    @property
    def products(self) -> float:
        return self.rows[0].before + self.samples * self.rows[0].sample

    @property
    def faster(self) -> float:
        """Than 500 products of each task."""
        return len(self.rows) * SAMPLES / self.products

    def row(self) -> str:
        first = self.rows[0]
        groups = "common" if first.groups == 1 else f"own, {first.groups} groups"
        left = " ".join(f"{row.deviation:.3g}" for row in self.rows)
        return (
            f"| {first.basis} | {first.rank or ''} | {first.probes}, {groups} | {left} | "
            f"{first.before:.0f} | "
            f"{self.samples:.0f} at {first.sample:.2f} | {self.faster:.1f} |\n"
        )


def ways(rows: list[Beside]) -> list[Way]:
    """Of one state, in the order of measurement."""
    keyed: dict[tuple[str, int, str, int], list[Beside]] = {}
    for row in rows:
        keyed.setdefault((row.basis, row.rank, row.probes, row.groups), []).append(row)
    plain = tuple(keyed[NONE, 0, SIGNS, 1])
    return [Way(tuple(each), plain) for each in keyed.values()]


def page() -> str:
    """The study."""
    rows = read()
    text = (
        "# How fast traces could be\n\n"
        "Written by `python -m benchmarks.trace_limits --page docs/studies/trace_limits.md` from "
        "what `python -m benchmarks.trace_limits STATE` has measured at revision "
        f"{', '.join(sorted({row.revision for row in rows}))}, float32: the paper's network, P = "
        "1,915,392 shared parameters, at the states that `benchmarks/bench_trace_states.py` "
        f"times. Deviations are of one sample vᵀHv of each task, from {PROBES} probes (each known "
        "to a tenth). Prices are those that `auto` counts with, in products with one task's "
        "Hessian. The last column: how many times fewer products all tasks together take than "
        f"{SAMPLES} of each, where the slowest reaches the error of those {SAMPLES} (random signs, "
        "no basis).\n"
    )
    for state, (bar, _) in BARS.items():
        of_state = [row for row in rows if row.state == state]
        if not of_state:
            continue
        found = ways(of_state)
        tasks = " ".join(row.task for row in found[0].rows)
        best = max(found, key=lambda way: way.faster)
        first = best.rows[0]
        rank = f" of rank {first.rank}" if first.rank else ""
        text += (
            f"\n## {state}\n\n| basis | rank | probes | deviation left: {tasks} | basis, products "
            "| samples, products each | times fewer |\n|---|---|---|---|---|---|---|\n"
            + "".join(way.row() for way in found)
            + f"\nThe best of these: {first.basis}{rank}, {best.faster:.1f} times fewer; the bar "
            f"is {bar:.0f}. With samples at the price of their forms alone it would be "
            f"{best_of_forms(found):.1f}.\n"
        )
    return text + in_short(rows)


def in_short(rows: list[Beside]) -> str:
    """What groups leave beside a basis, and signs in place of spherical probes: what
    `hessspec._trace.strata` and docs/trace.md take from here."""
    held = {(r.state, r.basis, r.rank, r.probes, r.groups, r.task): r.deviation for r in rows}
    exponents: dict[int, list[float]] = {}
    signs = []
    for (*place, probes, groups, task), deviation in held.items():
        common = held[*place, probes, 1, task]
        if groups > 1 and place[1] != NONE:
            fall = -2 * np.log(deviation / common) / np.log(groups)
            exponents.setdefault(groups, []).append(float(fall))
        elif groups == 1 and probes == SIGNS and (*place, SPHERICAL, 1, task) in held:
            signs.append(2 * np.log(deviation / held[*place, SPHERICAL, 1, task]))
    shown = [
        f"{groups}: {np.mean(each):.2f} ± {np.std(each):.2f}"
        for groups, each in sorted(exponents.items())
    ]
    text = "\n## In short\n\n"
    if shown:
        text += (
            "Beside a basis probes of their own for g groups leave g^-x of the variance; x, mean "
            f"and deviation over states, bases, probes and tasks, for g = {'; '.join(shown)}.\n\n"
        )
    if signs:
        text += (
            "Common random signs leave of the variance of common spherical probes "
            f"{np.exp(np.mean(signs)):.2f} (geometric mean over states, bases and tasks).\n"
        )
    return text if shown or signs else ""


def best_of_forms(found: list[Way]) -> float:
    """If nothing but forms were to be paid for, neither bases nor draws nor projections."""
    form = min(way.rows[0].sample for way in found)
    least = min(way.samples for way in found)
    return len(found[0].rows) * SAMPLES / (least * form)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace_limits")
    parser.add_argument("states", nargs="*", metavar="STATE", help=", ".join(BARS))
    parser.add_argument("--page", type=Path, default=None)
    options = parser.parse_args()
    if unknown := set(options.states) - set(BARS):
        parser.error(f"no such state: {', '.join(sorted(unknown))}; there are {', '.join(BARS)}")
    for state in options.states:
        for row in beside_each(state, problems(tiny=False)[state]):
            add_row(RESULTS, asdict(row))
    if options.page:
        options.page.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
