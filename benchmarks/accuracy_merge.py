"""Claim: intervals of merged runs cover the truth as often as they say, few samples or many.

    python -m benchmarks.accuracy_merge [--pairs 2000] [--densities 2000] [--output PATH]

Pairs of runs that differ in their seed alone. Traces are emulated as in
`accuracy_trace_coverage.py`: each run of `auto` grows a basis of its own, by its own pilot. The
width is given relative to the ideal one, 2 x 1.96 times the true rms error of the merged values,
and the coverage of the better run alone stands beside. Densities are those of `hessspec.density`.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import accuracy_trace_coverage as single
from hessspec import HessianOperator, SpectralDensity, TraceEstimate, density
from hessspec._base.origin import Origin

# Products of one run and of the other.
PAIRS = (
    ("hutchinson", 2, 2),
    ("hutchinson", 2, 64),
    ("hutchinson", 8, 8),
    ("hutchinson", 8, 64),
    ("hutchinson", 64, 64),
    ("xtrace", 16, 48),
    ("auto", 48, 48),
    ("auto", 48, 192),
)
SPECTRA = ("decaying", "one outlier", "ten outliers")
DIM, STEPS = 100, 12
PROBES = ((1, 1), (2, 2))
BOUNDS = {"outliers, (10, ∞)": (10.0, np.inf), "negative": (-np.inf, 0.0), "(0, 1]": (0.0, 1.0)}


def run(method: str, eigenvalues: np.ndarray, seed: int, products: int) -> TraceEstimate:
    """One run, with the origin that `hessspec.trace` would have given it."""
    maker, _ = single.METHODS[method]
    estimate = next(iter(maker(eigenvalues, seed, (products,))))
    return replace(estimate, origin=Origin((str(seed),), "emulated", "float32"))


def pairs(method: str, eigenvalues: np.ndarray, products: tuple[int, int], count: int) -> list:
    """Merged records, and the run of each pair that has more products."""
    found = []
    for pair in range(count):
        one, other = (
            run(method, eigenvalues, 2 * pair + side, products[side]) for side in range(2)
        )
        found.append((one.merge(other), other))
    return found


def row_of(method: str, name: str, products: tuple[int, int], count: int) -> str:
    """One line of the table of traces."""
    eigenvalues = single.spectra()[name]
    truth = single.true_trace(method, eigenvalues)
    found = pairs(method, eigenvalues, products, count)
    merged = single.study([both for both, _ in found], truth)
    alone = single.study([longer for _, longer in found], truth)
    bias = np.mean([both.value - truth for both, _ in found]) / (merged["rms"] / count**0.5)
    return (
        f"| {method} | {name} | {products[0]} + {products[1]} | {merged['samples']:.0f} | "
        f"{'yes' if merged['reliable'] == 1 else 'no'} | {merged['coverage']:.1%} | "
        f"{alone['coverage']:.1%} | {merged['width']:.2f} | {merged['stated']:.2f} | "
        f"{merged['rms'] / alone['rms']:.2f} | {bias:+.1f} |"
    )


def spectrum() -> np.ndarray:
    """Six outliers of either sign over a bulk, most of it small."""
    bulk = np.random.default_rng(3).normal(size=DIM) ** 3
    bulk[:6] = [120.0, 70.0, 40.0, 20.0, -15.0, -40.0]
    return bulk


def densities(probes: int, operator: HessianOperator, first: int, count: int) -> list:
    """Runs of `hessspec.density` with keys of their own."""
    return [
        density(operator, key=jax.random.key(first + i), num_probes=probes, num_steps=STEPS)
        for i in range(count)
    ]


def coverage(found: list[SpectralDensity], eigenvalues: np.ndarray) -> list[str]:
    """Coverage and mean width of the count in each interval, and coverage of the trace."""
    cells = []
    for low, high in BOUNDS.values():
        truth = int(np.sum((eigenvalues > low) & (eigenvalues <= high)))
        counts = [one.count(low, high) for one in found]
        hits = np.mean([one.lower <= truth <= one.upper for one in counts])
        cells.append(f"{hits:.1%} ({np.mean([one.upper - one.lower for one in counts]):.1f})")
    ends = [one.trace().confidence_interval() for one in found]
    hits = np.mean([low <= eigenvalues.sum() <= high for low, high in ends])
    return [*cells, f"{hits:.1%} ({np.mean([high - low for low, high in ends]):.0f})"]


def density_rows(count: int) -> list[str]:
    """The table of densities: merged pairs, and single runs of the second kind beside them."""
    eigenvalues = spectrum()
    basis, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(DIM, DIM)))
    matrix = jnp.asarray((basis * eigenvalues) @ basis.T, float)
    operator = HessianOperator(
        single.quadratic, jnp.zeros(DIM, matrix.dtype), data=(matrix + matrix.T) / 2
    )
    lines = []
    for one, other in PROBES:
        first = densities(one, operator, 0, count)
        second = densities(other, operator, 10**6, count)
        merged = [a.merge(b) for a, b in zip(first, second, strict=True)]
        for label, found in ((f"{one} + {other}", merged), (f"{other} alone", second)):
            lines.append(f"| {label} | {' | '.join(coverage(found, eigenvalues))} |")
            print(lines[-1], flush=True)
    return lines


HEAD = (
    "| method | spectrum | products | samples | reliable | coverage | the longer run alone "
    "| width / ideal | stated / true error | error / the longer run's | bias in standard errors |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--densities", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    begin = time.process_time()
    lines = [HEAD]
    for method, *products in PAIRS:
        for name in SPECTRA:
            lines.append(row_of(method, name, tuple(products), options.pairs))
            print(lines[-1], f"{time.process_time() - begin:.0f} s", flush=True)
    counts = density_rows(options.densities) if options.densities else []
    if options.output:
        options.output.write_text(
            "# Coverage of merged intervals\n\n"
            "Written by one run of `python -m benchmarks.accuracy_merge --output "
            f"docs/studies/merge_coverage.md` with jax {jax.__version__}: {options.pairs} pairs of "
            "independent runs in each row, nominal level 95 %.\n\n## Traces\n\n"
            f"P = {single.DIM}, emulated as in [the study of single runs](trace_coverage.md); "
            "each run of `auto` has a basis of its own. Ideal width: 2 × 1.96 times the true rms "
            "error.\n\n" + "\n".join(lines) + "\n\n## Densities\n\n"
            f"{options.densities} pairs of `hessspec.density`, P = {DIM}, {STEPS} steps, six "
            "outliers: coverage of the number of eigenvalues in an interval, and of the trace; in "
            "brackets the mean width.\n\n"
            f"| probes | {' | '.join(BOUNDS)} | trace |\n|---|{'---|' * (len(BOUNDS) + 1)}\n"
            + "\n".join(counts)
            + "\n"
        )


if __name__ == "__main__":
    main()
