"""Excitation energies and oscillator strengths of a small molecule, from its SMILES alone.

Geometry: ETKDG conformers, MMFF94, then GFN2-xTB. Electronic structure: TDA-PBE0 in the def2-SVP
basis with density fitting. QM8 gives the same four targets (E1, E2, f1, f2) at the CC2 level.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from jaxtyping import Float, Int
from pyscf import dft, gto, lib
from pyscf.tdscf import rks
from rdkit import Chem
from rdkit.Chem import AllChem
from tblite.ase import TBLite


@dataclass(frozen=True)
class ExcitationSettings:
    """Everything that changes the numbers; written beside them."""

    xc: str = "pbe0"
    basis: str = "def2-svp"
    grid_level: int = 0
    num_states: int = 4
    scf_tolerance: float = 1e-9
    residual_tolerance: float = 1e-5
    num_conformers: int = 5
    max_force: float = 0.01


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
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed_of(smiles)
    conformers = list(AllChem.EmbedMultipleConfs(molecule, settings.num_conformers, parameters))
    if not conformers:
        raise MoleculeFailed("no conformer")
    best = conformers[0]
    if AllChem.MMFFHasAllMoleculeParams(molecule):
        outcomes = AllChem.MMFFOptimizeMoleculeConfs(molecule, numThreads=1, maxIters=2000)
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
    if bonds_from_distances(geometry) != {
        frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in molecule.GetBonds()
    }:
        raise MoleculeFailed("bonds changed in relaxation")
    return geometry


def bonds_from_distances(geometry: Geometry, stretch: float = 1.3) -> set[frozenset[int]]:
    """Pairs of atoms closer than `stretch` times the sum of their covalent radii."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(int(number)) for number in geometry.atomic_numbers])
    apart = np.linalg.norm(geometry.positions[:, None] - geometry.positions[None, :], axis=-1)
    close = np.triu(apart < stretch * (radii[:, None] + radii[None, :]), k=1)
    return {frozenset((int(left), int(right))) for left, right in np.argwhere(close)}


def singlet_excitations(geometry: Geometry, settings: ExcitationSettings) -> Excitations:
    """The lowest singlets of TDA-DFT at one geometry.

    Raises:
        MoleculeFailed: if the ground state or one of the first two excitations did not converge.
    """
    lib.num_threads(1)
    field = ground_state(geometry, settings)
    if not field.converged:
        raise MoleculeFailed("ground state not converged")
    response = MolecularOrbitalTDA(field)
    response.nstates = settings.num_states
    response.conv_tol = settings.residual_tolerance
    response.verbose = 0
    response.kernel()
    if len(response.e) < 2 or not np.all(response.converged[:2]):
        raise MoleculeFailed("excitations not converged")
    return Excitations(np.asarray(response.e), np.asarray(response.oscillator_strength()))


def ground_state(geometry: Geometry, settings: ExcitationSettings) -> dft.rks.RKS:
    """PySCF's restricted Kohn-Sham ground state with density fitting, run to convergence."""
    molecule = gto.M(
        atom=list(zip(geometry.atomic_numbers.tolist(), geometry.positions.tolist(), strict=True)),
        basis=settings.basis,
        unit="Angstrom",
        verbose=0,
    )
    field = dft.RKS(molecule, xc=settings.xc).density_fit()
    field.grids.level = settings.grid_level
    field.conv_tol = settings.scf_tolerance
    field.max_cycle = 100
    field.kernel()
    return field


