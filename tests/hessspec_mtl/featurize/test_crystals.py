"""Voronoi multigraphs of crystals whose Voronoi cells are known from geometry."""

import subprocess
import sys

import numpy as np
import pytest
from pymatgen.analysis.local_env import VoronoiNN
from pymatgen.core import Lattice, Structure

from hessspec_mtl.featurize.crystals import (
    Crystal,
    FeaturisationError,
    crystal_from_cell,
    crystal_of,
    graph_of,
    graphs_or_reasons,
    structure_of,
)
from hessspec_mtl.featurize.raw_graph import NoGraph, RawGraph

CORNER = [0.0, 0.0, 0.0]
CENTRE = [0.5, 0.5, 0.5]
FACES = [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]


def cubic(a: float, species: list[str], fractional: list[list[float]]) -> Crystal:
    return crystal_from_cell((a, a, a, 90.0, 90.0, 90.0), species, fractional)


def primitive(a: float, angle: float, species: list[str]) -> Crystal:
    """A rhombohedral cell with atoms at the corner and, if there are two, at the centre."""
    return crystal_from_cell(
        (a, a, a, angle, angle, angle), species, [CORNER, CENTRE][: len(species)]
    )


# Textbook lattice constants in angstrom.
SIMPLE_CUBIC = cubic(3.35, ["Po"], [CORNER])
FCC = primitive(4.05 / 2**0.5, 60.0, ["Al"])
FCC_CUBIC = cubic(4.05, ["Al"] * 4, [CORNER, *FACES])
BCC = cubic(3.165, ["W", "W"], [CORNER, CENTRE])
ROCK_SALT = primitive(5.64 / 2**0.5, 60.0, ["Na", "Cl"])
BARIUM_TITANATE = cubic(4.01, ["Ba", "Ti", "O", "O", "O"], [CORNER, CENTRE, *FACES])
HEXAGONAL = crystal_from_cell(
    (3.21, 3.21, 5.21, 90.0, 90.0, 120.0),
    ["Mg", "Mg"],
    [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
)
TRICLINIC = crystal_from_cell(
    (4.1, 5.3, 6.2, 81.0, 97.0, 104.0),
    ["Cu", "S", "Cu", "O"],
    [[0.02, 0.11, 0.07], [0.52, 0.31, 0.42], [0.21, 0.73, 0.64], [0.75, 0.66, 0.11]],
)
ALL = {
    "simple cubic": SIMPLE_CUBIC,
    "fcc": FCC,
    "fcc, cubic cell": FCC_CUBIC,
    "bcc": BCC,
    "rock salt": ROCK_SALT,
    "BaTiO3": BARIUM_TITANATE,
    "hcp": HEXAGONAL,
    "triclinic": TRICLINIC,
}


@pytest.fixture(scope="module")
def graphs() -> dict[str, RawGraph]:
    return {name: graph_of(crystal) for name, crystal in ALL.items()}


def between(graph: RawGraph, sender: int, receiver: int) -> np.ndarray:
    """Attributes of the edges from one node to another, sorted."""
    rows = graph.edge_attributes[(graph.senders == sender) & (graph.receivers == receiver)]
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
    ("name", "faces"),
    [
        ("simple cubic", [6]),
        ("fcc", [12]),
        ("fcc, cubic cell", [12, 12, 12, 12]),
        ("bcc", [14, 14]),
        ("rock salt", [6, 6]),
        ("BaTiO3", [12, 6, 14, 14, 14]),
    ],
)
def test_an_atom_has_as_many_edges_as_its_voronoi_cell_has_faces(graphs, name, faces):
    """Cube, rhombic dodecahedron, truncated octahedron; every face once in each direction."""
    assert np.bincount(graphs[name].senders).tolist() == faces
    assert np.bincount(graphs[name].receivers).tolist() == faces


@pytest.mark.parametrize("name", ALL)
def test_both_directions_of_every_face_are_there_with_equal_attributes(graphs, name):
    graph = graphs[name]
    for i in range(graph.num_nodes):
        for j in range(graph.num_nodes):
            np.testing.assert_array_equal(between(graph, i, j), between(graph, j, i))
        # A face with an own image is two self-edges, one for each direction.
        assert between(graph, i, i).shape[0] % 2 == 0


