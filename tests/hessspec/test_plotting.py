"""Pictures: what is drawn is what the record holds."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from hessspec import FunctionOperator, density  # noqa: E402
from hessspec.plotting import plot_cdf, plot_density  # noqa: E402


@pytest.fixture(scope="module")
def spectrum():
    values = np.concatenate([[-50.0, 30.0, 200.0], np.random.default_rng(0).normal(size=57)])
    diagonal = jnp.asarray(values, dtype=jnp.float32)
    operator = FunctionOperator(lambda v: diagonal * v, jax.ShapeDtypeStruct((60,), jnp.float32))
    return density(operator, key=jax.random.key(0), num_steps=30)


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_the_curve_counts_eigenvalues_and_atoms_are_stems(spectrum, scale):
    figure, ax = pyplot.subplots()
    assert plot_density(spectrum, ax=ax, scale=scale, label="run") is ax
    curve, stems = ax.lines
    x = np.asarray(curve.get_xdata())
    expected = 60 * spectrum.pdf(
        x, scale=scale, linthresh=float(spectrum.resolution) if scale == "symlog" else None
    )
    np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-6)
    stem_x = np.asarray(stems.get_xdata())
    assert np.any(np.abs(stem_x - 200.0) < 1e-2)
    np.testing.assert_allclose(np.asarray(stems.get_ydata()), 1, rtol=1e-12)
    if scale == "log":
        assert stem_x.min() > 0
    figure.canvas.draw()
    pyplot.close(figure)


def test_the_distribution_is_drawn_with_its_band(spectrum):
    ax = plot_cdf(spectrum, label="run")
    (line,) = ax.lines
    assert np.all(np.diff(line.get_ydata()) >= 0)
    assert len(ax.collections) == 1
    ax.figure.canvas.draw()
    pyplot.close(ax.figure)


def test_tasks_are_drawn_side_by_side(spectrum):
    two = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), spectrum)
    ax = two.plot()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["task 0", "task 1"]
    pyplot.close(ax.figure)


def test_without_matplotlib_the_error_says_what_to_install(spectrum, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"hessspec\[plot\]"):
        plot_density(spectrum)
