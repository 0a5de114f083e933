"""Energies by positions: force constants are the Hessian, and vibrations its spectrum."""

import jax
import jax.numpy as jnp
import numpy as np

import hessspec


def lennard_jones(positions, species=None):
    """Σ over pairs of 4ε((σ/r)¹² − (σ/r)⁶), ε = σ = 1; atoms of species 0 are not there."""
    first, second = np.triu_indices(len(positions), 1)
    squares = ((positions[first] - positions[second]) ** 2).sum(axis=1)
    sixth = 1 / squares**3
    there = 1.0 if species is None else species[first] * species[second]
    return (4 * there * (sixth**2 - sixth)).sum()


def relaxed(positions, steps=400):
    """Positions at rest, by gradient descent in steps that this potential allows."""
    step = jax.jit(lambda x: x - 2e-3 * jax.grad(lennard_jones)(x))
    for _ in range(steps):
        positions = step(positions)
    return positions


def test_a_dimer_vibrates_with_its_spring_constant_and_moves_freely():
    """At r = 2^(1/6) the spring constant is 72/2^(1/3); stretching two unit masses has twice it."""
    positions = jnp.array([[0.0, 0, 0], [2 ** (1 / 6), 0, 0]])
    operator = hessspec.HessianOperator(lennard_jones, positions)
    values = np.linalg.eigvalsh(np.asarray(operator.dense(), np.float64))
    np.testing.assert_allclose(values[-1], 144 / 2 ** (1 / 3), rtol=1e-5)
    assert np.abs(values[:-1]).max() < 1e-3  # three translations, two rotations


def test_a_trimer_has_three_vibrations_and_the_rest_is_rigid(dense, close):
    """Equilateral, side r: 3k/2 twice and 3k once, k the spring constant of a pair."""
    side = 2 ** (1 / 6)
    triangle = side * np.array([[0, 0, 0], [1, 0, 0], [0.5, 3**0.5 / 2, 0], [0, 0, 9.0]])
    species = jnp.array([1.0, 1, 1, 0])
    operator = hessspec.HessianOperator(lennard_jones, jnp.asarray(triangle, float), data=species)
    close(operator.dense(), dense(lennard_jones, jnp.asarray(triangle, float), species))
    spring = 72 / 2 ** (1 / 3)
    pairs = hessspec.eigenpairs(operator, key=jax.random.key(0), k=3, which="LA", progress=False)
    np.testing.assert_allclose(pairs.values, [3 * spring, 1.5 * spring, 1.5 * spring], rtol=1e-4)


def test_a_relaxed_cluster_is_a_minimum():
    """Thirteen atoms near an icosahedron: six rigid motions, and no direction downhill."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    shell = np.array([np.roll(corner, shift) for corner in corners for shift in range(3)])
    cluster = np.concatenate([np.zeros((1, 3)), shell / np.linalg.norm(shell[0]) * 1.08])
    positions = relaxed(jnp.asarray(cluster, float))
    operator = hessspec.HessianOperator(lennard_jones, positions)
    values = np.linalg.eigvalsh(np.asarray(operator.dense(), np.float64))
    assert np.abs(values[:6]).max() < 1e-3 * values[-1]
    assert values[6] > 1e-2 * values[-1]
