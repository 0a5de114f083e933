"""Tables stand beside the paper's numbers and say where they differ."""

import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.datasets.base import MultitaskDataset, Split
from hessspec_mtl.datasets.paper import PAPER, target_statistics
from hessspec_mtl.datasets.sources import MP_API
from hessspec_mtl.study.records import median_error
from hessspec_mtl.study.tables import (
    Table,
    agrees,
    dataset_table,
    examples_table,
    target_table,
    why_fewer,
    write_table,
)

needs_data = pytest.mark.skipif(
    "HESSSPEC_DATA" not in os.environ, reason="needs the real data files (HESSSPEC_DATA)"
)


@needs_data
def test_table_3_is_met_to_every_printed_digit():
    table = pd.read_csv(Path(os.environ["HESSSPEC_DATA"]) / "qm8.csv")
    columns = ["E1-CC2", "E2-CC2", "f1-CC2", "f2-CC2"]
    kept = table[(table["f1-CC2"] >= 0) & (table["f2-CC2"] >= 0)][columns]
    assert len(kept) == PAPER["molecules"].sizes[0]
    for statistic, printed in PAPER["molecules"].targets.items():
        for value, digits in zip(getattr(kept, statistic)(), printed, strict=True):
            assert agrees(value, digits), (statistic, value, digits)


@needs_data
def test_table_2_of_our_source_has_its_known_row(records):
    """The range rule alone, without reading structures; the loader is tested with the loader."""
    path = Path(os.environ["HESSSPEC_DATA"]) / "mp_elastic_structures.jsonl.gz"
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    kept = [
        (math.log(row["G_VRH"]), math.log(row["K_VRH"]), row["poisson_ratio"])
        for row in rows
        if row["snapshot"] == "2020-07"
        and 14 <= row["K_VRH"] <= 233
        and 1 <= row["G_VRH"] <= 124
        and 0.18 <= row["poisson_ratio"] <= 0.50
    ]
    dataset = replace(records.dataset("MP", len(kept)), targets=np.array(kept))
    table = target_table(dataset)
    ours = target_statistics(dataset)
    assert len(dataset) == 9983
    np.testing.assert_allclose(ours.loc["mean"], [3.5396, 4.3748, 0.3009], atol=5e-5)
    np.testing.assert_allclose(ours.loc["std"], [0.7314, 0.6743, 0.0591], atol=5e-5)
    extremes = table.data[table.data["statistic"].isin(["min", "max"])]
    assert extremes["agrees_to_printed_digits"].all()
    note = dataset_table([dataset], [(112, 40)]).notes[0]
    assert "10,500" in note
    assert "9,983" in note


@pytest.mark.parametrize(
    ("value", "printed", "expected"),
    [
        (0.034514896612, "0.0345149", True),
        (0.034514956, "0.0345149", False),
        (0.0, "0.0", True),
        (0.06, "0.0", False),
        (3.55, "3.55068348", False),
    ],
)
def test_agreement_is_rounding_to_the_printed_digits(value, printed, expected):
    assert agrees(value, printed) is expected


def test_statistics_use_the_sample_standard_deviation(records):
    dataset = records.dataset("MP")
    ours = target_statistics(dataset)
    np.testing.assert_allclose(ours.loc["std"], dataset.targets.std(axis=0, ddof=1))


def test_table_1_has_ours_the_papers_and_the_difference(records):
    table = dataset_table([records.dataset("QM8"), records.dataset("MP")], [(9, 4), (112, 40)])
    assert [row[1] for row in table.rows] == ["paper", "this work", "difference"] * 2
    assert table.rows[2][2:] == ("−21,665", "0", "0", "0")
    assert any("10,500 crystals" in note for note in table.notes)


def test_the_note_on_crystals_states_the_ranges_and_the_state_of_the_database(records):
    dataset = records.dataset("MP")
    note = why_fewer(dataset)
    assert "bulk modulus 14 to 233 GPa, shear modulus 1 to 124 GPa" in note
    assert "Poisson ratio 0.18 to 0.50" in note
    assert "October 2020" in note
    today = why_fewer(replace(dataset, sources=(MP_API,)))
    assert "2020" not in today
    assert MP_API.name in today


