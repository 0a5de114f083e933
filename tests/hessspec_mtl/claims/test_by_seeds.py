"""With seeds enough their spread decides; and an open claim says how many would."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hessspec_mtl.claims import judge, ledger_html, ledger_markdown, ledger_records
from hessspec_mtl.claims.by_seeds import (
    ENOUGH,
    RUNS,
    Item,
    _ends_of_share,
    decided_by,
    largest_item,
    seeds_to_decide,
    share_of_runs,
    smallest_item,
)
from hessspec_mtl.claims.statistics import Bounded, Statistic, Verdict
from hessspec_mtl.claims.training import share_interval
from hessspec_mtl.curvature.spectra import Measured

SHOWN = Statistic("a number", (Measured(0.0),), 0.0, above=True)


def normal(mean: float, deviation: float, count: int) -> np.ndarray:
    """Values of exactly this mean and deviation (ddof 1)."""
    values = np.linspace(-1, 1, count)
    return mean + deviation * values / values.std(ddof=1)


def test_one_number_has_students_interval_over_seeds():
    found = largest_item(SHOWN, [Item.of(normal(1.0, 0.5, 10))])
    half = stats.t.isf(0.025, 9) * 0.5 / 10**0.5
    assert found.interval == pytest.approx((1 - half, 1 + half))
    assert found.value == pytest.approx(1.0)
    assert found.holds is True


def test_what_seeds_share_and_what_is_between_bounds_does_not_shrink_with_them():
    many = Item.of(normal(1.0, 0.5, 1000), shared=0.4)
    assert many.ends()[0] == pytest.approx(1.0 - 1.96 * 0.4, abs=0.01)
    open_ended = Item(normal(1.0, 1e-6, 1000), normal(3.0, 1e-6, 1000))
    assert open_ended.ends() == pytest.approx((1.0, 3.0), abs=1e-5)


def test_the_extreme_of_several_is_corrected_for_those_that_may_be_it_alone():
    best, close, far = (Item.of(normal(m, 0.5, 10)) for m in (1.0, 0.9, -50.0))
    with_far = largest_item(SHOWN, [best, far])
    assert with_far.interval == pytest.approx(largest_item(SHOWN, [best]).interval)
    with_close = largest_item(SHOWN, [best, close, far])
    assert with_close.interval[0] == pytest.approx(best.ends(2)[0])
    mirrored = smallest_item(SHOWN, [item.mirrored() for item in (best, close, far)])
    assert mirrored.interval == pytest.approx(tuple(-end for end in with_close.interval[::-1]))
    assert mirrored.value == pytest.approx(-1.0)


def test_intervals_of_an_extreme_hold_the_truth_as_often_as_they_say():
    """The largest of four equal means, ten seeds: the case in which picking misleads most."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(200):
        items = [Item.of(row) for row in generator.normal(size=(4, 10))]
        low, high = largest_item(SHOWN, items).interval
        inside += low < 0 < high
    assert inside / 200 > 0.93


def test_what_happens_at_times_is_counted_in_runs():
    seen, unseen = Bounded(1.0, low=0.5), Bounded(0.2, low=-0.3)
    refuted = Bounded(-1.0, low=-2.0, high=-0.5)
    found = share_of_runs(SHOWN, [seen] * 9 + [unseen])
    assert found.interval == pytest.approx((share_interval(9, 10)[0], 1.0))
    assert found.holds is True
    # What was not seen does not speak against it; what is known not to be, in most runs, does.
    assert share_of_runs(SHOWN, [unseen] * 10).holds is None
    assert share_of_runs(SHOWN, [refuted] * 10).holds is False
    assert "above 0: a number" in found.name


@pytest.mark.parametrize(("mean", "deviation"), [(0.1, 0.5), (-0.1, 0.5), (0.3, 0.5)])
def test_so_many_seeds_decide_with_the_chance_that_is_said(mean, deviation):
    found = largest_item(SHOWN, [Item.of(normal(mean, deviation, 5))])
    assert found.holds is None
    number = seeds_to_decide(found)
    generator, decided = np.random.default_rng(1), 0
    for _ in range(300):
        values = generator.normal(mean, deviation, number)
        decided += largest_item(SHOWN, [Item.of(values)]).holds is (mean > 0)
    assert decided / 300 == pytest.approx(0.8, abs=0.07)  # three deviations of the share
    assert f"About {number:,} seeds" in decided_by(found)


def test_where_seeds_share_the_error_no_number_of_them_decides():
    found = largest_item(SHOWN, [Item.of(normal(0.1, 0.5, 5), shared=10.0)])
    assert seeds_to_decide(found) is None
    assert "No number of seeds decides" in decided_by(found)
    half = [Bounded(1.0, low=0.5)] * 4 + [Bounded(0.2, low=-0.3)] * 6
    assert seeds_to_decide(share_of_runs(SHOWN, half)) is None
    most = share_of_runs(SHOWN, half[:4] + half[:3] + half[4:7])
    assert most.holds is None
    assert seeds_to_decide(most) == 50  # (0.5 (1.96 + 0.84) / 0.2)², rounded up


def many_seeds(study, count: int):
    """The study with so many seeds; the runs of two are repeated, no two histories the same."""
    runs = []
    for seed in range(count):
        run = study.runs[seed % 2]
        history = run.history.assign(mae=run.history["mae"] * (1 + 0.01 * seed))
        runs.append(replace(run, seed=seed, history=history))
    return replace(study, runs=tuple(runs))


def test_a_share_of_which_nothing_is_resolved_may_be_anything():
    assert _ends_of_share(Bounded(0.9, low=0.8, high=0.95)) == (0.8, 0.95)
    assert _ends_of_share(Measured(0.9)) == (0.0, 1.0)


@pytest.mark.parametrize("name", [pytest.param("QM8", marks=pytest.mark.slow), "MP"])
def test_with_seeds_enough_others_decide_and_open_ones_say_what_would(records, name):
    study = records.study(name, 2, name == "QM8")
    few = {j.number: j for j in judge([study])}
    assert not any(judgement.former for judgement in few.values())
    judgements = judge([many_seeds(study, ENOUGH)])
    many = {j.number: j for j in judgements}
    changed = {number for number, judgement in many.items() if judgement.former}
    assert changed >= {1, 4, 5, 6, 7, 9, 11, 3 if name == "QM8" else 2}
    for number in changed:
        assert many[number].former != many[number].statistics
        assert len(many[number].statistics) == len(few[number].statistics)
        assert "With 5 seeds or more" in many[number].rule
        # Nothing in these runs has changed but that there are more of them.
        opposite = {many[number].verdict, few[number].verdict}
        assert opposite != {Verdict.REPRODUCED, Verdict.NOT_REPRODUCED}
    assert many[4].statistics[0].within == RUNS
    text = ledger_markdown(judgements)
    assert "(with few seeds: log₁₀ of the largest ratio of traces" in text
    assert "What would decide with few seeds:" in ledger_html(judgements)
    record = next(r for r in ledger_records(judgements) if r["claim"] == 4)
    assert len(record["former"]) == 3
    json.dumps(record, allow_nan=False)
    opened = [j for j in judgements if j.verdict is Verdict.UNDECIDED]
    assert opened
    for judgement in opened:
        said = ("seeds would decide", "No number of seeds decides")
        assert any(words in judgement.remark for words in said)
