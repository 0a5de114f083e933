"""One crystal of a CIF file, or the reason why the file holds none."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core import Structure

from hessspec_mtl.featurize.cif.atoms import atoms_of, sites_of
from hessspec_mtl.featurize.cif.formula import check_formula, formula_of
from hessspec_mtl.featurize.cif.items import Doubts, items_of, lattice_of
from hessspec_mtl.featurize.cif.symmetry import (
    check_operations,
    check_symmetry_is_known,
    operations_of,
)
from hessspec_mtl.featurize.crystals import Crystal, crystal_of


@dataclass(frozen=True)
class CifReading:
    """A crystal, and what was done that a reader of the file would want to know."""

    crystal: Crystal
    notes: tuple[str, ...]


def read_cif(path: Path) -> CifReading:
    """The crystal of a CIF file that holds one.

    Images of an atom under the symmetry operations that are one place to the digits printed (a
    site at .333 .667 .25 in a hexagonal cell) are one atom, at the mean of the images. Where there
    are no type symbols, labels name the elements, with the formula to decide (`HO1` is hydrogen in
    a formula without holmium).

    Raises:
        FeaturisationError: if the file holds no structure or several, or what it lists is not a
            crystal with fully occupied sites; the message names the label and the cause.
    """
    items, warned = items_of(path.read_bytes().decode("utf-8", errors="replace"))
    doubts = Doubts(warned)
    lattice = lattice_of(items)
    operations = operations_of(items, doubts)
    check_operations(operations, lattice)
    formula = formula_of(items)
    atoms = atoms_of(sites_of(items, formula, doubts), operations, lattice, doubts)
    cell = Counter(atom.element for atom in atoms)
    check_formula(cell, formula, doubts)
    check_symmetry_is_known(items, operations, cell, formula)
    structure = Structure(
        lattice, [atom.element for atom in atoms], [atom.position for atom in atoms]
    )
    return CifReading(
        crystal_of(structure, names=[atom.label for atom in atoms]),
        (*doubts.notes, *doubts.held),
    )
