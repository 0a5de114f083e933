"""The picture of what was followed step by step holds all of it; the report says what it took."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.figures import tracking_figure
from hessspec_mtl.figures.axes import linear_threshold
from hessspec_mtl.report.words import tracking_sentence


def tracked(run, tasks, seconds=0.5):
    """A run of which three looks were kept, the first of which compiled."""
    rows = [
        {
            "step": step,
            "task": task.name,
            "sharpness": 10.0 * (t + 1) + step,
            "residual": 0.5,
            "converged": True,
            "trace": -3.0 * step,
            "trace_standard_error": 1.0,
            "trace_low_95": -3.0 * step - 2,
            "trace_high_95": -3.0 * step + 2,
            "products": 4,
            "forms": 8,
            "look_seconds": 20.0 if step == 0 else seconds,
        }
        for step in (0, 250, 500)
        for t, task in enumerate(tasks)
    ]
    times = {"training": 210.0, "tracking": 20.0 + 2 * seconds}
    return replace(run, tracking=pd.DataFrame(rows), tracked_graphs=64, seconds=times)


@pytest.fixture
def study(records):
    made = records.study("QM8")
    return replace(made, runs=[tracked(made.runs[0], made.tasks)])


def test_all_that_was_followed_is_beside_the_picture_and_its_graphs_are_named(study):
    plot = tracking_figure([study])
    table = study.runs[0].tracking
    pd.testing.assert_frame_equal(plot.data[list(table.columns)], table)
    assert set(plot.data["graphs"]) == {64}
    assert "every 250 steps, losses averaged over 64 molecules of the training set" in plot.caption
    left, right = plot.figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [10.0, 260.0, 510.0])
    np.testing.assert_array_equal(right.lines[1].get_ydata(), [0.0, -750.0, -1500.0])
    assert left.get_ylim()[0] > -linear_threshold(table["sharpness"].to_numpy())
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (-1502.0, 2.0)
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == [task.label for task in study.tasks]


def test_nothing_is_drawn_or_said_where_nothing_was_followed(records):
    assert tracking_figure([records.study("QM8")]) is None
    assert tracking_sentence(records.study("QM8")) == ""


def test_its_cost_is_told(study):
    """Three looks of four tasks, four products each; 21 s beside 210."""
    assert tracking_sentence(study) == (
        ". While it trained, each property's largest eigenvalue and trace were followed on 64 "
        "molecules: 3 looks, 48 products with a property's Hessian and 24 forms of all, in 10 % of "
        "the seconds of training itself (the first look of each seed, which compiles, included; "
        "0.5 s a look after it)"
    )


def test_a_cost_above_that_of_training_is_told_in_plain_digits(study):
    """As of a training so short that the first look's compilation is all."""
    run = study.runs[0]
    dear = replace(run, seconds={"training": 10.0, "tracking": 233.4})
    assert "in 2,334 % of the seconds" in tracking_sentence(replace(study, runs=[dear]))


def test_of_several_seeds_the_first_is_shown_and_all_are_in_the_data(records):
    made = records.study("MP", num_seeds=2)
    several = replace(made, runs=[tracked(run, made.tasks) for run in made.runs])
    plot = tracking_figure([several])
    assert set(plot.data["seed"]) == {run.seed for run in made.runs}
    assert "the first of 2, is shown" in plot.caption


@pytest.mark.parametrize(
    ("steps", "words"),
    [([0], "QM8: once, before training, losses"), ([0, 1, 2], "QM8: every step, losses")],
)
def test_how_often_it_was_followed_is_told_of_one_look_and_of_one_at_each_step(study, steps, words):
    table = study.runs[0].tracking
    kept = dict(zip((0, 250, 500), steps, strict=False))
    table = table[table["step"].isin(list(kept))].assign(step=lambda t: t["step"].map(kept))
    plot = tracking_figure([replace(study, runs=[replace(study.runs[0], tracking=table)])])
    assert words in plot.caption
