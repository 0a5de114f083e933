"""Claim: the intervals of a trace cover the truth as often as they say, whatever the method.

    python benchmarks/accuracy_trace_coverage.py [--seeds 2000] [--output docs/studies/...]

P = 500 eigenvalues in a random orthogonal basis; flat, decaying and outlier-dominated spectra;
every method with few samples, with about 16 and 64, and stopped by a tolerance. The width is
given relative to the ideal one, 2 x 1.96 times the true rms error of the same estimates.
"""

import argparse
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hessspec import AbstractOperator, trace
from hessspec._space import VectorSpace

DIM = 500
# Products that give about 16 and 64 samples, and fewer than 8.
BUDGETS = {
    "hutchinson": (4, 16, 64),
    "hutch++": (12, 48, 192),
    "xtrace": (8, 32, 128),
    "auto": (8, 48, 128),
}


def spectra() -> dict[str, np.ndarray]:
    """The spectra, largest first."""
    rng = np.random.default_rng(0)
    bulk = rng.normal(size=DIM)
    one, ten = bulk.copy(), bulk.copy()
    one[0] = 1e4
    ten[:10] = np.logspace(4, 1, 10) * rng.choice([-1.0, 1.0], 10)
    return {
        "flat": np.linspace(2.0, 1.0, DIM),
        "decaying": 1.0 / np.arange(1, DIM + 1),
        "one outlier": one,
        "ten outliers": ten,
    }


class DenseOperator(AbstractOperator):
    """A symmetric matrix with prescribed eigenvalues in a random basis."""

    matrix: jax.Array
    space: VectorSpace = eqx.field(static=True)
    num_tasks: int | None = eqx.field(static=True)

    def __init__(self, eigenvalues: np.ndarray) -> None:
        rng = np.random.default_rng(1)
        basis, _ = np.linalg.qr(rng.normal(size=(eigenvalues.size,) * 2))
        self.matrix = jnp.asarray((basis * eigenvalues) @ basis.T)
        self.space = VectorSpace.of(self.matrix[0])
        self.num_tasks = None

    def _products(self, block: jax.Array) -> jax.Array:
        return jnp.matmul(block, self.matrix, precision="highest")


def study(operator: DenseOperator, truth: float, seeds: int, **options) -> dict[str, float]:
    """Coverage, width, error and products of `seeds` estimates."""
    rows = []
    for seed in range(seeds):
        estimate = trace(operator, key=jax.random.key(seed), progress=False, **options)
        low, high = estimate.confidence_interval()
        slack = 1e-5 * abs(truth) * (estimate.num_samples == 0)  # exact, but for rounding
        rows.append(
            (
                low - slack <= truth <= high + slack,
                high - low,
                estimate.value - truth,
                estimate.standard_error,
                estimate.num_matvecs,
                estimate.num_samples,
            )
        )
    covered, width, error, stated, products, samples = np.array(rows, float).T
    rms = float(np.sqrt(np.mean(error**2)))
    floor = max(rms, 1e-12 * abs(truth))
    return {
        "coverage": covered.mean(),
        "rms": rms,
        "width": width.mean() / (2 * 1.96 * floor),
        "stated": float(np.sqrt(np.mean(stated**2))) / floor,
        "products": products.mean(),
        "samples": samples.mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    lines = [
        "| spectrum | method | asked for | products | samples | coverage | width / ideal "
        "| stated / true error | true error / trace |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    operators = {name: DenseOperator(eigenvalues) for name, eigenvalues in spectra().items()}
    for method, budgets in BUDGETS.items():
        for name, operator in operators.items():
            truth = float(np.trace(np.asarray(operator.matrix, np.float64)))
            rms = float("nan")
            for asked in (*budgets, "tolerance"):
                if asked == "tolerance":
                    # What the largest budget above reaches, with room for the level of a look.
                    wanted = {"atol": 3.0 * rms}
                    label = f"atol = {wanted['atol'] / abs(truth):.2g} tr H"
                else:
                    wanted, label = {"num_matvecs": asked}, f"{asked} products"
                begin = time.perf_counter()
                r = study(operator, truth, options.seeds, method=method, **wanted)
                rms = r["rms"]
                lines.append(
                    f"| {name} | {method} | {label} | {r['products']:.0f} | {r['samples']:.0f} | "
                    f"{r['coverage']:.1%} | {r['width']:.2f} | {r['stated']:.2f} | "
                    f"{rms / abs(truth):.2g} |"
                )
                print(lines[-1], f"  ({time.perf_counter() - begin:.0f} s)", flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            "# Coverage of the intervals of a trace\n\n"
            f"Written by `python benchmarks/accuracy_trace_coverage.py`: {options.seeds} seeds, "
            f"P = {DIM} in a random orthogonal basis, "
            f"{operators['flat'].dtype.name}, nominal level 95 %. "
            "Ideal width: 2 × 1.96 times the true rms error. Rows with fewer than 8 samples are "
            "marked not `reliable` by the estimate itself.\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
