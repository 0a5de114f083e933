"""Pictures of comparisons appear with their data alone."""

from dataclasses import replace

import numpy as np

from hessspec_mtl.figures import (
    single_task_figure,
    trace_convergence_figure,
)


def test_comparison_figures_appear_only_with_their_data(records):
    assert single_task_figure([records.study("QM8")]) is None
    assert trace_convergence_figure([records.study("QM8")]) is None
    plot = single_task_figure([records.study("QM8", 2, single_task=True)])
    assert plot is not None
    assert len(plot.data) == 8
    study = records.study("QM8")
    samples = records.trace(np.array([1.0, 2.0, 3.0, 4.0]), 0.1)
    run = replace(study.runs[0], hutchinson={40: samples})
    convergence = trace_convergence_figure([replace(study, runs=(run,))])
    assert convergence is not None
    last = convergence.data.groupby("task").last()["running_mean"]
    np.testing.assert_allclose(last[["E1", "E2", "f1", "f2"]], [1.0, 2.0, 3.0, 4.0], rtol=1e-9)
