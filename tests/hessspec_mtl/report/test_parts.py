"""What the report says of the part of each trace that is the network's own."""

import re

import numpy as np
from scipy import stats

from hessspec_mtl.report.parts import own_shares, part_findings, part_table


def test_the_share_of_one_seed_has_the_interval_of_its_trace(records):
    """tr G = 100 (t + 1) and a standard error of 1 from 32 samples: Student's, about 2.04."""
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: -0.25 * t)
    data = own_shares([study])
    assert len(data) == 4 * 4
    last = data[data["epoch"] == 40].set_index("task")
    np.testing.assert_allclose(last["share"], [0.0, -0.25, -0.5, -0.75], atol=1e-9)
    np.testing.assert_allclose(last["rest"], last["share"] * last["gauss_newton"], atol=1e-9)
    estimate = study.runs[0].curvature[-1].trace
    for end, found in zip(estimate.confidence_interval(), ("low_95", "high_95"), strict=True):
        exact = 100.0 * np.arange(1, 5)
        np.testing.assert_allclose(last[f"share_{found}"], end / exact - 1)


def test_shares_of_several_seeds_have_students_interval_over_seeds(records):
    shares = np.array([0.1, 0.4, 0.7])
    study = records.with_gauss_newton(records.study("MP", 3), lambda seed, t: shares[seed])
    row = own_shares([study]).iloc[0]
    half = stats.t.ppf(0.975, 2) * shares.std(ddof=1) / 3**0.5
    found = [row["share"], row["share_low_95"], row["share_high_95"]]
    np.testing.assert_allclose(found, [0.4, 0.4 - half, 0.4 + half], rtol=1e-9)
    table = part_table([study])
    assert table is not None
    assert "means over 3 seeds with Student's 95 % interval over seeds" in table.notes[0]


def test_the_table_has_the_first_epoch_and_the_last_and_its_file_all(records):
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: 0.5)
    table = part_table([study])
    assert table is not None
    assert [row[2] for row in table.rows] == ["0"] * 4 + ["40"] * 4
    assert table.rows[0][:6] == ("QM8", "E₁", "0", "150", "100", "50.0")
    assert sorted(set(table.data["epoch"])) == [0, 4, 12, 40]


def test_words_say_whether_the_network_adds_takes_away_or_neither(records):
    times = (0.5, -0.5, 0.0, -2.0)
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: times[t])
    what, said = part_findings([study])
    assert "tr H = tr G + rest" in what
    low, high = (f"{end[0] / 100 - 1:.3f}" for end in _ends(study))
    assert f"40: E₁: the network adds 0.500 of tr G ({low} to {high}); E₂" in said
    low, high = (f"{1 - end[1] / 200:.3f}" for end in _ends(study))
    assert f"E₂: the network takes away 0.500 of tr G ({high} to {low}); f₁" in said
    assert re.search(r"f₁: \S+ of tr G \(−0.00\d+ to 0.00\d+\), which may be nothing; f₂", said)
    assert re.search(r"units of tr G: E₁ 0.500, E₂ −0.500, f₁ \S+, f₂ −2.00\.$", said)


def _ends(study):
    return study.runs[0].curvature[-1].trace.confidence_interval()


def test_nothing_is_said_where_the_parts_were_not_taken(records):
    study = records.study("QM8")
    assert own_shares([study]).empty
    assert part_table([study]) is None
    assert part_findings([study]) == []
