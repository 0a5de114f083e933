"""Elements by their symbols, and the formula that a CIF file gives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pymatgen.core import Element

from hessspec_mtl.featurize.cif.items import Doubts, Items, first_value
from hessspec_mtl.featurize.raw_graph import FeaturisationError

ISOTOPES = {"D": "H", "T": "H"}
ELEMENTS = frozenset(element.symbol for element in Element) - frozenset(ISOTOPES)


@dataclass(frozen=True)
class Formula:
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
        return written(self.counts)


def written(counts: Mapping[str, float]) -> str:
    return " ".join(f"{element}{count:g}" for element, count in sorted(counts.items()))


def formula_of(items: Items) -> Formula | None:
    """The formula that the file gives, or None if it gives none that can be read."""
    text = first_value(items, ["_chemical_formula_sum"])
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
        if match is None or (element := element_named(match[1])) is None:
            return None
        # An element may come twice: hydrogen and its isotopes are one.
        amount = float(match[2]) if match[2] not in ("", ".") else 1.0
        counts[element] = counts.get(element, 0.0) + amount
        half_digit = 0.5 * 10.0 ** -len(match[3]) if match[3] else 0.0
        rounding[element] = rounding.get(element, 0.0) + half_digit
    return Formula({e: n for e, n in counts.items() if n}, rounding)


def check_formula(cell: Mapping[str, int], formula: Formula | None, doubts: Doubts) -> None:
    """Raise if the formula says otherwise, or there is none to settle the doubts."""
    if formula is not None and not formula.confirms(cell):
        raise FeaturisationError(
            f"the atoms of the cell are {written(cell)}, no multiple of the file's formula "
            f"{formula}" + "".join(f"; {doubt}" for doubt in doubts.held)
        )
    if formula is None and doubts.held:
        raise FeaturisationError(
            f"{'; '.join(doubts.held)}; the file gives no formula (_chemical_formula_sum) that "
            "would confirm its atoms"
        )


def element_named(letters: str) -> str | None:
    """The element of a symbol in any case, isotopes being their element."""
    symbol = ISOTOPES.get(letters.title(), letters.title())
    return symbol if symbol in ELEMENTS else None