class MolecularOrbitalTDA(rks.TDA):
    """PySCF's TDA with its matrix-vector product kept in the basis of molecular orbitals.

    For singlet excitations of a closed shell and a global hybrid with a share c of exchange,

        (A X)_ia = (e_a - e_i) X_ia
                   + sum_jb [2 (ia|jb) - c (ij|ab) + 2 (ia|f_xc|jb)] X_jb.

    PySCF builds each term from a density matrix over atomic orbitals. Here all but the last are one
    small dense matrix D from density-fitted integrals, and the last is a few matrix products on the
    grid. D, restricted to the block of its `model_size` smallest diagonal entries and to its
    diagonal elsewhere, starts Davidson's iteration with its lowest eigenvectors and preconditions
    it with its shifted inverse. The numbers are PySCF's, in a fraction of the time.
    """

    model_size = 300

    def gen_vind(
        self, mf: dft.rks.RKS | None = None
    ) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
        """The product with A over rows of excitation amplitudes, and the diagonal of gaps."""
        field = self._scf if mf is None else mf
        occupied = field.mo_coeff[:, field.mo_occ > 0]
        virtual = field.mo_coeff[:, field.mo_occ == 0]
        gaps = field.mo_energy[field.mo_occ == 0] - field.mo_energy[field.mo_occ > 0][:, None]
        dense = np.diag(gaps.ravel()) + fitted_coupling(field, occupied, virtual)
        kernel = exchange_correlation_product(field, occupied, virtual)
        self._diagonal = np.diag(dense).copy()
        self._block = np.sort(np.argsort(self._diagonal, kind="stable")[: self.model_size])
        self._block_pairs = np.linalg.eigh(dense[np.ix_(self._block, self._block)])

        def product(rows: np.ndarray) -> np.ndarray:
            rows = np.asarray(rows).reshape(-1, gaps.size)
            return rows @ dense + [kernel(row.reshape(gaps.shape)).ravel() for row in rows]

        return product, gaps.ravel()

    def get_init_guess(
        self, mf: dft.rks.RKS, nstates: int | None = None, *args: object, **kwargs: object
    ) -> np.ndarray:
        """The lowest eigenvectors of the block of D, as rows, two more than states wanted."""
        vectors = self._block_pairs[1][:, : (self.nstates if nstates is None else nstates) + 2]
        guess = np.zeros((vectors.shape[1], len(self._diagonal)))
        guess[:, self._block] = vectors.T
        # PySCF asks for symmetry labels with the guess; there are none without symmetry.
        return (guess, None) if kwargs.get("return_symmetry") else guess

    def get_precond(self, hdiag: np.ndarray) -> Callable[..., np.ndarray]:
        """Rows r and shifts e -> r (M - e)^-1, with M the model of D."""
        values, vectors = self._block_pairs

        def away_from_zero(difference: np.ndarray) -> np.ndarray:
            near = np.abs(difference) < 1e-2
            return np.where(near, np.copysign(1e-2, difference), difference)

        def precondition(rows: np.ndarray, shifts: np.ndarray, *args: object) -> np.ndarray:
            flat = np.atleast_2d(rows)
            shift = np.reshape(shifts, (-1, 1))
            out = flat / away_from_zero(self._diagonal - shift)
            solved = flat[:, self._block] @ vectors / away_from_zero(values - shift)
            out[:, self._block] = solved @ vectors.T
            return out.reshape(np.shape(rows))

        return precondition


def fitted_coupling(
    field: dft.rks.RKS, occupied: np.ndarray, virtual: np.ndarray
) -> Float[np.ndarray, "pairs pairs"]:
    """2 (ia|jb) - c (ij|ab) over pairs ia, jb, from density-fitted three-index integrals."""
    share = field._numint.hybrid_coeff(field.xc)
    three_index = np.concatenate([lib.unpack_tril(block) for block in field.with_df.loop()])
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
    field: dft.rks.RKS, occupied: np.ndarray, virtual: np.ndarray
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
    occ = (atomic @ occupied).transpose(0, 2, 1).copy()  # 4 channels, orbitals, points
    vir = (atomic @ virtual).transpose(0, 2, 1).copy()

    def product(x: np.ndarray) -> np.ndarray:
        moved = x @ vir
        first_order = 2 * (moved * occ[0]).sum(axis=1)
        first_order[1:] += 2 * (occ[1:] * moved[0]).sum(axis=1)
        potential = np.einsum("cdp,dp->cp", kernel, first_order)
        weighted = potential[:, None, :] * occ[0]
        weighted[0] += np.einsum("cp,cip->ip", potential[1:], occ[1:])
        return (weighted @ vir.transpose(0, 2, 1)).sum(axis=0)

    return product
