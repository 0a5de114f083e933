"""Records of a finished study, small and made up, for tests of what is read off them.

Histories are exact curves, spectra are those of diagonal Hessians through the public verbs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jaxtyping import Array, Float

import hessspec
from hessspec import SpectralDensity, TraceEstimate
from hessspec_mtl.curvature.alignment import Eigenspaces, GradientConflict
from hessspec_mtl.curvature.follow import EpochCurvature
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset, Split, Task
from hessspec_mtl.datasets.sources import Source
from hessspec_mtl.featurize.molecules import graph_of
from hessspec_mtl.study import decision, screening
from hessspec_mtl.study.records import SeedRun, Study

DIM = 4000
TASKS = {
    "QM8": (
        Task("E1", "E₁", "hartree"),
        Task("E2", "E₂", "hartree"),
        Task("f1", "f₁", "1"),
        Task("f2", "f₂", "1"),
    ),
    "MP": (
        Task("log_G", "log G", "log GPa"),
        Task("log_K", "log K", "log GPa"),
        Task("poisson", "Poisson ratio", "1"),
    ),
}


def dataset(name: str, size: int = 60) -> MultitaskDataset:
    """Standard normal targets for one of the paper's sets; the name decides the tasks."""
    tasks = TASKS[name]
    generator = np.random.default_rng(0)
    return MultitaskDataset(
        name=name,
        domain="molecules" if name == "QM8" else "crystals",
        ids=tuple(f"{name}-{i}" for i in range(size)),
        structures=("C",) * size,
        graphs=(),
        targets=generator.normal(size=(size, len(tasks))),
        tasks=tasks,
        groups=np.arange(size),
        elements=tuple(range(1, 10)),
        left_out=(LeftOut("x1", "negative & <odd>"), LeftOut("x2", "negative & <odd>")),
        sources=(
            Source(f"{name} file", "f.csv", "https://example.org/a?b&c", None, "MIT", "A, B"),
        ),
        published="QM8" if name == "QM8" else "Materials Project",
    )


def history(
    tasks: Sequence[str],
    train: Callable[[int, np.ndarray], np.ndarray],
    test: Callable[[int, np.ndarray], np.ndarray],
    num_epochs: int = 40,
) -> pd.DataFrame:
    """Errors of task number i at the epochs e: `train(i, e)` and `test(i, e)`."""
    epochs = np.arange(num_epochs + 1)
    frames = [
        pd.DataFrame({"epoch": epochs, "split": split, "task": task, "mse": mae**2, "mae": mae})
        for i, task in enumerate(tasks)
        for split, mae in (("train", train(i, epochs)), ("test", test(i, epochs)))
    ]
    return pd.concat(frames, ignore_index=True)


def decay(start: float, end: float) -> Callable[[np.ndarray], np.ndarray]:
    """An error that falls from `start` to `end`, with a ripple of one per mille."""
    return lambda e: (end + (start - end) * np.exp(-e / 5)) * (1 + 1e-3 * np.cos(3 * e))


def diagonal_losses(x: Float[Array, " n"], diagonals: Float[Array, "T n"]) -> Float[Array, " T"]:
    """Losses whose Hessians are diagonal, one row of `diagonals` each."""
    return 0.5 * jnp.sum(diagonals * (x * x)[None, :], axis=-1)


def density(diagonals: Float[np.ndarray, "T n"], seed: int = 0) -> SpectralDensity:
    return hessspec.density(
        diagonal_losses,
        jnp.zeros(diagonals.shape[1]),
        jax.random.key(seed),
        data=jnp.asarray(diagonals, jnp.zeros(0).dtype),
        num_probes=3,
        num_steps=24,
        progress=False,
    )


def trace(values: Float[np.ndarray, " T"], error: float, seed: int = 0) -> TraceEstimate:
    """An estimate of exactly `values` whose standard error is exactly `error`."""
    noise = np.random.default_rng(seed).normal(size=(len(values), 32))
    noise -= noise.mean(axis=1, keepdims=True)
    noise *= error * 32**0.5 / noise.std(axis=1, ddof=1, keepdims=True)
    return TraceEstimate.from_samples(np.asarray(values)[:, None] + noise, dim=DIM)


