"""Crystals as multigraphs: atoms of one unit cell, joined by the faces of their Voronoi cells.

Imported by worker processes, so nothing here may import JAX.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pymatgen.analysis.local_env import VoronoiNN
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core import Lattice, Structure

from hessspec_mtl.featurize.raw_graph import FeaturisationError, NoGraph, RawGraph

FACE_ATTRIBUTES = ("area", "face_dist", "solid_angle", "volume")
"""What an edge of a crystal carries: angstrom², angstrom, steradian, angstrom³.

`face_dist` is the distance from the atom to the face, half the distance between the two atoms;
`volume` is that of the pyramid from the atom to the face.
"""

MAX_ATOMIC_NUMBER = 112
"""Elements that have a node feature: Z = 1..112, hydrogen to copernicium."""

# Raised whenever a change here changes a graph: the cache starts afresh.
VORONOI_VERSION = 1

# A face smaller than this (angstrom²) is a degenerate vertex split by rounding: where many Voronoi
# cells meet in one point, whether such faces exist depends on the last bit of the coordinates.
# Larger slivers, which the printed digits of a structure file decide, are kept as reported.
_SMALLEST_AREA = 1e-9

# No two atoms come closer than this share of the sum of their covalent radii, nor than this
# distance (angstrom). In 12,007 crystals of the Materials Project the smallest share is 0.634.
_LEAST_SHARE = 0.5
_LEAST_DISTANCE = 0.5

# Beyond the table (californium on) the radius of its last elements.
_HEAVY_RADIUS = 1.7

# Attributes are rounded to this many decimals, so that faces that are equal by symmetry stay equal
# and no decile boundary falls between them by rounding.
_DECIMALS = 9

# The Voronoi cells of all atoms fill the unit cell; a shortfall means faces were missed.
_VOLUME_TOLERANCE = 1e-6

# Atoms within this distance (angstrom) may be neighbours: pymatgen's default, then more for slabs
# with so much vacuum between them that Voronoi cells stay open. The cost grows as its cube.
_CUTOFFS = (13.0, 26.0, 52.0)


@dataclass(frozen=True, eq=False)
class Crystal:
    """One unit cell with fully occupied sites.

    Attributes:
        lattice: rows are the cell vectors, in angstrom.
        atomic_numbers: element of each site.
        fractional: coordinates of each site in units of the cell vectors.
    """

    lattice: Float[np.ndarray, "3 3"]
    atomic_numbers: Int[np.ndarray, " n"]
    fractional: Float[np.ndarray, "n 3"]

    @property
    def key(self) -> str:
        """SHA-256 of the content: the name of this crystal's graph in the cache."""
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.lattice, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.atomic_numbers, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.fractional, "<f8").tobytes())
        return digest.hexdigest()


def crystal_from_cell(
    cell: tuple[float, float, float, float, float, float],
    species: list[str],
    fractional: list[list[float]],
) -> Crystal:
    """Crystal from cell lengths (angstrom) and angles (degrees), one symbol a site."""
    lattice = Lattice.from_parameters(*cell)
    return crystal_of(Structure(lattice, species, fractional))


def crystal_of(
    structure: Structure | dict[str, Any], *, names: Sequence[str] | None = None
) -> Crystal:
    """Crystal of a pymatgen `Structure`, or of one written as a dictionary.

    Args:
        structure: what a file holds.
        names: what its sites are called in errors; None for their elements and numbers.

    Raises:
        FeaturisationError: if a site is partly occupied or holds no element with Z up to 112, or
            two atoms are so close that they cannot be two.
    """
    found: Any = Structure.from_dict(structure) if isinstance(structure, dict) else structure
    if not found.is_ordered:
        raise FeaturisationError(
            "a site is partly occupied; make an ordered approximant of the structure first"
        )
    atomic_numbers = np.array([site.specie.Z for site in found], np.int64)
    if atomic_numbers.size == 0:
        raise FeaturisationError("the unit cell holds no atoms")
    # pymatgen makes a "dummy species" of a symbol that it does not know, with any integer for Z.
    unknown = (atomic_numbers < 1) | (atomic_numbers > MAX_ATOMIC_NUMBER)
    if unknown.any():
        symbols = sorted(
            {str(site.specie) for site, bad in zip(found, unknown, strict=True) if bad}
        )
        raise FeaturisationError(
            f"{', '.join(symbols)} is none of the elements Z = 1 .. {MAX_ATOMIC_NUMBER}"
        )
    _check_distances(found, names)
    return Crystal(
        lattice=np.array(found.lattice.matrix, np.float64),
        atomic_numbers=atomic_numbers,
        fractional=np.array(found.frac_coords, np.float64),
    )


def _check_distances(structure: Structure, names: Sequence[str] | None) -> None:
    """Raise if two atoms, or an atom and its own image, are closer than atoms can be."""
    radii = np.array(
        [CovalentRadius.radius.get(site.specie.symbol, _HEAVY_RADIUS) for site in structure]
    )
    least = np.maximum(_LEAST_SHARE * (radii[:, None] + radii[None, :]), _LEAST_DISTANCE)
    distances = np.array(structure.distance_matrix)
    # An atom's nearest image is one shortest vector of the lattice away.
    np.fill_diagonal(distances, min(structure.lattice.get_lll_reduced_lattice().abc))
    i, j = np.unravel_index(np.argmin(distances / least), distances.shape)
    if distances[i, j] < least[i, j]:
        pair = (int(i), int(j))
        called = [f"{structure[k].specie.symbol} (site {k + 1})" for k in pair]
        if names is not None:
            called = [names[k] for k in pair]
            if i != j and called[0] == called[1]:  # one label for two elements
                called = [f"{names[k]} ({structure[k].specie.symbol})" for k in pair]
        second = "its own image" if i == j else called[1]
        raise FeaturisationError(
            f"{called[0]} and {second} are {distances[i, j]:.3f} angstrom apart, closer than "
            f"atoms can be ({least[i, j]:.2f}); check coordinates, cell and symmetry for atoms "
            "that coincide"
        )


