"""The atoms of a CIF file's cell: sites with their elements, and the orbits of the sites."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pymatgen.core import Lattice

from hessspec_mtl.featurize.cif.formula import ELEMENTS, ISOTOPES, Formula, element_named
from hessspec_mtl.featurize.cif.items import COORDINATES, NO_VALUE, Doubts, Items, column, number_of
from hessspec_mtl.featurize.cif.symmetry import Operations
from hessspec_mtl.featurize.raw_graph import FeaturisationError

# Two places closer than this (angstrom) cannot hold two atoms: the shortest bond is H2's 0.74.
_ONE_PLACE = 0.5

# An occupancy is 1 if it rounds to 1.00.
_FULL = 0.005

# Places that operations make of exact ones are exact to this (angstrom).
_EXACT = 1e-3

_SITE_COLUMNS = (
    *("label", "type_symbol", "fract_x", "fract_y", "fract_z"),
    *("occupancy", "disorder_group", "calc_flag", "attached_hydrogens"),
)


@dataclass(frozen=True, eq=False)
class Site:
    """An element at a place; `decimals` is how finely its coordinates are printed."""

    label: str
    element: str
    position: Float[np.ndarray, " 3"]
    decimals: int = 0


def sites_of(items: Items, formula: Formula | None, doubts: Doubts) -> list[Site]:
    """The lines of the list of atoms that hold one, each fully occupied."""
    columns = {name: column(items, f"_atom_site_{name}") for name in _SITE_COLUMNS}
    count = len(column(items, COORDINATES[0]) or [])
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
        group = row.get("disorder_group", ".")
        if group not in NO_VALUE and row.get("occupancy", "?") in NO_VALUE:
            doubts.held.append(
                f"{label} is an alternative (disorder group {group}) of no occupancy"
            )
        hydrogens = number_of(row.get("attached_hydrogens", "?"))
        if hydrogens is not None and hydrogens[0] > 0:
            doubts.held.append(f"{label} has {hydrogens[0]:g} hydrogens that may have no site")
        numbers = [number_of(row.get(f"fract_{axis}", "?")) for axis in "xyz"]
        if None in numbers:
            raise FeaturisationError(
                f"{label} has no coordinates, or none that are numbers: "
                f"{[row.get(f'fract_{axis}') for axis in 'xyz']}"
            )
        known = [number for number in numbers if number is not None]
        sites.append(
            Site(
                label=label,
                element=_element_of(label, row.get("type_symbol"), formula, doubts),
                position=np.array([value for value, _ in known]),
                decimals=max(decimals for _, decimals in known),
            )
        )
    return sites


def _occupancy(label: str, row: Mapping[str, str]) -> float:
    text = row.get("occupancy", "?")
    if text in NO_VALUE:
        return 1.0
    number = number_of(text)
    if number is None:
        raise FeaturisationError(f"{label}: the occupancy {text!r} is no number")
    return number[0]


def _element_of(
    label: str, type_symbol: str | None, formula: Formula | None, doubts: Doubts
) -> str:
    """The element by the type symbol (Fe3+, O2-), or by the label where there is none."""
    if type_symbol is not None and type_symbol not in NO_VALUE:
        letters = re.match(r"[A-Za-z]*", type_symbol)
        element = element_named(letters[0]) if letters else None
        # Two elements on one place, "0.8Nb + 0.2Zr" or "Nb0.8Zr0.2": no charge has letters.
        if letters is None or element is None or re.search("[A-Z]", type_symbol[letters.end() :]):
            raise FeaturisationError(f"{label}: the type symbol {type_symbol!r} is no element")
        return element
    return _element_of_label(label, formula, doubts)


def _element_of_label(label: str, formula: Formula | None, doubts: Doubts) -> str:
    """The element that the letters of a label name, the formula having the last word."""
    letters = (re.match(r"[A-Za-z]*", label) or [""])[0]
    shared = re.match(r"\W*([A-Z][a-z]?)\d*\s*[,/+&]\s*([A-Z][a-z]?)", label)
    if shared and ELEMENTS.issuperset(shared.groups()):
        raise FeaturisationError(
            f"{label} has no type symbol, and its label names {shared[1]} and {shared[2]} for one "
            "site; make an ordered approximant of the structure first"
        )
    exact = letters in ELEMENTS or letters in ISOTOPES
    first = [element_named(letters)] if exact else []
    readings = dict.fromkeys([*first, element_named(letters[:2]), element_named(letters[:1])])
    possible = [e for e in readings if e and (formula is None or e in formula.counts)]
    if exact and possible and possible[0] == element_named(letters):
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


def atoms_of(
    sites: Sequence[Site], operations: Operations, lattice: Lattice, doubts: Doubts
) -> list[Site]:
    """Every atom of the cell: the orbits of the sites, each atom once."""
    atoms: list[Site] = []
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
        atoms += [Site(site.label, site.element, position) for position in orbit]
    if not atoms:
        raise FeaturisationError("the unit cell holds no atoms")
    return atoms


def _orbit(
    site: Site, operations: Operations, lattice: Lattice, doubts: Doubts
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
