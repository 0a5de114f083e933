"""Claims about training: errors, their smoothness, and tasks together or alone."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hessspec_mtl.claims import Statistic, Verdict
from hessspec_mtl.claims.training import (
    largest_over_seeds,
    multi_against_single,
    oscillator_strengths,
    poisson_ratio,
    regressions,
    rough_equality,
    share_interval,
    smooth_training,
)
from hessspec_mtl.curvature.spectra import Measured


def test_the_claims_about_training_are_read_off_the_curves(records):
    study = records.study("QM8")
    assert rough_equality(study).verdict is Verdict.REPRODUCED  # 0.1 each; 0.25 to 0.55
    strengths = oscillator_strengths(study)
    assert strengths is not None
    assert [s.holds for s in strengths.statistics] == [False, True]
    assert strengths.verdict is Verdict.NOT_REPRODUCED
    assert smooth_training(study).verdict is Verdict.REPRODUCED
    assert poisson_ratio(study) is None


def test_poisson_ratio_is_compared_with_the_larger_modulus(records):
    judgement = poisson_ratio(records.study("MP"))
    assert judgement is not None
    assert judgement.verdict is Verdict.REPRODUCED
    assert judgement.statistics[0].value == pytest.approx(0.1, rel=0.02)  # 0.45 - 0.35


def test_occasional_regressions_are_asked_of_crystals_only(records):
    study = records.study("MP")
    # None at all: another run may have some.
    assert smooth_training(study).verdict is Verdict.UNDECIDED
    run = study.runs[0]
    bumped = run.history.copy()
    bumped.loc[(bumped["epoch"] == 30) & (bumped["split"] == "train"), "mae"] *= 1.5
    bumpy = replace(study, runs=(replace(run, history=bumped),))
    # One has been seen; one in forty may be one in eight, so "smooth" is not yet decided.
    assert [s.holds for s in smooth_training(bumpy).statistics] == [True, None, True]


def test_a_rise_that_lasts_is_one_regression():
    curve = np.linspace(1.0, 0.5, 101)
    curve[20:32] *= 1.5
    curve[60] *= 1.5
    assert regressions(curve) == 2
    assert regressions(np.linspace(1.0, 0.5, 101)) == 0
    assert regressions(np.array([1.0, 2.0, 2.0, 0.9])) == 1


def test_the_interval_of_a_share_is_wilsons():
    for count, trials in ((0, 40), (2, 100), (13, 100), (7, 7)):
        expected = stats.binomtest(count, trials).proportion_ci(0.95, method="wilson")
        assert share_interval(count, trials) == pytest.approx(tuple(expected), abs=1e-12)


def test_few_regressions_do_not_make_a_training_rough_but_many_do(records):
    study = records.study("MP")
    run = study.runs[0]

    def verdict(epochs):
        bumped = run.history.copy()
        chosen = bumped["epoch"].isin(epochs) & (bumped["split"] == "train")
        bumped.loc[chosen, "mae"] *= 3
        return smooth_training(replace(study, runs=(replace(run, history=bumped),))).verdict

    # Twelve epochs of forty, one regression; Wilson's interval of 1 in 40 ends at 13 %.
    assert verdict(range(10, 22)) is Verdict.UNDECIDED
    assert verdict(range(2, 40, 2)) is Verdict.NOT_REPRODUCED
    three = tuple(records.study("MP", 3).runs)
    bumped = run.history.copy()
    chosen = bumped["epoch"].between(10, 21) & (bumped["split"] == "train")
    bumped.loc[chosen, "mae"] *= 3
    bumpy = replace(study, runs=(replace(three[0], history=bumped), *three[1:]))
    judgement = smooth_training(bumpy)
    assert judgement.verdict is Verdict.REPRODUCED
    assert judgement.remark == "1 regression in 120 epochs, which took 12 of them."


def test_seeds_decide_the_ratio_of_training_errors():
    """Three seeds that agree to 3 % tell 1.9 from 1.5, whatever a window of three epochs knows."""
    shown = Statistic("ratio", (), 1.5, above=False, support=(1.0, np.inf))
    items = [
        tuple(Measured(value, 0.04, 2) for value in (1.89, 1.91, 2.00)),
        tuple(Measured(value, 0.04, 2) for value in (1.20, 1.18, 1.22)),
    ]
    decided = largest_over_seeds(shown, items)
    low, high = decided.interval
    half = stats.t.isf(0.025, 2) * np.std([1.89, 1.91, 2.00], ddof=1) / 3**0.5
    assert (low, high) == pytest.approx((1.9333 - half, 1.9333 + half), abs=1e-4)
    assert decided.holds is False
    # Two items that chance may have swapped are widened for two.
    near = largest_over_seeds(shown, [items[0], items[0][::-1]])
    assert near.interval[0] < low


def test_multi_task_is_compared_with_single_task_run_by_run(records):
    judgement = multi_against_single(records.study("QM8", 2, single_task=True))
    expected = np.exp(np.mean(np.log([0.25, 0.35, 0.45, 0.55]))) / 0.2
    assert judgement.statistics[0].value == pytest.approx(expected, rel=0.02)
    assert judgement.verdict is Verdict.REPRODUCED
    missing = multi_against_single(records.study("QM8"))
    assert missing.verdict is Verdict.NOT_MEASURED
    assert "--single-task" in missing.how_to_measure


def test_a_gap_within_the_sampling_of_the_test_set_decides_nothing(records):
    study = records.study("MP")
    run = study.runs[0]
    wide = run.history.copy()
    wide["mse"] = 4 * wide["mae"] ** 2  # |error| varies by 3^(1/2) times its mean
    judgement = poisson_ratio(replace(study, runs=(replace(run, history=wide),)))
    assert judgement is not None
    assert judgement.verdict is Verdict.UNDECIDED
    expected = (3 * (0.45**2 + 0.35**2) / 20) ** 0.5
    assert judgement.statistics[0].within_error == pytest.approx(expected, rel=0.02)
    assert "test set" in judgement.statistics[0].within