@pytest.mark.parametrize("name", ALL)
def test_pyramids_fill_the_cell_and_solid_angles_the_sphere(graphs, name):
    graph = graphs[name]
    _, _, solid_angle, volume = graph.edge_attributes.T
    np.testing.assert_allclose(volume.sum(), structure_of(ALL[name]).volume, rtol=1e-7)
    np.testing.assert_allclose(
        np.bincount(graph.senders, solid_angle), np.full(graph.num_nodes, 4 * np.pi), rtol=1e-7
    )


@pytest.mark.parametrize("name", ALL)
def test_the_volume_of_a_pyramid_is_a_third_of_base_times_height(graphs, name):
    area, distance, _, volume = graphs[name].edge_attributes.T
    np.testing.assert_allclose(volume, area * distance / 3, atol=1e-8)


def test_the_cube_has_the_attributes_of_a_cube(graphs):
    a = 3.35
    expected = [a**2, a / 2, 4 * np.pi / 6, a**3 / 6]
    np.testing.assert_allclose(
        graphs["simple cubic"].edge_attributes, np.tile(expected, (6, 1)), atol=1e-8
    )


def test_one_atom_in_the_cell_has_only_edges_to_itself(graphs):
    assert (graphs["fcc"].senders == 0).all()
    assert (graphs["fcc"].receivers == 0).all()


