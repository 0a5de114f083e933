"""Does curvature predict which task suffers? Correlations with known answers, and intervals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl import weigh
from hessspec_mtl.study import why
from hessspec_mtl.study.decision import methods
from hessspec_mtl.study.delta_m import Decision
from hessspec_mtl.study.why import (
    BEYOND,
    COLUMNS,
    EPOCHS,
    QUANTITIES,
    SEEDS,
    WITHIN,
    best_and_worst,
    correlation_table,
    correlations,
    predictors,
    states,
)

TASKS = ("a", "b", "c")


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(why, "DRAWS", 200)
        yield


@pytest.fixture(scope="module")
def decision(weighed) -> Decision:
    """Each network alone has the error 0.5; all others are random, task "a" suffering most."""
    screen = weighed.screened(TASKS, {"equal": 1.0, "nash": 0.9})
    table = weighed.decided(screen, {})
    generator = np.random.default_rng(1)
    shared = table["weighting"] != "alone"
    off = 0.2 * (table["task"] == "a") + 0.1 * generator.normal(size=len(table))
    table.loc[shared, "mae"] = 0.5 * np.exp(off[shared])
    return Decision("QM8", TASKS, methods(screen)[:-1], table)


def measured(decision: Decision, value) -> pd.DataFrame:
    """Rows in which every quantity is `value` of (what the task lost, its number, noise)."""
    generator, rows = np.random.default_rng(2), []
    for method in decision.methods:
        lost = np.log1p(decision.relative(method.weighting) / 100)
        for seed in SEEDS:
            for epoch in EPOCHS:
                for number, task in enumerate(TASKS):
                    x = value(lost.loc[seed, task], number, generator.normal())
                    head = (method.weighting, method.weights, method.learning_rate, seed, epoch)
                    rows.append((*head, task, *[x] * len(QUANTITIES), *[0.0] * 4, 1.0))
    return pd.DataFrame(rows, columns=COLUMNS)


def found(decision, value) -> pd.DataFrame:
    return correlations(decision, measured(decision, value)).set_index(
        ["quantity", "epoch", "question"]
    )


def test_what_determines_the_loss_correlates_fully_by_its_logarithm(decision):
    rows = found(decision, lambda lost, task, noise: np.exp(3 * lost))
    for question in (WITHIN, BEYOND):
        row = rows.loc[("sharpness", 6, question)]
        assert (row["r"], row["low"], row["high"]) == pytest.approx((1.0, 1.0, 1.0))
    assert rows.loc[("conflict", 6, WITHIN), "r"] < 1  # the cosine is taken as it is
    assert set(rows["seeds"]) == {10}


def test_what_a_task_always_has_tells_which_task_suffers_and_nothing_beyond(decision):
    rows = found(decision, lambda lost, task, noise: np.exp((task == 0) + 0.1 * noise))
    within, beyond = (rows.loc["frobenius"].xs(q, level="question") for q in (WITHIN, BEYOND))
    assert (within["low"] > 0.5).all()
    # Of five epochs, each with a deviation of about 0.09.
    assert abs(beyond["r"].mean()) < 0.2


def test_noise_correlates_with_nothing_and_named_questions_have_wider_intervals(decision):
    rows = found(decision, lambda lost, task, noise: np.exp(noise))
    assert (rows["low"] < rows["r"]).all()
    assert (rows["r"] < rows["high"]).all()
    named = rows[rows["primary"]]
    assert len(named) == 4
    assert set(named["level"]) == {1 - 0.05 / 4}


def test_intervals_of_ten_seeds_hold_the_truth_almost_as_often_as_they_say():
    """Two independent normal cubes have no correlation: how often is 0 inside, at 95 %?"""
    generator, inside = np.random.default_rng(3), 0
    for _ in range(200):
        x, y = generator.normal(size=(2, 10, 5, 3))
        _, low, high = why._correlated(x, y, 0.95, beyond=False)
        inside += low < 0 < high
    assert 0.86 <= inside / 200 <= 0.98  # some 0.91: percentiles of ten seeds are narrow


def test_a_seed_with_a_run_that_diverged_is_left_out_and_not_measured(decision):
    table = decision.table.copy()
    lost = (table["weighting"] == "nash") & (table["seed"] == 3)
    table.loc[lost, "mae"] = np.inf
    less = replace(decision, table=table)
    todo = states(less, pd.DataFrame(columns=COLUMNS))
    assert len(todo) == (5 * len(SEEDS) - 1) * len(EPOCHS)
    rows = measured(decision, lambda lost, task, noise: np.exp(noise))
    assert states(less, rows) == []
    assert set(correlations(less, rows)["seeds"]) == {9}
    assert best_and_worst(less)[1] == "nash"


def test_the_table_has_the_named_questions_first_and_words_give_their_answers(decision):
    made = correlation_table(decision, measured(decision, lambda lost, *rest: np.exp(lost)))
    assert [row[-1] for row in made.rows[:5]] == ["beforehand"] * 4 + [""]
    assert made.rows[0][3:5] == ("+1.00", "+1.00 to +1.00")
    assert all("goes with larger errors" in text for text in predictors(made.data))
    noise = correlations(decision, measured(decision, lambda lost, task, noise: np.exp(noise)))
    assert any("predicts nothing that ten seeds could tell" in text for text in predictors(noise))


def test_stage_3_does_not_start_before_stage_2_is_complete(tmp_path, capsys):
    assert weigh.main(["--stage", "3", "--out", str(tmp_path)]) == 1
    assert "stage 3 looks at the runs of stage 2, which is not complete" in capsys.readouterr().err
