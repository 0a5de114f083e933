"""Thirteen atoms: vibrations of a cluster, and the way down from a saddle."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec


def energy(positions):
    """Lennard-Jones, ε = σ = 1."""
    first, second = np.triu_indices(len(positions), 1)
    sixth = ((positions[first] - positions[second]) ** 2).sum(axis=1) ** -3
    return (4 * (sixth**2 - sixth)).sum()


@jax.jit
def relax(positions):
    step = lambda _, x: x - 5e-4 * jax.grad(energy)(x)  # noqa: E731
    return jax.lax.fori_loop(0, 20_000, step, positions)


golden = (1 + 5**0.5) / 2
corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
shell = np.array([np.roll(corner, shift) for corner in corners for shift in range(3)])
icosahedron = np.concatenate([np.zeros((1, 3)), 1.08 * shell / np.linalg.norm(shell[0])])
layers = [(0, 0, 0), *[(np.cos(a), np.sin(a), 0) for a in np.arange(6) * np.pi / 3]]
ring = np.arange(3) * 2 * np.pi / 3 + np.pi / 6
for height in (-(2**0.5) / 3**0.5, 2**0.5 / 3**0.5):  # cuboctahedron: a piece of a crystal
    turn = np.pi / 3 if height > 0 else 0.0
    layers += [(np.cos(a + turn) / 3**0.5, np.sin(a + turn) / 3**0.5, height) for a in ring]
cuboctahedron = 1.1 * np.array(layers)

figure, ax = plt.subplots()
for name, start in (("icosahedron", icosahedron), ("cuboctahedron", cuboctahedron)):
    positions = relax(jnp.asarray(start, float))
    H = hessspec.HessianOperator(energy, positions)
    spectrum = hessspec.density(H, key=jax.random.key(0), num_steps=H.dim)  # 39: exact
    values = np.sort(np.asarray(spectrum.nodes[0]))
    floor = 1e-3 * values[-1]
    ax.plot(
        1 + np.arange(39), values, "o", ms=4, label=f"{name}, E = {float(energy(positions)):.3f}"
    )
    print(
        f"{name}: energy {float(energy(positions)):.3f}, {(values < -floor).sum()} ways down, "
        f"{(np.abs(values) < floor).sum()} free motions"
    )
ax.axhspan(-floor, floor, color="grey", alpha=0.3)
ax.set(yscale="symlog", xlabel="rank", ylabel="force constant, ε/σ²")
ax.set_yscale("symlog", linthresh=1.0)
ax.legend()
