"""What a CIF file says, item by item: texts, numbers with their digits, the cell."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymatgen.core import Lattice
from pymatgen.io.cif import CifFile

from hessspec_mtl.featurize.raw_graph import FeaturisationError

COORDINATES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
NO_VALUE = ("?", ".", "")

# What pymatgen says of a reading that is as it should be.
_HARMLESS = ("Spacegroup from", "1-line symmetry op", "Defaulting to P1")


@dataclass
class Doubts:
    """What may be wrong with a reading (`held`), and what was put right for certain (`notes`)."""

    held: list[str]
    notes: list[str] = field(default_factory=list)


Items = Mapping[str, Any]
"""The values of one block by lower-case name: a string, or a list of them for a loop's column."""


def items_of(text: str) -> tuple[Items, list[str]]:
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
        if COORDINATES[0] in (items := {name.lower(): held for name, held in block.data.items()})
    ]
    if len(listing) != 1:
        raise FeaturisationError(
            f"it holds {len(listing)} lists of atoms with fractional coordinates, expected one"
        )
    return listing[0], texts(caught)


def texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What pymatgen warns of, less what is as it should be."""
    texts = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    return [text for text in texts if not any(known in text for known in _HARMLESS)]


def column(items: Items, name: str) -> list[str] | None:
    held = items.get(name)
    return [held] if isinstance(held, str) else held


def first_value(items: Items, names: Sequence[str]) -> str | None:
    """The first of these items that has a value."""
    held = [values[0].strip() for name in names if (values := column(items, name))]
    return next((value for value in held if value not in NO_VALUE), None)


def number_of(text: str) -> tuple[float, int] | None:
    """A number with or without its uncertainty, 0.333(2), and how many decimals it has."""
    match = re.fullmatch(r"([+-]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE][+-]?\d+)?)(?:\(\d*\)?)?", text)
    if match is None:
        return None
    return float(match[1]), len(match[2] or match[3] or "")


def lattice_of(items: Items) -> Lattice:
    parameters = []
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"):
        # The dictionary of CIF says that an angle that is not given is a right one.
        text = first_value(items, [f"_cell_{name}"]) or ("90" if "angle" in name else "?")
        number = number_of(text)
        if number is None or number[0] <= 0:
            raise FeaturisationError(f"_cell_{name} is {text!r}, expected a number above 0")
        parameters.append(number[0])
    lattice = Lattice.from_parameters(*parameters)
    if not lattice.volume > 0:
        raise FeaturisationError(f"the angles {parameters[3:]} enclose no volume")
    return lattice
