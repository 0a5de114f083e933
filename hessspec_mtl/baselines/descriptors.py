"""Rows of numbers for forests: counts of a molecule's fragments, statistics of a composition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from hessspec_mtl.featurize.crystals import Crystal

RADIUS = 2
NUM_BITS = 1024

ELEMENT_PROPERTIES = (
    *("Z", "atomic_mass", "X", "row", "group", "mendeleev_no", "atomic_radius"),
    *("van_der_waals_radius", "electron_affinity", "ionization_energy", "melting_point"),
)
"""Of an element, as pymatgen has them."""


def fragment_counts(smiles: Sequence[str]) -> Float[np.ndarray, "molecules counts"]:
    """Morgan fingerprints of radius 2 as counts, folded to 1,024; columns of zeros are left out.

    Hydrogens that a SMILES string writes out are taken into their atoms first: QM8 writes them
    all. Source: rdkit's `GetMorganGenerator`.
    """
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=NUM_BITS)
    rows = [
        generator.GetCountFingerprintAsNumPy(Chem.RemoveHs(Chem.MolFromSmiles(one)))
        for one in smiles
    ]
    counts = np.asarray(rows, np.float32)
    return counts[:, counts.any(axis=0)]


def composition_statistics(
    crystals: Sequence[Crystal],
) -> Float[np.ndarray, "crystals statistics"]:
    """Mean, deviation, least, most and range of each property over the atoms of a cell, then the
    share of the commonest element, the number of elements, and that of the atoms.

    Nothing of the positions is in it: all orderings of one formula have one row, but for the number
    of atoms. A property that an element lacks is the mean of it over all elements.
    """
    properties = _properties()
    rows = []
    for crystal in crystals:
        values = properties[crystal.atomic_numbers]
        _, counts = np.unique(crystal.atomic_numbers, return_counts=True)
        low, high = values.min(axis=0), values.max(axis=0)
        statistics = (values.mean(axis=0), values.std(axis=0), low, high, high - low)
        others = (counts.max() / counts.sum(), len(counts), len(crystal.atomic_numbers))
        rows.append(np.concatenate([*statistics, others]))
    return np.asarray(rows, np.float32)


@cache
def _properties() -> Float[np.ndarray, "elements properties"]:
    """`ELEMENT_PROPERTIES` by atomic number; row 0 is of no element."""
    import warnings

    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, 113)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without an electronegativity say so
        rows = [[_number(element, name) for name in ELEMENT_PROPERTIES] for element in elements]
    table = np.array([[np.nan] * len(ELEMENT_PROPERTIES), *rows])
    return np.where(np.isnan(table), np.nanmean(table, axis=0)[None], table)


def _number(element: object, name: str) -> float:
    """A property as a number; NaN where there is none."""
    try:
        return float(getattr(element, name))
    except (AttributeError, KeyError, TypeError, ValueError):
        return float("nan")
