"""The accuracy and coverage of densities: quick forms always, full studies with `-m slow`.

The studies themselves are commands, `benchmarks/accuracy_density*.py`, that write the tables in
the documentation; here their numbers are held against the bars.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import hessspec
from hessspec._spectrum.density import spectrum

pytestmark = pytest.mark.any_dtype

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def load(name: str):
    """A benchmark file as a module."""
    specification = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


accuracy = load("accuracy_density")
coverage = load("accuracy_density_coverage")


def dtype() -> type:
    return np.float64 if jax.config.read("jax_enable_x64") else np.float32


def errors(num_outliers, signs, probes, steps, seeds):
    """rms over seeds of the Wasserstein distance and of the relative error of the trace."""
    distance, trace = [], []
    for seed in range(seeds):
        values = accuracy.network_like(num_outliers, signs, seed)
        found = hessspec.density(
            accuracy.diagonal(values, dtype()),
            key=jax.random.key(seed),
            num_probes=probes,
            num_steps=steps,
        )
        distance.append(accuracy.wasserstein(found, values))
        trace.append((float(found.trace().value) - values.sum()) / values.sum())
    return accuracy.rms(distance), accuracy.rms(trace)


@pytest.mark.parametrize("probes", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_the_error_of_a_trace_does_not_need_many_steps(probes, steps):
    """A sample's variance is that of the spectrum; after one step β₁ is its square root."""
    eigenvalues = np.random.default_rng(1).normal(1.0, 1.0, 300)
    operator = coverage.DenseOperator(eigenvalues, dtype())
    error, stated, inside = [], [], []
    for run, _ in coverage.runs(operator, probes, 60, steps):
        trace = spectrum(run, 300, operator.dtype).trace()
        low, high = trace.confidence_interval()
        inside.append(low <= eigenvalues.sum() <= high)
        error.append(trace.value - eigenvalues.sum())
        stated.append(trace.standard_error)
        # Who carries the variance is seen from the second step on.
        assert trace.reliable == (steps > 1)
    # Sixty intervals of 95 %: fewer than 52 hold with probability 0.7 %.
    assert np.sum(inside) >= 52
    assert 0.7 < np.sqrt(np.mean(np.square(stated)) / np.mean(np.square(error))) < 1.4


@pytest.mark.parametrize(("probes", "steps", "bar"), [(2, 60, 0.06), (1, 100, 0.03)])
def test_a_spectrum_like_a_graph_networks_is_found(probes, steps, bar):
    """The quick form: one family, three seeds."""
    distance, trace = errors(15, "random", probes, steps, 3)
    assert distance < bar
    assert trace < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("num_outliers", [5, 15, 50])
@pytest.mark.parametrize("signs", ["positive", "alternating", "random"])
@pytest.mark.parametrize(("probes", "steps", "bar"), [(2, 60, 0.06), (1, 100, 0.03)])
def test_spectra_like_a_graph_networks_are_found(num_outliers, signs, probes, steps, bar):
    distance, trace = errors(num_outliers, signs, probes, steps, 20)
    assert distance < bar
    assert trace < 0.02


def test_intervals_cover_on_an_outlier_dominated_spectrum():
    """The quick form: 100 seeds tell 95 % from 85 %."""
    row = coverage.study("outliers", coverage.spectra()["outliers"], 2, 100, dtype())
    assert row["trace"] >= 0.88
    assert row["band"] >= 0.88
    assert row["count"] >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "decaying", "outliers", "multiple"])
@pytest.mark.parametrize("probes", [1, 2, 8])
def test_intervals_cover_as_often_as_they_say(name, probes):
    row = coverage.study(name, coverage.spectra()[name], probes, 2000, dtype())
    for claim in ("trace", "band", "uniform", "count"):
        assert row[claim] >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 2, 8])
def test_multiple_eigenvalues_are_within_the_stated_errors(probes):
    operator, values = accuracy.softmax_regression(dtype())
    z = []
    for seed in range(20):
        found = hessspec.density(
            operator, key=jax.random.key(seed), num_probes=probes, num_steps=50
        )
        trace = found.trace()
        low, high = trace.confidence_interval(0.999)
        assert low <= values.sum() <= high
        z.append((float(trace.value) - values.sum()) / float(trace.standard_error))
    assert 0.6 < accuracy.rms(z) < 1.5
