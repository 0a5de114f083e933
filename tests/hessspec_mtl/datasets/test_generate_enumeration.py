"""Which molecules and orderings are tried."""

import itertools

import numpy as np
import pytest
from rdkit import Chem

from hessspec_mtl.datasets.generate.enumeration import (
    VALENCE,
    acceptable,
    canonical_smiles,
    enumerate_molecules,
    heavy_atoms,
    molecule_queue,
    written_out,
)
from hessspec_mtl.featurize.molecules import molecule_of


@pytest.fixture(scope="module")
def up_to_four() -> tuple[str, ...]:
    return enumerate_molecules(4)


def test_two_heavy_atoms_give_the_molecules_one_can_list_by_hand():
    assert set(enumerate_molecules(2)) - set(enumerate_molecules(1)) == {
        *("CC", "C=C", "C#C", "CN", "C=N", "C#N", "CO", "C=O", "CF"),
        *("NN", "N=N", "N#N", "NO", "N=O"),
    }


def test_growing_atom_by_atom_finds_what_trying_every_graph_finds():
    """All labelled graphs of three atoms with bond orders 0 to 3, filtered only at the end."""
    pairs = ((0, 1), (0, 2), (1, 2))
    found = set()
    for elements in itertools.product(VALENCE, repeat=3):
        for orders in itertools.product(range(4), repeat=3):
            bonds = tuple(
                (*pair, order) for pair, order in zip(pairs, orders, strict=True) if order
            )
            used = [sum(order for *pair, order in bonds if atom in pair) for atom in range(3)]
            fits = all(n <= VALENCE[e] for n, e in zip(used, elements, strict=True))
            if len(bonds) >= 2 and fits and acceptable((elements, bonds)):
                found.add(canonical_smiles((elements, bonds)))
    assert found == set(enumerate_molecules(3)) - set(enumerate_molecules(2))


def test_there_are_446_molecules_with_at_most_four_heavy_atoms(up_to_four):
    assert len(up_to_four) == len(set(up_to_four)) == 446


def test_saturated_hydrocarbons_are_counted_as_chemistry_counts_them(up_to_four):
    """Alkanes: 1, 1, 1, 2 isomers; saturated C4 rings: cyclobutane and methylcyclopropane."""
    hydrocarbons = [s for s in up_to_four if set(s) <= set("C()1")]
    chains = [s for s in hydrocarbons if "1" not in s]
    assert [sum(heavy_atoms(s) == n for s in chains) for n in (1, 2, 3, 4)] == [1, 1, 1, 2]
    assert {"C1CCC1", "CC1CC1"} <= set(hydrocarbons)


def test_every_molecule_is_neutral_closed_shell_and_obeys_its_valences(up_to_four):
    for smiles in up_to_four:
        molecule = Chem.MolFromSmiles(smiles)
        assert all(
            atom.GetFormalCharge() == 0
            and atom.GetNumRadicalElectrons() == 0
            and atom.GetTotalValence() == VALENCE[atom.GetSymbol()]
            for atom in molecule.GetAtoms()
        )


@pytest.mark.parametrize(
    "left_out",
    ["OO", "FN", "FO", "C=C=C", "C1#CCC1", "C1=CC1", "NNNN", "O=C=O"],
    ids=["O-O", "F-N", "F-O", "cumulene", "ring alkyne", "cyclopropene", "N4 chain", "CO2"],
)
def test_the_filter_leaves_out(left_out, up_to_four):
    assert Chem.CanonSmiles(left_out) not in up_to_four


def test_a_ring_is_found_whichever_atom_is_added_last():
    skeletons = [
        (("C", "C", "O"), ((0, 1, 1), (0, 2, 1), (1, 2, 1))),
        (("C", "O", "C"), ((0, 1, 1), (0, 2, 1), (1, 2, 1))),
    ]
    assert len({canonical_smiles(skeleton) for skeleton in skeletons}) == 1


def test_a_longer_queue_begins_with_every_shorter_one():
    longer = molecule_queue(600, seed=3)
    assert longer[:500] == molecule_queue(500, seed=3)
    assert set(longer[:446]) == set(enumerate_molecules(4))
    assert {heavy_atoms(smiles) for smiles in longer[446:]} == {5}
    assert set(longer[446:]) != set(molecule_queue(600, seed=4)[446:])


def test_a_queue_of_more_molecules_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"`num_molecules` must lie in \[1, \d+\]"):
        molecule_queue(10**6, seed=0)


def test_written_hydrogens_name_the_same_molecule_in_the_order_given():
    explicit, order = written_out("CC=O")
    graph = molecule_of(explicit).graph
    atoms = Chem.AddHs(Chem.MolFromSmiles("CC=O")).GetAtoms()
    numbers = np.array([atom.GetAtomicNum() for atom in atoms])
    np.testing.assert_array_equal(graph.atomic_numbers, numbers[list(order)])
    assert Chem.CanonSmiles(explicit) == "CC=O"
