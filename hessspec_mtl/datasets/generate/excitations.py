"""Excitation energies and oscillator strengths of a small molecule, from its SMILES alone.

Geometry: ETKDG conformers, MMFF94, then GFN2-xTB. Electronic structure: TDA-PBE0 in the def2-SVP
basis with density fitting. QM8 gives the same four targets (E1, E2, f1, f2) at the CC2 level.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from jaxtyping import Float, Int
from pyscf import dft, gto, lib
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMultipleConfs, ETKDGv3
from rdkit.Chem.rdForceFieldHelpers import MMFFHasAllMoleculeParams, MMFFOptimizeMoleculeConfs
from tblite.ase import TBLite

GroundState: TypeAlias = Any
"""PySCF's `dft.rks.RKS` with density fitting; its classes are made at run time."""


@dataclass(frozen=True)
class ExcitationSettings:
    """Everything that changes the numbers; written beside them.

    Attributes:
        xc: functional, by PySCF's name.
        basis: basis set, by PySCF's name.
        grid_level: of PySCF's integration grids, 0 the coarsest.
        num_states: excitations wanted.
        num_guards: further ones, converged loosely, so that none of those wanted is overlooked.
        scf_tolerance: change of the ground state's energy at convergence, hartree.
        residual_tolerance: of the states wanted, hartree; the energy's error is quadratic in it.
        guard_tolerance: the same for the guards.
        num_conformers: ETKDG conformers, of which MMFF94 chooses one.
        max_force: where the relaxation with GFN2-xTB ends, eV/angstrom.
        bond_stretch: atoms closer than this many sums of their covalent radii count as bonded. In
            strained rings, atoms that are not bonded come as close as 1.21; bonds reach 1.09.
    """

    xc: str = "pbe0"
    basis: str = "def2-svp"
    grid_level: int = 0
    num_states: int = 2
    num_guards: int = 2
    scf_tolerance: float = 1e-9
    residual_tolerance: float = 1e-5
    guard_tolerance: float = 1e-3
    num_conformers: int = 5
    max_force: float = 0.01
    bond_stretch: float = 1.17


class MoleculeFailed(Exception):
    """The molecule has no usable result; the message is the reason that is recorded."""


@dataclass(frozen=True)
class Geometry:
    """Atoms and their positions in angstrom."""

    atomic_numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]


@dataclass(frozen=True)
class Excitations:
    """Singlet excitations in order of energy: hartree, and oscillator strengths without unit."""

    energies: Float[np.ndarray, " states"]
    strengths: Float[np.ndarray, " states"]


def excite(smiles: str, settings: ExcitationSettings) -> tuple[Geometry, Excitations]:
    """Relaxed geometry and lowest singlets of one molecule. About 1 to 5 s on one core.

    Raises:
        MoleculeFailed: with the reason, if any step fails.
    """
    geometry = relaxed_geometry(smiles, settings)
    return geometry, singlet_excitations(geometry, settings)


def seed_of(smiles: str) -> int:
    """A seed that depends on nothing but the molecule's name."""
    return int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:4]) >> 1


def relaxed_geometry(smiles: str, settings: ExcitationSettings) -> Geometry:
    """The best of a few ETKDG conformers by MMFF94, relaxed with GFN2-xTB.

    Raises:
        MoleculeFailed: no conformer, no convergence, or bonds that differ from the SMILES after
            relaxation.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = ETKDGv3()
    parameters.randomSeed = seed_of(smiles)
    conformers = list(EmbedMultipleConfs(molecule, settings.num_conformers, parameters))
    if not conformers:
        raise MoleculeFailed("no conformer")
    best = conformers[0]
    if MMFFHasAllMoleculeParams(molecule):
        outcomes = MMFFOptimizeMoleculeConfs(molecule, numThreads=1, maxIters=2000)
        # Conformers often meet in one minimum: a rounded energy leaves the choice to the order.
        best = conformers[int(np.argmin([round(energy, 3) for _, energy in outcomes]))]
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    atoms = Atoms(numbers, molecule.GetConformer(best).GetPositions())
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    try:
        converged = BFGS(atoms, logfile=None).run(fmax=settings.max_force, steps=500)
    except Exception as error:  # tblite raises its own and ASE's: the molecule is at fault
        raise MoleculeFailed("GFN2-xTB failed") from error
    if not converged:
        raise MoleculeFailed("geometry not converged")
    geometry = Geometry(numbers, atoms.get_positions())
    if bonds_from_distances(geometry, settings.bond_stretch) != {
        frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in molecule.GetBonds()
    }:
        raise MoleculeFailed("bonds changed in relaxation")
    return geometry


def bonds_from_distances(geometry: Geometry, stretch: float) -> set[frozenset[int]]:
    """Pairs of atoms closer than `stretch` times the sum of their covalent radii."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(int(number)) for number in geometry.atomic_numbers])
    apart = np.linalg.norm(geometry.positions[:, None] - geometry.positions[None, :], axis=-1)
    close = np.triu(apart < stretch * (radii[:, None] + radii[None, :]), k=1)
    return {frozenset((int(left), int(right))) for left, right in np.argwhere(close)}


