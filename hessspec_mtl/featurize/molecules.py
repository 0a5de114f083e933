"""Molecules as graphs: atoms joined by bonds, read from SMILES by rdkit."""

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from hessspec_mtl.featurize.raw_graph import FeaturisationError, RawGraph

BOND_TYPES = (
    Chem.BondType.SINGLE,
    Chem.BondType.DOUBLE,
    Chem.BondType.TRIPLE,
    Chem.BondType.AROMATIC,
)
"""What an edge of a molecule carries: its place in this tuple."""

# An extension of SMILES in bars: coordinates, labels, radicals (CXSMILES).
_EXTENSION = re.compile(r"\|[^|]*\|")

_BOND_INDEX = {bond_type: index for index, bond_type in enumerate(BOND_TYPES)}


@dataclass(frozen=True, eq=False)
class Molecule:
    """What rdkit makes of one SMILES string.

    Attributes:
        canonical: canonical SMILES; equal for strings that name the same molecule.
        graph: atoms in the order of the string; every bond gives one edge each way.
    """

    canonical: str
    graph: RawGraph


def molecule_of(smiles: str, *, add_hydrogens: bool = False) -> Molecule:
    """The molecule that `smiles` names, its written hydrogens kept as atoms.

    rdkit folds written hydrogens into their neighbours unless told otherwise, which would change
    the graph of every QM8 molecule. Rings that rdkit takes for aromatic get aromatic bonds.

    Args:
        smiles: one molecule; several fragments ("A.B") make one graph that is not connected. Blanks
            around it and an extension in bars (CXSMILES, "CC |...|") are allowed; any other text
            behind it, such as the name in a line of a .smi file, is not.
        add_hydrogens: also make atoms of the hydrogens that the string leaves implicit.

    Raises:
        FeaturisationError: if the string holds more than one molecule, rdkit cannot parse it or
            finds it chemically impossible, an atom is no element, or a bond is neither single,
            double, triple nor aromatic.
    """
    molecule = _parsed(smiles)
    if add_hydrogens:
        molecule = Chem.AddHs(molecule)
    return Molecule(canonical=Chem.MolToSmiles(molecule), graph=_bond_graph(molecule))


def graph_of(smiles: str, *, add_hydrogens: bool = False) -> RawGraph:
    """The graph of `molecule_of(smiles)`."""
    return molecule_of(smiles, add_hydrogens=add_hydrogens).graph


def structure_of(smiles: str, *, add_hydrogens: bool = False) -> Chem.Mol:
    """The rdkit molecule, its atoms in the order of the nodes of `graph_of(smiles)`."""
    molecule = _parsed(smiles)
    return Chem.AddHs(molecule) if add_hydrogens else molecule


def _parsed(smiles: str) -> Chem.Mol:
    _check_one_molecule(smiles)
    options = Chem.SmilesParserParams()
    options.removeHs = False
    # The reason goes into the error instead of rdkit's log on standard error.
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles.strip(), options)
        if molecule is None:
            raise FeaturisationError(f"rdkit cannot read the SMILES {smiles!r}: {_why(smiles)}")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise FeaturisationError(f"{smiles!r} holds a dummy atom (*), which is no element")
    return molecule


def _check_one_molecule(smiles: str) -> None:
    """Raise if rdkit would read a part of the string only, and drop the rest without a word."""
    if not smiles.strip():
        raise FeaturisationError("the SMILES string names no atoms; give at least one")
    for character in smiles.strip():
        # A blank that does not show ends the string for rdkit; so does a subscript.
        if not character.isascii() or not (character.isprintable() or character.isspace()):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise FeaturisationError(
                f"the SMILES {smiles!r} holds {name}, which is no character of SMILES; remove or "
                "replace it"
            )
    _, *rest = smiles.split(maxsplit=1)
    if rest and not _EXTENSION.fullmatch(rest[0].strip()):
        raise FeaturisationError(
            f"{rest[0].strip()!r} stands behind the SMILES in {smiles!r}, which rdkit would drop; "
            "put names into a column of their own, and one molecule into each row"
        )


def _why(smiles: str) -> str:
    """What is wrong with a string that rdkit refused."""
    if smiles.strip().startswith("InChI="):
        return "it is an InChI; give the SMILES of the molecule"
    if ">" in smiles.split()[0]:
        return "it is a reaction (>), or has a dative bond (->); give the SMILES of one molecule"
    options = Chem.SmilesParserParams()
    options.removeHs = False
    options.sanitize = False
    molecule = Chem.MolFromSmiles(smiles, options)
    if molecule is None:
        return "it is not valid SMILES; correct the string"
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(molecule)]
    return "; ".join(problems) or "it does not pass rdkit's sanitisation"


def _bond_graph(molecule: Chem.Mol) -> RawGraph:
    bonds = list(molecule.GetBonds())
    other = sorted({str(b.GetBondType()) for b in bonds if b.GetBondType() not in _BOND_INDEX})
    if other:
        raise FeaturisationError(
            f"bonds of type {', '.join(other)} have no edge feature; write the molecule with "
            "single, double, triple and aromatic bonds"
        )
    first = np.array([bond.GetBeginAtomIdx() for bond in bonds], np.int64)
    second = np.array([bond.GetEndAtomIdx() for bond in bonds], np.int64)
    bond_types = np.array([_BOND_INDEX[bond.GetBondType()] for bond in bonds], np.int64)
    return RawGraph(
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.int64),
        edge_attributes=np.concatenate([bond_types, bond_types]),
        senders=np.concatenate([first, second]),
        receivers=np.concatenate([second, first]),
    )