def outlier_spectrum(seed: int, scale: float, bulk: float = 1e-3) -> Float[np.ndarray, " n"]:
    """Eight outliers of either sign, up to `scale`, and a bulk of width about `bulk`."""
    generator = np.random.default_rng(seed)
    far = scale * np.array([1.0, -0.8, 0.6, -0.5, 0.3, 0.2, -0.15, 0.1])
    near = bulk * generator.uniform(-1, 1, DIM - far.size)
    return np.concatenate([far, near])


def conflict(num_tasks: int, seed: int) -> GradientConflict:
    """Gradients that share a direction, over six groups of graphs."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(6, num_tasks, 5)) + np.linspace(-1, 1, num_tasks)[:, None]
    gram = np.einsum("aip,bjp->aibj", vectors, vectors)
    return GradientConflict(gram, np.full(6, 4), generator.normal(size=(num_tasks, num_tasks)))


def spaces(num_tasks: int, seed: int, count: int = 6) -> Eigenspaces:
    """Eigenvectors of which each task shares the first with all others."""
    generator = np.random.default_rng(seed)
    bases = [
        np.linalg.qr(np.vstack([np.eye(60)[:1], generator.normal(size=(count - 1, 60))]).T)[0].T
        for _ in range(num_tasks)
    ]
    angles = np.full((num_tasks, num_tasks, count, count), np.nan)
    for k in range(1, count + 1):
        for i, left in enumerate(bases):
            for j, right in enumerate(bases):
                cosines = np.linalg.svd(left[:k] @ right[:k].T, compute_uv=False)
                angles[i, j, k - 1, :k] = np.arccos(np.clip(cosines, -1, 1))
    values = np.tile(10.0 * 0.6 ** np.arange(count), (num_tasks, 1))
    return Eigenspaces(
        values=values,
        residuals=np.full_like(values, 1e-2),
        converged=np.full(values.shape, fill_value=True),
        angles=angles,
        curvature=generator.normal(size=(num_tasks, num_tasks, count)),
        gradients=generator.normal(size=(num_tasks, num_tasks, count)) / 60**0.5,
        tol=1e-3,
        dim=60,
    )


def predicted(tasks: Sequence[str], deviations: Sequence[float], seed: int) -> pd.DataFrame:
    """Targets of 20 test examples and predictions off by these deviations, up or down."""
    generator = np.random.default_rng(seed)
    targets = np.random.default_rng(0).normal(size=(len(tasks), 20))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "id": [f"e{i}" for i in range(20)],
                    "task": task,
                    "target": target,
                    "predicted": target + deviation * generator.choice([-1.0, 1.0], size=20),
                }
            )
            for task, target, deviation in zip(tasks, targets, deviations, strict=True)
        ],
        ignore_index=True,
    )


@cache
def study(name: str = "QM8", num_seeds: int = 1, single_task: bool = False) -> Study:
    """A study with four analysed epochs; outliers rise and fall, traces change sign."""
    data = dataset(name)
    names = [task.name for task in data.tasks]
    runs = []
    for seed in range(num_seeds):
        points = []
        for epoch, scale, size in (
            (0, 1.0, 1.0),
            (4, 30.0, -40.0),
            (12, 2.0, 1.0),
            (40, 5.0, -3.0),
        ):
            diagonals = np.stack(
                [
                    outlier_spectrum(10 * seed + t, scale * 3.0**t, 1e-3 * (1 + epoch) ** 0.5)
                    for t in range(len(names))
                ]
            )
            values = size * np.array([200.0, -20.0, 3000.0, 10.0])[: len(names)]
            points.append(
                EpochCurvature(
                    epoch,
                    trace(values, 1.0, seed),
                    density(diagonals, seed),
                    conflict(len(names), seed) if single_task else None,
                    spaces(len(names), seed) if single_task else None,
                )
            )
        alone = {
            task: history([task], lambda i, e: decay(0.8, 0.1)(e), lambda i, e: decay(0.8, 0.2)(e))
            for task in names
        }
        runs.append(
            SeedRun(
                seed=seed,
                split=Split(np.arange(0, 40), np.arange(40, 60)),
                history=history(
                    names,
                    lambda i, e: decay(0.8, 0.1)(e),
                    lambda i, e: decay(0.8, 0.25 + 0.1 * i)(e),
                ),
                curvature=tuple(points),
                hessian_ids=tuple(f"{name}-{i}" for i in range(10)),
                single_task=alone if single_task else {},
                single_curvature={
                    task: EpochCurvature(40, trace(np.array([5.0]), 1.0, seed), points[-1].density)
                    for task in (names if single_task else ())
                },
                predictions=predicted(names, [0.5] * len(names), seed) if single_task else None,
                single_predictions={
                    task: predicted([task], [0.4], seed + 10)
                    for task in (names if single_task else ())
                },
                seconds={"training": 100.0, "curvature": 200.0},
            )
        )
    return Study(data, tuple(runs), DIM, {"preset": "made up", "train": {"num_epochs": 40}})


def with_gauss_newton(found: Study, times: Callable[[int, int], float]) -> Study:
    """The study with tr G_t = 100 (t + 1) and tr H_t = (1 + times(seed, t)) tr G_t ± 1, always."""
    runs = []
    for run in found.runs:
        exact = 100.0 * np.arange(1, len(found.tasks) + 1)
        values = exact * [1 + times(run.seed, t) for t in range(exact.size)]
        parts = {
            "gauss_newton": TraceEstimate.from_samples(np.zeros((exact.size, 0)), exact=exact),
            "trace": trace(values, 1.0, run.seed),
        }
        points = tuple(replace(point, **parts) for point in run.curvature)
        runs.append(replace(run, curvature=points))
    return replace(found, runs=tuple(runs))


@pytest.fixture(scope="session")
def records() -> SimpleNamespace:
    """The makers above, for tests (which cannot import from one another)."""
    return SimpleNamespace(
        dataset=dataset,
        history=history,
        decay=decay,
        density=density,
        trace=trace,
        outlier_spectrum=outlier_spectrum,
        study=study,
        with_gauss_newton=with_gauss_newton,
        DIM=DIM,
    )


def screened(tasks: Sequence[str], factors: Mapping[str, float]) -> pd.DataFrame:
    """A finished stage 1: all errors are 1 at the rate 2e-3, times the weighting's factor."""
    rows = []
    for one in screening.candidates(len(tasks)):
        label = screening.label_of(*one)
        factor = factors.get(" ".join(label).strip(), factors.get(one[0], 1.1))
        for rate in screening.RATES:
            off = factor * (1 + abs(np.log(rate / 2e-3)))
            rows += [(*label, rate, screening.RATE_SEED, task, off, 1.0) for task in tasks]
        for seed in screening.SEEDS:
            rows += [(*label, 2e-3, seed, task, factor, 1.0) for task in tasks]
    return pd.DataFrame(rows, columns=screening.COLUMNS)


