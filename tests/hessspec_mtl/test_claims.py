"""Verdicts follow from numbers, their errors and one rule."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hessspec_mtl.claims import Statistic, Verdict, judge, ledger_html, ledger_markdown
from hessspec_mtl.claims.ledger import number
from hessspec_mtl.claims.spectra import (
    concentrated,
    effective_rank,
    lanczos_steps,
    outlier_share,
    outliers,
    prominence,
    rank_share,
    spreading,
)
from hessspec_mtl.claims.statistics import (
    Bounded,
    Judgement,
    average,
    largest,
    smallest,
    verdict_of,
)
from hessspec_mtl.claims.traces import (
    samples_for_trace,
    sign_flip,
    traces_differ,
    traces_of,
    widest_ratio,
)
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
from hessspec_mtl.curvature.follow import EpochCurvature
from hessspec_mtl.curvature.spectra import Measured, task_spectra


def statistic(*values: Measured, threshold: float = 0.0, above: bool = True) -> Statistic:
    return Statistic("a number", values, threshold, above)


def test_a_whole_interval_on_the_claimed_side_reproduces_the_claim():
    assert verdict_of([statistic(Measured(3.0, 1.0))]) is Verdict.REPRODUCED
    assert verdict_of([statistic(Measured(-3.0, 1.0), above=False)]) is Verdict.REPRODUCED


def test_a_whole_interval_on_the_other_side_refutes_it():
    assert verdict_of([statistic(Measured(-3.0, 1.0))]) is Verdict.NOT_REPRODUCED


def test_an_interval_that_straddles_the_threshold_decides_nothing():
    assert verdict_of([statistic(Measured(1.0, 1.0))]) is Verdict.UNDECIDED


def test_a_number_without_an_error_decides_nothing():
    assert verdict_of([statistic(Measured(1e9))]) is Verdict.UNDECIDED


def test_one_failing_number_is_enough_against_a_claim_and_none_is_not_a_verdict():
    good, bad, open_ = Measured(9.0, 1.0), Measured(-9.0, 1.0), Measured(0.0, 1.0)
    assert verdict_of([statistic(good), statistic(bad)]) is Verdict.NOT_REPRODUCED
    assert verdict_of([statistic(open_), statistic(bad)]) is Verdict.NOT_REPRODUCED
    assert verdict_of([statistic(good), statistic(open_)]) is Verdict.UNDECIDED
    assert verdict_of([]) is Verdict.NOT_MEASURED


@given(
    st.floats(-5, 5), st.floats(0.01, 3), st.floats(-5, 5), st.integers(1, 50), st.floats(1, 100)
)
def test_mirroring_number_and_threshold_keeps_the_answer(value, error, threshold, many, dof):
    one = Statistic("", (Measured(value, error, dof),), threshold, True, comparisons=many)
    other = Statistic("", (Measured(-value, error, dof),), -threshold, False, comparisons=many)
    assert one.holds is other.holds


def test_more_comparisons_widen_the_interval():
    measured = (Measured(0.0, 1.0),)
    alone = Statistic("", measured, 0.0, True).interval
    many = Statistic("", measured, 0.0, True, comparisons=24).interval
    assert many[1] > alone[1] == pytest.approx(1.959964, rel=1e-6)


def test_seed_error_is_the_spread_beyond_what_runs_know_of_themselves():
    """±5 give the mean a variance of 25, of which 3²/2 is known within the runs."""
    result = statistic(Measured(-5.0, 3.0), Measured(5.0, 3.0))
    assert result.within_error == pytest.approx(4.5**0.5)
    assert result.seed_error == pytest.approx(20.5**0.5)
    assert statistic(Measured(1.0, 3.0), Measured(1.1, 3.0)).seed_error == 0.0
    assert statistic(Measured(1.0, 3.0)).seed_error is None


def test_seeds_that_agree_by_luck_do_not_shrink_the_interval_below_the_runs_own_error():
    result = statistic(Measured(1.0, 2.0), Measured(1.0, 2.0))
    assert result.interval[1] - 1.0 == pytest.approx(1.959964 * 2.0 / 2**0.5, rel=1e-6)


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


def test_an_interval_ends_where_the_number_must():
    share = Statistic("", (Measured(0.5, 1.0, 2),), 0.5, True, support=(0.0, 1.0))
    assert share.interval == (0.0, 1.0)
    bound = Statistic("", (Bounded(0.2, low=-0.1, high=np.inf),), 0.5, True, support=(0.0, np.inf))
    assert bound.interval == (0.0, np.inf)
    unknown = Statistic("", (Measured(0.5),), 0.5, True, support=(0.0, 1.0))
    assert unknown.interval == (-np.inf, np.inf)


def test_multi_task_is_compared_with_single_task_run_by_run(records):
    judgement = multi_against_single(records.study("QM8", 2, single_task=True))
    expected = np.exp(np.mean(np.log([0.25, 0.35, 0.45, 0.55]))) / 0.2
    assert judgement.statistics[0].value == pytest.approx(expected, rel=0.02)
    assert judgement.verdict is Verdict.REPRODUCED
    missing = multi_against_single(records.study("QM8"))
    assert missing.verdict is Verdict.NOT_MEASURED
    assert "--single-task" in missing.how_to_measure


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


def test_outliers_that_rise_and_fall_are_found(records):
    judgement = outliers(records.study("QM8"))
    # Five of 4000 above 0 are more than one in a thousand, three below are fewer.
    assert [s.holds for s in judgement.statistics[:4]] == [None, True, True, True]
    rise = judgement.statistics[2]
    assert rise.value == pytest.approx(math.log10(30 / 2), abs=1e-3)  # 1, 30, 2, 5
    between = judgement.statistics[3]
    assert between.value == pytest.approx(3 * math.log10(3), abs=1e-3)


def test_outliers_drive_a_trace_that_is_their_sum(records):
    eigenvalues = records.outlier_spectrum(0, 1.0)
    far = eigenvalues[np.abs(eigenvalues) > 0.01].sum()
    spectrum = task_spectra(records.density(eigenvalues[None]))[0]
    assert outlier_share(spectrum, far, 0.0).value == pytest.approx(1.0, abs=0.01)
    assert outlier_share(spectrum, 3 * far, 0.0).value == pytest.approx(1 / 3, abs=0.01)


def test_an_outlier_that_only_grows_does_not_come_and_go(records):
    paths = [
        task_spectra(records.density(np.stack([records.outlier_spectrum(0, scale)])))[0]
        for scale in (1.0, 2.0, 4.0)
    ]
    assert prominence(paths).value == pytest.approx(0.0, abs=1e-6)


def test_one_sided_spectra_are_not_symmetric(records):
    study = records.study("QM8")
    run = study.runs[0]
    flat = records.density(np.abs(np.stack([records.outlier_spectrum(t, 1.0) for t in range(4)])))
    points = tuple(EpochCurvature(p.epoch, p.trace, flat) for p in run.curvature)
    one_sided = concentrated(replace(study, runs=(replace(run, curvature=points),)))
    assert [s.holds for s in one_sided.statistics] == [True, False]
    assert one_sided.statistics[1].value == pytest.approx(1.0, abs=1e-6)
    assert [s.holds for s in concentrated(study).statistics] == [True, True]


def test_spectra_that_spread_are_seen(records):
    study = records.study("QM8")
    run = study.runs[0]
    ends = [
        np.stack([records.outlier_spectrum(t, 10.0, width * (1 + parted * t)) for t in range(4)])
        for width, parted in ((0.01, 0), (2.0, 1))
    ]
    points = tuple(
        EpochCurvature(p.epoch, p.trace, records.density(diagonals))
        for p, diagonals in zip(run.curvature[:2], ends, strict=True)
    )
    judgement = spreading(replace(study, runs=(replace(run, curvature=points),)))
    assert judgement.statistics[0].holds
    backwards = spreading(replace(study, runs=(replace(run, curvature=points[::-1]),)))
    assert backwards.statistics[0].holds is False


def test_counts_hold_the_truth_within_their_interval(records):
    """Over 20 spectra, the 95 % interval misses the true number at most 3 times."""
    misses = 0
    for seed in range(20):
        eigenvalues = records.outlier_spectrum(seed, 3.0, 1.0)
        log = task_spectra(records.density(eigenvalues[None], seed))[0].log_count_beyond(0.5)
        truth = math.log10((np.abs(eigenvalues) > 0.5).sum())
        misses += not log.low - 1e-9 <= truth <= log.high + 1e-9
    assert misses <= 3


def test_the_blur_is_the_cell_about_zero(records):
    """A bulk within 1e-3 of 0 and outliers above 0.1: the cell ends somewhere between."""
    spectrum = task_spectra(records.density(records.outlier_spectrum(0, 1.0)[None]))[0]
    assert 1e-5 < spectrum.blur < 0.1
    coarse = replace(spectrum, density=replace(spectrum.density, resolution=np.asarray(0.3)))
    assert coarse.blur == pytest.approx(0.3)


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


def test_extremes_that_converged_reproduce_claim_ten_with_fewer_steps(records):
    judgement = lanczos_steps(records.study("QM8"))
    assert judgement.verdict is Verdict.REPRODUCED
    assert "24 steps" in judgement.remark


def test_effective_rank_is_that_of_the_spectrum(records):
    study = records.study("QM8")
    judgement = effective_rank(study)
    diagonal = records.outlier_spectrum(0, 5.0, 1e-3 * 41**0.5)
    truth = np.abs(diagonal).sum() ** 2 / (diagonal**2).sum() / diagonal.size
    assert judgement.verdict is Verdict.REPRODUCED
    low, high = judgement.statistics[0].interval
    assert low < truth < high


def test_the_ledger_has_all_twelve_claims_and_is_valid_json(records):
    from hessspec_mtl.claims import ledger_records

    judgements = judge([records.study("QM8", 2)])
    assert sorted({judgement.number for judgement in judgements}) == list(range(1, 13))
    text = json.dumps(ledger_records(judgements), allow_nan=False)
    entry = next(r for r in json.loads(text) if r["claim"] == 2)
    assert entry["verdict"] == "not measured in this run"
    assert "--sets mp" in entry["how_to_measure"]


def test_without_curvature_the_ledger_says_what_to_run(records):
    study = records.study("QM8")
    bare = replace(study, runs=(replace(study.runs[0], curvature=()),))
    judgements = {j.number: j for j in judge([bare])}
    for claim in (4, 5, 6, 7, 9, 10, 11):
        assert judgements[claim].verdict is Verdict.NOT_MEASURED
        assert judgements[claim].how_to_measure.startswith("python -m hessspec_mtl.reproduce")


def test_seeds_and_probes_are_told_apart_in_the_ledger(records):
    text = ledger_markdown(judge([records.study("QM8", 2)]))
    assert "(probes)" in text
    assert "(2 seeds)" in text
    single = ledger_markdown(judge([records.study("QM8")]))
    assert "not measured (one seed)" in single


def test_the_ledger_escapes_what_it_shows(records):
    study = records.study("QM8")
    odd = replace(study, dataset=replace(study.dataset, name="<b>&"))
    assert "<b>&" not in ledger_html(judge([odd]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.12345, "−0.123"),
        (1234.5, "1,234"),
        (2.5e-7, "2.50·10⁻⁷"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_written_to_three_digits(value, text):
    assert number(value) == text


DRAWS = 400


@pytest.mark.parametrize("dof", [9.0, math.inf])
def test_the_largest_of_many_that_all_lie_on_the_threshold_is_rarely_above_it(dof):
    generator = np.random.default_rng(1)
    holds = {"largest": 0, "smallest": 0}
    for _ in range(DRAWS):
        noise = generator.normal(size=12)
        errors = np.ones(12) if dof == math.inf else np.sqrt(generator.chisquare(dof, 12) / dof)
        items = [Measured(float(v), float(e), dof) for v, e in zip(noise, errors, strict=True)]
        holds["largest"] += statistic(largest(items)).holds is True
        holds["smallest"] += statistic(smallest(items), above=False).holds is True
    assert max(holds.values()) <= 0.05 * DRAWS


def test_seeds_do_not_average_out_the_pull_of_a_maximum():
    generator = np.random.default_rng(2)
    above = 0
    for _ in range(DRAWS):
        seeds = [
            largest([Measured(float(v), 1.0) for v in generator.normal(size=12)]) for _ in range(5)
        ]
        above += statistic(*seeds).holds is True
    assert above <= 0.05 * DRAWS


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


def test_what_has_no_error_is_not_passed_over():
    known, unknown = Measured(1.0, 0.01), Measured(5.0)
    assert largest([known, known]).high < 2
    assert largest([known, unknown]).high == math.inf
    assert statistic(smallest([known, unknown])).holds is None
    flips = sign_flip(np.array([[5.0], [3.0], [-9.0]]), np.array([[1.0], [1.0], [np.nan]]))
    assert statistic(flips).holds is None


def test_the_worst_item_is_picked_by_the_end_of_its_interval():
    sure, vague = Measured(1.0, 0.1), Measured(2.0, 5.0)
    assert statistic(smallest([sure, vague])).holds is None
    assert statistic(smallest([sure, sure])).holds is True


def test_a_bound_speaks_for_a_claim_and_never_against_it():
    above = Bounded(0.5, low=0.0, high=0.6)
    assert statistic(above, threshold=0.1, above=False).holds is None
    assert statistic(above, threshold=0.7, above=False).holds is True


def test_errors_of_traces_are_those_of_their_confidence_intervals(records):
    trace = records.trace(np.array([100.0, -20.0]), 1.0)
    run = SimpleNamespace(curvature=[SimpleNamespace(trace=trace)])
    values, errors = traces_of(run)
    np.testing.assert_allclose(values[0], [100.0, -20.0])
    np.testing.assert_allclose(1.959964 * errors[0], trace.half_width(0.95), rtol=1e-6)


def test_the_rank_of_two_probes_is_as_uncertain_as_students_t_says():
    spectrum = SimpleNamespace(
        radius=1.0, measure=lambda functional: Measured(0.5, 0.01, 1), dim=100
    )
    share = rank_share(spectrum)
    assert share.high == pytest.approx(0.5 + 12.7062 * 0.01, rel=1e-4)
    assert share.low == pytest.approx(0.5 - 12.7062 * 0.01, rel=1e-4)


def test_shared_probes_add_no_degrees_of_freedom():
    assert average([Measured(1.0, 0.1, 2), Measured(2.0, 0.1, 2)]).dof == 2


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


def test_every_rule_of_a_claim_is_shown():
    known = (statistic(Measured(3.0, 1.0)),)
    one, other = (Judgement(10, "c", n, known, f"rule of {n}.", "figure6") for n in ("A", "B"))
    page = ledger_html([one, other, one])
    assert page.count("rule of A.") == page.count("rule of B.") == 1
