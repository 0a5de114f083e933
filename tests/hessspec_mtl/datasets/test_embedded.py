"""The shipped data: physical sanity, and that the generators still give them."""

import gzip
import json
import math

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from rdkit import Chem

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.computed import (
    EMBEDDED,
    load_crystals,
    load_molecules,
    read_embedded,
    stiffness_of_entry,
)
from hessspec_mtl.datasets.sources import DataError

MOLECULES = read_embedded(EMBEDDED / "molecules.jsonl.gz")
CRYSTALS = read_embedded(EMBEDDED / "crystals.jsonl.gz")
FILES = {"molecules": MOLECULES, "crystals": CRYSTALS}


def column(file, name):
    return np.array([entry[name] for entry in file.entries])


@pytest.fixture(scope="module")
def molecules() -> MultitaskDataset:
    return load_molecules(progress=False)


@pytest.fixture(scope="module")
def crystals() -> MultitaskDataset:
    return load_crystals(graphs=False)


def structure(entry) -> Structure:
    return Structure(entry["lattice"], entry["atomic_numbers"], entry["fractional"])


# Files


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 1_000_000


@pytest.mark.parametrize("name", FILES)
def test_every_column_is_explained_with_its_unit_and_every_structure_accounted_for(name):
    metadata, entries = FILES[name].metadata, FILES[name].entries
    assert all(set(entry) == set(metadata["columns"]) for entry in entries)
    assert {"settings", "versions", "command", "licence", "method"} <= set(metadata)
    units = ("hartree", "GPa", "angstrom", "no unit", "units of the cell", "Z of", "SMILES")
    unitless = ("prototype", "the same with")
    assert all(
        any(unit in text for unit in (*units, *unitless)) for text in metadata["columns"].values()
    )
    counts = metadata["counts"]
    assert counts["kept"] == len(entries)
    assert counts["tried"] == counts["kept"] + sum(counts["left_out"].values())
    assert len(metadata["left_out"]) == sum(counts["left_out"].values())
    names = {entry["id"] for entry in entries}
    assert len(names) == len(entries)
    assert not names & {left_out for left_out, _ in metadata["left_out"]}


def test_a_file_cut_short_is_refused(tmp_path):
    whole = (EMBEDDED / "crystals.jsonl.gz").read_bytes()
    path = tmp_path / "crystals.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"truncated or altered.*install the package again"):
        read_embedded(path)
    path.write_bytes(gzip.compress(json.dumps(dict(CRYSTALS.metadata)).encode()))
    with pytest.raises(DataError, match=f"holds 0 of {len(CRYSTALS.entries)} entries"):
        read_embedded(path)
    with pytest.raises(DataError, match="is missing"):
        read_embedded(tmp_path / "other.jsonl.gz")


# Molecules


def test_excitations_are_ordered_positive_and_their_strengths_not_negative():
    first, second = column(MOLECULES, "E1"), column(MOLECULES, "E2")
    assert (first >= 0.05).all()
    assert (first < second).all()
    assert (second < 1.0).all()  # hartree
    assert (column(MOLECULES, "f1") >= 0).all()
    assert (column(MOLECULES, "f2") >= 0).all()


def test_oscillator_strengths_stay_below_the_number_of_electrons():
    """Thomas, Reiche and Kuhn: the strengths of all excitations add up to the electrons."""
    electrons = np.array([sum(entry["atomic_numbers"]) for entry in MOLECULES.entries])
    assert (column(MOLECULES, "f1") + column(MOLECULES, "f2") < electrons).all()


def test_molecules_are_neutral_closed_shell_and_all_different():
    options = Chem.SmilesParserParams()
    options.removeHs = False
    for entry in MOLECULES.entries:
        molecule = Chem.MolFromSmiles(entry["smiles"], options)
        atoms = list(molecule.GetAtoms())
        assert [atom.GetAtomicNum() for atom in atoms] == entry["atomic_numbers"]
        assert all(
            atom.GetFormalCharge() == 0
            and atom.GetNumRadicalElectrons() == 0
            and atom.GetNumImplicitHs() == 0
            for atom in atoms
        )
        assert sum(entry["atomic_numbers"]) % 2 == 0
        assert Chem.CanonSmiles(entry["smiles"]) == entry["id"]


def test_atoms_that_the_smiles_joins_are_neighbours_in_space():
    options = Chem.SmilesParserParams()
    options.removeHs = False
    table = Chem.GetPeriodicTable()
    for entry in MOLECULES.entries:
        molecule = Chem.MolFromSmiles(entry["smiles"], options)
        radii = np.array([table.GetRcovalent(z) for z in entry["atomic_numbers"]])
        positions = np.array(entry["positions"])
        apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        joined = Chem.GetAdjacencyMatrix(molecule).astype(bool)
        limit = 1.18 * (radii[:, None] + radii[None])
        assert (apart[joined] < limit[joined]).all(), entry["id"]


def test_loaded_molecules_are_those_of_the_file(molecules):
    assert molecules.num_tasks == 4
    assert [task.unit for task in molecules.tasks] == ["hartree", "hartree", "1", "1"]
    assert molecules.elements == (1, 6, 7, 8, 9)
    np.testing.assert_array_equal(molecules.targets[:, 1], column(MOLECULES, "E2"))
    assert len(set(molecules.groups.tolist())) == len(molecules)
    assert len(molecules.left_out) == len(MOLECULES.metadata["left_out"])
    for entry, graph in zip(MOLECULES.entries, molecules.graphs, strict=True):
        assert graph.atomic_numbers.tolist() == entry["atomic_numbers"]


