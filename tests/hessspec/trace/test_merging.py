"""Runs with keys of their own become one estimate: weights, errors, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import hessspec
from hessspec import TraceEstimate
from hessspec._base.origin import Origin
from tests.spectra import trace_of

pytestmark = pytest.mark.any_dtype


def run(samples, key="a", **rest) -> TraceEstimate:
    """A run at one operator with these samples."""
    rest = {"num_matvecs": np.shape(samples)[-1], "dim": 40, **rest}
    return TraceEstimate.from_samples(
        samples, origin=Origin((key,), "H at a point", "float32"), **rest
    )


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 1.0, shape)


def test_means_are_weighted_by_products_and_squared_errors_are_added():
    """30 and 10 products: 3/4 and 1/4, whatever basis each run has in `exact`."""
    one = run(drawn(0, 12), exact=7.0, num_matvecs=30)
    other = run(3 * drawn(1, 9), "b", exact=-2.0, num_matvecs=10)
    both = one.merge(other)
    np.testing.assert_allclose(both.value, 0.75 * one.value + 0.25 * other.value, rtol=1e-14)
    expected = np.hypot(0.75 * one.standard_error, 0.25 * other.standard_error)
    np.testing.assert_allclose(both.standard_error, expected, rtol=1e-14)
    assert both.num_matvecs == 40
    assert both.num_samples == 21
    # The samples are of the whole trace, whatever was exact in which run.
    np.testing.assert_allclose(both.samples[:12], 7.0 + one.samples)
    np.testing.assert_allclose(both.samples[12:], -2.0 + other.samples)


def test_the_interval_has_welch_s_degrees_of_freedom():
    """Samples symmetric about their mean show no skewness: Student's interval is left."""
    one = run(np.array([-3.0, -1, 1, 3]))
    other = run(10 + np.array([-8.0, -4, -2, 2, 4, 8]), "b", num_matvecs=4)
    both = one.merge(other)
    squares = np.array([np.var(r.samples, ddof=1) / r.num_samples / 4 for r in (one, other)])
    freedom = squares.sum() ** 2 / (squares**2 / [3, 5]).sum()
    half = stats.t.ppf(0.975, freedom) * squares.sum() ** 0.5
    low, high = both.confidence_interval()
    np.testing.assert_allclose([low, high], [5.0 - half, 5.0 + half], rtol=1e-10)


def test_a_run_of_three_samples_and_one_of_many_do_not_claim_the_freedom_of_many():
    few, many = run(drawn(2, 3), num_matvecs=60), run(drawn(3, 60), "b")
    low, high = few.merge(many).confidence_interval()
    width = high - low
    # The few carry nearly all of the error: 2 degrees of freedom, not 61.
    assert width > 2 * stats.t.ppf(0.975, 4) * few.merge(many).standard_error
    assert not few.merge(many).reliable
    assert run(drawn(2, 8)).merge(many).reliable


def test_skewness_moves_an_end_out_as_far_as_it_does_in_one_run():
    """The same samples twice: half the squared error, and its skewness falls by a root of two."""
    samples = np.random.default_rng(4).chisquare(1, 20)
    both = run(samples).merge(run(samples, "b"))
    low, high = both.confidence_interval()
    assert high - both.value > 1.2 * (both.value - low)
    alone = run(samples)
    low_alone, high_alone = alone.confidence_interval()
    assert (high - low) < (high_alone - low_alone) / 2**0.5


def test_three_runs_are_merged_in_any_order():
    runs = [run(drawn(5 + i, 2, 8 + i), "abc"[i], systematic=np.ones(2) * i) for i in range(3)]
    a, b, c = runs
    left, right, turned = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)
    for other in (right, turned):
        for read in ("value", "standard_error", "systematic"):
            np.testing.assert_allclose(getattr(left, read), getattr(other, read), rtol=1e-14)
        np.testing.assert_allclose(
            left.confidence_interval(), other.confidence_interval(), rtol=1e-12
        )
    assert len(left.runs) == len(right.runs) == 3
    assert left.origin.keys == ("a", "b", "c")


def test_rounding_does_not_average_out_and_the_error_of_the_data_stays():
    groups = {
        "by_group": drawn(8, 10, 4) / 4,
        "exact_by_group": np.array([0.0, 1.0, 3.0, -1.0]),
        "group_shares": np.full(4, 0.25),
    }
    one = run(groups["by_group"].sum(-1), systematic=0.5, **groups)
    both = one.merge(replace(one, origin=one.origin._replace(keys=("b",))))
    assert both.systematic == 0.5
    assert one.data_standard_error > 0
    np.testing.assert_allclose(both.data_standard_error, one.data_standard_error)
    low, high = both.confidence_interval()
    assert high - low > 1.0
    with pytest.raises(ValueError, match="takes forms of several batches"):
        _ = run(drawn(0, 9)).merge(run(drawn(1, 9), "b")).data_standard_error


