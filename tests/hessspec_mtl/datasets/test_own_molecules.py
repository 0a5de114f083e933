"""A table of molecules: every problem is named by file, line and column, and nothing vanishes."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from hessspec_mtl.datasets.base import count_reasons
from hessspec_mtl.datasets.own import load_own_molecules
from hessspec_mtl.datasets.sources import DataError

MOLECULES = """\
name,smiles,a,b
water,O,1.0,10
ethanol,CCO,2.0,20
the same,OCC,2.5,25
hydrogen cyanide,C#N,3.0,30
benzene,c1ccccc1,4.0,40
"""


def write(folder: Path, text: str, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, **options):
    return load_own_molecules(path, targets=["a", "b"], **options)


def test_molecules_are_read_with_their_targets_and_elements(tmp_path):
    dataset = load(write(tmp_path, MOLECULES), units=["eV", "debye"])
    assert (dataset.name, dataset.domain) == ("my", "molecules")
    assert dataset.ids == ("line-2", "line-3", "line-4", "line-5", "line-6")
    assert dataset.targets[:2].tolist() == [[1.0, 10.0], [2.0, 20.0]]
    assert [(task.name, task.unit) for task in dataset.tasks] == [("a", "eV"), ("b", "debye")]
    assert dataset.elements == (1, 6, 7, 8)
    assert dataset.graphs[0].num_nodes == 3
    assert dataset.left_out == ()


def test_no_name_makes_it_a_set_of_the_papers(tmp_path):
    dataset = load(write(tmp_path, MOLECULES, "QM8.csv"))
    assert dataset.name == "QM8"
    assert dataset.published is None


def test_hydrogens_may_stay_implicit(tmp_path):
    dataset = load(write(tmp_path, MOLECULES), add_hydrogens=False)
    assert dataset.graphs[0].num_nodes == 1
    assert dataset.elements == (6, 7, 8)


def test_two_spellings_of_a_molecule_are_one_group(tmp_path):
    groups = load(write(tmp_path, MOLECULES)).groups
    assert groups[1] == groups[2]
    assert len(set(groups.tolist())) == 4


def test_the_data_set_can_be_encoded(tmp_path):
    dataset = load(write(tmp_path, MOLECULES))
    encoded = dataset.encode(dataset.split(seed=0))
    assert (encoded.node_features, encoded.edge_features) == (4, 4)


def test_a_part_can_be_chosen(tmp_path):
    path = write(tmp_path, MOLECULES)
    assert load(path, num_examples=4, seed=1).ids == load(path).subset(4, seed=1).ids


def test_what_a_spreadsheet_writes_is_read(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"\xef\xbb\xbf" + MOLECULES.replace("\n", "\r\n").encode())
    assert len(load(path)) == 5


BAD_ROWS = """\
broken ring,C1CC,1.0,1
no a,CC,,1
not a number,CCC,many,1
infinite,CCCC,1.0,inf
too short,CCCCC,1.0
no smiles,,1.0,1
neither,CCCCCC,,n/a
"""


def test_rows_of_no_use_are_left_out_and_named_by_file_line_and_column(tmp_path, caplog):
    path = write(tmp_path, MOLECULES + BAD_ROWS)
    dataset = load(path)
    assert len(dataset) == 6
    assert [(record.id, record.reason) for record in dataset.left_out] == [
        ("line-7", "no molecular graph"),
        ("line-9", "non-numeric target"),
        ("line-10", "non-numeric target"),
        ("line-11", "too few fields"),
        ("line-12", "missing structure"),
        ("line-13", "missing target"),
    ]
    details = [record.detail for record in dataset.left_out]
    assert details[0].startswith(f"{path}, line 7, column 'smiles': rdkit cannot read")
    assert details[1:] == [
        f"{path}, line 9, column 'a': 'many' is not a finite number",
        f"{path}, line 10, column 'b': 'inf' is not a finite number",
        f"{path}, line 11: 3 fields where the first line names 4 columns; an empty field needs "
        "its comma too",
        f"{path}, line 12, column 'smiles': the field is empty",
        f"{path}, line 13, column 'a': the field is empty, and there is no number in ['b']",
    ]
    assert "left out: 6 records (" in caplog.text
    assert details[4] in caplog.text
    assert details[5] not in caplog.text
    assert "\n  and 1 more" in caplog.text
    assert count_reasons(dataset.left_out)["missing target"] == 1


def test_what_a_spreadsheet_of_another_country_writes_is_read(tmp_path):
    """Semicolons between fields, so that numbers may have a decimal comma."""
    text = "Name;SMILES;a;b\nwater;O;1,0;10\nethanol;CCO;2;1e2\n" + "x;C;-0,5;1\n" * 2 + ";;;\n\n"
    dataset = load(write(tmp_path, text))
    assert dataset.targets[:3].tolist() == [[1.0, 10.0], [2.0, 100.0], [-0.5, 1.0]]
    assert dataset.left_out == ()


def test_columns_that_nobody_asks_for_may_repeat(tmp_path):
    """MoleculeNet's own qm8.csv names E1-PBE0 and three more twice, with the same numbers."""
    header = "smiles,E1-CC2,E1-PBE0,E1-PBE0,,"
    path = write(tmp_path, header + "".join(f"\n{'C' * i},{i}.5,{i},{i},," for i in range(1, 6)))
    dataset = load_own_molecules(path, targets=["E1-CC2"])
    assert dataset.targets[:, 0].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    twice = load_own_molecules(path, targets=["E1-PBE0"])
    assert twice.targets[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_moleculenets_own_file_is_read_as_it_stands(real_data, tmp_path):
    """A header that repeats names, and 300 rows of the file."""
    with (real_data / "qm8.csv").open(encoding="utf-8") as stream:
        text = "".join(line for _, line in zip(range(301), stream, strict=False))
    dataset = load_own_molecules(
        write(tmp_path, text), targets=["E1-CC2", "E2-CC2", "f1-CC2", "f2-CC2"]
    )
    assert len(dataset) == 300
    assert dataset.targets[0].tolist() == [0.43295186, 0.43295958, 0.24972825, 0.24973648]


def test_of_a_large_table_the_bad_rows_are_listed_and_all_others_read(tmp_path):
    """A packed file with accents in a folder with blanks; 3 % of 1,000 SMILES bad; an outlier."""
    folder = tmp_path / "meine Moleküle"
    folder.mkdir()
    bad = ["C1CC", "CC junk", "C*", "CC>>CO", "C(C)(C)(C)(C)C"]
    smiles = [bad[i % 5] if i % 33 == 0 else "C" * (1 + i % 7) + "O" for i in range(1000)]
    rows = [f"Nämé {i},{text},{1e9 if i == 500 else i}" for i, text in enumerate(smiles)]
    text = "\n".join(["Nämé,smiles,größe", *rows])
    (folder / "süß.csv.gz").write_bytes(gzip.compress(text.encode()))
    dataset = load_own_molecules(folder / "süß.csv.gz", targets=["größe"])
    assert dataset.name == "süß"
    assert [record.id for record in dataset.left_out] == [
        f"line-{i + 2}" for i in range(0, 1000, 33)
    ]
    assert len(dataset) == 1000 - len(dataset.left_out)
    assert dataset.targets.max() == 1e9
    assert len(set(dataset.groups)) == 7


def test_what_stands_behind_a_smiles_is_left_out_with_the_reason(tmp_path):
    dataset = load(write(tmp_path, MOLECULES + "junk,CC this is junk,1,1\nname,C methane,1,1\n"))
    assert [record.id for record in dataset.left_out] == ["line-7", "line-8"]
    assert "'this is junk' stands behind the SMILES" in dataset.left_out[0].detail


def test_a_row_keeps_the_targets_that_it_has(tmp_path):
    """Seven rows of which one has all: each is an example of what is known of it."""
    words = ("", "nan", "NA", "N/A", "null", "None", "2")
    rows = "".join(f"{'C' * i},{i}.5,{word}\n" for i, word in enumerate(words, start=1))
    dataset = load(write(tmp_path, "smiles,a,b\n" + rows))
    assert dataset.left_out == ()
    assert dataset.counts().tolist() == [7, 1]
    assert dataset.targets[-1].tolist() == [7.5, 2.0]
    assert np.isnan(dataset.targets[:-1, 1]).all()


def test_a_decimal_comma_is_not_read_as_two_fields(tmp_path):
    text = "smiles,a\nC,1.0\nCC,2.5\nCCC,3.0\nCCCC,4.0\nCCO,1,5\n"
    path = write(tmp_path, text)
    dataset = load_own_molecules(path, targets=["a"])
    assert dataset.targets[:, 0].tolist() == [1.0, 2.5, 3.0, 4.0]
    (left_out,) = dataset.left_out
    assert (left_out.id, left_out.reason) == ("line-6", "too many fields")
    assert left_out.detail.startswith(
        f"{path}, line 6: 3 fields where the first line names 2 columns; write numbers with a "
        "decimal point (1.5), not a decimal comma (1,5)"
    )
    with pytest.raises(DataError, match="too many fields: 1"):
        load_own_molecules(path, targets=["a"], strict=True)


def test_a_strict_reading_stops_at_what_is_of_no_use(tmp_path):
    path = write(tmp_path, MOLECULES + BAD_ROWS)
    with pytest.raises(
        DataError, match=r"(?s)6 records cannot be used .*my.csv, line 9, column 'a'"
    ):
        load(path, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "smiles,a\nC,1\n",
            r"my.csv has no column \['b'\], its first line names \['smiles', 'a'\]",
        ),
        (
            "smiles,A,b\nC,1,2\n",
            r"no column \['a'\] \(did you mean 'A'\?\), its first line names \['smiles', 'A', "
            r"'b'\]; give .* as they are spelled there \(--smiles, --targets",
        ),
        (
            "smiles,a,b,a\nC,1,2,3\n",
            r"names the column 'a' more than once .* different fields \(line 2: '1', '3'\)",
        ),
        ("C,1,2\nCC,2,3\n", r"no column \['smiles', .* which looks like a row: put a line of nam"),
        ("smiles,a,b\n", "has no rows below its first line"),
        ("", r"my.csv is empty; its first line must name the columns"),
        (
            'smiles,a,b\nC,1,2\n"' + "C" * 200_000,
            r"my.csv cannot be read as CSV .*; look for a quote \(\"\) that is opened",
        ),
        (
            'smiles,a,b\n"C,1,2\nCC,2,3\n',
            r"field over several lines: 1\)\.\n.*my.csv, line 3: .* opened and not closed\?",
        ),
        ("smiles,a,b\nC,1,2\nCC,2,3\n", "leaves 2 usable examples, at least 4 are needed"),
        (
            "smiles,a,b\nC,x,2\n?,1,2\n",
            r"(?s)leaves 0 usable .*non-numeric target: 1.*line 2, column 'a'",
        ),
        (
            "smiles,a,b\nC,1,red\nCC,2,blue\n",
            r"column 'b' of .*my.csv holds text \('red' in line 2\) where numbers are needed; "
            r"name the columns to predict in `targets` \(--targets\)",
        ),
        ("smiles,a,b\nC,1,\nCC,2,\n", "column 'b' of .*my.csv holds nothing where numbers"),
        ("smiles,a,b\nC,1,NaN\nCC,2,\n", "column 'b' of .*my.csv holds nothing where numbers"),
    ],
)
def test_a_file_of_no_use_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, text))


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file '.*none.csv'"):
        load(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"smiles,a,b\n\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary.csv cannot be read as CSV in UTF-8"):
        load(path)


