"""The page in HTML: sections and anchors, what is escaped, what is left out."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.report.page import _test_errors_html, report_html


def test_contents_name_the_sections_that_are_there_and_no_others(trained, drawn):
    """Nothing was compared and appendix E was not run: their sections would be empty."""
    text = report_html(trained, (), drawn, ())
    contents = re.search(r'<nav aria-label="Contents">(.*?)</nav>', text)
    assert contents is not None
    named = re.findall(r'href="#(\w+)"', contents[1])
    assert named == ["summary", "errors", "data", "figures", "claims", "run", "sources"]
    assert re.findall(r'<section id="(\w+)">', text) == named


def test_figures_of_one_number_share_an_anchor_and_lie_in_the_page(trained, drawn):
    text = report_html(trained, (), drawn, ())
    anchors = re.findall(r'<a id="(\w+)"></a>|<figure id="(\w+)">', text)
    assert ["".join(pair) for pair in anchors] == [
        "figure3",
        "figure5",
        "figure5_qm8",
        "figure5_mp",
    ]
    assert text.count('src="data:image/png;base64,iVBORw=="') == 3
    assert '<a href="figures/figure5_mp.csv">data (CSV)</a>' in text


def test_figures_of_tasks_stand_in_the_section_on_tasks(trained, drawn):
    figures = [
        replace(files, name=name)
        for files, name in zip(drawn, ("figure3", "figure8", "figure10"), strict=True)
    ]
    text = report_html(trained, (), figures, ())
    tasks = text.split('<section id="tasks">')[1].split("</section>")[0]
    assert re.findall(r'<figure id="(\w+)">', tasks) == ["figure8", "figure10"]


def test_the_parts_of_the_traces_have_a_section_with_their_figure(trained, drawn, records):
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: 0.5)
    figures = [replace(drawn[0], name="figure16"), drawn[1]]
    text = report_html(replace(trained, studies=(study,)), (), figures, ())
    section = text.split('<section id="parts">')[1].split("</section>")[0]
    assert section.startswith("<h2>How much of the curvature is the network's own</h2>")
    assert "E₁: the network adds 0.500 of tr G" in section
    assert re.findall(r'<figure id="(\w+)">', section) == ["figure16"]
    others = text.split('<section id="figures">')[1].split("</section>")[0]
    assert re.findall(r'<figure id="(\w+)">', others) == ["figure5_qm8"]


def test_titles_captions_settings_and_reasons_are_escaped(trained, drawn):
    text = report_html(trained, (), drawn, ())
    for written in (
        "<title>Crystals &lt;of&gt; A &amp; B</title>",
        "<h1>Crystals &lt;of&gt; A &amp; B</h1>",
        'alt="Title &lt;figure3&gt;"',
        "What it &amp; others show.",
        "<th>MP.train.optimizer</th><td>adam|sgd &lt;b&gt;</td>",
        "2 × negative &amp; &lt;odd&gt;",
        '<a href="mp/examples.csv">mp/examples.csv</a></th><td>ids &amp; splits</td>',
    ):
        assert written in text, written


def test_of_many_reasons_the_rarest_are_counted_together(trained, drawn):
    left = [LeftOut(f"x{i}-{j}", f"reason {i}") for i in range(15) for j in range(15 - i)]
    data = replace(trained.full[0].dataset, left_out=tuple(left))
    text = report_html(
        replace(trained, full=(replace(trained.full[0], dataset=data),)), (), drawn, ()
    )
    assert "15 × reason 0; 14 × reason 1;" in text
    assert "; and 3 rarer reasons" in text


@pytest.mark.parametrize(
    ("better", "clearly", "badge"),
    [
        (False, False, '<span class="badge no">no</span>'),
        (True, False, '<span class="badge open">barely</span>'),
        (True, True, '<span class="badge yes">yes</span>'),
    ],
)
def test_a_task_says_whether_it_beats_the_median(better, clearly, badge):
    row = {"dataset": "MP", "task": "K", "label": "K", "mae": 0.3, "mae_epoch_sd": 0.01}
    row |= {"mae_seed_sd": float("nan"), "median_mae": 0.6, "better": better, "clearly": clearly}
    row |= {"forest_mae": 0.4}
    text = _test_errors_html(pd.DataFrame([row]))
    cells = re.findall(r"<td>(.*?)</td>", text)
    assert cells == ["MP", "K", "0.300", "± 0.010", "one seed", "0.600", "0.50", "0.400", badge]
