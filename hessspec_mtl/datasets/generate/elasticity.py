"""Relaxed crystal and elastic constants of a metal ordering, with ASE's effective-medium theory.

The elastic tensor is that of free atoms: the second derivatives of the energy in strain and in
displacement are taken by central differences, and the displacements are eliminated,

    C = C0 - B' H^+ B / V,

with V C0 the second derivative in strain, H the force constants of the atoms of one cell and B the
force that a strain causes. It needs no relaxation of strained cells, and H tells whether the atoms
of the cell are at a minimum.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa
from jaxtyping import Float

from .orderings import Ordering


@dataclass(frozen=True)
class ElasticitySettings:
    """Everything that changes the numbers; written beside them.

    Attributes:
        max_force: relaxation ends below it, in eV/angstrom (also for the cell's own forces).
        max_steps: relaxations longer than this count as failed.
        strain: of the central differences.
        displacement: of the central differences, in angstrom.
        min_stiffness: smallest eigenvalue of the elastic tensor, in GPa, that counts as stable.
        min_force_constant: the same for the force constants of the cell's atoms, eV/angstrom².
    """

    max_force: float = 1e-4
    max_steps: int = 300
    strain: float = 2e-3
    displacement: float = 5e-3
    min_stiffness: float = 1.0
    min_force_constant: float = 1e-2


class CrystalFailed(Exception):
    """The ordering has no usable result; the message is the reason that is recorded."""


@dataclass(frozen=True, eq=False)
class ElasticCrystal:
    """A relaxed crystal with its elastic tensor in GPa, in Voigt's order xx yy zz yz xz xy."""

    atoms: Atoms
    stiffness: Float[np.ndarray, "6 6"]


@dataclass(frozen=True)
class Moduli:
    """Voigt-Reuss-Hill averages: bulk and shear modulus in GPa, and the Poisson ratio of both."""

    bulk: float
    shear: float

    @property
    def poisson(self) -> float:
        return (3 * self.bulk - 2 * self.shear) / (6 * self.bulk + 2 * self.shear)


def elastic_crystal(ordering: Ordering, settings: ElasticitySettings) -> ElasticCrystal:
    """The relaxed crystal, if it is stable. About 0.5 s on one core.

    Raises:
        CrystalFailed: not converged, atoms of the cell at a saddle point, or Born's criterion (a
            positive definite elastic tensor) not met.
    """
    atoms = relaxed(ordering, settings)
    force_constants, coupling, clamped = second_derivatives(atoms, settings)
    values, vectors = np.linalg.eigh(force_constants)
    # Three translations of the whole cell cost nothing: they are the smallest in size.
    order = np.argsort(np.abs(values))[3:]
    values, vectors = values[order], vectors[:, order]
    if values.size and values.min() < settings.min_force_constant:
        raise CrystalFailed("atoms of the cell at a saddle point")
    response = vectors.T @ coupling
    softening = response.T @ (response / values[:, None]) / atoms.get_volume()
    stiffness = (clamped - softening) / GPa
    if np.linalg.eigvalsh(stiffness).min() < settings.min_stiffness:
        raise CrystalFailed("elastic tensor not positive definite")
    return ElasticCrystal(atoms, stiffness)


def relaxed(ordering: Ordering, settings: ElasticitySettings) -> Atoms:
    """Cell and positions of least energy near the prototype.

    Raises:
        CrystalFailed: if the relaxation does not converge.
    """
    atoms = Atoms(
        ordering.species,
        cell=ordering.cell,
        scaled_positions=ordering.prototype.fractional,
        pbc=True,
        calculator=EMT(),
    )
    try:
        # ASE's optimisers take a filter in place of atoms, though their annotation does not say so.
        cell_and_atoms: Any = FrechetCellFilter(atoms)
        converged = BFGS(cell_and_atoms, logfile=None).run(
            fmax=settings.max_force, steps=settings.max_steps
        )
    except Exception as error:  # ASE raises several kinds when a cell runs away
        raise CrystalFailed("relaxation failed") from error
    if not converged:
        raise CrystalFailed("relaxation not converged")
    return atoms


def second_derivatives(
    atoms: Atoms, settings: ElasticitySettings
) -> tuple[
    Float[np.ndarray, "coordinates coordinates"],
    Float[np.ndarray, "coordinates 6"],
    Float[np.ndarray, "6 6"],
]:
    """H in eV/angstrom², B in eV/angstrom a unit strain, C0 in eV/angstrom³, all symmetrised."""
    num_coordinates = 3 * len(atoms)
    force_constants = np.empty((num_coordinates, num_coordinates))
    for k in range(num_coordinates):
        forward, backward = (
            displaced(atoms, k, sign * settings.displacement).get_forces().ravel()
            for sign in (1, -1)
        )
        force_constants[k] = (backward - forward) / (2 * settings.displacement)
    coupling = np.empty((num_coordinates, 6))
    clamped = np.empty((6, 6))
    for j in range(6):
        plus, minus = (strained(atoms, j, sign * settings.strain) for sign in (1, -1))
        coupling[:, j] = (minus.get_forces() - plus.get_forces()).ravel() / (2 * settings.strain)
        clamped[:, j] = (plus.get_stress() - minus.get_stress()) / (2 * settings.strain)
    return (force_constants + force_constants.T) / 2, coupling, (clamped + clamped.T) / 2


def displaced(atoms: Atoms, coordinate: int, amount: float) -> Atoms:
    """A copy with one Cartesian coordinate of one atom moved by `amount` angstrom."""
    copy = atoms.copy()
    copy.calc = EMT()
    copy.positions.reshape(-1)[coordinate] += amount
    return copy


def strained(atoms: Atoms, component: int, amount: float) -> Atoms:
    """A copy under one of Voigt's six strains; shears count twice the tensor's component."""
    row, column = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[component]
    deformation = np.eye(3)
    deformation[row, column] += amount / 2
    deformation[column, row] += amount / 2
    copy = atoms.copy()
    copy.calc = EMT()
    copy.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return copy


def voigt_reuss_hill(stiffness: Float[np.ndarray, "6 6"]) -> Moduli:
    """Averages over all orientations of the crystal: the mean of Voigt's and Reuss's bounds.

    Voigt takes the strain, Reuss the stress to be the same in every grain. With S = C^-1,

        9 K_V = tr C_[1-3] + 2 (C12 + C23 + C31),        1/K_R = tr S_[1-3] + 2 (S12 + S23 + S31),
        15 G_V = tr C_[1-3] - (C12 + C23 + C31) + 3 (C44 + C55 + C66),
        15/G_R = 4 tr S_[1-3] - 4 (S12 + S23 + S31) + 3 (S44 + S55 + S66).
    """
    compliance = np.linalg.inv(stiffness)

    def parts(tensor: np.ndarray) -> tuple[float, float, float]:
        diagonal = np.diag(tensor)
        mixed = tensor[0, 1] + tensor[1, 2] + tensor[0, 2]
        return float(diagonal[:3].sum()), float(mixed), float(diagonal[3:].sum())

    axial, mixed, shear = parts(stiffness)
    bulk_voigt = (axial + 2 * mixed) / 9
    shear_voigt = (axial - mixed + 3 * shear) / 15
    axial, mixed, shear = parts(compliance)
    bulk_reuss = 1 / (axial + 2 * mixed)
    shear_reuss = 15 / (4 * axial - 4 * mixed + 3 * shear)
    return Moduli((bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2)
