"""The symmetry operations of a CIF file: those that it lists, or those of the group it names."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pymatgen.core import Lattice
from pymatgen.io.cif import CifBlock, CifParser
from pymatgen.symmetry.groups import SpaceGroup

from hessspec_mtl.featurize.cif.formula import Formula
from hessspec_mtl.featurize.cif.items import Doubts, Items, column, first_value, number_of, texts
from hessspec_mtl.featurize.raw_graph import FeaturisationError

# A cell that the symmetry operations leave alone has its metric to this share; printed cells are
# right to four digits or more, cells of another crystal system or setting are off by far more.
_METRIC_TOLERANCE = 0.01

# Translations of operations are exact from here on.
_SHIFTS = 24
_PARTS = 5040  # of translations of larger cells: halves to tenths
_TRANSLATION = 2e-3

_GROUP_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_GROUP_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_hall",
    "_space_group_name_hall",
)
_MAGNETIC = ("_space_group_symop_magn", "_space_group_magn")
_NO_GROUP = frozenset({"p1", "1"})
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")

# International Tables A: space groups with "origin choice 1" and "origin choice 2".
_TWO_ORIGINS = frozenset(
    (
        *(48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130),
        *(133, 134, 137, 138, 141, 142, 201, 203, 222, 224, 227, 228),
    )
)

# The spellings that pymatgen looks for.
_PYMATGEN_NAMES = {
    "_symmetry_space_group_name_h-m": "_symmetry_space_group_name_H-M",
    "_space_group_name_h-m_alt": "_space_group_name_H-M_alt",
    "_space_group_name_hall": "_space_group_name_Hall",
    "_space_group_it_number": "_space_group_IT_number",
    "_symmetry_int_tables_number": "_symmetry_Int_Tables_number",
    "_space_group_symop_magn_operation_xyz": "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_centering_xyz": "_space_group_symop_magn_centering.xyz",
    "_space_group_magn_name_bns": "_space_group_magn.name_BNS",
    "_space_group_magn_number_bns": "_space_group_magn.number_BNS",
}


@dataclass(frozen=True, eq=False)
class Operations:
    """The symmetry operations x -> R x + t on fractional coordinates, each once."""

    rotations: Float[np.ndarray, "n 3 3"]
    translations: Float[np.ndarray, "n 3"]

    def __len__(self) -> int:
        return self.rotations.shape[0]

    def images(self, position: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "n 3"]:
        return self.rotations @ position + self.translations

    def products(self) -> "Operations":
        """Every operation after every one."""
        rotations = self.rotations[:, None] @ self.rotations[None]
        translations = self.rotations[:, None] @ self.translations[None, :, :, None]
        shifts = translations[..., 0] + self.translations[:, None]
        return Operations(rotations.reshape(-1, 3, 3), shifts.reshape(-1, 3))

    def names(self) -> Int[np.ndarray, " n"]:
        """A number for each, up to translations of the lattice: digits of R and of t."""
        digits = np.round(self.rotations).reshape(-1, 9).astype(np.int64) + 1
        shifts = np.round(self.translations * _PARTS).astype(np.int64) % _PARTS
        return digits @ 3 ** np.arange(9) + 3**9 * (shifts @ _PARTS ** np.arange(3))


def operations_of(items: Items, doubts: Doubts) -> Operations:
    """Those that the file lists, else those of the group that it names, else the identity."""
    parser = CifParser.from_str("data_none\n")
    named = {
        _PYMATGEN_NAMES.get(name.replace(".", "_"), name): held for name, held in items.items()
    }
    for name in _GROUP_NAMES[:2]:
        # Hexagonal axes (R -3 m :H) are what pymatgen takes for granted.
        held = named.get(_PYMATGEN_NAMES[name])
        if isinstance(held, str):
            named[_PYMATGEN_NAMES[name]] = re.sub(r"^(R.*?)\s*:?\s*H$", r"\1", held.strip())
    block = CifBlock(named, [], "")
    magnetic = any(name.startswith(_MAGNETIC) for name in named)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = parser.get_magsymops(block) if magnetic else parser.get_symops(block)
    doubts.held += texts(caught)
    unique: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
    for operation in found:
        # Translations are twenty-fourths in every setting; 0.333 is a third.
        exact = np.round(operation.translation_vector * _SHIFTS) / _SHIFTS
        near = np.abs(exact - operation.translation_vector) < _TRANSLATION
        shift = np.where(near, exact, operation.translation_vector) % 1.0
        key = (*operation.rotation_matrix.ravel().round(6), *(shift.round(6) % 1.0))
        unique.setdefault(key, (operation.rotation_matrix, shift))
    rotations, translations = zip(*unique.values(), strict=True)
    return Operations(np.array(rotations), np.array(translations))


def check_operations(operations: Operations, lattice: Lattice) -> None:
    """Raise unless the operations are a group that leaves the lengths of the cell as they are."""
    metric = lattice.matrix @ lattice.matrix.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    turned = np.swapaxes(operations.rotations, 1, 2) @ metric @ operations.rotations
    if (np.abs(turned - metric) > _METRIC_TOLERANCE * scale).any():
        raise FeaturisationError(
            f"the symmetry operations do not fit the cell {[round(x, 4) for x in lattice.abc]}, "
            f"{[round(x, 3) for x in lattice.angles]}: they are of another crystal system or "
            "setting; list those of this cell (_symmetry_equiv_pos_as_xyz)"
        )
    products = operations.products()
    if not np.isin(products.names(), operations.names()).all():
        raise FeaturisationError(
            f"the {len(operations)} symmetry operations are no group: two after one another are "
            "not always one of them; correct the list (_symmetry_equiv_pos_as_xyz)"
        )


def check_symmetry_is_known(
    items: Items, operations: Operations, cell: Mapping[str, int], formula: Formula | None
) -> None:
    """Raise if a space group is only named, and the atoms depend on how it is understood.

    Where operations are missing, so are atoms; where the origin is another, atoms are others, and
    24 groups have two choices of it. The file's own count of formula units settles both.
    """
    number, name = first_value(items, _GROUP_NUMBERS), first_value(items, _GROUP_NAMES)
    named = name if name is not None else number
    if named is None or re.sub(r"[\s_'\"]", "", named).lower() in _NO_GROUP:
        return
    listed = any(column(items, name) for name in _OPERATIONS)
    if len(operations) == 1:
        problem = (
            "but has no symmetry operation beside the identity, so that atoms may be missing; list "
            "the operations (_symmetry_equiv_pos_as_xyz), or call the group P 1 if all atoms of "
            "the cell are listed"
        )
    elif not listed and _has_two_origins(name, number):
        problem = (
            "of which there are two choices of the origin, and lists no operations; list them "
            "(_symmetry_equiv_pos_as_xyz)"
        )
    else:
        return
    units = number_of(first_value(items, ["_cell_formula_units_z"]) or "?")
    if formula is None or units is None or formula.units(cell) != round(units[0]):
        raise FeaturisationError(f"it names the space group {named}, {problem}")


def _has_two_origins(name: str | None, number: str | None) -> bool:
    known = number_of(number or "?")
    if known is None and name is not None:
        try:
            known = SpaceGroup(re.sub(r"[\s_]", "", name)).int_number, 0
        except ValueError:
            return False
    return known is not None and round(known[0]) in _TWO_ORIGINS
