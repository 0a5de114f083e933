"""One crystal of a CIF file, or the reason why the file holds none: nothing is guessed in silence.

pymatgen splits the file into its items and supplies the symmetry operations of named space groups.
What atoms there are is decided here, since its own reading drops, renames or multiplies atoms where
labels or digits are doubtful, and only warns of it. A reading that is doubtful but possible is
taken if the file's own formula confirms it, and is refused otherwise.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifBlock, CifFile, CifParser
from pymatgen.symmetry.groups import SpaceGroup

from hessspec_mtl.featurize.crystals import Crystal, crystal_of
from hessspec_mtl.featurize.raw_graph import FeaturisationError

# Two places closer than this (angstrom) cannot hold two atoms: the shortest bond is H2's 0.74.
_ONE_PLACE = 0.5

# An occupancy is 1 if it rounds to 1.00.
_FULL = 0.005

# A cell that the symmetry operations leave alone has its metric to this share; printed cells are
# right to four digits or more, cells of another crystal system or setting are off by far more.
_METRIC_TOLERANCE = 0.01

# Translations of operations are exact from here on; so are places made from exact ones (angstrom).
_SHIFTS = 24
_PARTS = 5040  # of translations of larger cells: halves to tenths
_TRANSLATION = 2e-3
_EXACT = 1e-3

_COORDINATES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
_SITE_COLUMNS = (
    *("label", "type_symbol", "fract_x", "fract_y", "fract_z"),
    *("occupancy", "calc_flag", "attached_hydrogens"),
)
_GROUP_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_GROUP_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_hall",
    "_space_group_name_hall",
)
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

_NO_VALUE = ("?", ".", "")

# What pymatgen says of a reading that is as it should be.
_HARMLESS = ("Spacegroup from", "1-line symmetry op", "Defaulting to P1")

_ISOTOPES = {"D": "H", "T": "H"}
_ELEMENTS = frozenset(element.symbol for element in Element) - frozenset(_ISOTOPES)


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
    items, warned = _items_of(path.read_bytes().decode("utf-8", errors="replace"))
    doubts = _Doubts(warned)
    lattice = _lattice_of(items)
    operations = _operations_of(items, doubts)
    _check_operations(operations, lattice)
    formula = _formula_of(items)
    atoms = _atoms_of(_sites_of(items, formula, doubts), operations, lattice, doubts)
    cell = Counter(atom.element for atom in atoms)
    _check_formula(cell, formula, doubts)
    _check_symmetry_is_known(items, operations, cell, formula)
    structure = Structure(
        lattice, [atom.element for atom in atoms], [atom.position for atom in atoms]
    )
    return CifReading(
        crystal_of(structure, names=[atom.label for atom in atoms]),
        (*doubts.notes, *doubts.held),
    )


@dataclass
class _Doubts:
    """What may be wrong with a reading (`held`), and what was put right for certain (`notes`)."""

    held: list[str]
    notes: list[str] = field(default_factory=list)


_Items = Mapping[str, Any]
"""The values of one block by lower-case name: a string, or a list of them for a loop's column."""


