"""The picture of weights holds every weight of the runs that have any."""

from dataclasses import replace

import pandas as pd

from hessspec_mtl.figures import weight_figure


def weights(tasks, factor: float) -> pd.DataFrame:
    rows = [
        (epoch, task, factor * (t + 1) / epoch)
        for epoch in (1, 2, 3)
        for t, task in enumerate(tasks)
    ]
    return pd.DataFrame(rows, columns=["epoch", "task", "weight"])


def test_the_figure_holds_every_weight_and_is_not_drawn_where_all_are_1(records):
    plain, study = records.study("MP"), records.study("QM8", 2)
    assert weight_figure([plain, study]) is None
    names = [task.name for task in study.tasks]
    runs = tuple(replace(run, weights=weights(names, run.seed + 1.0)) for run in study.runs)
    plot = weight_figure([plain, replace(study, runs=runs)])
    assert len(plot.data) == 2 * 3 * 4
    assert set(plot.data["dataset"]) == {"QM8"}
    row = plot.data.query("seed == 1 and task == 'f2' and epoch == 2").iloc[0]
    assert row["weight"] == 2.0 * 4 / 2
    assert plot.figure.axes[0].get_yscale() == "log"
    assert len(plot.figure.axes) == 1