def test_other_data_sets_are_not_compared_with_the_paper(records):
    dataset = replace(records.dataset("QM8"), name="mine", published=None)
    table = target_table(dataset)
    assert "paper" not in str(table.rows)
    assert table.header[1] == "E₁ (hartree)"
    assert table.header[3] == "f₁"
    assert "not a data set of the paper" in table.notes[0]


@pytest.mark.parametrize("name", ["QM8", "MP"])
def test_a_set_of_ones_own_with_the_name_of_the_papers_is_not_compared_with_it(records, name):
    whole = records.dataset(name)
    dataset = replace(
        whole, targets=whole.targets[:, :2], tasks=whole.tasks[:2], left_out=(), published=None
    )
    assert len(target_table(dataset).header) == 3
    table = dataset_table([dataset], [(9, 4)])
    assert [row[1] for row in table.rows] == ["this work"]
    assert "not a data set of the paper" in table.notes[0]


def test_tables_of_one_domain_do_not_overwrite_one_another(records, tmp_path):
    papers = records.dataset("QM8")
    own = [replace(papers, name=name, published=None) for name in ("molecules", "My QM8, v2")]
    tables = [target_table(dataset) for dataset in (papers, *own)]
    assert [table.name for table in tables] == ["table3", "table3_molecules", "table3_my-qm8-v2"]
    for table in tables:
        write_table(table, tmp_path)
    assert len(list(tmp_path.glob("*.csv"))) == 3


def test_all_three_forms_are_written_and_escaped(tmp_path):
    data = pd.DataFrame({"a": [1.25]})
    table = Table("t", "A | <title>", ("x", "y"), (("<b>", "p|q"),), data, ("n & m",))
    csv, markdown, fragment = write_table(table, tmp_path)
    assert pd.read_csv(csv)["a"].item() == 1.25
    assert "p\\|q" in markdown.read_text()
    text = fragment.read_text()
    assert "&lt;b&gt;" in text
    assert "<title>" not in text
    assert "n &amp; m" in text


def lacking(records) -> MultitaskDataset:
    """Sixty examples of a set of one's own, of which the first task is known of 50."""
    dataset = replace(records.dataset("QM8"), published=None, name="mine")
    dataset.targets[:10, 0] = np.nan
    return dataset


def test_statistics_are_over_the_examples_that_have_the_target(records):
    dataset = lacking(records)
    table = target_table(dataset)
    known = dataset.targets[10:, 0]
    expected = [known.mean(), known.std(ddof=1), known.min(), known.max(), 50]
    np.testing.assert_allclose(table.data["E1"], expected)
    assert table.rows[-1] == ("examples", "50", "60", "60", "60")
    train, test = np.arange(0, 40), np.arange(40, 60)
    left = median_error(dataset, Split(train, test))[0]
    known_train = dataset.targets[10:40, 0]
    deviations = np.abs(dataset.targets[40:, 0] - np.median(known_train))
    assert left == pytest.approx(deviations.mean() / known_train.std(ddof=1))


def test_a_table_says_how_many_examples_each_task_has(records):
    study = records.study()
    complete = examples_table([study])
    assert complete.rows[0] == ("QM8", "E₁", "40", "20", "10")
    assert complete.notes == ()
    table = examples_table([replace(study, dataset=lacking(records))])
    assert table.rows[0] == ("mine", "E₁", "30", "20", "0")
    assert table.rows[1] == ("mine", "E₂", "40", "20", "10")
    assert "over those that have it" in table.notes[0]


def test_a_second_column_of_numbers_is_set_like_the_others_and_one_of_words_is_not(records):
    own = replace(records.dataset("QM8"), published=None)
    assert '<table class="numbers">' in target_table(own).to_html()
    assert "<table>" in dataset_table([own], [(9, 4)]).to_html()


def test_columns_of_numbers_are_set_to_the_right_and_those_of_words_to_the_left():
    rows = (
        ("equal", "2 runs", "−1.1 (−2.8 to +0.7)", "", "0.3"),
        ("own", "all 4 runs", "+3", "better", "unknown"),
    )
    table = Table("t", "T", ("x", "what", "change", "verdict", "time"), rows, pd.DataFrame())
    assert "\n| --- | --- | ---: | --- | ---: |\n" in table.to_markdown()