def decided(
    screen: pd.DataFrame, effects: Mapping[str, float], spread: float = 0.01
) -> pd.DataFrame:
    """A finished stage 2: errors 0.5, the weighting's effect in per cent more, and a spread.

    The spread is that of the seeds, known: +spread for even seeds and -spread for odd ones, of
    weightings alone.
    """
    tasks, rows = list(dict.fromkeys(screen["task"])), []
    for method in decision.methods(screen):
        alone = method.weighting == decision.ALONE
        for seed in decision.SEEDS:
            head = method.weighting, method.weights, method.learning_rate, seed
            sign = 0 if method.weighting in ("equal", decision.ALONE) else (-1) ** seed
            error = 0.5 * (1 + effects.get(method.weighting, 0.0) / 100 + sign * spread)
            seconds = (10.0 if alone else 30.0) + 15.0 * (seed == 0)
            rows += [(*head, task, error, 0.4, seconds) for task in tasks]
    return pd.DataFrame(rows, columns=decision.COLUMNS)


@pytest.fixture(scope="session")
def weighed() -> SimpleNamespace:
    """Makers of the tables of a study of weightings: what stage 1 found, and what stage 2 did."""
    return SimpleNamespace(screened=screened, decided=decided)


@pytest.fixture(scope="session")
def alcohols() -> MultitaskDataset:
    """Twelve molecules and two targets, one called "NA", with graphs to train on."""
    names = tuple("C" * n + "O" for n in range(1, 13))
    return MultitaskDataset(
        name="alcohols",
        domain="molecules",
        ids=names,
        structures=names,
        graphs=tuple(graph_of(text, add_hydrogens=True) for text in names),
        targets=np.stack([np.arange(12.0), np.arange(12.0) ** 2], axis=1),
        tasks=tuple(Task(name, name, "1") for name in ("a", "NA")),
        groups=np.arange(12),
        elements=(1, 6, 8),
    )
