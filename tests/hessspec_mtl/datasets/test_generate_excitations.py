"""Our TDA against PySCF's own, and our Davidson iteration against dense eigenvalues."""

import numpy as np
import pytest

for package in ("pyscf", "tblite", "ase"):
    pytest.importorskip(package, reason="molecules are computed with the extra `generate`")

from pyscf.tdscf import rks

from hessspec_mtl.datasets.generate.excitations import (
    ExcitationSettings,
    Geometry,
    MoleculeFailed,
    bonds_from_distances,
    exchange_correlation_product,
    fitted_coupling,
    frontier,
    ground_state,
    lowest_eigenpairs,
    relaxed_geometry,
    seed_of,
    singlet_excitations,
)

SETTINGS = ExcitationSettings()

FORMALDEHYDE = Geometry(
    np.array([6, 8, 1, 1]),
    np.array([[0, 0, -0.5266], [0, 0, 0.6778], [0, 0.9361, -1.1133], [0, -0.9361, -1.1133]]),
)


@pytest.fixture(scope="module")
def field():
    return ground_state(FORMALDEHYDE, SETTINGS)


def test_our_product_is_that_of_pyscf(field):
    product, diagonal = rks.TDA(field).gen_vind()
    orbitals = frontier(field)
    rows = np.random.default_rng(0).normal(size=(3, diagonal.size))
    dense = np.diag(orbitals.gaps.ravel()) + fitted_coupling(field, orbitals)
    kernel = exchange_correlation_product(field, orbitals)
    ours = rows @ dense + [kernel(row.reshape(orbitals.gaps.shape)).ravel() for row in rows]
    np.testing.assert_allclose(ours, product(rows), atol=1e-10)


def test_energies_and_strengths_are_those_of_pyscf(field):
    reference = rks.TDA(field)
    reference.nstates, reference.conv_tol, reference.verbose = 4, 1e-7, 0
    reference.kernel()
    ours = singlet_excitations(FORMALDEHYDE, SETTINGS)
    np.testing.assert_allclose(ours.energies, reference.e[:2], atol=1e-8)
    np.testing.assert_allclose(ours.strengths, reference.oscillator_strength()[:2], atol=1e-5)


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
    np.testing.assert_array_equal(geometry.positions, again.positions)
    bonds = bonds_from_distances(geometry, SETTINGS.bond_stretch)
    assert bonds == {frozenset(pair) for pair in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5))}
    carbon_oxygen = np.linalg.norm(geometry.positions[0] - geometry.positions[1])
    assert carbon_oxygen == pytest.approx(1.42, abs=0.03)  # angstrom, methanol


def test_seeds_come_from_the_name_and_fit_what_rdkit_takes():
    assert seed_of("CO") != seed_of("CC")
    assert all(0 <= seed_of(name) < 2**31 for name in ("C", "CO", "N#N"))
