"""CIF files as people have them: the atoms that are meant, or a refusal that names the label."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element

from hessspec_mtl.featurize.cif import CifReading, read_cif
from hessspec_mtl.featurize.crystals import structure_of
from hessspec_mtl.featurize.raw_graph import FeaturisationError

P1 = "_symmetry_space_group_name_H-M 'P 1'"
TYPED = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
CUBIC = (4.2, 4.2, 4.2, 90, 90, 90)
HEXAGONAL = (3.2, 3.2, 5.2, 90, 90, 120)
OXIDE = "Mg Mg 0 0 0\nO O .5 .5 .5"
HCP = "_symmetry_space_group_name_H-M 'P 63/m m c'"


def cif(
    sites: str, *, cell=CUBIC, columns=TYPED, symmetry: str = P1, formula: str = "", more: str = ""
) -> str:
    """A file with these lines of atoms."""
    names = [f"_cell_length_{x}" for x in "abc"]
    names += [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    lines = ["data_test", *(f"{name} {value}" for name, value in zip(names, cell, strict=True))]
    lines += [symmetry, *([f"_chemical_formula_sum '{formula}'"] if formula else []), more]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{c}" for c in columns), sites, ""])


@pytest.fixture
def read(tmp_path: Path):
    def reading(text: str) -> CifReading:
        path = tmp_path / "test.cif"
        path.write_text(text, encoding="utf-8")
        return read_cif(path)

    return reading


def atoms(reading: CifReading) -> dict[str, int]:
    return dict(Counter(Element.from_Z(int(z)).symbol for z in reading.crystal.atomic_numbers))


UNTYPED = ("label", "fract_x", "fract_y", "fract_z")
HYDROXIDE = "Mg1 0 0 0\nOH1 .5 .5 .5\nHO1 .5 .5 .73"


def test_labels_without_type_symbols_are_read_as_the_formula_asks(read):
    """pymatgen drops the oxygen and makes the hydrogen holmium."""
    reading = read(cif(HYDROXIDE, columns=UNTYPED, formula="Mg O H"))
    assert atoms(reading) == {"Mg": 1, "O": 1, "H": 1}
    assert reading.notes == (
        "OH1 was read as O, as the formula asks",
        "HO1 was read as H, as the formula asks",
    )


@pytest.mark.parametrize(
    ("sites", "formula", "message"),
    [
        (
            "Mg1 0 0 0\nOH1 .5 .5 .5",
            "",
            "OH1 has no type symbol, and its letters may mean O, with or",
        ),
        (
            "O1 0 0 0\nHO1 .5 .5 .5",
            "",
            "HO1 has no type symbol, and its letters may mean Ho or H, ",
        ),
        ("O1 0 0 0\nHO1 .5 .5 .5", "Ho H O", "HO1 .* may mean Ho or H of the formula H1 Ho1 O1"),
        ("Mg1 0 0 0\nOH1 .5 .5 .5", "Mg O2 H2", "are Mg1 O1, no multiple of .* formula H2 Mg1 O2"),
        ("Mg1 0 0 0\nWat1 .5 .5 .5", "", "Wat1 seems to be a water molecule without sites for its"),
        ("Mg1 0 0 0\nWat1 .5 .5 .5", "Mg O H2", "Wat1 seems to be a water molecule"),
        (
            "Mg1 0 0 0\nQ1 .5 .5 .5",
            "",
            "Q1 has no type symbol, and its letters may mean no element",
        ),
        ("Mg1 0 0 0\n1 .5 .5 .5", "", "1 has no type symbol, and its letters may mean no element"),
    ],
)
def test_a_label_that_may_be_several_atoms_is_refused(read, sites, formula, message):
    with pytest.raises(FeaturisationError, match=message):
        read(cif(sites, columns=UNTYPED, formula=formula))


@pytest.mark.parametrize(
    ("label", "element"),
    [("Ca1", "Ca"), ("C1A", "C"), ("Cl_2", "Cl"), ("O", "O"), ("Ho3", "Ho"), ("D1", "H")],
)
def test_a_label_that_begins_with_its_element_needs_no_type_symbol(read, label, element):
    assert atoms(read(cif(f"{label} 0 0 0", columns=UNTYPED))) == {element: 1}


def test_capitals_are_an_element_if_the_formula_has_only_that_one(read):
    """`FE1` may be iron or fluorine, `CA1` calcium or carbon."""
    sites = "FE1 0 0 0\nCA1 .5 .5 .5"
    assert atoms(read(cif(sites, columns=UNTYPED, formula="Fe C"))) == {"Fe": 1, "C": 1}
    with pytest.raises(FeaturisationError, match=r"FE1 .* may mean Fe or F, "):
        read(cif(sites, columns=UNTYPED))


@pytest.mark.parametrize(
    ("symbol", "element"), [("Mg2+", "Mg"), ("O2-", "O"), ("FE", "Fe"), ("O1-", "O"), ("D", "H")]
)
def test_the_type_symbol_counts_whatever_its_charge_or_the_label(read, symbol, element):
    assert atoms(read(cif(f"HO1 {symbol} 0 0 0"))) == {element: 1}


@pytest.mark.parametrize(
    ("decimals", "x", "y"), [(2, ".33", ".67"), (3, ".333", ".667"), (4, "0.3333", "0.6667(3)")]
)
def test_a_special_position_with_few_decimals_is_one_atom_at_its_exact_place(read, decimals, x, y):
    """hcp magnesium: two atoms at 1/3 2/3 1/4 and 2/3 1/3 3/4, where pymatgen finds six."""
    reading = read(cif(f"Mg Mg {x} {y} .25", cell=HEXAGONAL, symmetry=HCP))
    fractional = reading.crystal.fractional
    order = np.argsort(fractional[:, 2])
    exact = [[1 / 3, 2 / 3, 1 / 4], [2 / 3, 1 / 3, 3 / 4]]
    np.testing.assert_allclose(fractional[order], exact, atol=1e-12)
    told = any("are one atom, on a special position" in note for note in reading.notes)
    assert told == (decimals < 4)


def test_a_place_off_a_mirror_by_more_than_its_digits_needs_the_formula(read):
    """Images .08 angstrom apart cannot be two atoms; but four digits say they are not one place."""
    sites, mirror = (
        "A Cu 0.0100 0 0\nB Cl .5 .5 .5",
        "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,y,z",
    )
    with pytest.raises(
        FeaturisationError, match=r"images of A are 0\.084 angstrom apart, more than"
    ):
        read(cif(sites, symmetry=mirror))
    reading = read(cif(sites, symmetry=mirror, formula="Cu Cl"))
    assert atoms(reading) == {"Cu": 1, "Cl": 1}
    assert reading.crystal.fractional[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("formula", ["Mg O", "Mg4 O4", "MgO", "MG1 O1", "?", "", "(Mg O)n"])
def test_no_formula_another_number_of_units_or_spelling_is_no_reason_to_refuse(read, formula):
    text = cif(OXIDE, formula=formula, more="_cell_formula_units_Z 4")
    assert atoms(read(text)) == {"Mg": 1, "O": 1}


def test_a_formula_is_right_to_the_digits_it_is_printed_with(read):
    """Three atoms of one to one of the other are 0.75 to 0.25, or 0.8 to 0.3 of one decimal."""
    sites = "A Cu .5 .5 0\nB Cu .5 0 .5\nC Cu 0 .5 .5\nD Au 0 0 0"
    for formula in ("Cu3 Au", "Cu0.75 Au0.25", "Cu0.8 Au0.3"):
        assert atoms(read(cif(sites, formula=formula))) == {"Cu": 3, "Au": 1}
    with pytest.raises(FeaturisationError, match="no multiple"):
        read(cif(sites, formula="Cu0.80 Au0.30"))


OCCUPIED = (*TYPED, "occupancy")


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (
            "A Cu 0 0 0 0.5\nB Au 0 0 0 0.5",
            r"A: a site is partly occupied \(0.5\); make an ordered",
        ),
        ("A Cu 0 0 0 1.3", r"A: a site is partly occupied \(1.3\)"),
        ("A '0.8Nb + 0.2Zr' 0 0 0 1", r"A: the type symbol '0.8Nb \+ 0.2Zr' is no element"),
        ("A Nb0.8Zr0.2 0 0 0 1", "A: the type symbol 'Nb0.8Zr0.2' is no element"),
        ("Nb,Zr ? 0 0 0 1", "Nb,Zr has no type symbol, and its label names Nb and Zr for one site"),
        ("Ge1/Sb1 ? 0 0 0 1", "Ge1/Sb1 has no type symbol, and its label names Ge and Sb for one"),
        ("A OH 0 0 0 1", "A: the type symbol 'OH' is no element"),
        ("A Cu 0 0 ? 1", r"A has no coordinates, or none that are numbers: \['0', '0', '\?'\]"),
        ("A Cu 0 0 0 1\nB Cu .01 0 0 1", "B and A are one place, and were taken for one atom; the"),
        (
            "A Cu 0 0 0 1\nB O .01 0 0 1",
            "A and B are 0.042 angstrom apart, closer than atoms can be",
        ),
        (
            "M Ge .5 .5 .5 1\nM Sb .5 .5 .5 1",
            r"M \(Ge\) and M \(Sb\) are 0.000 angstrom apart",
        ),
        ("A Cu 0 0 0 0", "the unit cell holds no atoms"),
    ],
)
def test_what_is_no_crystal_with_full_sites_is_refused_by_its_label(read, sites, message):
    with pytest.raises(FeaturisationError, match=message):
        read(cif(sites, columns=OCCUPIED))


def test_a_site_listed_twice_is_one_atom_if_the_formula_says_so(read):
    """Molecules on a symmetry element are often listed whole, with the images of their atoms."""
    sites, inversion = "C1 C .1 0 0\nC1A C -.1 0 0\nO O .4 .4 .4", "x,y,z\n-x,-y,-z"
    symmetry = f"loop_\n_symmetry_equiv_pos_as_xyz\n{inversion}"
    reading = read(cif(sites, symmetry=symmetry, formula="C O"))
    assert atoms(reading) == {"C": 2, "O": 2}
    assert reading.notes == ("C1A and C1 are one place, and were taken for one atom",)


def test_occupancies_that_are_unknown_or_round_to_one_are_one(read):
    sites = "A Cu 0 0 0 ?\nB Cu .5 .5 0 .\nC Cu .5 0 .5 0.998(4)\nD Cu 0 .5 .5 1\nE Q .5 .5 .5 0"
    reading = read(cif(sites, columns=OCCUPIED))
    assert atoms(reading) == {"Cu": 4}
    assert reading.notes == ("E marks a place without an atom",)


def test_alternatives_without_occupancies_are_atoms_only_if_the_formula_says_so(read):
    """Structures of molecules list the places of one disordered atom as groups 1 and 2."""
    columns = (*TYPED, "disorder_group")
    sites = "A Cu 0 0 0 .\nB Cu .5 .5 0 1\nC Cu .5 0 .5 2\nD O 0 .5 .5 ."
    with pytest.raises(FeaturisationError, match=r"B is an alternative \(disorder group 1\) of no"):
        read(cif(sites, columns=columns))
    with pytest.raises(FeaturisationError, match="no multiple of the file's formula Cu2 O1"):
        read(cif(sites, columns=columns, formula="Cu2 O"))
    assert atoms(read(cif(sites, columns=columns, formula="Cu3 O"))) == {"Cu": 3, "O": 1}


def test_hydrogens_that_are_only_counted_are_missed(read):
    columns = (*TYPED, "attached_hydrogens")
    with pytest.raises(FeaturisationError, match="A has 2 hydrogens that may have no site"):
        read(cif("A O 0 0 0 2", columns=columns))
    with pytest.raises(
        FeaturisationError, match="no multiple of the file's formula H2 O1; A has 2"
    ):
        read(cif("A O 0 0 0 2", columns=columns, formula="H2 O"))
    whole = "A O 0 0 0 2\nB H .2 .1 0 0\nC H -.2 .1 0 0"
    assert atoms(read(cif(whole, columns=columns, formula="H2 O"))) == {"O": 1, "H": 2}


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_space_group_name_H-M 'P 4/m m m'",
        "_space_group_IT_number 123",
        "_SPACE_GROUP_NAME_H-M_ALT 'P 4/m m m'",
    ],
)
def test_a_named_space_group_gives_its_operations(read, symmetry):
    """Sixteen operations, of which 16, 8 and 8 leave a site of Mg, O and H where it is."""
    sites = "Mg Mg 0 0 0\nO O 0 .5 .5\nH H .5 .5 .2"
    assert atoms(read(cif(sites, symmetry=symmetry))) == {"Mg": 1, "O": 2, "H": 2}


@pytest.mark.parametrize(
    ("symmetry", "message"),
    [
        (
            "_symmetry_space_group_name_H-M 'F 4/m -3 2/m'",
            "names the space group F 4/m -3 2/m, but has no symmetry operation beside the identity",
        ),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z",
            "names the space group F m -3 m, but has no symmetry operation beside the identity",
        ),
        (
            "_symmetry_space_group_name_H-M 'P 4/n m m'",
            "names the space group P 4/n m m, of which there are two choices of the origin",
        ),
        (
            "_symmetry_space_group_name_H-M 'P 63/m m c'",
            "the symmetry operations do not fit the cell",
        ),
        (
            "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\ny,x,z\ny,z,x",
            "the 3 symmetry operations are no group",
        ),
    ],
)
def test_symmetry_that_cannot_be_known_is_refused(read, symmetry, message):
    with pytest.raises(FeaturisationError, match=re.escape(message)):
        read(cif(OXIDE, symmetry=symmetry))


def test_the_number_of_formula_units_confirms_an_origin_and_a_whole_list(read):
    units = "_cell_formula_units_Z"
    litharge = "_symmetry_space_group_name_H-M 'P 4/n m m'"
    cell = (3.96, 3.96, 5.01, 90, 90, 90)
    sites = "Pb Pb 0 .5 .238\nO O 0 0 0"
    oxide = cif(sites, cell=cell, symmetry=litharge, formula="Pb O", more=f"{units} 2")
    assert atoms(read(oxide)) == {"Pb": 2, "O": 2}
    with pytest.raises(FeaturisationError, match="two choices of the origin"):
        read(oxide.replace(f"{units} 2", f"{units} 4"))
    listed = "_symmetry_space_group_name_H-M 'F 4/m -3 2/m'"
    whole = cif(OXIDE, symmetry=listed, formula="Mg O", more=f"{units} 1")
    assert atoms(read(whole)) == {"Mg": 1, "O": 1}


def test_operations_are_counted_once_and_their_thirds_are_exact(read):
    """The same operation may be listed with another lattice vector, and 0.333 means a third."""
    operations = "x,y,z\nx+1,y,z\n-y,x-y,z+0.333\n-x+y,-x,z+0.667"
    symmetry = f"loop_\n_symmetry_equiv_pos_as_xyz\n{operations}"
    reading = read(cif("Se Se 0.25 0 0", cell=(4.4, 4.4, 4.9, 90, 90, 120), symmetry=symmetry))
    np.testing.assert_allclose(np.sort(reading.crystal.fractional[:, 2]), [0, 1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("this is no CIF", "holds 0 lists of atoms with fractional coordinates, expected one"),
        (cif("A Cu 0 0 0") + cif("A Cu 0 0 0").replace("test", "b"), "holds 2 lists of atoms"),
        (cif("A Cu 0 0 0") * 2, "holds several blocks called data_test"),
        (
            cif("A Cu 0 0 0", cell=("?", 4, 4, 90, 90, 90)),
            r"_cell_length_a is '\?', expected a num",
        ),
        (cif("A Cu 0 0 0", cell=(4, 4, 4, 30, 30, 120)), "the angles .* enclose no volume"),
        (
            cif("A Cu 0 0 0", more="_chemical_name_common Sodium chloride"),
            "Possible issue in CIF file at line: chloride; the file gives no formula",
        ),
    ],
)
def test_a_file_of_no_use_says_why(read, text, message):
    with pytest.raises(FeaturisationError, match=message):
        read(text)


def test_a_warning_of_the_parser_is_told_where_the_formula_confirms_the_atoms(read):
    reading = read(cif("A Cu 0 0 0", formula="Cu", more="_chemical_name_common Sodium chloride"))
    assert reading.notes == ("Possible issue in CIF file at line: chloride",)


def test_angles_that_are_not_given_are_right_ones(read):
    text = "\n".join(line for line in cif(OXIDE).splitlines() if "angle" not in line)
    assert structure_of(read(text).crystal).lattice.angles == (90.0, 90.0, 90.0)


def test_comments_and_letters_of_any_alphabet_do_no_harm(read):
    reading = read("# Élément\n" + cif("A Cu 0 0 0", more="_publ_author_name 'Müller, Å.'"))
    assert atoms(reading) == {"Cu": 1}
