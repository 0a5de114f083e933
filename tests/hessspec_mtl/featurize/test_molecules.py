"""Graphs of molecules."""

import numpy as np
import pytest

from hessspec_mtl.datasets.base import NUM_BOND_TYPES
from hessspec_mtl.featurize.molecules import (
    BOND_TYPES,
    FeaturisationError,
    graph_of,
    molecule_of,
    structure_of,
)

METHANE = "[H]C([H])([H])[H]"


def bond_counts(smiles: str) -> list[int]:
    """Bonds of each type, each counted once."""
    return (np.bincount(graph_of(smiles).edge_attributes, minlength=4) // 2).tolist()


def test_written_hydrogens_stay_atoms():
    graph = graph_of(METHANE)
    assert sorted(graph.atomic_numbers.tolist()) == [1, 1, 1, 1, 6]
    assert graph.num_edges == 8


def test_implicit_hydrogens_become_atoms_only_when_asked_for():
    assert graph_of("C").num_nodes == 1
    assert graph_of("C", add_hydrogens=True).num_nodes == 5


@pytest.mark.parametrize(
    ("smiles", "counts"),
    [
        ("CC", [1, 0, 0, 0]),
        ("C=C", [0, 1, 0, 0]),
        ("C#N", [0, 0, 1, 0]),
        ("c1ccccc1", [0, 0, 0, 6]),
    ],
)
def test_bond_types_are_single_double_triple_aromatic(smiles, counts):
    assert bond_counts(smiles) == counts


def test_a_ring_written_with_double_bonds_is_aromatic_if_it_is():
    assert bond_counts("C1=CC=CC=C1") == [0, 0, 0, 6]


def test_every_bond_is_two_edges_of_one_type():
    graph = graph_of("CC(=O)N")
    edges = set(zip(graph.senders, graph.receivers, graph.edge_attributes, strict=True))
    assert len(edges) == graph.num_edges == 6
    assert {(receiver, sender, kind) for sender, receiver, kind in edges} == edges


def test_a_lone_atom_is_a_graph_without_edges():
    graph = graph_of("[He]")
    assert (graph.num_nodes, graph.num_edges) == (1, 0)


def test_equal_molecules_have_equal_canonical_smiles():
    assert molecule_of("OCC").canonical == molecule_of("CCO").canonical
    assert molecule_of("OCC").canonical != molecule_of("COC").canonical


def test_nodes_are_in_the_order_of_the_atoms_of_the_structure():
    smiles = "N#CC(F)(F)C"
    atoms = structure_of(smiles, add_hydrogens=True).GetAtoms()
    graph = graph_of(smiles, add_hydrogens=True)
    assert graph.atomic_numbers.tolist() == [atom.GetAtomicNum() for atom in atoms]


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C1CC", "it is not valid SMILES; correct the string"),
        ("smiles", "cannot read the SMILES 'smiles'"),
        ("C(C)(C)(C)(C)C", "valence for atom # 0 C"),
        ("", "names no atoms"),
        ("  ", "names no atoms"),
        ("CC>>CO", r"it is a reaction \(>\)"),
        ("InChI=1S/CH4/h1H4", "it is an InChI; give the SMILES"),
        ("C*", r"'C\*' holds a dummy atom \(\*\), which is no element"),
        ("C~C", "bonds of type UNSPECIFIED have no edge feature"),
        ("CC |sense|", "cannot read the SMILES"),
        ("N->[Fe]", "bonds of type DATIVE have no edge feature"),
    ],
)
def test_a_string_that_gives_no_graph_is_refused_with_the_reason(smiles, message, capfd):
    with pytest.raises(FeaturisationError, match=message):
        molecule_of(smiles)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("smiles", "behind"),
    [
        ("CC this is junk", "this is junk"),
        ("CC O", "O"),
        ("CC\tethane", "ethane"),
        ("CC\nCO", "CO"),
        ("CC |^1:0| radical", r"\|\^1:0\| radical"),
    ],
)
def test_text_behind_a_smiles_is_refused_and_not_dropped(smiles, behind):
    """rdkit reads all of these as ethane."""
    with pytest.raises(FeaturisationError, match=f"'{behind}' stands behind the SMILES in"):
        molecule_of(smiles)


@pytest.mark.parametrize(
    ("smiles", "name"),
    [
        ("CC\u200bO", "ZERO WIDTH SPACE"),
        ("CCl\u2082", "SUBSCRIPT TWO"),
        ("\ufeffCC", "ZERO WIDTH NO-BREAK SPACE"),
        ("CC\x00O", r"U\+0000"),
    ],
)
def test_a_character_at_which_rdkit_would_stop_reading_is_named(smiles, name):
    with pytest.raises(FeaturisationError, match=f"holds {name}, which is no character of SMILES"):
        molecule_of(smiles)


@pytest.mark.parametrize(
    "smiles", [" CCO", "CCO ", "\tCCO\n", "CCO\u00a0", "CCO |(0,0,;1,0,;2,0,)|"]
)
def test_blanks_around_a_smiles_and_an_extension_in_bars_change_nothing(smiles):
    assert molecule_of(smiles).canonical == "CCO"


def test_an_extension_in_bars_is_read():
    """A radical on the first carbon has one hydrogen fewer."""
    assert graph_of("CC |^1:0|", add_hydrogens=True).num_nodes == 7


def test_salts_radicals_and_heavy_elements_are_graphs():
    assert graph_of("[Na+].[Cl-]").num_edges == 0
    assert graph_of("[CH3]", add_hydrogens=True).num_nodes == 4
    assert graph_of("[U]").atomic_numbers.tolist() == [92]


def test_the_encoder_has_a_feature_for_every_bond_type():
    assert len(BOND_TYPES) == NUM_BOND_TYPES
