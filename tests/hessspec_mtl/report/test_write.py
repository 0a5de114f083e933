"""The report explains itself, needs no other file and hides nothing."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.datasets.sources import OWN_LICENCE, Source
from hessspec_mtl.figures import PlotFiles
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.report import FullDataset, ReportFiles, Results, write_results
from hessspec_mtl.report.markdown import report_markdown
from hessspec_mtl.report.results import test_errors as final_errors
from hessspec_mtl.report.words import facts, summary
from hessspec_mtl.report.write import sweep
from hessspec_mtl.study.decision import methods
from hessspec_mtl.study.delta_m import Decision

final_errors.__test__ = False  # its name is about the network's test error

VOID = {"meta", "img", "br", "link", "hr", "input"}


FOREST = pd.DataFrame(
    [
        (task, seed, 0.4 + 0.1 * seed, 40, 1.5)
        for task in ("E1", "E2", "f1", "f2")
        for seed in (0, 1)
    ],
    columns=["task", "seed", "mae", "examples", "seconds"],
)
NO_FOREST = "There is no random forest beside the network: MP was read as graphs."


class Page(HTMLParser):
    """Tags in balance, addresses, anchors and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "src" in values:
            self.sources.append(values["src"] or "")
        if "href" in values:
            self.links.append(values["href"] or "")
        if "id" in values:
            self.ids.append(values["id"] or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def weighed_qm8(weighed: SimpleNamespace) -> Decision:
    tasks = ("E1", "E2", "f1", "f2")
    screen = weighed.screened(tasks, {"equal": 1.0, "nash": 0.9})
    return Decision("QM8", tasks, methods(screen)[:-1], weighed.decided(screen, {"nash": -5.0}))


@pytest.fixture(scope="module")
def results(records: SimpleNamespace, weighed_qm8: Decision) -> Results:
    studies = (
        replace(records.study("QM8", 2, single_task=True), forest=FOREST),
        replace(records.study("MP"), forest=NO_FOREST),
    )
    full = (
        FullDataset(records.dataset("QM8", 80), 9, 4),
        FullDataset(records.dataset("MP", 60), 112, 40),
    )
    return Results(
        title="Curvature <of> networks & such",
        studies=studies,
        full=full,
        preset="made up",
        command="python -m hessspec_mtl.reproduce --preset small",
        settings={"QM8": {"train": {"num_epochs": 40}}},
        versions={"jax": "0.0"},
        device="2 CPU cores",
        seconds=600.0,
        finished="2026-01-01",
        weightings=(weighed_qm8,),
        other_files={"qm8/examples.csv": "ids"},
    )


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_results(results, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(written: ReportFiles) -> Page:
    return Page(written.html.read_text())


def test_the_page_is_well_formed(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_needs_no_other_file(page):
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not any(link.startswith(("http", "//")) for link in page.links)


def test_links_inside_the_page_have_their_targets(page):
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)


def test_links_to_files_have_their_files(page, written):
    outside = [link for link in page.links if not link.startswith("#")]
    made = [link for link in outside if not link.startswith("qm8/")]
    assert made
    for link in made:
        assert (written.html.parent / link).exists(), link


def test_names_are_escaped(written):
    text = written.html.read_text()
    assert "Curvature &lt;of&gt; networks &amp; such" in text
    assert "negative &amp; &lt;odd&gt;" in text


def test_both_reports_count_what_was_left_out(written):
    lines = written.markdown.read_text(encoding="utf-8").splitlines()
    start = lines.index("Records of the sources that were left out, and why:")
    assert lines[start + 2] == r"- QM8: 2 × negative & \<odd>"
    assert "2 × negative &amp; &lt;odd&gt;" in written.html.read_text(encoding="utf-8")


def test_every_task_stands_beside_the_median_predictor(results, page):
    errors = final_errors(results.studies)
    assert len(errors) == 7
    assert errors["better"].all()
    for row in errors.itertuples():
        assert f"{row.median_mae:.3f}" in page.text
    assert "below that of always predicting the training median" in page.text


def test_forests_stand_beside_the_network_or_a_sentence_says_why_not(results, page):
    """One set has them, the other was read without its structures."""
    errors = final_errors(results.studies).set_index(["dataset", "task"])
    assert errors.loc[("QM8", "f1"), "forest_mae"] == pytest.approx(0.45)
    assert np.isnan(errors.loc[("MP", "poisson"), "forest_mae"])
    for text in (page.text, markdown(results)):
        assert "0.450" in text
        assert "Random forest of QM8: 100 trees for each property, seeds 0, 1" in text
        assert "There is no random forest beside the network: MP was read as graphs" in text


def markdown(results: Results) -> str:
    return report_markdown(results, [], [], [], Path())


def test_a_task_that_is_not_below_the_median_is_named(results, records):
    study = results.studies[1]
    run = study.runs[0]
    worse = run.history.copy()
    worse.loc[(worse["task"] == "poisson") & (worse["split"] == "test"), "mae"] = 5.0
    bad = replace(study, runs=(replace(run, history=worse),))
    text = " ".join(summary(replace(results, studies=(bad,), full=results.full[1:]), ()))
    assert "Poisson ratio (MP) is NOT below" in text
    assert "log G (MP)" not in text


def test_the_summary_says_what_was_run(page):
    for part in (
        "a random subset of 60 of its 80 molecules",
        "all 60 crystals",
        "P = 4,000 shared parameters",
        "with 2 seeds",
        "after 4 epochs (0, 4, 12 and 40)",
        "averaged over 10 molecules",
    ):
        assert part in page.text, part


def test_weightings_of_these_networks_have_a_section_with_table_and_figure(page, written):
    assert {"weightings", "figure15"} <= set(page.ids)
    said = "nash is −5.0 % (−5.5 to −4.5): better, by more than 2 %"
    assert said in page.text
    assert said in written.markdown.read_text(encoding="utf-8")
    assert (written.html.parent / "tables" / "delta_m_qm8.csv").exists()


def test_error_bars_graphs_settings_sources_are_stated(page):
    for part in ("they are probe errors", "QM8-3", "QM8.train.num_epochs", "Licence: MIT", "jax"):
        assert part in page.text, part


def test_all_figures_and_tables_are_there(written):
    folder = written.html.parent
    names = {files.name for files in written.figures}
    assert names == {
        *("figure1", "figure2", "figure3", "figure4", "figure8"),
        *("figure10", "figure11", "figure12", "figure15"),
        *("figure5_qm8", "figure5_mp", "figure6_qm8", "figure6_mp"),
    }
    for name in names:
        for suffix in (".pdf", ".png", ".csv"):
            assert (folder / "figures" / f"{name}{suffix}").stat().st_size > 0
    assert {p.stem for p in (folder / "tables").iterdir()} == {
        *("table1", "table2", "table3", "single_against_multi", "pairs_of_tasks"),
        *("examples_of_tasks", "delta_m_qm8"),
    }
    assert len(json.loads((folder / "claims.json").read_text())) >= 20


def test_the_markdown_links_to_what_exists(written):
    import re

    text = written.markdown.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("qm8/"):
            assert (written.html.parent / link).exists(), link


def test_writing_leaves_no_partial_file(written, tmp_path, monkeypatch):
    assert not list(written.html.parent.rglob("*.part"))
    target = write_whole(tmp_path / "a.txt", "old")

    def fail(*_):
        raise OSError(28, "disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert not list(tmp_path.glob("*.part"))


def test_a_run_without_curvature_still_reports(results, tmp_path):
    study = results.studies[1]
    bare = replace(study, runs=(replace(study.runs[0], curvature=(), hessian_ids=()),))
    files = write_results(replace(results, studies=(bare,), full=results.full[1:]), tmp_path)
    assert "not measured in this run" in files.html.read_text()


def test_figures_of_other_data_sets_are_swept_and_nothing_else(tmp_path):
    for name in ("figure5.png", "figure5_qm8.csv", "figure5_mp.pdf", "mine.png", "figure5.txt"):
        write_whole(tmp_path / name, "")
    kept = {part: tmp_path / f"figure5_qm8.{part}" for part in ("png", "pdf", "csv")}
    sweep(tmp_path, [PlotFiles("figure5_qm8", "", "", **kept)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "figure5_qm8.csv",
        "mine.png",
        "figure5.txt",
    }


def test_work_of_unknown_time_makes_the_sum_a_lower_bound(results):
    study = results.studies[0]
    unknown = replace(study, runs=(replace(study.runs[0], timed=False),))
    assert dict(facts(replace(results, studies=(unknown,))))["Took"].startswith("at least ")
    assert "at least" not in dict(facts(results))["Took"]


def test_work_that_was_done_side_by_side_is_told_as_a_sum(results):
    whole = sum(sum(run.seconds.values()) for study in results.studies for run in study.runs)
    assert whole > 0
    took = dict(facts(replace(results, seconds=whole / 2)))["Took"]
    assert took.endswith(" of work, all units added up")
    assert "added up" not in dict(facts(replace(results, seconds=2 * whole)))["Took"]


@pytest.fixture(scope="module")
def of_own(results: Results, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report on a user's own crystals, in a folder that a report on any data had judged."""
    folder = tmp_path_factory.mktemp("own")
    write_whole(folder / "claims.json", "[]")
    mine = Source("mine.csv", "mine.csv", None, "0123abcd", OWN_LICENCE, "")

    def own(dataset):
        return replace(dataset, name="mine", published=None, sources=(mine,))

    run = replace(results.studies[1].runs[0], curvature=(), hessian_ids=())
    study = replace(results.studies[1], dataset=own(results.studies[1].dataset), runs=(run,))
    full = replace(results.full[1], dataset=own(results.full[1].dataset))
    files = {"mine/left_out.csv": "which records are not examples"}
    return write_results(
        replace(results, studies=(study,), full=(full,), other_files=files), folder
    )


def test_on_own_data_no_claim_of_the_paper_is_judged_and_the_report_says_why(of_own):
    folder, text = of_own.html.parent, Page(of_own.html.read_text(encoding="utf-8")).text
    assert of_own.judgements == ()
    assert not list(folder.glob("claims.*"))
    for said in (text, of_own.markdown.read_text(encoding="utf-8")):
        assert said.count("The claims of the paper are not judged here.") == 2
        assert "judgements are" not in said
        assert "Figures 1 and 2, a crystal and a molecule of the paper" in said
    assert not {"figure1", "figure2"} & {files.name for files in of_own.figures}


def test_own_data_are_named_after_their_file_and_what_was_left_out_is_linked(of_own):
    page = Page(of_own.html.read_text(encoding="utf-8"))
    assert (of_own.html.parent / "tables/table1.md").read_text().count("| mine | mine.csv |") == 1
    assert "this work" not in page.text
    assert "not a data set of the paper" not in page.text
    assert page.links.count("mine/left_out.csv") == 2  # beside the counts, and among the files
    assert "Licence: the user's own. SHA-256 of the file that was read: 0123abcd." in page.text
    assert "[mine/left_out.csv](mine/left_out.csv)" in of_own.markdown.read_text(encoding="utf-8")
