"""Claim: atoms make a spectral density exact where it matters, at no product.

    python benchmarks/accuracy_density.py [--seeds 20] [--output docs/studies/density_accuracy.md]

Spectra like those of graph networks: outliers of either sign, log-spaced from 10 to 10,000 times
the bulk, |trace| at least 0.3 of the outliers' absolute sum, P = 3,000. Gaussian starts do not
know the basis: in law, a diagonal matrix is the same as one in a random orthogonal basis.

Error of the distribution: Wasserstein-1 in units of the mean |eigenvalue|. rms over the seeds.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from hessspec._base.probes import gaussian
from hessspec._krylov.lockstep import krylov
from hessspec._spectrum.atoms import MAX_ANGLE
from hessspec._spectrum.density import spectrum

DIM = 3000
BARS = {(2, 60): 0.06, (1, 100): 0.03}
ANGLES = (1e-1, MAX_ANGLE, 1e-2, 1e-3, 1e-4)


def network_like(num_outliers: int, signs: str, seed: int) -> np.ndarray:
    """Eigenvalues: a normal bulk of standard deviation 1, and outliers from 10 to 10,000."""
    rng = np.random.default_rng(seed)
    sizes = np.logspace(1, 4, num_outliers)
    sign = {
        "positive": np.ones(num_outliers),
        "alternating": (-1.0) ** np.arange(num_outliers),
        "random": rng.choice([-1.0, 1.0], num_outliers),
    }[signs]
    while abs((sign * sizes).sum()) < 0.3 * sizes.sum():
        sign = rng.choice([-1.0, 1.0], num_outliers)
    return np.sort(np.concatenate([sign * sizes, rng.normal(size=DIM - num_outliers)]))


def diagonal(eigenvalues: np.ndarray, dtype) -> hessspec.FunctionOperator:
    entries = jnp.asarray(eigenvalues.astype(dtype))
    return hessspec.FunctionOperator(
        lambda v: entries * v, jax.ShapeDtypeStruct(entries.shape, entries.dtype)
    )


def wasserstein(found: hessspec.SpectralDensity, eigenvalues: np.ndarray) -> float:
    points = np.unique(np.concatenate([eigenvalues, np.asarray(found.nodes).ravel()]))
    truth = np.searchsorted(eigenvalues, points, side="right") / eigenvalues.size
    return float(np.abs(truth - found.cdf(points))[:-1] @ np.diff(points)) / float(
        np.abs(eigenvalues).mean()
    )


def rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def accuracy(seeds: int, dtype) -> list[str]:
    """One row for each family of spectra and each budget."""
    lines = [
        "| outliers | signs | probes x steps | W1 | W1, plain rule | trace error | stated |"
        " within 95 % interval | atoms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for num_outliers in (5, 15, 50):
        for signs in ("positive", "alternating", "random"):
            for probes, steps in BARS:
                w1, plain, error, stated, inside, atoms = [], [], [], [], [], []
                for seed in range(seeds):
                    values = network_like(num_outliers, signs, seed)
                    found = hessspec.density(
                        diagonal(values, dtype),
                        key=jax.random.key(seed),
                        num_probes=probes,
                        num_steps=steps,
                    )
                    trace, truth = found.trace(), values.sum()
                    low, high = trace.confidence_interval()
                    w1.append(wasserstein(found, values))
                    plain.append(wasserstein(found.plain(), values))
                    error.append((float(trace.value) - truth) / truth)
                    stated.append(float(trace.standard_error) / truth)
                    inside.append(low <= truth <= high)
                    atoms.append((np.asarray(found.multiplicities)[0] > 0).sum())
                lines.append(
                    f"| {num_outliers} | {signs} | {probes} x {steps} | {rms(w1):.4f} | "
                    f"{rms(plain):.2f} | {rms(error):.2%} | {rms(stated):.2%} | "
                    f"{np.mean(inside):.0%} | {np.mean(atoms):.1f} |"
                )
                print(lines[-1], flush=True)
    return lines


def tolerances(seeds: int, dtype) -> list[str]:
    """The same runs read with other tolerances for the angle of a converged Ritz vector."""
    lines = [
        "| largest angle | W1, 2 x 60 | trace error, 2 x 60 | atoms | W1, 1 x 100 |"
        " trace error, 1 x 100 | atoms |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = {}
    for probes, steps in BARS:
        for seed in range(seeds):
            values = network_like(15, "random", seed)
            starts = gaussian(jax.random.key(seed), jnp.arange(probes), DIM, dtype)
            runs[probes, seed] = (krylov(diagonal(values, dtype), starts, steps), values)
    for angle in ANGLES:
        cells = []
        for probes, _ in BARS:
            found = [
                (spectrum(run, DIM, np.dtype(dtype), angle), values)
                for (k, _), (run, values) in runs.items()
                if k == probes
            ]
            error = [(float(f.trace().value) - v.sum()) / v.sum() for f, v in found]
            atoms = np.mean([(np.asarray(f.multiplicities)[0] > 0).sum() for f, _ in found])
            w1 = rms([wasserstein(f, v) for f, v in found])
            cells.append(f"{w1:.4f} | {rms(error):.2%} | {atoms:.1f}")
        lines.append(f"| {named(angle)} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def named(angle: float) -> str:
    return f"**{angle:g}** (in use)" if angle == MAX_ANGLE else f"{angle:g}"


def softmax_regression(dtype) -> tuple[hessspec.HessianOperator, np.ndarray]:
    """Zero-initialised, 10 classes, 60 features: every eigenvalue is 9-fold at least."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 60)) * np.logspace(0, 1, 60)[None]
    labels = rng.integers(0, 10, 500)

    def loss(weights, batch):
        inputs, labels = batch
        logits = jax.nn.log_softmax(inputs @ weights)
        return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], axis=1))

    # At 0 all classes are equally likely: H = (X'X / n) ⊗ (diag p - p p') with p = 1/10.
    classes = np.eye(10) / 10 - np.ones((10, 10)) / 100
    dense = np.kron(inputs.T @ inputs / 500, classes)
    batch = (jnp.asarray(inputs.astype(dtype)), jnp.asarray(labels))
    operator = hessspec.HessianOperator(loss, jnp.zeros((60, 10), dtype), data=batch)
    return operator, np.linalg.eigvalsh(dense)