# Crystals


def test_there_are_at_least_300_crystals():
    assert len(CRYSTALS.entries) >= 300


def test_moduli_are_positive_and_the_poisson_ratio_is_the_function_of_them():
    bulk, shear = column(CRYSTALS, "K_VRH"), column(CRYSTALS, "G_VRH")
    assert (bulk > 0).all()
    assert (shear > 0).all()
    expected = (3 * bulk - 2 * shear) / (6 * bulk + 2 * shear)
    np.testing.assert_allclose(column(CRYSTALS, "poisson"), expected, atol=2e-5)


def test_every_crystal_meets_borns_criterion():
    """A crystal is stable against small strains if its elastic tensor is positive definite."""
    tensors = np.array([stiffness_of_entry(entry) for entry in CRYSTALS.entries])
    np.testing.assert_array_equal(tensors, tensors.transpose(0, 2, 1))
    assert np.linalg.eigvalsh(tensors).min() > 0.99  # GPa


def test_stored_moduli_lie_between_the_bounds_of_the_stored_tensor():
    """Voigt's average bounds the modulus from above, Reuss's from below; ours is their mean."""
    for entry in CRYSTALS.entries:
        stiffness = stiffness_of_entry(entry)
        strained, stressed = stiffness, np.linalg.inv(stiffness)
        voigt = strained[:3, :3].sum() / 9
        reuss = 1 / stressed[:3, :3].sum()
        assert reuss <= voigt + 1e-9
        assert entry["K_VRH"] == pytest.approx((voigt + reuss) / 2, abs=0.02)


def test_crystals_are_distinct_structures():
    """Every composition's crystals against one another, for a sample of compositions."""
    assert_distinct(sorted(compositions())[::12])


@pytest.mark.slow
def test_all_crystals_are_distinct_structures():
    assert_distinct(sorted(compositions()))


def compositions() -> set[str]:
    return {structure(entry).composition.reduced_formula for entry in CRYSTALS.entries}


def assert_distinct(formulas):
    matcher = StructureMatcher()
    structures = [(entry["id"], structure(entry)) for entry in CRYSTALS.entries]
    for formula in formulas:
        same = [each for each in structures if each[1].composition.reduced_formula == formula]
        for place, (name, one) in enumerate(same):
            for other_name, other in same[:place]:
                assert not matcher.fit(one, other), (name, other_name)


def test_no_two_atoms_of_a_crystal_are_closer_than_metals_are():
    for entry in CRYSTALS.entries:
        crystal = structure(entry)
        distances = crystal.distance_matrix + 10 * np.eye(len(crystal))
        assert min(distances.min(), *crystal.lattice.abc) > 2.2  # angstrom
        assert ((np.array(entry["fractional"]) >= 0) & (np.array(entry["fractional"]) < 1)).all()


def test_loaded_crystals_are_those_of_the_file(crystals):
    assert [task.name for task in crystals.tasks] == ["log_G", "log_K", "poisson"]
    assert crystals.elements == (13, 28, 29, 46, 47, 78, 79)
    first = CRYSTALS.entries[0]
    np.testing.assert_allclose(
        crystals.targets[0], [math.log(first["G_VRH"]), math.log(first["K_VRH"]), first["poisson"]]
    )
    assert crystals.structures[0].atomic_numbers.tolist() == first["atomic_numbers"]


def test_a_subset_keeps_the_features_of_the_whole(molecules):
    few = load_molecules(num_examples=7, seed=1, progress=False)
    assert few.ids == molecules.subset(7, 1).ids
    assert few.elements == molecules.elements
    assert load_crystals(num_examples=3, graphs=False).elements[0] == 13


# The generators still give these numbers


@pytest.mark.parametrize("name", ["O", "C=N"])
def test_molecules_computed_again_are_the_same(name):
    for package in ("pyscf", "tblite", "ase"):
        pytest.importorskip(package, reason="computing again needs the extra `generate`")
    from hessspec_mtl.datasets.generate.excitations import ExcitationSettings
    from hessspec_mtl.datasets.generate.molecules import molecule_entry, molecule_record

    (entry,) = (each for each in MOLECULES.entries if each["id"] == name)
    settings = ExcitationSettings()
    assert MOLECULES.metadata["settings"] == vars(settings)
    again = molecule_entry(name, molecule_record(name, settings))
    assert again["smiles"] == entry["smiles"]
    for target in ("E1", "E2", "f1", "f2"):
        assert again[target] == pytest.approx(entry[target], abs=1e-4), target


@pytest.mark.parametrize("name", ["A1-Al", "L1_0-Cu-Au"])
def test_crystals_computed_again_are_the_same(name):
    pytest.importorskip("ase", reason="computing again needs the extra `generate`")
    from hessspec_mtl.datasets.generate.crystals import crystal_record
    from hessspec_mtl.datasets.generate.elasticity import ElasticitySettings

    (entry,) = (each for each in CRYSTALS.entries if each["id"] == name)
    settings = ElasticitySettings()
    assert CRYSTALS.metadata["settings"] == vars(settings)
    again = crystal_record(name, settings)
    np.testing.assert_allclose(again["lattice"], entry["lattice"], atol=1e-4)
    np.testing.assert_allclose(again["stiffness"], entry["stiffness"], atol=0.1)
    assert again["poisson"] == pytest.approx(entry["poisson"], abs=1e-4)