def singlet_excitations(geometry: Geometry, settings: ExcitationSettings) -> Excitations:
    """The lowest singlets of TDA-DFT at one geometry.

    For a closed shell and a global hybrid with a share c of exchange, amplitudes X over pairs of
    an occupied and a virtual orbital obey A X = E X with

        (A X)_ia = (e_a - e_i) X_ia
                   + sum_jb [2 (ia|jb) - c (ij|ab) + 2 (ia|f_xc|jb)] X_jb.

    All but the last term are one small dense matrix D from density-fitted integrals; the last is a
    few matrix products on the grid. D starts and preconditions Davidson's iteration. The strengths
    are f = (2/3) E |<0|r|n>|^2 with <0|r|n> = sqrt(2) sum_ia X_ia <i|r|a>.

    Raises:
        MoleculeFailed: if the ground state or the excitations did not converge.

    Checked against PySCF's own TDA: tests/hessspec_mtl/datasets/test_generate_excitations.py.
    """
    lib.num_threads(1)
    field = ground_state(geometry, settings)
    if not field.converged:
        raise MoleculeFailed("ground state not converged")
    orbitals = orbitals_of(field)
    dense = np.diag(orbitals.gaps.ravel()) + fitted_coupling(field, orbitals)
    kernel = exchange_correlation_product(field, orbitals)
    shape = orbitals.gaps.shape

    def product(rows: np.ndarray) -> np.ndarray:
        return rows @ dense + [kernel(row.reshape(shape)).ravel() for row in rows]

    energies, amplitudes = lowest_eigenpairs(product, dense, settings)
    dipoles = np.einsum(
        "pi,cpq,qa->iac",
        orbitals.occupied,
        field.mol.intor("int1e_r"),
        orbitals.virtual,
        optimize=True,
    )
    moments = np.sqrt(2) * amplitudes @ dipoles.reshape(-1, 3)
    return Excitations(energies, 2 / 3 * energies * (moments**2).sum(axis=1))


def ground_state(geometry: Geometry, settings: ExcitationSettings) -> GroundState:
    """PySCF's restricted Kohn-Sham ground state with density fitting, run to convergence."""
    molecule = gto.M(
        atom=list(zip(geometry.atomic_numbers.tolist(), geometry.positions.tolist(), strict=True)),
        basis=settings.basis,
        unit="Angstrom",
        verbose=0,
    )
    field: GroundState = dft.RKS(molecule, xc=settings.xc).density_fit()
    field.grids.level = settings.grid_level
    field.conv_tol = settings.scf_tolerance
    field.max_cycle = 100
    field.kernel()
    return field


@dataclass(frozen=True, eq=False)
class Orbitals:
    """Occupied and virtual molecular orbitals as columns, and differences of energy in hartree."""

    occupied: Float[np.ndarray, "basis occupied"]
    virtual: Float[np.ndarray, "basis virtual"]
    gaps: Float[np.ndarray, "occupied virtual"]


def orbitals_of(field: GroundState) -> Orbitals:
    """The orbitals of a converged closed-shell ground state."""
    filled = field.mo_occ > 0
    gaps = field.mo_energy[~filled] - field.mo_energy[filled][:, None]
    return Orbitals(field.mo_coeff[:, filled], field.mo_coeff[:, ~filled], gaps)


def fitted_coupling(field: GroundState, orbitals: Orbitals) -> Float[np.ndarray, "pairs pairs"]:
    """2 (ia|jb) - c (ij|ab) over pairs ia, jb, from density-fitted three-index integrals."""
    share = field._numint.hybrid_coeff(field.xc)
    three_index = np.concatenate([lib.unpack_tril(block) for block in field.with_df.loop()])
    occupied, virtual = orbitals.occupied, orbitals.virtual
    with_virtual = three_index @ virtual
    occ_vir = (occupied.T @ with_virtual).reshape(len(three_index), -1)
    vir_vir = (virtual.T @ with_virtual).reshape(len(three_index), -1)
    occ_occ = (occupied.T @ (three_index @ occupied)).reshape(len(three_index), -1)
    num_occ, num_vir = occupied.shape[1], virtual.shape[1]
    exchange = (occ_occ.T @ vir_vir).reshape(num_occ, num_occ, num_vir, num_vir)
    coupling = 2 * (occ_vir.T @ occ_vir)
    coupling -= share * exchange.transpose(0, 2, 1, 3).reshape(coupling.shape)
    return coupling


