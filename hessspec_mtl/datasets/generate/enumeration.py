"""Every small molecule that the valence rules allow and the filter keeps.

Molecules are grown atom by atom. Every connected graph has a vertex whose removal leaves it
connected, so joining one new atom to a nonempty set of the atoms of each smaller molecule, with
every choice of bond orders, reaches every molecule of the next size. The filter is hereditary (a
part of an acceptable molecule is acceptable), so it may be applied at every size.
"""

import itertools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from rdkit import Chem

VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1}
HETEROATOMS = frozenset("NOF")
BOND_TYPE = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}

Skeleton: TypeAlias = tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]
"""Heavy atoms, and bonds as (atom, atom, order); hydrogens fill what valence is left."""


def enumerate_molecules(max_heavy_atoms: int) -> tuple[str, ...]:
    """Canonical SMILES of all molecules of C, N, O, F with 1 to `max_heavy_atoms` heavy atoms.

    Neutral, closed-shell, one per constitution (stereoisomers are not told apart), in order of
    size and then of the alphabet. See `acceptable` for what the filter leaves out.

    Raises:
        ValueError: if `max_heavy_atoms` is below 1.
    """
    if max_heavy_atoms < 1:
        raise ValueError(
            f"`max_heavy_atoms` must be at least 1, got {max_heavy_atoms}: "
            "a molecule here has at least one of C, N, O, F."
        )
    generation: dict[str, Skeleton] = {}
    for element in VALENCE:
        skeleton: Skeleton = ((element,), ())
        generation[canonical_smiles(skeleton)] = skeleton
    names = sorted(generation)
    for _ in range(max_heavy_atoms - 1):
        larger: dict[str, Skeleton] = {}
        for skeleton in generation.values():
            for candidate in extensions(skeleton):
                if acceptable(candidate):
                    larger.setdefault(canonical_smiles(candidate), candidate)
        generation = {smiles: larger[smiles] for smiles in sorted(larger)}
        names.extend(generation)
    return tuple(names)


def extensions(skeleton: Skeleton) -> Iterator[Skeleton]:
    """All skeletons with one more atom, joined in every way that the valences allow."""
    elements, bonds = skeleton
    free = [VALENCE[element] for element in elements]
    for left, right, order in bonds:
        free[left] -= order
        free[right] -= order
    new = len(elements)
    for orders in itertools.product(*(range(min(room, 3) + 1) for room in free)):
        if not any(orders):
            continue
        added = tuple((atom, new, order) for atom, order in enumerate(orders) if order)
        for element, valence in VALENCE.items():
            if sum(orders) <= valence:
                yield (*elements, element), (*bonds, *added)


def acceptable(skeleton: Skeleton) -> bool:
    """Whether a molecule of this skeleton is one that chemistry, and GFN2-xTB, would keep.

    Left out: fluorine on a heteroatom, oxygen on oxygen, cumulated double bonds, a triple bond in
    a ring, a carbon-carbon double bond in a three-membered ring, and chains of four or more of
    nitrogen and oxygen.
    """
    elements, bonds = skeleton
    neighbours: dict[int, set[int]] = {atom: set() for atom in range(len(elements))}
    double_bonds = [0] * len(elements)
    for left, right, order in bonds:
        pair = {elements[left], elements[right]}
        if "F" in pair and (pair == {"F"} or pair & (HETEROATOMS - {"F"})):
            return False
        if pair == {"O"}:
            return False
        neighbours[left].add(right)
        neighbours[right].add(left)
        if order == 2:
            double_bonds[left] += 1
            double_bonds[right] += 1
    if max(double_bonds) > 1:
        return False
    for left, right, order in bonds:
        if order == 3 and _joined_without(neighbours, left, right):
            return False
        in_three_ring = neighbours[left] & neighbours[right]
        if order == 2 and elements[left] == elements[right] == "C" and in_three_ring:
            return False
    chain_atoms = {atom for atom, element in enumerate(elements) if element in "NO"}
    return not any(_has_path(neighbours, chain_atoms, (atom,), 4) for atom in chain_atoms)


def _has_path(
    neighbours: dict[int, set[int]], allowed: set[int], path: tuple[int, ...], length: int
) -> bool:
    """Whether `path` can be continued within the `allowed` atoms to `length` atoms."""
    return len(path) == length or any(
        _has_path(neighbours, allowed, (*path, atom), length)
        for atom in neighbours[path[-1]] & allowed - set(path)
    )


def _joined_without(neighbours: dict[int, set[int]], left: int, right: int) -> bool:
    """Whether a path joins the two atoms beside their own bond: the bond lies in a ring."""
    seen, frontier = {left}, [atom for atom in neighbours[left] if atom != right]
    while frontier:
        atom = frontier.pop()
        if atom == right:
            return True
        if atom not in seen:
            seen.add(atom)
            frontier.extend(neighbours[atom])
    return False


def canonical_smiles(skeleton: Skeleton) -> str:
    """RDKit's canonical SMILES, hydrogens implicit: the name of the molecule."""
    elements, bonds = skeleton
    molecule = Chem.RWMol()
    for element in elements:
        molecule.AddAtom(Chem.Atom(element))
    for left, right, order in bonds:
        molecule.AddBond(left, right, BOND_TYPE[order])
    Chem.SanitizeMol(molecule)
    return Chem.MolToSmiles(molecule)


def written_out(smiles: str) -> tuple[str, tuple[int, ...]]:
    """The molecule with every hydrogen written as an atom, as QM8's file has it, and its order.

    The second item lists, in the order in which the new string names them, the atoms of rdkit's
    `AddHs(MolFromSmiles(smiles))`.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    explicit = Chem.MolToSmiles(molecule)
    order = molecule.GetPropsAsDict(includePrivate=True, includeComputed=True)
    return explicit, tuple(order["_smilesAtomOutputOrder"])


def heavy_atoms(smiles: str) -> int:
    """Number of atoms other than hydrogen."""
    return Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()


def molecule_queue(num_molecules: int, seed: int) -> tuple[str, ...]:
    """The first `num_molecules` to compute: all with at most 4 heavy atoms, then a draw from 5.

    The draw is a permutation of all molecules with 5 heavy atoms, so a longer queue begins with
    every shorter one, and a run that was stopped early can be continued.
    """
    names = enumerate_molecules(5)
    sizes = np.array([heavy_atoms(name) for name in names])
    small = [name for name, size in zip(names, sizes, strict=True) if size < 5]
    large = [name for name, size in zip(names, sizes, strict=True) if size == 5]
    drawn = np.random.default_rng(seed).permutation(len(large))
    queue = (*small, *(large[index] for index in drawn))
    if not 1 <= num_molecules <= len(queue):
        raise ValueError(
            f"`num_molecules` must lie in [1, {len(queue)}], the molecules with at most 5 heavy "
            f"atoms, got {num_molecules}."
        )
    return queue[:num_molecules]