def structure_of(crystal: Crystal) -> Structure:
    """The pymatgen `Structure`, with every site moved into [0, 1)³.

    VoronoiNN looks for the sites of the home cell and finds no neighbours for one outside of it.
    """
    wrapped = crystal.fractional - np.floor(crystal.fractional)
    # A coordinate of -1e-17 wraps to exactly 1.0, which is outside again.
    wrapped[wrapped >= 1.0] = 0.0
    return Structure(crystal.lattice, crystal.atomic_numbers.tolist(), wrapped)


def graph_of(crystal: Crystal) -> RawGraph:
    """The Voronoi multigraph: an edge each way for every face between two atoms.

    Atoms i and j share one face for each periodic image of j that touches i's Voronoi cell, so
    edges are parallel, and an atom that touches its own images has edges to itself. VoronoiNN
    lists each face from both sides: (i, j, image) and (j, i, -image). The two are mirror images in
    the face, hence have equal attributes; here they become two directed edges with the mean of
    both, equal to the last bit. A face of an atom with its own image gives two directed
    self-edges, (i, i, image) and (i, i, -image).

    Edges are sorted by sender, receiver and image. Cost: about 0.1 s for ten atoms.

    Raises:
        FeaturisationError: if pymatgen finds no closed Voronoi cell around some atom, or the cells
            do not fill the unit cell.
    """
    faces = _closed_faces(structure_of(crystal))
    edges = sorted(
        key
        for key, attributes in faces.items()
        if attributes[FACE_ATTRIBUTES.index("area")] >= _SMALLEST_AREA
    )
    return RawGraph(
        atomic_numbers=crystal.atomic_numbers,
        edge_attributes=np.round(np.array([faces[key] for key in edges]), _DECIMALS),
        senders=np.array([sender for sender, *_ in edges], np.int64),
        receivers=np.array([receiver for _, receiver, *_ in edges], np.int64),
    )


def graphs_or_reasons(crystals: list[Crystal]) -> list[RawGraph | NoGraph]:
    """`graph_of` each crystal, or why it has no graph: the task of one worker process."""

    def graph_or_reason(crystal: Crystal) -> RawGraph | NoGraph:
        try:
            return graph_of(crystal)
        except FeaturisationError as error:
            return NoGraph(str(error))

    return [graph_or_reason(crystal) for crystal in crystals]


class _OpenCellError(FeaturisationError):
    """Neighbours are missing; a larger cutoff may find them."""


# A face as seen from its first atom: (i, j, image of j along each cell vector).
_Face = tuple[int, int, int, int, int]
_Faces = dict[_Face, Float[np.ndarray, " 4"]]


def _closed_faces(structure: Structure) -> _Faces:
    """Every face of every atom, found within the smallest of the cutoffs that suffices."""
    for cutoff in _CUTOFFS[:-1]:
        try:
            return _faces_within(structure, cutoff)
        except _OpenCellError:
            continue
    return _faces_within(structure, _CUTOFFS[-1])


def _faces_within(structure: Structure, cutoff: float) -> _Faces:
    """Every face of every atom, checked to enclose the whole unit cell."""
    faces = _paired(_voronoi_faces(structure, cutoff))
    # The pyramids on both sides of a face are both counted: the face is two edges.
    filled = sum(attributes[FACE_ATTRIBUTES.index("volume")] for attributes in faces.values())
    if abs(filled / structure.volume - 1.0) > _VOLUME_TOLERANCE:
        raise _OpenCellError(
            f"the Voronoi cells fill {filled / structure.volume:.6f} of the unit cell instead of "
            "all of it; check the structure for atoms that coincide"
        )
    return faces


def _voronoi_faces(structure: Structure, cutoff: float) -> _Faces:
    """Attributes of every face of every atom, as VoronoiNN reports them."""
    finder = VoronoiNN(cutoff=cutoff, compute_adj_neighbors=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            neighbours = finder.get_all_nn_info(structure)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        kind = _OpenCellError if "infinite vertex" in str(error) else FeaturisationError
        raise kind(
            f"pymatgen finds no closed Voronoi cell around every atom ({error}); check that the "
            "cell is not degenerate and no two atoms coincide"
        ) from error
    faces: _Faces = {}
    for site, found in enumerate(neighbours):
        for other in found:
            a, b, c = (int(shift) for shift in other["image"])
            faces[site, int(other["site_index"]), a, b, c] = np.array(
                [other["poly_info"][name] for name in FACE_ATTRIBUTES], np.float64
            )
    return faces


def _paired(faces: _Faces) -> _Faces:
    """The same faces, each seen from both of its sides with the same attributes."""
    both: _Faces = {}
    for face, attributes in faces.items():
        i, j, a, b, c = face
        opposite = (j, i, -a, -b, -c)
        # A rounding-sized face may be listed from one side only.
        mean = (attributes + faces.get(opposite, attributes)) / 2
        both[face] = both[opposite] = mean
    return both
