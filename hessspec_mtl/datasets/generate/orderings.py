"""Ordered arrangements of up to three metals on close-packed and body-centred lattices.

Most are superlattices: equal planes of atoms stacked by one vector, each plane of one kind of
atom, spelled as a word. `AB` along [001] of face-centred cubic is L1_0, along [111] L1_1; `AAB`
along [110] is MoPt2. The names are Strukturbericht symbols where there is one.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
"""What ASE's effective-medium theory describes, in order of atomic number."""

FCC_CONSTANT: Mapping[str, float] = {
    "Al": 4.00, "Ni": 3.49, "Cu": 3.59, "Pd": 3.88, "Ag": 4.06, "Pt": 3.92, "Au": 4.06,
}  # fmt: skip
"""Cubic cell edges in angstrom, rounded: where relaxations start, nothing else."""


Vector: TypeAlias = Sequence[float]


@dataclass(frozen=True, eq=False)
class Prototype:
    """A pattern of sites, in units of the cubic fcc cell edge (at equal volume an atom).

    Attributes:
        name: Strukturbericht symbol, or lattice, direction and word.
        cell: rows are the cell vectors.
        fractional: sites in units of the cell vectors.
        word: one letter a site; equal letters are equal elements.
    """

    name: str
    cell: Float[np.ndarray, "3 3"]
    fractional: Float[np.ndarray, "sites 3"]
    word: str

    @property
    def letters(self) -> tuple[str, ...]:
        """The kinds of site, A first."""
        return tuple(sorted(set(self.word)))


@dataclass(frozen=True, eq=False)
class Ordering:
    """A prototype whose letters stand for elements."""

    prototype: Prototype
    elements: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.prototype.name}-{'-'.join(self.elements)}"

    @property
    def species(self) -> tuple[str, ...]:
        """Element of each site."""
        kinds = dict(zip(self.prototype.letters, self.elements, strict=True))
        return tuple(kinds[letter] for letter in self.prototype.word)

    @property
    def cell(self) -> Float[np.ndarray, "3 3"]:
        """Cell vectors in angstrom, at the mean of the elements' atomic volumes (Vegard)."""
        volume = np.mean([FCC_CONSTANT[element] ** 3 for element in self.species])
        return self.prototype.cell * np.cbrt(volume)


def superlattice(name: str, first: Vector, second: Vector, step: Vector, word: str) -> Prototype:
    """Planes spanned by `first` and `second`, one a letter of `word`, each moved by `step`."""
    layers = len(word)
    cell = np.array([first, second, layers * np.array(step)], float)
    sites = np.zeros((layers, 3))
    sites[:, 2] = np.arange(layers) / layers
    return Prototype(name, cell, sites, word)


def stacking(name: str, positions: str, word: str) -> Prototype:
    """Close-packed layers in positions A, B or C of the stacking, one kind of atom a layer."""
    edge = np.sqrt(0.5)
    height = np.sqrt(1 / 3)
    layers = len(word)
    cell = np.array(
        [[edge, 0, 0], [-edge / 2, edge * np.sqrt(0.75), 0], [0, 0, layers * height]], float
    )
    shift = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    sites = np.array(
        [(*shift[position], layer / layers) for layer, position in enumerate(positions)]
    )
    return Prototype(name, cell, sites, word)


# Planes of the face-centred cubic lattice: two vectors in the plane and a step to the next one.
FCC_PLANES: Mapping[str, tuple[Vector, Vector, Vector]] = {
    "001": ([0.5, 0.5, 0], [-0.5, 0.5, 0], [0.5, 0, 0.5]),
    "110": ([0.5, -0.5, 0], [0, 0, 1], [0.5, 0, 0.5]),
    "111": ([0.5, -0.5, 0], [0, 0.5, -0.5], [0.5, 0.5, 0]),
}

CUBIC_SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])

# Two close-packed layers of four sites: twice the edge of the hexagonal cell in both directions.
_DOUBLE = np.array([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]])
_HEXAGONAL = np.array(
    [[np.sqrt(2), 0, 0], [-np.sqrt(0.5), np.sqrt(1.5), 0], [0, 0, 2 * np.sqrt(1 / 3)]]
)
# An orthorhombic cell of two close-packed layers: rows along the edge and across it.
_ORTHORHOMBIC = np.diag([np.sqrt(0.5), np.sqrt(1.5), 2 * np.sqrt(1 / 3)])
_BCC_EDGE = np.cbrt(0.5)  # of the body-centred cell with the volume of two atoms

PROTOTYPES: tuple[Prototype, ...] = (
    superlattice("A1", *FCC_PLANES["001"], "A"),
    stacking("A3", "AB", "AA"),
    stacking("A3'", "ABAC", "AAAA"),
    superlattice("L1_0", *FCC_PLANES["001"], "AB"),
    superlattice("L1_1", *FCC_PLANES["111"], "AB"),
    stacking("B_h", "AB", "AB"),
    Prototype(
        "B19",
        _ORTHORHOMBIC,
        np.array([[0, 0, 0], [0.5, 0.5, 0], [0, 1 / 3, 0.5], [0.5, 5 / 6, 0.5]]),
        "ABAB",
    ),
    superlattice("fcc[001]AABB", *FCC_PLANES["001"], "AABB"),
    superlattice("fcc[110]AABB", *FCC_PLANES["110"], "AABB"),
    superlattice("fcc[111]AABB", *FCC_PLANES["111"], "AABB"),
    Prototype("B2", np.eye(3) * _BCC_EDGE, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), "AB"),
    superlattice("fcc[001]AAB", *FCC_PLANES["001"], "AAB"),
    superlattice("fcc[110]AAB", *FCC_PLANES["110"], "AAB"),
    superlattice("fcc[111]AAB", *FCC_PLANES["111"], "AAB"),
    Prototype("L1_2", np.eye(3), CUBIC_SITES, "BAAA"),
    Prototype(
        "D0_22",
        np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 1]]),
        np.array([[0, 0, 0], [0.5, 0.5, 0], [0.75, 0.25, 0.5], [0.25, 0.75, 0.5]]),
        "BAAA",
    ),
    Prototype(
        "D0_19",
        _HEXAGONAL,
        np.array(
            [(x, y, 0) for x, y in _DOUBLE] + [(x + 1 / 6, y + 1 / 3, 0.5) for x, y in _DOUBLE]
        ),
        "BAAAABAA",
    ),
    superlattice("fcc[111]AAAB", *FCC_PLANES["111"], "AAAB"),
    superlattice("fcc[001]ABC", *FCC_PLANES["001"], "ABC"),
    superlattice("fcc[111]ABC", *FCC_PLANES["111"], "ABC"),
    Prototype("fcc-A2BC", np.eye(3), CUBIC_SITES, "BCAA"),
    Prototype(
        "L2_1",
        np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * _BCC_EDGE,
        np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]),
        "BCAA",
    ),
)


def enumerate_orderings() -> tuple[Ordering, ...]:
    """Every prototype with every choice of distinct metals that makes a different crystal.

    Letters that appear equally often may be exchanged without change in all prototypes here, so
    for those one order of the elements is enough.
    """
    orderings = []
    for prototype in PROTOTYPES:
        counts = [prototype.word.count(letter) for letter in prototype.letters]
        for elements in itertools.permutations(METALS, len(counts)):
            ascending = all(
                METALS.index(elements[i]) < METALS.index(elements[j])
                for i, j in itertools.combinations(range(len(counts)), 2)
                if counts[i] == counts[j]
            )
            if ascending:
                orderings.append(Ordering(prototype, elements))
    return tuple(orderings)
