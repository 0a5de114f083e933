"""Pictures: what is drawn is what the record holds, and no more."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

import hessspec  # noqa: E402
from hessspec import EigenPairs, FunctionOperator, TraceEstimate, density  # noqa: E402
from hessspec.plotting import plot_cdf, plot_densities, plot_density  # noqa: E402

pytestmark = pytest.mark.any_dtype


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def spectrum():
    values = np.concatenate([[-50.0, 30.0, 200.0], np.random.default_rng(0).normal(size=57)])
    diagonal = jnp.asarray(values, dtype=jnp.float32)
    operator = FunctionOperator(lambda v: diagonal * v, jax.ShapeDtypeStruct((60,), jnp.float32))
    return density(operator, key=jax.random.key(0), num_steps=30)


@pytest.fixture(scope="module")
def several(spectrum):
    return jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, leaf, leaf]), spectrum)


def drawn(ax):
    """The boxes, bands and stems of a panel: edges and values, (low, high), places."""
    boxes = next(p for p in ax.patches if hasattr(p, "get_data"))
    bands = next(c for c in ax.containers if hasattr(c, "patches") and c.get_label()[:1].isdigit())
    return boxes.get_data(), bands.patches, ax.lines[-1]


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_boxes_bands_and_stems_are_those_of_the_histogram(spectrum, scale):
    figure, ax = pyplot.subplots()
    assert plot_density(spectrum, ax=ax, scale=scale, label="run") is ax
    found = spectrum.histogram(scale)
    counts, low, high = found.rest()
    boxes, bands, stems = drawn(ax)
    np.testing.assert_allclose(boxes.values, counts)
    np.testing.assert_allclose(boxes.edges[1:], found.edges[1:])
    wide = high > low
    np.testing.assert_allclose([band.get_y() for band in bands], low[wide])
    np.testing.assert_allclose([b.get_y() + b.get_height() for b in bands], high[wide])
    shown = found.atoms > 0 if scale == "log" else found.atoms > -np.inf
    np.testing.assert_allclose(stems.get_xdata(), found.atoms[shown])
    np.testing.assert_allclose(stems.get_ydata(), found.multiplicities[shown])
    assert 200.0 in np.round(stems.get_xdata())
    figure.canvas.draw()


def test_the_bin_about_zero_is_hatched_and_its_number_written(spectrum):
    ax = spectrum.plot()
    found = spectrum.histogram()
    zero = found.about_zero
    (text,) = (t.get_text() for t in ax.texts)
    assert text == (
        f"about 0: {found.counts[zero]:,.0f}\n[{found.lower[zero]:,.0f}, {found.upper[zero]:,.0f}]"
    )
    (hatched,) = (p for p in ax.patches if getattr(p, "get_hatch", lambda: None)())
    assert hatched.get_x() == found.edges[zero]


def test_nothing_smooth_is_drawn(spectrum):
    """Two lines at most: the heads of the stems; everything else is a box."""
    assert len(spectrum.plot().lines) == 1


def test_tasks_are_small_multiples_on_common_axes(several):
    panels = several.plot()
    assert panels.shape == (4,)
    assert [panel.get_title() for panel in panels] == [f"task {t}" for t in range(4)]
    assert len({panel.get_xlim() for panel in panels}) == 1
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert len(panels[0].figure.legends) == 1
    panels[0].figure.canvas.draw()
    given = pyplot.subplots(4)[1]
    assert list(several.plot(ax=given)) == list(given)
    with pytest.raises(ValueError, match=r"`ax` must be one axes for each of 4 spectra, got 1"):
        several.plot(ax=pyplot.subplots()[1])


def test_checkpoints_are_drawn_side_by_side_under_their_titles(spectrum, several):
    panels = plot_densities({"epoch 0": spectrum, "epoch 9": several.task(1)})
    assert [panel.get_title() for panel in panels] == ["epoch 0", "epoch 9"]
    assert len(plot_densities([spectrum, spectrum, spectrum])) == 3
    with pytest.raises(ValueError, match="at least one density"):
        plot_densities([])
    with pytest.raises(ValueError, match="4 tasks in 'all'"):
        plot_densities({"all": several})


def test_the_distribution_is_drawn_with_its_band(spectrum, several):
    ax = plot_cdf(spectrum, label="run")
    (line,) = ax.lines
    assert np.all(np.diff(line.get_ydata()) >= 0)
    assert len(ax.collections) == 1
    ax.figure.canvas.draw()
    assert spectrum.plot_cdf(scale="linear").get_ylim() == (0, 1)
    two = jax.tree.map(lambda leaf: leaf[:2], several)
    assert len(two.plot_cdf()) == 2


def test_traces_are_drawn_with_their_intervals():
    estimate = TraceEstimate.from_samples(np.random.default_rng(0).normal(size=(3, 20)))
    ax = estimate.plot(level=0.9)
    low, high = estimate.confidence_interval(0.9)
    (bars,) = ax.containers
    ends = np.array(list(bars[2][0].get_segments()))[:, :, 1]
    np.testing.assert_allclose(ends, np.stack([low, high], axis=1))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["task 0", "task 1", "task 2"]
    open_ended = TraceEstimate.from_samples([3.0]).plot()
    assert len(open_ended.lines) > 1  # an interval without ends is a dotted line


def test_pairs_are_drawn_in_order_hollow_where_not_converged():
    values, residuals = np.array([9.0, 4.0, -2.0]), np.array([1e-5, 0.2, 0.5])
    converged = np.array([True, False, False])
    pairs = EigenPairs(values, np.eye(3), residuals, converged, tol=1e-4, dim=3, num_matvecs=9)
    ax = pairs.plot()
    assert ax.lines[0].get_ydata().tolist() == values.tolist()
    hollow = ax.lines[-1]
    assert hollow.get_xdata().tolist() == [2, 3]
    assert "not converged" in ax.get_xlabel()


def test_a_diagonal_is_drawn_leaf_by_leaf():
    params = {"a": jnp.ones(3), "b": {"c": jnp.ones((2, 2))}}
    operator = FunctionOperator(
        lambda v: {"a": 2 * v["a"], "b": {"c": -3 * v["b"]["c"]}}, like=params
    )
    found = hessspec.diagonal(operator, key=jax.random.key(0), progress=False)
    ax = found.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b/c"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [2, -3], rtol=1e-6)


def test_without_matplotlib_the_error_says_what_to_install(spectrum, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"hessspec\[plot\]"):
        plot_density(spectrum)
    assert "<table>" in spectrum._repr_html_()
    assert "<img" not in spectrum._repr_html_()


def test_a_trace_that_may_be_zero_makes_no_decades():
    """Beside 100 and 90 that of a part without curvature, 0 but for its rounding."""
    samples = np.array([[100.0], [90.0], [0.0]]) + np.array([[1.0], [1.0], [0.0]]) * np.arange(9.0)
    estimate = TraceEstimate.from_samples(samples, systematic=np.full(3, 1e-5))
    assert estimate.plot().get_yscale() == "linear"


def test_numbers_far_apart_have_room_at_both_ends():
    samples = np.array([[100.0], [-3.0], [5000.0], [0.2]]) + 0.01 * np.arange(9.0)
    ax = TraceEstimate.from_samples(samples).plot()
    ax.figure.canvas.draw()
    assert ax.get_yscale() == "symlog"
    low, high = ax.get_ylim()
    assert low < -3.2
    assert high > 5500.0
