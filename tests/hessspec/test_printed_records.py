"""What every record and operator says when it is printed, converted and formatted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, FunctionOperator, SpectralTrace, TraceEstimate
from tests.spectra import dtype, hessian, outliers, trace_of, with_spectrum

pytestmark = pytest.mark.any_dtype

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def operator():
    return hessian(with_spectrum(outliers()))


@pytest.fixture(scope="module")
def tasks():
    return hessian(np.stack([with_spectrum(outliers(s), s) for s in range(3)]))


@pytest.fixture(scope="module")
def estimates():
    """Of three tasks."""
    samples = np.random.default_rng(0).normal(5.0, 1.0, size=(3, 20))
    return TraceEstimate.from_samples(samples, dim=120, num_matvecs=60)


@pytest.fixture(scope="module")
def spectrum(operator):
    return hessspec.density(operator, key=KEY, num_steps=30)


def test_a_trace_says_value_error_interval_and_whether_to_rely_on_it(operator):
    estimate = trace_of(operator, "hutchinson")
    text = repr(estimate)
    low, high = estimate.confidence_interval()
    assert text.startswith("TraceEstimate: tr H = ")
    assert f"{float(low):.4g}" in text.replace(",", "")
    assert f"{float(high):.4g}" in text.replace(",", "")
    assert "reliable" in text
    assert "P              120" in text
    assert "48 samples, 48 products" in text
    assert len(text.splitlines()) == 4
    assert "NOT reliable: fewer than 8 samples" in repr(trace_of(operator, "hutchinson", 4))


def test_a_trace_is_a_float_and_takes_a_format(operator):
    estimate = trace_of(operator, "hutchinson")
    assert float(estimate) == float(estimate.value)
    value, error = float(estimate.value), float(estimate.standard_error)
    assert f"{estimate:.3f}" == f"{value:.3f} ± {error:.3f}"
    assert f"{estimate}" == str(estimate) == repr(estimate)


def test_a_trace_of_tasks_has_a_line_for_each_and_is_no_float(estimates):
    lines = repr(estimates).splitlines()
    assert lines[0] == "TraceEstimate of 3 tasks"
    assert [line.split()[:2] for line in lines[1:4]] == [["task", str(t)] for t in range(3)]
    assert f"{estimates:.1f}".count("±") == 3
    with pytest.raises(TypeError, match=r"holds 3 numbers.*result\.task\(t\)"):
        float(estimates)


def test_a_density_with_every_eigenvalue_known_speaks_of_no_rest(operator):
    whole = hessspec.density(operator, key=KEY, num_steps=operator.dim)
    assert whole.exact
    assert "known     all, exact\n" in repr(whole)


def test_a_density_says_its_ends_its_negative_share_and_its_bins(spectrum):
    text = repr(spectrum)
    assert "P = 120" in text
    assert "-300 to 1,000" in text
    assert "% below" not in text.splitlines()[0]
    assert "below 0, tr H = " in text
    below = spectrum.mass(-np.inf, 0.0)
    assert f"{100 * float(below.value):.3g} %" in text
    assert "#" in text
    assert len(text.splitlines()) < 20
    assert isinstance(spectrum.trace(), SpectralTrace)
    assert "SpectralTrace: tr H = " in repr(spectrum.trace())


def test_numbers_with_intervals_say_both(spectrum):
    count = spectrum.count(10.0, np.inf)
    assert repr(count) == "IntervalEstimate: 4, 95 % interval [4, 4]"
    assert f"{count:.0f}" == "4 [4, 4]"
    assert float(count) == pytest.approx(4.0)
    assert repr(spectrum.extremes()).startswith("Extremes: -300")
    distance = hessspec.wasserstein1(spectrum, spectrum)
    assert repr(distance).startswith("SpectralDistance: wasserstein1 0.0")
    assert f"{distance:.2f}".startswith("0.00 ± ")


def test_pairs_say_which_have_converged(operator):
    found = hessspec.eigenpairs(operator, key=KEY, k=3, max_matvecs=120, progress=False)
    text = repr(found)
    assert text.startswith("EigenPairs: 3 of P = 120, all converged")
    assert "θ 1  1,000" in text
    rough = replace(found, converged=np.array([True, False, False]))
    assert "2 NOT converged" in repr(rough)
    assert [line.endswith("NOT converged") for line in repr(rough).splitlines()[1:]] == [
        False,
        True,
        True,
    ]


def test_a_diagonal_says_its_size_and_its_sum(operator):
    text = repr(hessspec.diagonal(operator, key=KEY, num_matvecs=16, progress=False))
    assert "entries    120 in 1 leaf," in text
    assert "tr H = " in text


def test_a_page_shows_a_table_and_a_picture(spectrum):
    pytest.importorskip("matplotlib")
    page = spectrum._repr_html_()
    assert page.count("<table>") == 1
    assert "src='data:image/png;base64," in page


def test_records_inside_programs_print_shapes(spectrum, estimates):
    said = []
    for record in (spectrum, spectrum.trace(), estimates):
        jax.jit(lambda r: said.append(repr(r)))(record)
    assert all("traced" in text for text in said)
    assert "SpectralDensity(nodes=float" in repr(jax.eval_shape(lambda r: r, spectrum))


def test_printing_costs_no_product():
    products = []

    def matvec(v):
        jax.debug.callback(lambda: products.append(1))
        return 2.0 * v

    operator = FunctionOperator(matvec, jax.ShapeDtypeStruct((9,), dtype()))
    found = hessspec.trace(operator, key=KEY, num_matvecs=8, progress=False)
    jax.effects_barrier()
    spent = len(products)
    for one in (operator, 2 * operator, found, hessspec.Batches([np.ones(3)])):
        repr(one)
    jax.effects_barrier()
    assert len(products) == spent


def test_a_sum_of_operators_is_printed_as_its_formula(tasks):
    identity = FunctionOperator(lambda v: v, jax.ShapeDtypeStruct((120,), dtype()))
    one = tasks.task(1)
    lines = repr(one - 0.5 * identity + one).splitlines()
    assert lines[0] == f"SumOperator A - 0.5·B + A of 120 parameters in {dtype().name}"
    assert lines[1].startswith("  A: HessianOperator of 120 parameters, task 1 of 3")
    assert lines[2] == f"  B: FunctionOperator of 120 parameters in {dtype().name}"
    assert repr(-(one + identity)).startswith("ScaledOperator -(A + B) of 120")
    assert repr(one.congruent(jnp.full(120, 2.0, dtype())) + one).startswith(
        "SumOperator (D A D) + A of"
    )
    weighted = (2 * tasks).weighted(jnp.ones(3, dtype()))
    assert "a weighted sum of 3 tasks" in repr(weighted)


def test_an_operator_on_a_page_has_a_table_with_its_size_and_its_plan(tasks):
    page = tasks._repr_html_()
    assert "<b>HessianOperator of 120 parameters, 3 tasks, one batch of data</b>" in page
    assert f"120 parameters in {dtype().name}, 3 tasks</td>" in page
    assert str(tasks.plan) in page
    assert "HessianOperator" in jax.tree.map(lambda _: None, tasks)._repr_html_()
    parts = (tasks.task(1) + tasks.task(2))._repr_html_()
    assert "A: HessianOperator of 120 parameters, task 1 of 3" in parts


def test_an_operator_inside_a_program_prints_without_its_numbers(tasks):
    said = []
    jax.jit(lambda op: said.append(repr(op)))(3.0 * tasks.task(0))
    assert said[0].startswith("ScaledOperator c·A of 120")
    assert "a sum of 3 tasks" in said[0]


def test_an_operator_whose_tree_holds_no_arrays_prints(tasks):
    for stripped in (jax.tree.map(lambda _: None, tasks), jax.tree.map(lambda _: "x", tasks)):
        assert "HessianOperator" in repr(stripped)


def test_batches_say_how_many_they_are_without_being_read():
    def loader():
        raise AssertionError("read")
        yield

    ragged = [np.ones((5, 3)), np.ones((5, 3)), np.ones((2, 3))]
    assert repr(Batches(ragged)) == (
        "Batches(3 batches of 5, ..., 2 items, 12 in all; the loss is their mean)"
    )
    assert repr(Batches(ragged[:1])) == (
        "Batches(1 batch of 5 items, 5 in all; the loss is their mean)"
    )
    assert "batches from test_batches_say" in repr(Batches(loader, reduction="sum"))
    assert "2 batches of 7 items" in repr(Batches(loader, sizes=[7, 7]))
    assert repr(Batches([{"x": np.ones(2), "y": np.ones(3)}])) == (
        "Batches(1 batch; the loss is their mean)"
    )


def test_a_trace_that_is_not_finite_is_printed_as_it_is():
    text = repr(TraceEstimate.from_samples([1.0]))
    assert "tr H = 1 ± inf" in text
    assert "[-inf, inf]" in text
