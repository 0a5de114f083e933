"""Verdicts on weightings follow from differences by seed, with known answers for each case."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hessspec_mtl.study.decision import ALONE, SEEDS, decided_path, methods
from hessspec_mtl.study.delta_m import (
    Decision,
    decision_table,
    decision_words,
    decisions,
    verdicts,
)

TASKS = ("a", "b")
FACTORS = {"equal": 1.0, "fixed 1 3": 0.99, "nash": 0.9, "frobenius": 0.95}
EFFECTS = {"equal": 4.0, "fixed": 4.1, "nash": -1.0, "frobenius": 5.0, "gauss-newton-root": 10.0}


@pytest.fixture(scope="module")
def made(weighed) -> Decision:
    screen = weighed.screened(TASKS, FACTORS)
    return Decision("QM8", TASKS, methods(screen)[:-1], weighed.decided(screen, EFFECTS))


def with_errors(made: Decision, weighting: str, change) -> Decision:
    """The same with other errors of one weighting: `change` of (rows of it, their errors)."""
    table = made.table.copy()
    mine = table["weighting"] == weighting
    table.loc[mine, "mae"] = change(table[mine], table.loc[mine, "mae"])
    return replace(made, table=table)


def test_delta_m_is_the_mean_relative_change_against_each_task_alone_by_seed(made):
    assert made.delta_m("equal").to_numpy() == pytest.approx(4.0)
    assert made.delta_m("nash")[2] == pytest.approx(-1.0 + 1.0)
    assert made.delta_m("nash")[3] == pytest.approx(-1.0 - 1.0)
    # Twice the error alone in one seed and task: only the networks alone have changed.
    doubled = with_errors(
        made, ALONE, lambda rows, mae: mae.where((rows["seed"] != 5) | (rows["task"] != "a"), 1.0)
    )
    assert doubled.delta_m("equal")[5] == pytest.approx((4.0 + 100 * (0.52 - 1.0)) / 2)


def test_intervals_are_students_over_the_paired_differences_and_p_values_are_holms(made):
    table = verdicts(made).set_index("weighting")
    n = len(SEEDS)
    half = stats.t.isf(0.025, n - 1) * np.sqrt(n / (n - 1)) / n**0.5  # the spread is 1 exactly
    assert table.loc["nash", "against_equal"] == pytest.approx(-5.0)
    assert table.loc["nash", "against_high_95"] == pytest.approx(-5.0 + half)
    assert table.loc["equal", "low_95"] == pytest.approx(table.loc["equal", "high_95"])
    p = {name: table.loc[name, "p_value"] for name in table.index[1:]}
    t = 0.1 / np.sqrt(1 / (n - 1))
    assert p["fixed"] == pytest.approx(2 * stats.t.sf(t, n - 1))
    assert sorted(p, key=p.__getitem__) == ["gauss-newton-root", "nash", "frobenius", "fixed"]
    assert table.loc["nash", "p_corrected"] == pytest.approx(3 * p["nash"])
    assert table.loc["frobenius", "p_corrected"] == pytest.approx(2 * p["frobenius"])
    assert table.loc["fixed", "p_corrected"] == pytest.approx(p["fixed"])


def test_verdicts_hold_the_interval_against_the_two_per_cent_named_beforehand(made):
    found = verdicts(made).set_index("weighting")["verdict"]
    assert found["equal"] == "what the others are held against"
    assert found["nash"] == "better, by more than 2 %"
    assert found["gauss-newton-root"] == "worse, by more than 2 %"
    assert found["frobenius"] == "worse, not surely by 2 %"
    assert found["fixed"] == "no difference of 2 %"

    def noisy(spread, mean):
        sign = lambda rows: (-1.0) ** rows["seed"]  # noqa: E731
        changed = with_errors(
            made, "fixed", lambda rows, mae: 0.5 * (1.04 + mean / 100 + spread / 100 * sign(rows))
        )
        row = verdicts(changed).set_index("weighting").loc["fixed"]
        return row["verdict"], bool(row["could_see"])

    # Half the interval is 0.48 of the spread.
    assert noisy(4.0, 1.0) == ("no difference told, one of 2 % not excluded", True)
    assert noisy(5.0, 0.0) == ("undecided", False)
    assert noisy(20.0, -9.9)[0] == "better, not surely by 2 %"


def test_a_weighting_that_diverges_is_not_better_whatever_its_other_seeds_say(made):
    lost = with_errors(made, "nash", lambda rows, mae: mae.where(rows["seed"] != 3, np.inf))
    row = verdicts(lost).set_index("weighting").loc["nash"]
    assert row["verdict"] == "not better: 1 of 20 runs diverged"
    assert (row["seeds"], row["diverged"], row["p_value"]) == (19, 1, 1.0)
    assert row["against_equal"] < -4
    all_lost = with_errors(made, "nash", lambda rows, mae: np.inf)
    row = verdicts(all_lost).set_index("weighting").loc["nash"]
    assert row["verdict"] == "not better: 20 of 20 runs diverged"
    assert "unknown" in decision_table(all_lost).to_markdown()


def test_a_seed_without_its_network_alone_is_left_out_of_all_rows_and_said(made):
    lost = with_errors(made, ALONE, lambda rows, mae: mae.where(rows["seed"] != 3, np.inf))
    table = verdicts(lost)
    assert set(table["seeds"]) == {19}
    assert set(table["diverged"]) == {0}
    text = decision_table(lost).to_markdown()
    assert "1 seeds are left out of all rows" in text
    assert "left out" not in decision_table(made).to_markdown()


def test_times_leave_out_what_compiles_and_tasks_alone_cost_the_sum_of_their_networks(made):
    assert made.seconds("equal") == 30.0
    assert made.seconds(ALONE) == 2 * 10.0
    rows = decision_table(made).rows
    assert rows[-1][-1] == "20 s (0.67)"


def test_words_and_table_say_each_difference_with_its_interval(made):
    (text,) = decision_words([made])
    assert "the error is 4.0 % above that of one network a task" in text
    assert "nash is −5.0 % (−5.5 to −4.5): better, by more than 2 %" in text
    assert "gauss-newton-root is +6.0 %" in text
    row = decision_table(made).rows[1]
    assert row[0] == "fixed 1 3"
    assert row[4] == "+0.1 (−0.4 to +0.6)"


def test_only_finished_studies_are_read(made, weighed, tmp_path):
    screen = weighed.screened(TASKS, FACTORS)
    assert decisions(tmp_path, ["qm8"]) == ()
    path = decided_path(tmp_path, "qm8")
    path.parent.mkdir(parents=True)
    screen.to_csv(path.parent / "screen_qm8.csv", index=False)
    made.table[:-1].to_csv(path, index=False)
    assert decisions(tmp_path, ["qm8", "mp"]) == ()
    made.table.to_csv(path, index=False)
    (found,) = decisions(tmp_path, ["qm8", "mp"])
    assert found.dataset == "QM8"
    assert found.methods == made.methods
    assert found.delta_m("nash").tolist() == made.delta_m("nash").tolist()
