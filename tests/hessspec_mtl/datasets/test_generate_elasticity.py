"""Prototypes, elastic tensors and their averages."""

import itertools

import numpy as np
import pytest

pytest.importorskip("ase", reason="crystals are computed with ASE (extra `generate`)")

from hessspec_mtl.datasets.generate.elasticity import (
    CrystalFailed,
    ElasticitySettings,
    elastic_crystal,
    voigt_reuss_hill,
)
from hessspec_mtl.datasets.generate.orderings import METALS, PROTOTYPES, enumerate_orderings

SETTINGS = ElasticitySettings()


def ordering(name):
    (found,) = (each for each in enumerate_orderings() if each.name == name)
    return found


def neighbour_distances(prototype):
    """Distances from each site to all others nearby, in cubic cell edges, and which those are."""
    images = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    sites = prototype.fractional
    others = (sites[:, None] + images[None]).reshape(-1, 3) @ prototype.cell
    distances = np.linalg.norm((sites @ prototype.cell)[:, None] - others[None], axis=-1)
    return distances, np.repeat(np.arange(len(sites)), len(images))


@pytest.mark.parametrize("prototype", PROTOTYPES, ids=lambda each: each.name)
def test_every_prototype_fills_space_as_its_lattice_does(prototype):
    """A quarter of a cubic fcc cell an atom, with 12 nearest neighbours, or 8 if body-centred."""
    body_centred = prototype.name in ("B2", "L2_1")
    volume = abs(np.linalg.det(prototype.cell)) / len(prototype.word)
    distances, _ = neighbour_distances(prototype)
    nearest = np.sqrt(3) / 2 * np.cbrt(0.5) if body_centred else np.sqrt(0.5)
    assert volume == pytest.approx(0.25)
    np.testing.assert_array_equal(
        (np.abs(distances - nearest) < 1e-9).sum(axis=1), 8 if body_centred else 12
    )
    assert (distances < nearest - 1e-9).sum() == len(prototype.word)  # each site itself


@pytest.mark.parametrize("name", ["L1_2", "D0_22", "D0_19"])
def test_minority_atoms_of_these_orderings_never_touch(name):
    (prototype,) = (each for each in PROTOTYPES if each.name == name)
    distances, kinds = neighbour_distances(prototype)
    touching = np.abs(distances - np.sqrt(0.5)) < 1e-9
    letters = np.array(list(prototype.word))
    for site in np.flatnonzero(letters == "B"):
        assert set(letters[kinds[touching[site]]]) == {"A"}


def test_orderings_have_distinct_names_and_metals():
    orderings = enumerate_orderings()
    assert len({each.name for each in orderings}) == len(orderings)
    assert {metal for each in orderings for metal in each.elements} == set(METALS)
    assert all(len(set(each.elements)) == len(each.elements) for each in orderings)


def test_an_isotropic_solid_is_its_own_average():
    """C11 = K + 4G/3, C12 = K - 2G/3, C44 = G: Voigt and Reuss agree."""
    bulk, shear = 140.0, 48.0
    stiffness = np.diag([4 / 3 * shear + bulk] * 3 + [shear] * 3)
    stiffness[:3, :3] += (bulk - 2 / 3 * shear) * (1 - np.eye(3))
    moduli = voigt_reuss_hill(stiffness)
    np.testing.assert_allclose([moduli.bulk, moduli.shear], [bulk, shear], rtol=1e-12)
    young = 9 * bulk * shear / (3 * bulk + shear)
    assert moduli.poisson == pytest.approx(young / (2 * shear) - 1)


def test_averages_of_a_cubic_crystal_are_the_textbook_ones():
    """K = (C11 + 2 C12)/3; G_V = (C11 - C12 + 3 C44)/5; G_R = 5 (C11 - C12) C44 / (4 C44 + ...)."""
    c11, c12, c44 = 173.0, 116.0, 90.0
    stiffness = np.diag([c11] * 3 + [c44] * 3)
    stiffness[:3, :3] += c12 * (1 - np.eye(3))
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    moduli = voigt_reuss_hill(stiffness)
    assert moduli.bulk == pytest.approx((c11 + 2 * c12) / 3)
    assert moduli.shear == pytest.approx((voigt + reuss) / 2)


def test_a_cubic_crystal_has_three_elastic_constants_and_the_bulk_modulus_of_its_energy():
    """K = V E''(V), with the energy of uniformly scaled cells."""
    from ase.calculators.emt import EMT
    from ase.units import GPa

    crystal = elastic_crystal(ordering("L1_2-Cu-Au"), SETTINGS)
    c11, c12, c44 = crystal.stiffness[[0, 0, 3], [0, 1, 3]]
    expected = np.diag([c11] * 3 + [c44] * 3)
    expected[:3, :3] += c12 * (1 - np.eye(3))
    np.testing.assert_allclose(crystal.stiffness, expected, atol=0.05)

    def energy(stretch):
        atoms = crystal.atoms.copy()
        atoms.calc = EMT()
        atoms.set_cell(atoms.cell[:] * (1 + stretch), scale_atoms=True)
        return atoms.get_potential_energy()

    step = 3e-3
    second = (energy(step) - 2 * energy(0.0) + energy(-step)) / step**2
    bulk = second / (9 * crystal.atoms.get_volume()) / GPa
    assert voigt_reuss_hill(crystal.stiffness).bulk == pytest.approx(bulk, rel=2e-3)


def test_relaxed_ions_give_the_same_tensor_as_strained_cells_relaxed_by_hand():
    """Eliminating displacements equals relaxing the atoms in each strained cell."""
    from ase.calculators.emt import EMT
    from ase.optimize import BFGS
    from ase.units import GPa

    crystal = elastic_crystal(ordering("A3-Cu"), SETTINGS)
    strain, column = 2e-3, []
    for sign in (1, -1):
        atoms = crystal.atoms.copy()
        atoms.calc = EMT()
        deformation = np.eye(3)
        deformation[0, 0] += sign * strain
        atoms.set_cell(atoms.cell[:] @ deformation, scale_atoms=True)
        BFGS(atoms, logfile=None).run(fmax=1e-6)
        column.append(atoms.get_stress() / GPa)
    expected = (column[0] - column[1]) / (2 * strain)
    np.testing.assert_allclose(crystal.stiffness[:, 0], expected, atol=0.1)


def test_an_unstable_ordering_fails_with_the_reason():
    with pytest.raises(CrystalFailed, match="elastic tensor not positive definite"):
        elastic_crystal(ordering("B2-Al-Ni"), SETTINGS)