def exchange_correlation_product(
    field: GroundState, orbitals: Orbitals
) -> Callable[[np.ndarray], np.ndarray]:
    """X -> 2 sum_jb (ia|f_xc|jb) X_jb on the grid of the ground state, for a GGA.

    With the density and its gradient as four channels, rho^1 = 2 sum X_jb [phi_j phi_b] is formed
    at each point, multiplied by the 4 x 4 kernel, and integrated against [phi_i phi_a].
    """
    integrator = field._numint
    atomic = np.asarray(integrator.eval_ao(field.mol, field.grids.coords, deriv=1))
    density = integrator.eval_rho2(
        field.mol, atomic, field.mo_coeff, field.mo_occ, xctype="GGA", with_lapl=False
    )
    kernel = integrator.eval_xc_eff(field.xc, density, deriv=2, xctype="GGA")[2]
    kernel = kernel * field.grids.weights
    occ = (atomic @ orbitals.occupied).transpose(0, 2, 1).copy()  # 4 channels, orbitals, points
    vir = (atomic @ orbitals.virtual).transpose(0, 2, 1).copy()

    def product(x: np.ndarray) -> np.ndarray:
        moved = x @ vir
        first_order = 2 * (moved * occ[0]).sum(axis=1)
        first_order[1:] += 2 * (occ[1:] * moved[0]).sum(axis=1)
        potential = np.einsum("cdp,dp->cp", kernel, first_order)
        weighted = potential[:, None, :] * occ[0]
        weighted[0] += np.einsum("cp,cip->ip", potential[1:], occ[1:])
        return (weighted @ vir.transpose(0, 2, 1)).sum(axis=0)

    return product


def lowest_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray],
    model: Float[np.ndarray, "n n"],
    settings: ExcitationSettings,
    *,
    block_size: int = 300,
    max_iterations: int = 60,
) -> tuple[Float[np.ndarray, " states"], Float[np.ndarray, "states n"]]:
    """Lowest eigenvalues and orthonormal eigenvectors (rows) of a symmetric matrix, by Davidson.

    `model` is a matrix close to the one that `product` multiplies rows with. Its block of the
    `block_size` smallest diagonal entries gives the first vectors; each iteration adds the
    residuals r of the states that have not converged, as (M - e)^-1 r, where M is that block, and
    the diagonal of `model` outside of it.

    Raises:
        MoleculeFailed: if a residual is still above its tolerance after `max_iterations`.
    """
    diagonal = np.diag(model)
    low = np.sort(np.argsort(diagonal, kind="stable")[:block_size])
    values, vectors = np.linalg.eigh(model[np.ix_(low, low)])
    num_states = min(settings.num_states, len(model))
    num_roots = min(num_states + settings.num_guards, len(model))
    tolerance = np.where(
        np.arange(num_roots) < num_states, settings.residual_tolerance, settings.guard_tolerance
    )

    def solved(residuals: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        out = residuals / away_from_zero(diagonal - shifts[:, None])
        components = residuals[:, low] @ vectors / away_from_zero(values - shifts[:, None])
        out[:, low] = components @ vectors.T
        return out

    basis = np.zeros((min(num_roots + 2, len(low)), len(model)))
    basis[:, low] = vectors[:, : len(basis)].T
    images = product(basis)
    for _ in range(max_iterations):
        ritz, combinations = np.linalg.eigh(basis @ images.T)
        ritz, combinations = ritz[:num_roots], combinations[:, :num_roots].T
        states = combinations @ basis
        residuals = combinations @ images - ritz[:, None] * states
        waiting = np.linalg.norm(residuals, axis=1) > tolerance
        if not waiting.any():
            return ritz[:num_states], states[:num_states]
        new = solved(residuals[waiting], ritz[waiting])
        for _ in range(2):  # one pass of Gram-Schmidt leaves rounding errors, two do not
            new -= new @ basis.T @ basis
            new = np.linalg.qr(new.T)[0].T
        basis = np.concatenate([basis, new])
        images = np.concatenate([images, product(new)])
    raise MoleculeFailed("excitations not converged")


def away_from_zero(difference: np.ndarray, least: float = 1e-2) -> np.ndarray:
    """The same numbers, those smaller than `least` in size replaced by it with their sign."""
    return np.where(np.abs(difference) < least, np.copysign(least, difference), difference)
