"""Verdicts follow from numbers, their errors and one rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec_mtl.claims import Statistic, Verdict
from hessspec_mtl.claims.statistics import (
    Bounded,
    average,
    largest,
    smallest,
    verdict_of,
)
from hessspec_mtl.claims.traces import (
    sign_flip,
)
from hessspec_mtl.curvature.spectra import Measured


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


def test_an_interval_ends_where_the_number_must():
    share = Statistic("", (Measured(0.5, 1.0, 2),), 0.5, True, support=(0.0, 1.0))
    assert share.interval == (0.0, 1.0)
    bound = Statistic("", (Bounded(0.2, low=-0.1, high=np.inf),), 0.5, True, support=(0.0, np.inf))
    assert bound.interval == (0.0, np.inf)
    unknown = Statistic("", (Measured(0.5),), 0.5, True, support=(0.0, 1.0))
    assert unknown.interval == (-np.inf, np.inf)


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


def test_shared_probes_add_no_degrees_of_freedom():
    assert average([Measured(1.0, 0.1, 2), Measured(2.0, 0.1, 2)]).dof == 2