def test_barium_titanate_has_the_edges_of_a_perovskite(graphs):
    """Ba touches 12 O, Ti 6 O; each O touches 4 Ba, 2 Ti and 8 O. Parallel edges are kept."""
    graph = graphs["BaTiO3"]
    elements = graph.atomic_numbers
    pairs = np.stack([elements[graph.senders], elements[graph.receivers]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    assert {tuple(kind): int(count) for kind, count in zip(kinds, counts, strict=True)} == {
        (8, 8): 24,
        (8, 22): 6,
        (22, 8): 6,
        (8, 56): 12,
        (56, 8): 12,
    }
    assert between(graph, 0, 2).shape[0] == 4
    assert between(graph, 1, 2).shape[0] == 2


def test_a_larger_cell_of_the_same_crystal_has_the_same_edges_at_each_atom(graphs):
    for node in range(4):
        edges = graphs["fcc, cubic cell"].senders == node
        np.testing.assert_allclose(
            graphs["fcc, cubic cell"].edge_attributes[edges],
            graphs["fcc"].edge_attributes,
            atol=1e-7,
        )


@pytest.mark.parametrize("name", ["triclinic", "hcp"])
def test_edges_are_those_that_pymatgen_reports(graphs, name):
    found = VoronoiNN().get_all_nn_info(structure_of(ALL[name]))
    for node, neighbours in enumerate(found):
        reported = sorted((n["site_index"], n["poly_info"]["face_dist"]) for n in neighbours)
        edges = graphs[name].senders == node
        ours = sorted(
            zip(
                graphs[name].receivers[edges].tolist(),
                graphs[name].edge_attributes[edges, 1].tolist(),
                strict=True,
            )
        )
        np.testing.assert_allclose(ours, reported, atol=1e-8)


@pytest.mark.parametrize("shift", [1.0, -3.0, -1e-17])
def test_atoms_written_outside_of_the_cell_are_moved_into_it(graphs, shift):
    moved = Crystal(
        TRICLINIC.lattice, TRICLINIC.atomic_numbers, TRICLINIC.fractional + np.array([shift, 0, 0])
    )
    np.testing.assert_allclose(
        graph_of(moved).edge_attributes, graphs["triclinic"].edge_attributes, atol=1e-7
    )


def test_a_coordinate_just_below_zero_is_moved_to_zero_and_not_to_one():
    crystal = cubic(3.165, ["W", "W"], [[-1e-17, 0.0, 0.0], CENTRE])
    assert structure_of(crystal).frac_coords.max() < 1.0
    assert graph_of(crystal).num_edges == 28


def test_a_layer_in_much_vacuum_has_a_graph():
    """Across the vacuum the nearest atom is 19 angstrom away, beyond pymatgen's first cutoff."""
    sheet = crystal_from_cell(
        (2.5, 2.5, 20.0, 90.0, 90.0, 90.0), ["C", "C"], [CORNER, [0.5, 0.5, 0.03]]
    )
    with pytest.raises(RuntimeError, match="infinite vertex"):
        VoronoiNN().get_all_nn_info(structure_of(sheet))
    assert graph_of(sheet).edge_attributes[:, 1].max() > 13.0 / 2


def overlapping() -> Crystal:
    """Two atoms on one place, which no reader of files hands on."""
    return Crystal(np.eye(3) * 4.0, np.array([29, 29]), np.array([CENTRE, CENTRE]))


def test_atoms_that_coincide_have_no_graph():
    with pytest.raises(FeaturisationError, match="no two atoms coincide"):
        graph_of(overlapping())


def test_a_crystal_without_a_graph_does_not_stop_the_others():
    good, none = graphs_or_reasons([SIMPLE_CUBIC, overlapping()])
    assert isinstance(good, RawGraph)
    assert isinstance(none, NoGraph)
    assert "coincide" in none.reason


@pytest.mark.parametrize(
    ("cell", "species", "places", "pair"),
    [
        (4.0, ["Cu", "Cu"], [CENTRE, CENTRE], r"Cu \(site 1\) and Cu \(site 2\) are 0.000"),
        (4.0, ["Cu", "O"], [CORNER, [0.95, 0.0, 0.0]], r"Cu \(site 1\) and O \(site 2\) are 0.200"),
        (1.2, ["Cu"], [CORNER], r"Cu \(site 1\) and its own image are 1.200"),
        (4.0, ["H", "H"], [CORNER, [0.1, 0.0, 0.0]], r"H \(site 1\) and H \(site 2\) are 0.400"),
    ],
)
def test_atoms_closer_than_atoms_can_be_are_refused(cell, species, places, pair):
    """Also across the faces of the cell; half the sum of two covalent radii is the least."""
    with pytest.raises(FeaturisationError, match=pair + " angstrom apart, closer than atoms can"):
        cubic(cell, species, places)


def test_the_shortest_bonds_there_are_are_no_reason_to_refuse():
    """Hydrogen molecules at .74, nitrogen at 1.10 angstrom, zirconium and fluorine at 1.47."""
    for species, length in ((["H", "H"], 0.74), (["N", "N"], 1.10), (["Zr", "F"], 1.4713)):
        assert cubic(10.0, species, [CORNER, [length / 10, 0.0, 0.0]]).atomic_numbers.size == 2


def test_a_partly_occupied_site_is_refused():
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [CORNER])
    with pytest.raises(FeaturisationError, match="a site is partly occupied"):
        crystal_of(alloy)


@pytest.mark.parametrize("symbol", ["Og", "Xx"])
def test_what_is_no_element_up_to_copernicium_is_refused(symbol):
    with pytest.raises(
        FeaturisationError, match=rf"{symbol}.* is none of the elements Z = 1 .. 112"
    ):
        crystal_of(Structure(Lattice.cubic(3.6), [symbol], [CORNER]))


def test_the_key_depends_on_the_content_alone():
    again = cubic(3.35, ["Po"], [CORNER])
    assert again.key == SIMPLE_CUBIC.key
    assert cubic(3.36, ["Po"], [CORNER]).key != SIMPLE_CUBIC.key
    assert cubic(3.35, ["Bi"], [CORNER]).key != SIMPLE_CUBIC.key


def test_a_structure_survives_the_way_through_a_record():
    structure = structure_of(crystal_of(structure_of(TRICLINIC).as_dict()))
    assert structure.matches(structure_of(TRICLINIC))
    assert structure.formula == "Cu2 S1 O1"


def test_worker_processes_import_no_jax():
    """Each of many workers would otherwise spend seconds and memory on it."""
    code = "import sys, hessspec_mtl.featurize.crystals; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
