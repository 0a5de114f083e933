"""One structure under several names is one group, and nothing else is."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from hessspec_mtl.datasets.base import MultitaskDataset, Split, Task
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.datasets.grouping import (
    Copies,
    count_copies,
    equal_crystals,
    has_whole_groups,
    indistinguishable_graphs,
    mean_distances,
    one_to_the_network,
    with_whole_groups,
)
from hessspec_mtl.datasets.sources import OWN_LICENCE, Source
from hessspec_mtl.featurize.crystals import Crystal, crystal_of
from hessspec_mtl.featurize.molecules import graph_of, molecule_of
from hessspec_mtl.featurize.one_hot import fit_bond_encoder
from hessspec_mtl.graphs import batch_graphs
from hessspec_mtl.network.model import NetworkConfig, init_params, predict

SAME = {
    "double bonds": ["C/C=C/C", r"C/C=C\C", "CC=CC"],
    "mirror images": ["C[C@H](N)O", "C[C@@H](N)O", "OC(C)N"],
    "isotopes": ["CO", "[2H]CO", "[13CH3]O", "[13CH3][18OH]"],
    "numbers of a reaction": ["CN", "[CH3:1][NH2:2]"],
    "Kekule's two ways": ["CC1=CC=CC=C1", "CC1C=CC=CC=1", "c1ccccc1C"],
    "charges, hydrogens being equal": ["[H][O+]", "[H][O]", "[H][O-]"],
    "an order of fragments": ["C.O", "O.C"],
}
DIFFERENT = ["CCO", "COC", "C=C", "CC", "C#C", "C.C", "CC.CC", "CCC", "C1CC1", "CC=C", "CN", "CF"]


def groups(smiles: list[str]) -> np.ndarray:
    return indistinguishable_graphs([graph_of(text, add_hydrogens=True) for text in smiles])


@pytest.mark.parametrize("smiles", SAME.values(), ids=SAME)
def test_molecules_that_differ_in_what_features_do_not_know_are_one(smiles):
    *found, other = groups([*smiles, "CCCl"])
    assert set(found) == {found[0]}
    assert other != found[0]


def test_other_molecules_are_other_groups():
    assert len(set(groups(DIFFERENT))) == len(DIFFERENT)


def test_a_group_does_not_depend_on_what_else_there_is():
    alone = groups(["CO", "OC", "CN"])
    among = groups(["CO", "OC", "CN", *DIFFERENT, *SAME["isotopes"]])
    assert (alone[:, None] == alone).tolist() == (among[:3, None] == among[:3]).tolist()


def test_groups_of_the_embedded_molecules_are_their_canonical_names():
    """Where no two molecules happen to be one to message passing, which small ones are not."""
    dataset = load_molecules(progress=False)
    small = [i for i, graph in enumerate(dataset.graphs) if (graph.atomic_numbers > 1).sum() < 4]
    names = [molecule_of(dataset.structures[i]).canonical for i in small]
    found = indistinguishable_graphs([dataset.graphs[i] for i in small])
    assert len(small) > 30
    np.testing.assert_array_equal(
        found[:, None] == found, np.array(names)[:, None] == np.array(names)
    )


@pytest.mark.parametrize(
    "pair",
    [("C1CC1C1CC1", "C1CC2CCC12"), ("C1CCC2CCCCC2C1", "C1CCCC1C1CCCC1")],
    ids=["of QM8", "decalin and bicyclopentyl"],
)
def test_graphs_in_which_every_atom_sees_the_same_are_one(pair):
    """Two rings joined by a bond, and two larger ones that share one."""
    assert len(set(groups([*pair]))) == 1
    assert molecule_of(pair[0]).canonical != molecule_of(pair[1]).canonical


def test_such_graphs_are_one_to_the_network_itself():
    """Its predictions are the same to rounding; that of another molecule differs."""
    encoder = fit_bond_encoder((1, 6), 4)
    config = NetworkConfig(2, 4, ("a",), num_steps=2, width=8, head_width=8)
    graphs = [
        encoder.encode(graph_of(text, add_hydrogens=True))
        for text in ("C1CC1C1CC1", "C1CC2CCC12", "C=CCCC=C")
    ]
    batch = batch_graphs(graphs, np.zeros((3, 1)))
    network = jax.jit(predict, static_argnames="config")
    predicted = network(init_params(jax.random.key(0), config), batch, config=config)[:, 0]
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-5)
    assert abs(predicted[2] - predicted[0]) > 1e-3


def crystal(lattice: Lattice, species: list[str], places: list[list[float]]) -> Crystal:
    return crystal_of(Structure(lattice, species, places))


FCC_PLACES = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
ALUMINIUM = crystal(Lattice.cubic(4.05), ["Al"] * 4, FCC_PLACES)
PRIMITIVE = crystal(Lattice.from_parameters(*[4.05 / 2**0.5] * 3, 60, 60, 60), ["Al"], [[0, 0, 0]])
# Close-packed layers of one distance, stacked ABAB and ABAC.
HCP = crystal(
    Lattice.hexagonal(4.05 / 2**0.5, 2 * 4.05 / 3**0.5),
    ["Al"] * 2,
    [[0, 0, 0], [1 / 3, 2 / 3, 0.5]],
)
DHCP = crystal(
    Lattice.hexagonal(4.05 / 2**0.5, 4 * 4.05 / 3**0.5),
    ["Al"] * 4,
    [[0, 0, 0], [1 / 3, 2 / 3, 0.25], [0, 0, 0.5], [2 / 3, 1 / 3, 0.75]],
)
TRICLINIC = Structure(
    Lattice.from_parameters(4.1, 5.3, 6.2, 81.0, 97.0, 104.0),
    ["Cu", "S", "Cu", "O"],
    [[0.02, 0.11, 0.07], [0.52, 0.31, 0.42], [0.21, 0.73, 0.64], [0.75, 0.66, 0.11]],
)


def rewritten() -> dict[str, Structure]:
    """The triclinic crystal as other people may have it."""
    lattice, species, places = TRICLINIC.lattice, TRICLINIC.species, TRICLINIC.frac_coords
    turned = Lattice(lattice.matrix @ np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0])
    return {
        "doubled": TRICLINIC * (2, 1, 1),
        "another cell": TRICLINIC * [[1, 1, 0], [0, 1, 0], [1, 0, 1]],
        "eight-fold, askew": TRICLINIC * [[2, 1, 0], [0, 2, 1], [0, 0, 2]],
        "another origin": Structure(lattice, species, places + np.array([0.3, -0.7, 0.123])),
        "another order": Structure(lattice, species[::-1], places[::-1]),
        "turned": Structure(turned, species, places),
        "mirrored": Structure(Lattice(-lattice.matrix), species, places),
        "three decimals": Structure(lattice, species, places.round(3) + 4e-4),
        "reduced": TRICLINIC.get_reduced_structure(),
    }


@pytest.mark.parametrize("name", rewritten())
def test_a_crystal_is_one_in_whatever_cell_origin_or_setting(name):
    found = equal_crystals([crystal_of(TRICLINIC), crystal_of(rewritten()[name]), ALUMINIUM])
    assert found[0] == found[1] != found[2]


def test_a_primitive_cell_and_the_cubic_one_are_one():
    assert len(set(equal_crystals([ALUMINIUM, PRIMITIVE]))) == 1


def test_other_crystals_of_one_formula_and_volume_are_others():
    """Stackings that agree in the first two shells, orders of two elements, a strain of 1 %."""
    stackings = [ALUMINIUM, HCP, DHCP]
    assert len(set(equal_crystals(stackings))) == 3
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0.5], [0.5, 0.5, 0]]
    orders = [
        crystal(Lattice.tetragonal(3.0, 6.0), list(species), places)
        for species in (
            ["Cu", "Cu", "Au", "Au"],
            ["Cu", "Au", "Cu", "Au"],
            ["Cu", "Au", "Au", "Cu"],
        )
    ]
    assert len(set(equal_crystals(orders))) == 3
    a = 4.05
    strained = crystal(Lattice.tetragonal(a * 1.01, a / 1.01**2), ["Al"] * 4, FCC_PLACES)
    assert len(set(equal_crystals([ALUMINIUM, strained]))) == 2


def test_chains_of_equal_crystals_are_one_group():
    """Equality has a tolerance, and what equals a third is equal."""
    cells = [
        crystal(Lattice.cubic(4.05 * (1 + i * 2e-3)), ["Al"] * 4, FCC_PLACES) for i in range(4)
    ]
    assert len(set(equal_crystals([cells[0], cells[3]]))) == 2
    assert len(set(equal_crystals(cells))) == 1


def test_mean_distances_of_a_cube_are_those_of_its_lattice():
    """6, 12, 8, 6 and 24 neighbours at the roots of 1 to 5; no k-th distance varies by atom."""
    cube = crystal(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])
    shells = np.repeat([1, 2, 3, 4, 5], [6, 12, 8, 6, 16])
    np.testing.assert_allclose(mean_distances(cube), 3.0 * np.sqrt([[shells, shells]]), rtol=1e-12)


def test_mean_distances_know_which_element_is_near_which():
    """Rock salt: six anions at half the cell around a cation, twelve cations at its 1/sqrt 2."""
    salt = crystal(
        Lattice.from_parameters(*[5.64 / 2**0.5] * 3, 60, 60, 60),
        ["Na", "Cl"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )
    like, unlike, unlike_again, like_again = mean_distances(salt)[:, 0]
    np.testing.assert_allclose(like[:12], 5.64 / 2**0.5)
    np.testing.assert_allclose(unlike[:6], 5.64 / 2)
    np.testing.assert_allclose(unlike, unlike_again)
    np.testing.assert_allclose(like, like_again)


def test_copies_are_counted_on_both_sides_of_a_split():
    groups = np.array([7, 7, 3, 5, 5, 5, 9, 9])
    split = Split(train=np.array([0, 2, 3, 4, 6, 7]), test=np.array([1, 5]))
    assert count_copies(groups, split) == Copies(groups=3, examples=7, crossing=2, test_examples=2)
    whole = Split(train=np.array([0, 1, 2, 6, 7]), test=np.array([3, 4, 5]))
    assert count_copies(groups, whole) == Copies(groups=3, examples=7, crossing=0, test_examples=0)


def dataset(smiles: list[str], groups: list[int]) -> MultitaskDataset:
    count = len(smiles)
    return MultitaskDataset(
        name="m",
        domain="molecules",
        ids=tuple(map(str, range(count))),
        structures=tuple(smiles),
        graphs=tuple(graph_of(text, add_hydrogens=True) for text in smiles),
        targets=np.arange(count, dtype=float)[:, None],
        tasks=(Task("t", "t", "1"),),
        groups=np.array(groups),
        elements=(1, 6, 8),
    )


def test_a_data_sets_own_groups_stay_whole_beside_the_found_ones():
    """0 and 1 are isomers in space, 1 and 2 were a group before."""
    found = one_to_the_network(dataset(["C/C=C/C", r"C/C=C\C", "CO", "CC"], [0, 1, 1, 2]))
    assert found[0] == found[1] == found[2] != found[3]


def test_no_split_separates_whole_groups():
    pairs = [text for text in ("CC=CC", "CC=CO", "CC=CCC", "OC=CO") for _ in range(2)]
    before = dataset(pairs, list(range(8)))
    after = with_whole_groups(before)
    crossing = [count_copies(after.groups, before.split(seed)).crossing for seed in range(10)]
    assert max(crossing) > 0
    for seed in range(10):
        assert count_copies(after.groups, after.split(seed)).crossing == 0


def test_data_of_ones_own_with_whole_groups_keep_their_split():
    """The split goes by the numbers of the groups, which a second grouping would change."""
    own = Source("mine", "mine.csv", "", None, OWN_LICENCE, "")
    smiles = ["CN", "C/C=C/C", r"C/C=C\C", "CO", "CC"]
    whole = replace(dataset(smiles, [4, 2, 2, 7, 0]), sources=(own,))
    assert has_whole_groups(whole)
    assert with_whole_groups(whole) is whole
    parted = replace(dataset(smiles, [4, 2, 3, 7, 0]), sources=(own,))
    assert not has_whole_groups(parted)
    assert with_whole_groups(parted).groups[1] == with_whole_groups(parted).groups[2]
