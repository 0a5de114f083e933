"""The picture of the two parts of each trace: what it holds, and what it is not drawn from."""

from dataclasses import replace

import numpy as np

from hessspec_mtl.figures import parts_figure


def test_the_parts_add_up_and_the_rest_has_the_interval_of_the_whole(records):
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: t - 1.5)
    plot = parts_figure([study])
    data = plot.data
    assert len(data) == 4 * 4
    np.testing.assert_allclose(data["gauss_newton"] + data["network_curvature"], data["trace"])
    for end in ("low_95", "high_95"):
        moved = data[f"network_curvature_{end}"] + data["gauss_newton"]
        np.testing.assert_allclose(moved, data[end])
    rest = data[data["task"] == "f1"]["network_curvature"]
    np.testing.assert_allclose(rest, 0.5 * 300.0)


def test_each_task_has_its_panel_and_a_data_set_one_axis(records):
    times = {"QM8": 0.5, "MP": -20.0}
    studies = [
        records.with_gauss_newton(records.study(name), lambda seed, t, x=x: x)
        for name, x in times.items()
    ]
    figure = parts_figure(studies).figure
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels][3:5] == ["QM8: f₂", "MP: log G"]
    assert len(panels) == 4 + 3
    molecules, crystals = panels[0].get_ylim(), panels[-1].get_ylim()
    assert panels[1].get_ylim() == molecules
    # What is drawn is in view: E₁ to f₂ have up to 400 and 200; MP's rest is -20 times tr G.
    assert molecules[1] > 600.0
    assert crystals[0] < -20.0 * 300.0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1] == "rest, the network's own (coloured)"


def test_of_several_seeds_lines_are_means_and_points_the_seeds(records):
    study = records.with_gauss_newton(records.study("MP", 3), lambda seed, t: float(seed))
    figure = parts_figure([study]).figure
    lines = figure.axes[0].get_lines()
    grey, mean = lines[0].get_ydata(), lines[1].get_ydata()
    np.testing.assert_allclose(grey, 100.0)
    np.testing.assert_allclose(mean, 100.0 * (0 + 1 + 2) / 3)
    drawn = sorted(bars.lines[0].get_ydata()[0] for bars in figure.axes[0].containers)
    np.testing.assert_allclose(drawn, [0.0, 100.0, 200.0], atol=1e-9)


def test_nothing_is_drawn_where_the_parts_were_not_taken(records):
    assert parts_figure([records.study("QM8")]) is None
    both = [records.study("QM8"), records.with_gauss_newton(records.study("MP"), lambda s, t: 1.0)]
    assert set(parts_figure(both).data["dataset"]) == {"MP"}


def test_tasks_beyond_four_begin_a_row(records):
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: 1.0)
    five = (*study.tasks, replace(study.tasks[0], name="x", label="x"))
    run = study.runs[0]

    def widened(estimate):
        samples = np.asarray(estimate.samples)
        samples = np.concatenate([samples, samples[:1]])
        exact = np.concatenate([estimate.exact, estimate.exact[:1]])
        return type(estimate).from_samples(samples, exact=exact)

    points = tuple(
        replace(p, trace=widened(p.trace), gauss_newton=widened(p.gauss_newton))
        for p in run.curvature
    )
    wide = replace(
        study,
        dataset=replace(study.dataset, tasks=five, targets=np.zeros((60, 5))),
        runs=(replace(run, curvature=points),),
    )
    panels = [axes for axes in parts_figure([wide]).figure.axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["QM8: E₁", "QM8: E₂", "QM8: f₁", "QM8: f₂", "QM8: x"]
    tops = [axes.get_subplotspec().rowspan.start for axes in panels]
    assert tops == [0, 0, 0, 0, 1]
