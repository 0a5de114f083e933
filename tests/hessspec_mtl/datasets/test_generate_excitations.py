"""Our TDA against PySCF's own, and our Davidson iteration against dense eigenvalues."""

import numpy as np
import pytest

pytest.importorskip("pyscf", reason="molecules are computed with PySCF (extra `generate`)")
pytest.importorskip("tblite", reason="molecules are relaxed with tblite (extra `generate`)")
pytest.importorskip("ase", reason="molecules are relaxed through ASE (extra `generate`)")

from pyscf import lib
from pyscf.tdscf import rks

from hessspec_mtl.datasets.generate.excitations import (
    ExcitationSettings,
    Geometry,
    MoleculeFailed,
    bonds_from_distances,
    exchange_correlation_product,
    fitted_coupling,
    ground_state,
    lowest_eigenpairs,
    orbitals_of,
    relaxed_geometry,
    seed_of,
    singlet_excitations,
)

SETTINGS = ExcitationSettings()

WATER = Geometry(
    np.array([8, 1, 1]), np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the generator: threads of several libraries would fight over so little work."""
    before = lib.num_threads()
    lib.num_threads(1)
    yield
    lib.num_threads(before)


@pytest.fixture(scope="module")
def pyscf_tda():
    """PySCF's own record of the excitations of water, its ground state in `_scf`."""
    response = rks.TDA(ground_state(WATER, SETTINGS))
    response.verbose = 0
    return response


def test_our_product_is_that_of_pyscf(pyscf_tda):
    product, diagonal = pyscf_tda.gen_vind()
    orbitals = orbitals_of(pyscf_tda._scf)
    rows = np.random.default_rng(0).normal(size=(3, diagonal.size))
    dense = np.diag(orbitals.gaps.ravel()) + fitted_coupling(pyscf_tda._scf, orbitals)
    kernel = exchange_correlation_product(pyscf_tda._scf, orbitals)
    ours = rows @ dense + [kernel(row.reshape(orbitals.gaps.shape)).ravel() for row in rows]
    np.testing.assert_allclose(ours, product(rows), atol=1e-10)


def test_energies_and_strengths_are_those_of_pyscf(pyscf_tda):
    """All eigenpairs of PySCF's matrix, and its own formula for the strengths."""
    product, diagonal = pyscf_tda.gen_vind()
    energies, columns = np.linalg.eigh(product(np.eye(diagonal.size)))
    shape = orbitals_of(pyscf_tda._scf).gaps.shape
    pyscf_tda.e = energies[:2]
    # PySCF normalises the amplitudes of a closed shell to 1/2.
    pyscf_tda.xy = [(column.reshape(shape) / np.sqrt(2), 0) for column in columns.T[:2]]
    ours = singlet_excitations(WATER, SETTINGS)
    np.testing.assert_allclose(ours.energies, energies[:2], atol=1e-9)
    np.testing.assert_allclose(ours.strengths, pyscf_tda.oscillator_strength(), atol=1e-6)
    assert ours.strengths[0] > 0.01  # the comparison is not of zeros


@pytest.mark.slow
@pytest.mark.parametrize("smiles", ["N#N", "C#C", "C=C", "N=N", "NN", "C1CC1", "FC(F)F"])
def test_no_state_of_a_symmetric_molecule_is_overlooked(smiles):
    """An iteration never leaves the symmetry species of its first vectors; all eigenvalues show."""
    geometry = relaxed_geometry(smiles, SETTINGS)
    field = ground_state(geometry, SETTINGS)
    orbitals = orbitals_of(field)
    kernel = exchange_correlation_product(field, orbitals)
    units = np.eye(orbitals.gaps.size)
    matrix = np.diag(orbitals.gaps.ravel()) + fitted_coupling(field, orbitals)
    matrix += [kernel(row.reshape(orbitals.gaps.shape)).ravel() for row in units]
    energies = singlet_excitations(geometry, SETTINGS).energies
    np.testing.assert_allclose(energies, np.linalg.eigvalsh(matrix)[:2], atol=1e-8)


def test_davidson_finds_the_lowest_eigenpairs_of_a_matrix_near_its_model():
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(400, 400)) * 2e-3
    model = np.diag(np.linspace(0.2, 3.0, 400)) + (noise + noise.T) / 2
    noise = generator.normal(size=(400, 400)) * 2e-3
    matrix = model + (noise + noise.T) / 2
    values, vectors = lowest_eigenpairs(lambda rows: rows @ matrix, model, SETTINGS)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[:2], atol=1e-8)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    residual = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    assert (residual < SETTINGS.residual_tolerance).all()


def test_an_iteration_that_does_not_converge_fails_with_the_reason():
    matrix = np.diag(np.linspace(0.2, 3.0, 400)) + 0.05
    with pytest.raises(MoleculeFailed, match="excitations not converged"):
        lowest_eigenpairs(
            lambda rows: rows @ matrix, np.diag(np.diag(matrix)), SETTINGS, max_iterations=1
        )


def test_a_relaxed_molecule_has_the_bonds_of_its_smiles_and_depends_on_nothing_else():
    geometry = relaxed_geometry("CO", SETTINGS)
    again = relaxed_geometry("CO", SETTINGS)
    np.testing.assert_allclose(geometry.positions, again.positions, atol=1e-9)
    bonds = bonds_from_distances(geometry, SETTINGS.bond_stretch)
    assert bonds == {frozenset(pair) for pair in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5))}
    carbon_oxygen = np.linalg.norm(geometry.positions[0] - geometry.positions[1])
    assert carbon_oxygen == pytest.approx(1.42, abs=0.03)  # angstrom, methanol


def test_seeds_come_from_the_name_and_fit_what_rdkit_takes():
    assert seed_of("CO") != seed_of("CC")
    assert all(0 <= seed_of(name) < 2**31 for name in ("C", "CO", "N#N"))
