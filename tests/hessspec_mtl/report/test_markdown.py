"""The report in Markdown: its sections, links relative to the folder, tables that stay tables."""

import re
from dataclasses import replace

import pytest

from hessspec_mtl.report.markdown import report_markdown


def test_sections_are_those_of_what_was_run(trained, drawn, tmp_path):
    text = report_markdown(trained, (), drawn, (), tmp_path)
    assert text.startswith("# Crystals \\<of> A & B\n\n- **Seeds**: 0, 1\n")
    sections = ["Summary", "Test errors", "Data", "Figures", "The paper's claims"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        *sections,
        "How this was run",
        "Sources and licences",
    ]


def test_figures_and_files_are_linked_from_the_folder_of_the_report(trained, drawn, tmp_path):
    text = report_markdown(trained, (), drawn, (), tmp_path)
    assert r"![Title \<figure5_mp>](figures/figure5_mp.png)" in text
    assert r"**Figure 5. Title \<figure5_mp>.** What it & others show. ([PDF](figures/" in text
    assert "- [mp/examples.csv](mp/examples.csv): ids & splits" in text


def test_no_name_is_swallowed_by_a_viewer(trained, drawn, tmp_path):
    """Of the whole report, read as HTML: what users named stands there, and no tag of theirs."""
    viewer = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    page = viewer.render(report_markdown(trained, (), drawn, (), tmp_path))
    assert "<h1>Crystals &lt;of&gt; A &amp; B</h1>" in page
    assert "2 × negative &amp; &lt;odd&gt;" in page
    assert "<td>adam|sgd &lt;b&gt;</td>" in page
    assert 'alt="Title &lt;figure3&gt;"' in page
    ours = {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"<(\w+)", page)) <= ours | {"strong", "a", "img"}


def test_the_parts_of_the_traces_have_a_section_where_they_were_taken(
    trained, drawn, records, tmp_path
):
    study = records.with_gauss_newton(records.study("QM8"), lambda seed, t: 0.5)
    text = report_markdown(replace(trained, studies=(study,)), (), drawn, (), tmp_path)
    section = text.split("## How much of the curvature is the network's own\n")[1]
    assert "E₁: the network adds 0.500 of tr G" in section.split("\n## ")[0]
    assert "| QM8 | E₁ | 40 | 150 | 100 | 50.0 |" in section.split("\n## ")[0]


def test_links_to_sets_whose_names_have_spaces_lead_somewhere(trained, drawn, tmp_path):
    odd = replace(trained, other_files={"my #2 set/left_out.csv": "what is missing"})
    text = report_markdown(odd, (), drawn, (), tmp_path)
    target = "(my%20%232%20set/left_out.csv)"
    assert f"- [my #2 set/left_out.csv]{target}: what is missing" in text


def test_test_errors_have_a_row_for_each_task_with_the_spread_of_its_seeds(
    trained, drawn, tmp_path
):
    """Seeds end at 0.25 and 0.35: the mean is 0.30, and the deviation of the two 0.1/√2."""
    lines = report_markdown(trained, (), drawn, (), tmp_path).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| Data set | Property |"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start : start + 5]]
    assert [row[1] for row in rows[2:]] == ["log G", "log K", "Poisson ratio"]
    assert {len(row) for row in rows} == {8}
    assert {row[4] for row in rows[2:]} == {"± 0.071"}
    assert {row[2] for row in rows[2:]} == {"0.300"}
    assert {row[6] for row in rows[2:]} == {"–"}  # no forests here
    assert {row[7] for row in rows[2:]} == {"yes"}


def test_one_seed_has_no_spread(trained, drawn, tmp_path):
    study = trained.studies[0]
    one = replace(trained, studies=(replace(study, runs=study.runs[:1]),))
    assert report_markdown(one, (), drawn, (), tmp_path).count("| one seed |") == 3


def test_a_bar_in_a_setting_does_not_end_its_cell(trained, drawn, tmp_path):
    text = report_markdown(trained, (), drawn, (), tmp_path)
    assert r"| MP.train.optimizer | adam\|sgd \<b> |" in text
    assert "| jax | 0.0 |" in text