def _items_of(text: str) -> tuple[_Items, list[str]]:
    """The block that lists atoms, and what pymatgen warns of in the file."""
    names = re.findall(r"^\s*data_(\S*)", text, flags=re.MULTILINE)
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise FeaturisationError(f"it holds several blocks called data_{repeated[0]}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks = CifFile.from_str(text).data.values()
    listing = [
        items
        for block in blocks
        if _COORDINATES[0] in (items := {name.lower(): held for name, held in block.data.items()})
    ]
    if len(listing) != 1:
        raise FeaturisationError(
            f"it holds {len(listing)} lists of atoms with fractional coordinates, expected one"
        )
    return listing[0], _texts(caught)


def _texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What pymatgen warns of, less what is as it should be."""
    texts = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    return [text for text in texts if not any(known in text for known in _HARMLESS)]


def _column(items: _Items, name: str) -> list[str] | None:
    held = items.get(name)
    return [held] if isinstance(held, str) else held


def _first(items: _Items, names: Sequence[str]) -> str | None:
    """The first of these items that has a value."""
    held = [column[0].strip() for name in names if (column := _column(items, name))]
    return next((value for value in held if value not in _NO_VALUE), None)


def _number(text: str) -> tuple[float, int] | None:
    """A number with or without its uncertainty, 0.333(2), and how many decimals it has."""
    match = re.fullmatch(r"([+-]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE][+-]?\d+)?)(?:\(\d*\)?)?", text)
    if match is None:
        return None
    return float(match[1]), len(match[2] or match[3] or "")


def _lattice_of(items: _Items) -> Lattice:
    parameters = []
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"):
        # The dictionary of CIF says that an angle that is not given is a right one.
        text = _first(items, [f"_cell_{name}"]) or ("90" if "angle" in name else "?")
        number = _number(text)
        if number is None or number[0] <= 0:
            raise FeaturisationError(f"_cell_{name} is {text!r}, expected a number above 0")
        parameters.append(number[0])
    lattice = Lattice.from_parameters(*parameters)
    if not lattice.volume > 0:
        raise FeaturisationError(f"the angles {parameters[3:]} enclose no volume")
    return lattice


@dataclass(frozen=True, eq=False)
class _Operations:
    """The symmetry operations x -> R x + t on fractional coordinates, each once."""

    rotations: Float[np.ndarray, "n 3 3"]
    translations: Float[np.ndarray, "n 3"]

    def __len__(self) -> int:
        return self.rotations.shape[0]

    def images(self, position: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "n 3"]:
        return self.rotations @ position + self.translations

    def products(self) -> "_Operations":
        """Every operation after every one."""
        rotations = self.rotations[:, None] @ self.rotations[None]
        translations = self.rotations[:, None] @ self.translations[None, :, :, None]
        shifts = translations[..., 0] + self.translations[:, None]
        return _Operations(rotations.reshape(-1, 3, 3), shifts.reshape(-1, 3))

    def names(self) -> Int[np.ndarray, " n"]:
        """A number for each, up to translations of the lattice: digits of R and of t."""
        digits = np.round(self.rotations).reshape(-1, 9).astype(np.int64) + 1
        shifts = np.round(self.translations * _PARTS).astype(np.int64) % _PARTS
        return digits @ 3 ** np.arange(9) + 3**9 * (shifts @ _PARTS ** np.arange(3))


def _operations_of(items: _Items, doubts: _Doubts) -> _Operations:
    """Those that the file lists, else those of the space group that it names, else the identity."""
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
    magnetic = any("_magn" in name for name in named)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = parser.get_magsymops(block) if magnetic else parser.get_symops(block)
    doubts.held += [
        text for text in _texts(caught) if not any(known in text for known in _HARMLESS)
    ]
    unique: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
    for operation in found:
        # Translations are twenty-fourths in every setting; 0.333 is a third.
        exact = np.round(operation.translation_vector * _SHIFTS) / _SHIFTS
        near = np.abs(exact - operation.translation_vector) < _TRANSLATION
        shift = np.where(near, exact, operation.translation_vector) % 1.0
        key = (*operation.rotation_matrix.ravel().round(6), *(shift.round(6) % 1.0))
        unique.setdefault(key, (operation.rotation_matrix, shift))
    rotations, translations = zip(*unique.values(), strict=True)
    return _Operations(np.array(rotations), np.array(translations))


def _check_operations(operations: _Operations, lattice: Lattice) -> None:
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


def _check_symmetry_is_known(
    items: _Items, operations: _Operations, cell: Mapping[str, int], formula: "_Formula | None"
) -> None:
    """Raise if the atoms hang on how a space group is to be understood that is only named.

    Atoms are missing where the operations of the group are, and are others where its origin is: 24
    groups have two choices of it. The file's own count of formula units settles both.
    """
    number, name = _first(items, _GROUP_NUMBERS), _first(items, _GROUP_NAMES)
    named = name if name is not None else number
    if named is None or re.sub(r"[\s_'\"]", "", named).lower() in _NO_GROUP:
        return
    listed = any(_column(items, column) for column in _OPERATIONS)
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
    units = _number(_first(items, ["_cell_formula_units_z"]) or "?")
    if formula is None or units is None or formula.units(cell) != round(units[0]):
        raise FeaturisationError(f"it names the space group {named}, {problem}")


def _has_two_origins(name: str | None, number: str | None) -> bool:
    known = _number(number or "?")
    if known is None and name is not None:
        try:
            known = SpaceGroup(re.sub(r"[\s_]", "", name)).int_number, 0
        except ValueError:
            return False
    return known is not None and round(known[0]) in _TWO_ORIGINS


@dataclass(frozen=True)
class _Formula:
    """How many atoms of each element, and by how much the printed digits let that be off."""

    counts: Mapping[str, float]
    rounding: Mapping[str, float]

    def confirms(self, cell: Mapping[str, int]) -> bool:
        """Whether the atoms of the cell are so many formula units, the same for all elements."""
        if set(cell) != set(self.counts):
            return False
        least = max(n / (self.counts[e] + self.rounding[e]) for e, n in cell.items())
        most = min(n / max(self.counts[e] - self.rounding[e], 1e-12) for e, n in cell.items())
        return least <= most * (1 + 1e-9)

    def units(self, cell: Mapping[str, int]) -> int:
        """How many formula units the cell holds, to the nearest."""
        return round(sum(cell.values()) / sum(self.counts.values()))

    def __str__(self) -> str:
        return _written(self.counts)


def _written(counts: Mapping[str, float]) -> str:
    return " ".join(f"{element}{count:g}" for element, count in sorted(counts.items()))


def _formula_of(items: _Items) -> _Formula | None:
    """The formula that the file gives, or None if it gives none that can be read."""
    text = _first(items, ["_chemical_formula_sum"])
    if text is None:
        return None
    # With blanks, symbols may be in capitals (NA CL); without, capitals tell them apart (NaCl).
    words = text.split() if " " in text.strip() else re.findall(r"[A-Z][a-z]?[\d.]*", text)
    if "".join(words) != re.sub(r"\s", "", text):
        return None
    counts: dict[str, float] = {}
    rounding: dict[str, float] = {}
    for word in words:
        match = re.fullmatch(r"([A-Za-z]{1,2})(\d*\.?(\d*))", word)
        if match is None or (element := _element(match[1])) is None:
            return None
        # An element may come twice: hydrogen and its isotopes are one.
        amount = float(match[2]) if match[2] not in ("", ".") else 1.0
        counts[element] = counts.get(element, 0.0) + amount
        half_digit = 0.5 * 10.0 ** -len(match[3]) if match[3] else 0.0
        rounding[element] = rounding.get(element, 0.0) + half_digit
    return _Formula({e: n for e, n in counts.items() if n}, rounding)


def _check_formula(cell: Mapping[str, int], formula: _Formula | None, doubts: _Doubts) -> None:
    """Raise if the formula says otherwise, or there is none to settle the doubts."""
    if formula is not None and not formula.confirms(cell):
        raise FeaturisationError(
            f"the atoms of the cell are {_written(cell)}, no multiple of the file's formula "
            f"{formula}" + "".join(f"; {doubt}" for doubt in doubts.held)
        )
    if formula is None and doubts.held:
        raise FeaturisationError(
            f"{'; '.join(doubts.held)}; the file gives no formula (_chemical_formula_sum) that "
            "would confirm its atoms"
        )


@dataclass(frozen=True, eq=False)
class _Site:
    """An element at a place; `decimals` is how finely its coordinates are printed."""

    label: str
    element: str
    position: Float[np.ndarray, " 3"]
    decimals: int = 0


def _sites_of(items: _Items, formula: _Formula | None, doubts: _Doubts) -> list[_Site]:
    """The lines of the list of atoms that hold one, each fully occupied."""
    columns = {name: _column(items, f"_atom_site_{name}") for name in _SITE_COLUMNS}
    count = len(_column(items, _COORDINATES[0]) or [])
    rows = [
        {name: held[row] for name, held in columns.items() if held is not None}
        for row in range(count)
    ]
    sites = []
    for number, row in enumerate(rows, 1):
        label = row.get("label") or row.get("type_symbol") or f"atom {number}"
        occupancy = _occupancy(label, row)
        if occupancy == 0 or row.get("calc_flag") == "dum":
            doubts.notes.append(f"{label} marks a place without an atom")
            continue
        if abs(occupancy - 1) > _FULL:
            raise FeaturisationError(
                f"{label}: a site is partly occupied ({occupancy:g}); make an ordered approximant "
                "of the structure first"
            )
        hydrogens = _number(row.get("attached_hydrogens", "?"))
        if hydrogens is not None and hydrogens[0] > 0:
            doubts.held.append(f"{label} has {hydrogens[0]:g} hydrogens that may have no site")
        numbers = [_number(row.get(f"fract_{axis}", "?")) for axis in "xyz"]
        if None in numbers:
            raise FeaturisationError(
                f"{label} has no coordinates, or none that are numbers: "
                f"{[row.get(f'fract_{axis}') for axis in 'xyz']}"
            )
        known = [number for number in numbers if number is not None]
        sites.append(
            _Site(
                label=label,
                element=_element_of(label, row.get("type_symbol"), formula, doubts),
                position=np.array([value for value, _ in known]),
                decimals=max(decimals for _, decimals in known),
            )
        )
    return sites


def _occupancy(label: str, row: Mapping[str, str]) -> float:
    text = row.get("occupancy", "?")
    if text in _NO_VALUE:
        return 1.0
    number = _number(text)
    if number is None:
        raise FeaturisationError(f"{label}: the occupancy {text!r} is no number")
    return number[0]


def _element(letters: str) -> str | None:
    """The element of a symbol in any case, isotopes being their element."""
    symbol = _ISOTOPES.get(letters.title(), letters.title())
    return symbol if symbol in _ELEMENTS else None


def _element_of(
    label: str, type_symbol: str | None, formula: _Formula | None, doubts: _Doubts
) -> str:
    """The element by the type symbol (Fe3+, O2-), or by the label where there is none."""
    if type_symbol is not None and type_symbol not in _NO_VALUE:
        letters = re.match(r"[A-Za-z]*", type_symbol)
        element = _element(letters[0]) if letters else None
        # Two elements on one place, "0.8Nb + 0.2Zr", begin with a number.
        if element is None:
            raise FeaturisationError(f"{label}: the type symbol {type_symbol!r} is no element")
        return element
    return _element_of_label(label, formula, doubts)


def _element_of_label(label: str, formula: _Formula | None, doubts: _Doubts) -> str:
    """The element that the letters of a label name, the formula having the last word."""
    letters = (re.match(r"[A-Za-z]*", label) or [""])[0]
    exact = letters in _ELEMENTS or letters in _ISOTOPES
    first = [_element(letters)] if exact else []
    readings = dict.fromkeys([*first, _element(letters[:2]), _element(letters[:1])])
    possible = [e for e in readings if e and (formula is None or e in formula.counts)]
    if exact and possible and possible[0] == _element(letters):
        return possible[0]
    if formula is not None and len(possible) == 1:
        doubts.notes.append(f"{label} was read as {possible[0]}, as the formula asks")
        return possible[0]
    may_be = " or ".join(possible) or "no element"
    if letters.lower().startswith("wat"):
        raise FeaturisationError(
            f"{label} seems to be a water molecule without sites for its hydrogens; list its three "
            "atoms"
        )
    raise FeaturisationError(
        f"{label} has no type symbol, and its letters may mean {may_be}"
        + (f" of the formula {formula}" if formula is not None else "")
        + ", with or without hydrogens; give the element in _atom_site_type_symbol"
    )


def _atoms_of(
    sites: Sequence[_Site], operations: _Operations, lattice: Lattice, doubts: _Doubts
) -> list[_Site]:
    """Every atom of the cell: the orbits of the sites, each atom once."""
    atoms: list[_Site] = []
    for site in sites:
        orbit = _orbit(site, operations, lattice, doubts)
        alike = [atom for atom in atoms if atom.element == site.element]
        if alike:
            apart = _distances(np.array([a.position for a in alike]) - orbit[0], lattice)
            if apart.min() < _ONE_PLACE:
                doubts.held.append(
                    f"{site.label} and {alike[int(apart.argmin())].label} are one place, and were "
                    "taken for one atom"
                )
                continue
        atoms += [_Site(site.label, site.element, position) for position in orbit]
    if not atoms:
        raise FeaturisationError("the unit cell holds no atoms")
    return atoms


def _orbit(
    site: _Site, operations: _Operations, lattice: Lattice, doubts: _Doubts
) -> Float[np.ndarray, "n 3"]:
    """The places of a site under the operations, the first its own.

    The operations that leave the site where it is, to the printed digits, take it to places whose
    mean they leave there exactly. A coordinate with d decimals is off by up to 10^-d / 2, and the
    difference of two rotation matrices has rows with sums of at most 4, so that images of one
    place are at most 2 10^-d of the cell apart along each of its vectors.
    """
    moves = operations.images(site.position) - site.position
    moves -= np.round(moves)
    apart = _distances(moves, lattice)
    stays = apart < _ONE_PLACE
    widest = float(apart[stays].max())
    if widest > 2 * 10.0**-site.decimals * sum(lattice.abc):
        doubts.held.append(
            f"images of {site.label} are {widest:.2g} angstrom apart, more than its digits "
            "explain, and were taken for one atom"
        )
    elif widest > _EXACT:
        doubts.notes.append(
            f"images of {site.label} within {widest:.2g} angstrom are one atom, on a special "
            "position"
        )
    centre = site.position + moves[stays].mean(axis=0)
    images = operations.images(centre) % 1.0
    orbit = [centre % 1.0]
    for image in images:
        if _distances(np.array(orbit) - image, lattice).min() > _EXACT:
            orbit.append(image)
    # Orbit and stabiliser: their sizes multiply to the order of the group, if it is one.
    if len(orbit) * int(stays.sum()) != len(operations):
        raise FeaturisationError(
            f"the {len(operations)} symmetry operations take {site.label} to {len(orbit)} places, "
            f"and {int(stays.sum())} of them leave it where it is: they are no group; correct the "
            "operations or the coordinates"
        )
    return np.array(orbit)


def _distances(differences: Float[np.ndarray, "n 3"], lattice: Lattice) -> Float[np.ndarray, " n"]:
    """Lengths of fractional vectors to the nearest lattice point, where those are short."""
    return np.linalg.norm((differences - np.round(differences)) @ lattice.matrix, axis=1)
