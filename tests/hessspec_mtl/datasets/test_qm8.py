"""QM8 as in the paper."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hessspec_mtl.datasets import qm8, sources
from hessspec_mtl.datasets.base import MultitaskDataset, count_reasons
from hessspec_mtl.datasets.qm8 import load_qm8, verify_qm8
from hessspec_mtl.datasets.sources import DataError

HEADER = "smiles,E1-CC2,E2-CC2,f1-CC2,f2-CC2,E1-PBE0,E2-PBE0,f1-PBE0,f2-PBE0"
# Invented values; the second row has a negative oscillator strength, the last two are one molecule.
ROWS = [
    "[H]C([H])([H])[H],0.41,0.42,0.20,0.21,0,0,0,0",
    "[H]O[H],0.28,0.36,-0.01,0.10,0,0,0,0",
    "[H]N([H])[H],0.24,0.33,0.07,0.03,0,0,0,0",
    "[H]C#N,0.30,0.31,0.00,0.01,0,0,0,0",
    "[H]C([H])=O,0.14,0.29,0.00,0.08,0,0,0,0",
    "O=C([H])[H],0.15,0.28,0.00,0.07,0,0,0,0",
]


def write(folder: Path, rows: list[str] = ROWS, header: str = HEADER) -> Path:
    path = folder / "qm8.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def small(cache, tmp_path, monkeypatch) -> Path:
    """A folder with six molecules that pass for QM8."""
    monkeypatch.setattr(qm8, "verify_qm8", lambda path: None)
    write(tmp_path)
    return tmp_path


def test_a_negative_oscillator_strength_is_left_out_and_named(small):
    dataset = load_qm8(small)
    assert dataset.ids == ("qm8-00001", "qm8-00003", "qm8-00004", "qm8-00005", "qm8-00006")
    (left_out,) = dataset.left_out
    assert left_out.id == "qm8-00002"
    assert left_out.reason == "negative oscillator strength"
    assert left_out.detail == "f1 = -0.01, f2 = 0.1"


def test_targets_are_those_at_cc2_with_their_units(small):
    dataset = load_qm8(small)
    assert dataset.published == "QM8"
    assert [(task.name, task.unit) for task in dataset.tasks] == [
        ("E1", "hartree"),
        ("E2", "hartree"),
        ("f1", "1"),
        ("f2", "1"),
    ]
    np.testing.assert_array_equal(dataset.targets[0], [0.41, 0.42, 0.20, 0.21])


def test_copies_of_one_molecule_are_one_group(small):
    groups = load_qm8(small).groups
    assert groups[3] == groups[4]
    assert len(set(groups[:4].tolist())) == 4


def test_a_string_that_rdkit_refuses_is_left_out_and_named(small):
    write(small, [*ROWS, "C(C)(C)(C)(C)C,0.1,0.2,0.3,0.4,0,0,0,0"])
    dataset = load_qm8(small)
    assert count_reasons(dataset.left_out) == {
        "negative oscillator strength": 1,
        "no molecular graph": 1,
    }
    assert dataset.left_out[1].id == "qm8-00007"
    assert "valence" in dataset.left_out[1].detail


def test_a_part_is_the_subset_of_the_whole(small):
    part, whole = load_qm8(small, num_examples=3, seed=5), load_qm8(small).subset(3, seed=5)
    assert part.ids == whole.ids
    np.testing.assert_array_equal(part.targets, whole.targets)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, HEADER.replace("f1-CC2", "f1"), r"has no column \['f1-CC2'\]"),
        ([*ROWS, "[H][H],0.4"], HEADER, r"qm8.csv, line 8: expected a SMILES and 16 numbers"),
        ([*ROWS, "[H][H],x,0,0,0,0,0,0,0"], HEADER, r"line 8: .*could not convert"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(small, rows, header, message):
    write(small, rows, header)
    with pytest.raises(DataError, match=message):
        load_qm8(small)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(HEADER.encode()), id="compressed"),
        pytest.param(HEADER.encode("utf-16"), id="UTF-16"),
        pytest.param(f"{HEADER}\n{'C' * 200_000},0,0,0,0".encode(), id="no CSV"),
    ],
)
def test_a_file_that_is_not_text_is_named(small, content):
    path = small / "qm8.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"qm8.csv cannot be read as CSV in UTF-8 .* fresh copy"):
        load_qm8(small)


def test_an_unknown_copy_must_have_the_rows_of_qm8(tmp_path):
    with pytest.raises(DataError, match="has 6 rows, QM8 has 21,786: the file is truncated"):
        verify_qm8(write(tmp_path))


def test_an_unknown_copy_must_have_the_filter_and_the_means_of_qm8(tmp_path, monkeypatch):
    monkeypatch.setattr(qm8, "_NUM_ROWS", 6)
    with pytest.raises(DataError, match="has 5 molecules without a negative oscillator strength"):
        verify_qm8(write(tmp_path))
    monkeypatch.setattr(qm8, "_NUM_KEPT", 5)
    with pytest.raises(DataError, match=r"have means \[0.248, .* those of QM8 have \[0.22010506"):
        verify_qm8(write(tmp_path))
    monkeypatch.setattr(qm8, "_MEANS", (0.248, 0.326, 0.054, 0.08))
    verify_qm8(write(tmp_path))
    with pytest.raises(DataError, match=r"have means \[nan, 0.326"):
        verify_qm8(write(tmp_path, [ROWS[0].replace("0.41", "nan"), *ROWS[1:]]))


def test_a_downloaded_file_that_is_not_qm8_is_not_kept(cache, server, tmp_path, monkeypatch):
    server.send("/qm8.csv", write(tmp_path).read_bytes())
    source = replace(sources.QM8_DEEPCHEM, url=server.url("/qm8.csv"))
    monkeypatch.setattr(qm8, "QM8_DEEPCHEM", source)
    with pytest.raises(DataError, match="has 6 rows, QM8 has 21,786"):
        load_qm8()
    assert not (cache / "qm8.csv").exists()


def test_without_a_file_and_without_download_the_error_says_what_to_do(cache, tmp_path):
    with pytest.raises(DataError, match=r"no `qm8.csv` in .* allow the download"):
        load_qm8(tmp_path, download=False)


@pytest.fixture(scope="module")
def whole(real_data) -> MultitaskDataset:
    return load_qm8(real_data)


def test_table_3_is_met_to_every_printed_digit(whole):
    targets = whole.targets
    assert len(whole) == 21_725
    printed = {
        "mean": (targets.mean(axis=0), [0.22010506, 0.24894142, 0.02289806, 0.04326408]),
        "std": (targets.std(axis=0, ddof=1), [0.04382473, 0.0345149, 0.05336499, 0.07312536]),
        "min": (targets.min(axis=0), [0.06956711, 0.10063996, 0.0, 0.0]),
        "max": (targets.max(axis=0), [0.51383669, 0.51384601, 0.61611219, 0.56561272]),
    }
    for name, (ours, theirs) in printed.items():
        np.testing.assert_array_equal(ours.round(8), theirs, err_msg=name)


def test_the_whole_set_parses_and_has_twenty_pairs_of_copies(whole):
    assert count_reasons(whole.left_out) == {"negative oscillator strength": 61}
    sizes = np.bincount(np.bincount(whole.groups))
    assert sizes[2:].tolist() == [20]
    split = whole.split(seed=0)
    assert not set(whole.groups[split.train]) & set(whole.groups[split.test])


def test_the_whole_set_has_the_feature_counts_of_table_1(whole):
    encoded = whole.subset(50, seed=0).encode(whole.subset(50, seed=0).split(seed=0))
    assert (encoded.node_features, encoded.edge_features) == (9, 4)
    assert {int(z) for graph in whole.graphs for z in graph.atomic_numbers} == {1, 6, 7, 8, 9}


def test_the_known_copy_also_passes_for_an_unknown_one(real_data):
    verify_qm8(real_data / "qm8.csv")
