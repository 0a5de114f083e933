"""Claims about traces: their ratios and signs, and how many samples they take."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.claims import Statistic, Verdict
from hessspec_mtl.claims.statistics import (
    verdict_of,
)
from hessspec_mtl.claims.traces import (
    samples_for_trace,
    sign_flip,
    traces_differ,
    traces_of,
    widest_ratio,
)
from hessspec_mtl.curvature.follow import EpochCurvature
from hessspec_mtl.curvature.spectra import Measured


def statistic(*values: Measured, threshold: float = 0.0, above: bool = True) -> Statistic:
    return Statistic("a number", values, threshold, above)


def test_a_ratio_to_a_trace_within_its_error_is_a_lower_bound():
    values, errors = np.array([[100.0, 0.5]]), np.array([[1.0, 1.0]])
    assert widest_ratio(values, errors).value == pytest.approx(math.log10(100 / 2))
    assert widest_ratio(np.array([[100.0, -10.0]]), errors).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("column", "margin"),
    [([5.0, -3.0], 3.0), ([5.0, 3.0], -3.0), ([-4.0, -2.0], -2.0), ([0.1, -0.2], 0.1)],
)
def test_sign_flip_is_the_nearer_of_the_two_signs(column, margin):
    values = np.array(column)[:, None]
    assert sign_flip(values, np.ones_like(values)).value == pytest.approx(margin)


def test_traces_that_flip_and_differ_are_found(records):
    assert traces_differ(records.study("QM8")).verdict is Verdict.REPRODUCED


def test_traces_all_alike_refute_the_claim_where_every_epoch_was_analysed(records):
    study = records.study("QM8")
    alike = records.trace(np.array([10.0, 11.0, 12.0, 13.0]), 0.1)
    run = study.runs[0]
    points = tuple(EpochCurvature(epoch, alike, p.density) for epoch, p in enumerate(run.curvature))
    run = replace(run, curvature=points)
    sampled = traces_differ(replace(study, runs=(run,)))
    assert [s.holds for s in sampled.statistics] == [None, None, None]
    every = replace(run, history=run.history[run.history["epoch"] < len(points)])
    judgement = traces_differ(replace(study, runs=(every,)))
    assert [s.holds for s in judgement.statistics] == [False, False, False]


def test_plain_samples_are_preferred_to_the_bound_for_claim_nine(records):
    study = records.study("QM8")
    bound = samples_for_trace(study)
    assert "bound" in bound.statistics[0].name
    tiny = tuple(
        replace(p, trace=records.trace(np.full(4, 1e-3), 1e-6)) for p in study.runs[0].curvature
    )
    loose = samples_for_trace(replace(study, runs=(replace(study.runs[0], curvature=tiny),)))
    assert loose.verdict is Verdict.UNDECIDED
    estimate = records.trace(np.array([100.0, 100.0, 100.0, 100.0]), 1.0)
    run = replace(study.runs[0], hutchinson={40: estimate})
    direct = samples_for_trace(replace(study, runs=(run,)))
    # 32 samples with a standard error of 1: 500 of them leave (32/500)^(1/2) on 100.
    assert direct.statistics[0].value == pytest.approx((32 / 500) ** 0.5 / 100, rel=1e-6)
    assert direct.verdict is Verdict.REPRODUCED
    assert "at epoch 40" in direct.statistics[0].name


DRAWS = 400


def test_traces_that_differ_by_ten_exactly_are_rarely_found_to_differ_by_more():
    generator = np.random.default_rng(3)
    truth = np.tile([100.0, 100.0, 100.0, 10.0, 10.0, 10.0], (4, 1))
    errors = np.full_like(truth, 1.0)
    ratios, signs = 0, 0
    for _ in range(DRAWS):
        noise = generator.normal(size=truth.shape)
        ratios += statistic(widest_ratio(truth + noise, errors), threshold=1.0).holds is True
        signs += statistic(sign_flip(noise, errors)).holds is True
    assert max(ratios, signs) <= 0.05 * DRAWS


@given(st.floats(0.0, 30.0))
def test_a_ratio_to_a_trace_that_may_be_zero_is_never_refuted(small):
    values, errors = np.array([[100.0, small]]), np.array([[15.0, 15.0]])
    ratio = statistic(widest_ratio(values, errors), threshold=1.0)
    assert ratio.interval[1] == math.inf
    assert verdict_of([ratio]) is not Verdict.NOT_REPRODUCED


def test_a_trace_that_may_be_zero_can_support_a_large_ratio():
    ratio = statistic(widest_ratio(np.array([[1e4, 1.0]]), np.array([[15.0, 15.0]])), threshold=1.0)
    assert ratio.interval == (pytest.approx(2.45, abs=0.02), math.inf)
    assert ratio.holds


def test_errors_of_traces_are_those_of_their_confidence_intervals(records):
    trace = records.trace(np.array([100.0, -20.0]), 1.0)
    run = SimpleNamespace(curvature=[SimpleNamespace(trace=trace)])
    values, errors = traces_of(run)
    np.testing.assert_allclose(values[0], [100.0, -20.0])
    np.testing.assert_allclose(1.959964 * errors[0], trace.half_width(0.95), rtol=1e-6)