@pytest.mark.parametrize("targets", [[], ["a", "a"]])
def test_targets_are_named_once(tmp_path, targets):
    message = r"`targets` \(--targets\) must name at least one column, and each once, got"
    with pytest.raises(DataError, match=message):
        load_own_molecules(write(tmp_path, MOLECULES), targets=targets)


def test_copies_of_one_molecule_cannot_be_split(tmp_path):
    dataset = load(write(tmp_path, "smiles,a,b\nOCC,1,2\n" + "CCO,1,2\n" * 5))
    with pytest.raises(ValueError, match=r"6 examples in 1 groups.* add examples that differ"):
        dataset.split(0)


def test_what_python_alone_takes_for_a_number_or_an_element_is_left_out(tmp_path):
    dataset = load(write(tmp_path, MOLECULES + "thousand,CCC,1_000,1\ndummy,C*,1,1\n"))
    assert [record.detail.split(": ")[1] for record in dataset.left_out] == [
        "'1_000' is not a finite number",
        "'C*' holds a dummy atom (*), which is no element",
    ]


def test_a_molecule_so_large_that_all_batches_would_be_padding_is_named(tmp_path, caplog):
    path = write(tmp_path, MOLECULES + f"polymer,{'C' * 300},1,1\n")
    assert len(load(path)) == 6
    assert "line-7 has 902 atoms where half of all have at most 9; batches are padd" in caplog.text


def test_units_must_match_the_targets(tmp_path):
    with pytest.raises(
        ValueError, match=r"`units` \(--units\) must have one entry for each of 2 targets, got 1"
    ):
        load(write(tmp_path, MOLECULES), units=["eV"])