def multiplicity(seeds: int, dtype) -> list[str]:
    """Eigenvalues that are not simple, read with every tolerance.

    Errors are given in stated ones as well: of W1, what the contrasts between probes make of it.
    """
    lines = [
        "| operator | probes x steps | largest angle | W1 | in stated errors | trace error |"
        " in stated errors | within 95 % interval | atoms | exact |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases = {
        "softmax regression, P = 600": softmax_regression(dtype),
        "identity, P = 1000": (diagonal(np.ones(1000), dtype), np.ones(1000)),
    }
    for name, (operator, values) in cases.items():
        for probes in (1, 2, 8):
            keys = [jax.random.key(seed) for seed in range(seeds)]
            starts = [gaussian(key, jnp.arange(probes), operator.dim, dtype) for key in keys]
            runs = [krylov(operator, block, 50) for block in starts]
            for angle in ANGLES:
                found = [spectrum(run, operator.dim, np.dtype(dtype), angle) for run in runs]
                cells = " | ".join(multiplicity_cells(found, values, dtype))
                lines.append(f"| {name} | {probes} x 50 | {named(angle)} | {cells} |")
                print(lines[-1], flush=True)
    return lines


def multiplicity_cells(
    found: list[hessspec.SpectralDensity], values: np.ndarray, dtype
) -> list[str]:
    """What one row of the table says of the densities of all seeds."""
    truth, size = values.sum(), np.abs(values).mean()
    # The matrix itself is rounded: errors below this are no errors.
    slack = 100 * float(np.finfo(dtype).eps) * np.abs(values).sum()
    traces = [f.trace() for f in found]
    ends = [trace.confidence_interval() for trace in traces]
    error = rms([float(trace.value) - truth for trace in traces])
    stated = rms([float(trace.standard_error) for trace in traces])
    w1 = rms([wasserstein(f, values) for f in found])
    # The distance between two independent estimates has twice the variance of one.
    both = [float(hessspec.wasserstein1(f, f).error) / 2**0.5 / size for f in found]
    inside = np.mean([low - slack <= truth <= high + slack for low, high in ends])
    atoms = np.mean([(np.asarray(f.multiplicities)[0] > 0).sum() for f in found])

    def ratio(error: float, stated: float, least: float) -> str:
        if error <= least:
            return "0"
        return f"{error / stated:.2f}" if np.isfinite(stated) and stated > 0 else "none stated"

    return [
        f"{w1:.4f}",
        ratio(w1, rms(both), slack / truth),
        f"{error / abs(truth):.2%}",
        ratio(error, stated, slack),
        f"{inside:.0%}",
        f"{atoms:.1f}",
        f"{np.mean([bool(f.exact) for f in found]):.0%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    dtype = np.float64 if jax.config.read("jax_enable_x64") else np.float32
    sections = {
        "Spectra like those of graph networks": accuracy(options.seeds, dtype),
        "The tolerance for convergence (15 outliers, random signs)": tolerances(
            options.seeds, dtype
        ),
        "Multiple eigenvalues": multiplicity(options.seeds, dtype),
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(
            f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()
        )
        options.output.write_text(
            "# Accuracy of spectral densities\n\n"
            "Written by `python benchmarks/accuracy_density.py --output "
            f"docs/studies/density_accuracy.md`: {options.seeds} seeds, {np.dtype(dtype).name}. "
            "W1 is the Wasserstein-1 distance to the true spectrum in units of the mean "
            "|eigenvalue|; all errors are rms over the seeds. One probe states no error of W1. The "
            f"first table has P = {DIM}, outliers from 10 to 10,000 times the bulk, and |trace| at "
            "least 0.3 of the outliers' absolute sum (signs that miss this are drawn again at "
            "random: alternating ones of 15 and 50 outliers do). The largest angle is that of a "
            "Ritz vector that counts as converged; a single probe takes half of it, for a start "
            "of mean weight.\n\n" + text
        )


if __name__ == "__main__":
    main()