def test_differences_of_tasks_stay_paired_within_each_run():
    """Tasks that differ by a constant in every sample: their difference has no error."""
    parts = [drawn(9, 10), drawn(10, 12)]
    runs = [run(np.stack([p, p - 3.0]), key) for p, key in zip(parts, "ab", strict=True)]
    gap = runs[0].merge(runs[1]).difference(0, 1)
    np.testing.assert_allclose(gap.value, 3.0, rtol=1e-14)
    assert gap.standard_error < 1e-14
    # The runs' own differences are the same record.
    again = runs[0].difference(0, -1).merge(runs[1].difference(0, 1))
    np.testing.assert_allclose(gap.samples, again.samples)
    task = runs[0].merge(runs[1]).task(1)
    np.testing.assert_allclose(task.value, runs[0].merge(runs[1]).value[1])
    np.testing.assert_allclose(task.standard_error, runs[0].merge(runs[1]).standard_error[1])


def test_beside_an_exact_trace_nothing_else_counts():
    exact = run(np.zeros((0,)), exact=11.0, num_matvecs=40, systematic=1e-6)
    for both in (exact.merge(run(drawn(0, 9), "b")), run(drawn(0, 9), "b").merge(exact)):
        assert both.value == 11.0
        assert both.standard_error == 0
        assert both.num_matvecs == 49
        assert both.reliable
        np.testing.assert_allclose(both.confidence_interval(), (11.0 - 1e-6, 11.0 + 1e-6))


def test_what_is_no_independent_run_of_one_question_is_refused():
    one = run(drawn(0, 2, 9))
    other = run(drawn(1, 2, 9), "b")
    elsewhere = replace(other, origin=other.origin._replace(operator="H elsewhere"))
    wider = replace(other, origin=other.origin._replace(dtype="float64"))
    for wrong, words in {
        "from another key": one,
        r"its parameters differ: P = 41, where this one has P = 40": replace(other, dim=41),
        r"its tasks differ: a scalar loss, where this one has 2 tasks": run(drawn(1, 9), "b"),
        "its products differ: float64, where this one has float32": wider,
        "its parameters or data are others": elsewhere,
        "keeps none: it comes from a file of a version": replace(other, origin=None),
        "`other` ran until a tolerance was met": replace(other, converged=True, error_share=0.6),
        "`other` has one sample": run(drawn(1, 2, 1), "b"),
    }.items():
        with pytest.raises(ValueError, match=wrong):
            one.merge(words)
    with pytest.raises(ValueError, match="from another key"):
        one.merge(other).merge(other)
    with pytest.raises(ValueError, match="its parts differ: task 1, where this one has task 0"):
        one.task(0).merge(other.task(1))
    with pytest.raises(TypeError, match="`other` must be a TraceEstimate"):
        one.merge(3.0)


@pytest.mark.parametrize("method", ["auto", "xtrace"])
def test_runs_of_the_verb_are_merged_saved_and_read_again(three_tasks, tmp_path, method):
    """Of both methods: bases of their own, and squares where products make them."""
    operator, truth = three_tasks
    a, b = (trace_of(operator, method, 48, seed=seed) for seed in (1, 2))
    both = a.merge(b)
    assert np.all(np.abs(both.value - truth) < 5 * both.standard_error + both.systematic)
    assert both.num_matvecs == a.num_matvecs + b.num_matvecs
    both.save(tmp_path / "both.npz")
    again = TraceEstimate.load(tmp_path / "both.npz")
    assert jax.tree.structure(again) == jax.tree.structure(both)
    jax.tree.map(np.testing.assert_array_equal, again, both)
    assert str(again) == str(both)
    if method == "xtrace":
        np.testing.assert_allclose(both.task(1).frobenius_norm, again.frobenius_norm[1])
    with pytest.raises(ValueError, match="from another key"):
        both.merge(trace_of(operator, "hutchinson", 16, seed=2))


def test_what_is_stacked_or_mapped_is_no_run_with_a_key():
    one, other = run(drawn(0, 9)), run(drawn(1, 9), "b")
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), one, other)
    assert stack.origin is None
    assert one.origin.keys == ("a",)
    with pytest.raises(ValueError, match="`other` keeps none"):
        one.merge(jax.tree.map(np.asarray, other))


def test_blocks_are_merged_with_the_same_block_alone():
    """Their samples are of parts of the trace."""
    params = {"a": jnp.ones(30), "b": jnp.ones(30)}

    def loss(p):
        return jnp.sum(jnp.sin(p["a"]) * p["b"] ** 3)

    def by(path, leaf):
        return path

    one, two = (
        hessspec.trace(loss, params, jax.random.key(k), by=by, num_matvecs=30, method="hutchinson")
        for k in range(2)
    )
    assert one["a"].merge(two["a"]).num_samples == 2 * one["a"].num_samples
    with pytest.raises(ValueError, match="its parts differ: block 'b', where this one has"):
        one["a"].merge(two["b"])
