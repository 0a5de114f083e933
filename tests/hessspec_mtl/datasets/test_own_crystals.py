"""A user's own folder of crystals: every problem is named by file and row, and nothing vanishes."""

from pathlib import Path

import numpy as np
import pytest

from hessspec_mtl.datasets.own import load_own_crystals
from hessspec_mtl.datasets.sources import DataError
from hessspec_mtl.featurize.crystals import graph_of
from hessspec_mtl.featurize.raw_graph import NoGraph


def write(folder: Path, text: str, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def cif(a: float, sites: str = "Po Po 0 0 0 1") -> str:
    """A cubic cell without symmetry."""
    return f"""\
data_test
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""


@pytest.fixture
def crystals(cache, tmp_path) -> Path:
    """A folder with a folder of five CIF files in it."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    for i in range(5):
        write(folder, cif(3.0 + i / 10), f"po{i}.cif")
    return folder


TARGETS = "file,hardness,colour\n" + "".join(f"po{i},{i}.5,{i * i}\n" for i in range(5))


def test_crystals_are_read_with_the_targets_of_their_file(crystals, tmp_path):
    dataset = load_own_crystals(crystals, write(tmp_path, TARGETS), num_workers=1)
    assert (dataset.name, dataset.domain) == ("cifs", "crystals")
    assert dataset.ids == ("po0", "po1", "po2", "po3", "po4")
    assert [task.name for task in dataset.tasks] == ["hardness", "colour"]
    np.testing.assert_array_equal(dataset.targets[2], [2.5, 4.0])
    assert [graph.num_edges for graph in dataset.graphs] == [6] * 5
    encoded = dataset.encode(dataset.split(seed=0))
    assert (encoded.node_features, encoded.edge_features) == (112, 40)


def test_columns_may_be_chosen_and_names_may_end_in_cif(crystals, tmp_path):
    text = "hardness,file\n" + "".join(f"{i},po{i}.cif\n" for i in range(5))
    dataset = load_own_crystals(
        crystals, write(tmp_path, text), targets=["hardness"], id_column="file", num_workers=1
    )
    assert dataset.ids[0] == "po0"
    assert dataset.targets[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_the_ending_of_cif_files_may_be_in_capitals(crystals, tmp_path):
    (crystals / "po1.cif").rename(crystals / "po1.CIF")
    path = write(tmp_path, TARGETS.replace("po2,", "po2.CIF,"))
    dataset = load_own_crystals(crystals, path, num_workers=1)
    assert dataset.ids == ("po0", "po1", "po2", "po3", "po4")
    assert dataset.left_out == ()
    write(crystals, cif(3.9), "po1.cif")
    with pytest.raises(DataError, match=r"holds both po1\.CIF and po1\.cif"):
        load_own_crystals(crystals, path)


def test_a_table_without_a_line_of_names_loses_no_crystal(crystals, tmp_path, caplog):
    """cgcnn's format, which usually lies beside the files."""
    path = write(crystals, "".join(f"po{i},{i}.5\n" for i in range(5)), "id_prop.csv")
    dataset = load_own_crystals(crystals, path, num_workers=1)
    assert dataset.ids == ("po0", "po1", "po2", "po3", "po4")
    assert dataset.targets[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert [task.name for task in dataset.tasks] == ["target"]
    assert "id_prop.csv has no line of column names: its first line is taken for" in caplog.text
    path = write(tmp_path, "".join(f"po{i}.cif,{i},{-i}\n" for i in range(5)), "two.csv")
    dataset = load_own_crystals(crystals, path, num_workers=1)
    assert [task.name for task in dataset.tasks] == ["target_1", "target_2"]


def test_a_first_line_that_may_be_names_or_a_crystal_is_asked_about(crystals, tmp_path):
    """Columns may be called after temperatures."""
    text = "file,300,400\n" + "".join(f"po{i},{i},{-i}\n" for i in range(5))
    path = write(tmp_path, text)
    with pytest.raises(
        DataError, match=r"the first line of .* may be a crystal, but there is no f"
    ):
        load_own_crystals(crystals, path)
    dataset = load_own_crystals(crystals, path, targets=["300", "400"], num_workers=1)
    assert dataset.targets[1].tolist() == [1.0, -1.0]


@pytest.fixture
def numbered(cache, tmp_path) -> Path:
    folder = tmp_path / "my cifs, numbered"
    folder.mkdir()
    for i in range(5):
        write(folder, cif(3.0 + i / 10), f"{i:07d}.cif")
    return folder


@pytest.mark.parametrize("form", ["{}", "{}.0", "{:07d}", "{}.cif"])
def test_leading_zeros_that_a_spreadsheet_took_are_given_back(numbered, tmp_path, caplog, form):
    text = "id,target\n" + "".join(f"{form.format(i)},{i}\n" for i in range(5))
    dataset = load_own_crystals(numbered, write(tmp_path, text), num_workers=1)
    assert dataset.ids == tuple(f"{i:07d}" for i in range(5))
    assert dataset.left_out == ()
    told = "line 3: " + form.format(1) + " was taken for 0000001.cif" in caplog.text
    assert told == (form != "{:07d}")


def test_two_files_with_one_number_are_not_guessed_between(numbered, tmp_path):
    write(numbered, cif(3.9), "02.cif")
    text = "id,target\n" + "".join(f"{i},{i}\n" for i in range(5))
    dataset = load_own_crystals(numbered, write(tmp_path, text), num_workers=1)
    assert len(dataset) == 4
    assert dataset.left_out[0].detail.endswith("there is no file 2.cif in the folder")


def test_names_that_are_no_files_are_told_with_an_example_of_both(crystals, tmp_path):
    text = "id,target\n" + "".join(f"mp-{i},{i}\n" for i in range(5))
    with pytest.raises(
        DataError,
        match=r"no line of .* names a file of .*: line 2 has 'mp-0' in its first column, the first "
        r"file is po0.cif; .* \(--id-column\)",
    ):
        load_own_crystals(crystals, write(tmp_path, text))


def test_the_column_that_names_files_is_found(crystals, tmp_path, caplog):
    """pandas writes the numbers of rows into a first column without a name."""
    text = ",file,target\n" + "".join(f"{i},po{i},{i}\n" for i in range(5))
    dataset = load_own_crystals(crystals, write(tmp_path, text), num_workers=1)
    assert dataset.ids[0] == "po0"
    assert [task.name for task in dataset.tasks] == ["target"]
    assert "the files are named in column 'file' of" in caplog.text
    both = write(tmp_path, text.replace(",file,target", "n,file,copy").replace(",0\n", ",po1\n"))
    with pytest.raises(DataError, match=r"columns \['file', 'copy'\] .* in `id_column` \(--id-col"):
        load_own_crystals(crystals, both)


def test_what_was_put_right_in_a_file_is_told(crystals, tmp_path, caplog):
    hexagonal = cif(3.2, "Mg Mg .333 .667 .25 1").replace("length_c 3.2", "length_c 5.2")
    hexagonal = hexagonal.replace("gamma 90", "gamma 120").replace("'P 1'", "'P 63/m m c'")
    write(crystals, hexagonal, "po4.cif")
    dataset = load_own_crystals(crystals, write(tmp_path, TARGETS), num_workers=1)
    assert dataset.graphs[4].num_nodes == 2
    assert "po4.cif: images of Mg within 0.0032 angstrom are one atom, on a spe" in caplog.text


def test_names_with_accents_match_however_the_file_system_writes_them(crystals, tmp_path):
    """e and an accent, or one letter."""
    (crystals / "po0.cif").rename(crystals / "poe\N{COMBINING ACUTE ACCENT} 0.cif")
    text = TARGETS.replace("po0", "po\N{LATIN SMALL LETTER E WITH ACUTE} 0")
    dataset = load_own_crystals(crystals, write(tmp_path, text), num_workers=1)
    assert dataset.ids[0] == "po\N{LATIN SMALL LETTER E WITH ACUTE} 0"


def test_a_folder_that_cannot_be_written_is_read(numbered, tmp_path):
    path = write(numbered, "id,target\n" + "".join(f"{i:07d},{i}\n" for i in range(5)))
    numbered.chmod(0o555)
    try:
        assert len(load_own_crystals(numbered, path, num_workers=1)) == 5
    finally:
        numbered.chmod(0o755)


def test_a_column_of_text_among_all_columns_is_named_with_the_way_out(crystals, tmp_path):
    text = "file,formula,hardness\n" + "".join(f"po{i},Po{i},{i}\n" for i in range(5))
    path = write(tmp_path, text)
    with pytest.raises(
        DataError,
        match=r"column 'formula' of .* holds text \('Po0' in line 2\).* `targets` \(--columns\)",
    ):
        load_own_crystals(crystals, path)
    dataset = load_own_crystals(crystals, path, targets=["hardness"], num_workers=1)
    assert dataset.num_tasks == 1


def test_files_and_rows_of_no_use_are_left_out_and_named(crystals, tmp_path):
    write(crystals, cif(3.9), "forgotten.cif")
    write(crystals, "this is no CIF", "broken.cif")
    write(crystals, cif(3.9, "X1 Cu 0 0 0 0.5\nX2 Au 0 0 0 0.5"), "alloy.cif")
    write(crystals, cif(4.0, "A Cu 0 0 0 1\nB Cu 0.5 0.5 0.5 1\nC Cu 0.5 0.5 0.5 1"), "twice.cif")
    bad = "missing,1,1\nbroken,1,1\nalloy,1,1\npo0,1,1\ntwice,1,1\n"
    path = write(tmp_path, TARGETS + bad)
    dataset = load_own_crystals(crystals, path, num_workers=1)
    assert len(dataset) == 5
    assert [(record.id, record.reason) for record in dataset.left_out] == [
        ("line-7", "no CIF file"),
        ("broken", "unreadable structure"),
        ("alloy", "unreadable structure"),
        ("line-10", "duplicate id"),
        ("twice", "unreadable structure"),
        ("forgotten", "no targets"),
    ]
    assert (
        f"{path}, line 7, column 'file': there is no file missing.cif" in dataset.left_out[0].detail
    )
    assert "a site is partly occupied" in dataset.left_out[2].detail
    assert f"broken.cif (line 8 of {path}): " in dataset.left_out[1].detail


def test_a_name_that_misses_its_file_by_little_is_told_which(crystals, tmp_path):
    path = write(tmp_path, TARGETS + "PO1,1,1\ncifs/po2.cif,1,1\n")
    dataset = load_own_crystals(crystals, path, num_workers=1)
    details = [record.detail for record in dataset.left_out]
    assert details[0].endswith("no file PO1.cif in the folder, but po1.cif; spell the name as "
                               "the file has it")  # fmt: skip
    assert details[1].endswith("name the file without its folder: po2")


def test_a_crystal_without_voronoi_cells_is_named_by_its_file(crystals, tmp_path, monkeypatch):
    def no_graphs_of_large_cells(found):
        return [
            NoGraph("open cells") if crystal.lattice[0, 0] > 3.35 else graph_of(crystal)
            for crystal in found
        ]

    write(crystals, cif(3.05), "po5.cif")
    monkeypatch.setattr("hessspec_mtl.datasets.voronoi.graphs_or_reasons", no_graphs_of_large_cells)
    dataset = load_own_crystals(crystals, write(tmp_path, TARGETS + "po5,1,1\n"), num_workers=1)
    assert [(record.id, record.reason) for record in dataset.left_out] == [
        ("po4", "no Voronoi graph")
    ]
    assert dataset.left_out[0].detail == f"{crystals / 'po4.cif'}: open cells"


def test_a_folder_of_no_use_is_refused_with_the_reason(crystals, tmp_path):
    path = write(tmp_path, TARGETS)
    with pytest.raises(DataError, match=r"`directory` \(FOLDER\) must be a folder with CIF files"):
        load_own_crystals(tmp_path / "nowhere", path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no files whose name ends in \.cif or \.CIF"):
        load_own_crystals(tmp_path / "empty", path)
    with pytest.raises(DataError, match=r"has no column \['name'\]"):
        load_own_crystals(crystals, path, id_column="name")
    with pytest.raises(DataError, match="has no column of targets beside 'file'"):
        load_own_crystals(crystals, write(tmp_path, "file\npo1\n", "names.csv"))
