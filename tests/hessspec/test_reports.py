"""Losses and spectra that were reported as failures of other tools, each with its closed form.

For one task the whole matrix is compared, for two the exact traces, which are made of forms.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import HessianOperator

RNG = np.random.default_rng(0)
POINT = np.array([0.3, 0.7, 1.1, 0.9])
INPUTS, TARGETS = RNG.normal(size=(10, 3)), RNG.normal(size=10)
LABELS = np.eye(4)[RNG.integers(0, 4, 10)]
IMAGE = RNG.normal(size=(4, 4))


def dtype() -> np.dtype:
    return np.dtype(jnp.asarray(0.0).dtype)


def array(values) -> jax.Array:
    return jnp.asarray(values, dtype())


def close(found, truth, units=2e3):
    eps = float(np.finfo(dtype()).eps)
    np.testing.assert_allclose(found, truth, rtol=0, atol=units * eps * np.abs(truth).max())


def doubled(loss):
    return lambda w: loss(w) * array([1.0, -2.0])


# --- losses with derivative rules ---------------------------------------------------------------


@jax.custom_vjp
def ridge(penalty):
    """The solution of (X'X + c) s = X'y; the rule calls it again."""
    gram = array(INPUTS.T @ INPUTS) + penalty * jnp.eye(3, dtype=dtype())
    return jnp.linalg.solve(gram, array(INPUTS.T @ TARGETS))


def ridge_forward(penalty):
    solution = ridge(penalty)
    return solution, (solution, penalty)


def ridge_backward(kept, cotangent):
    solution, penalty = kept
    gram = array(INPUTS.T @ INPUTS) + penalty * jnp.eye(3, dtype=dtype())
    return (-jnp.vdot(jnp.linalg.solve(gram, cotangent), solution),)


ridge.defvjp(ridge_forward, ridge_backward)


def curvature_of_ridge():
    """s = A⁻¹X'y with A = X'X + c has s'' = 2 A⁻²s; here c = 1.5 and the loss is Σ s."""
    inverse = np.linalg.inv(INPUTS.T @ INPUTS + 1.5 * np.eye(3))
    return np.array([[2 * np.sum(inverse @ inverse @ inverse @ INPUTS.T @ TARGETS)]])


@jax.custom_jvp
def cube_root(a):
    """By bisection, which has derivative 0 wherever it has one: only the rule is of any use."""

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        above = middle**3 > a
        return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(a), jnp.full_like(a, 2.0)))
    return (low + high) / 2


cube_root.defjvp(
    lambda primals, tangents: (
        cube_root(*primals),
        tangents[0] / (3.0 * cube_root(*primals) ** 2),
    )
)


@jax.custom_jvp
def one(x):
    return jnp.ones_like(x)


# A rule that the value does not show: d one = x dx, as a trick of estimators of scores has it.
one.defjvp(lambda primals, tangents: (one(*primals), primals[0] * tangents[0]))


@jax.custom_vjp
def cross_entropy(logits):
    """With a penalty on log Z, as T5's losses have it."""
    log_z = jax.nn.logsumexp(logits, axis=1)
    return jnp.mean(log_z - jnp.sum(array(LABELS) * logits, axis=1) + 0.1 * log_z**2)


def cross_entropy_forward(logits):
    log_z = jax.nn.logsumexp(logits, axis=1)
    return cross_entropy(logits), (jax.nn.softmax(logits), log_z)


def cross_entropy_backward(kept, cotangent):
    chances, log_z = kept
    each = (1.0 + 0.2 * log_z)[:, None] * chances - array(LABELS)
    return (cotangent * each / 10.0,)


cross_entropy.defvjp(cross_entropy_forward, cross_entropy_backward)
WEIGHTS = RNG.normal(size=(3, 4))


def curvature_of_cross_entropy():
    """Σ xx' ⊗ [(1 + z log Z)(diag p - pp') + z pp'] / n with z = 0.2."""
    logits = INPUTS @ WEIGHTS
    log_z = np.log(np.exp(logits).sum(axis=1))
    total = np.zeros((12, 12))
    for x, p, log_sum in zip(INPUTS, np.exp(logits - log_z[:, None]), log_z, strict=True):
        inner = (1 + 0.2 * log_sum) * (np.diag(p) - np.outer(p, p)) + 0.2 * np.outer(p, p)
        total += np.kron(np.outer(x, x), inner) / 10
    return total


def cubes_of_the_largest(x):
    """Windows of 3 at strides of 2, so that one entry may be the largest of several."""
    windows = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3), (2, 2), "SAME")
    return jnp.sum(windows**3)


def curvature_of_the_largest():
    entries = np.zeros(16)
    for i in (0, 2):
        for j in (0, 2):
            window = np.full((4, 4), -np.inf)
            window[i : i + 3, j : j + 3] = IMAGE[i : i + 3, j : j + 3]
            entries[window.argmax()] += 6 * window.max()
    return np.diag(entries)


CASES = {
    "a solver whose rule solves again": (
        lambda w: jnp.sum(ridge(w[0])),
        [1.5],
        curvature_of_ridge(),
    ),
    "roots by bisection": (
        lambda w: jnp.sum(cube_root(w)),
        POINT,
        np.diag(-2 / 9 * POINT ** (-5 / 3)),
    ),
    "a rule that its function does not show": (
        lambda w: jnp.sum(one(w) ** 2),
        POINT,
        np.diag(2 * POINT**2 + 2),
    ),
    "cross entropy with a rule for reverse mode": (
        lambda w: cross_entropy(array(INPUTS) @ w),
        WEIGHTS,
        curvature_of_cross_entropy(),
    ),
    "overlapping windows": (cubes_of_the_largest, IMAGE, curvature_of_the_largest()),
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("name", CASES)
def test_the_hessian_is_that_of_the_closed_form(name):
    loss, point, truth = CASES[name]
    close(HessianOperator(loss, array(point)).dense(), truth)
    traces = hessspec.trace(
        HessianOperator(doubled(loss), array(point)), key=jax.random.key(0), progress=False
    )
    close(traces.value, np.trace(truth) * np.array([1.0, -2.0]), units=1e4)


# --- points where a derivative does not exist, or JAX does not find it --------------------------


def by_squares(w):
    return jnp.sum(jnp.exp(-jnp.sum((w - array([[0.1, 0.2], [1.1, 1.2]])) ** 2, axis=1) / 2))


def by_norms(w):
    distances = jnp.linalg.norm(w - array([[0.1, 0.2], [1.1, 1.2]]), axis=1)
    return jnp.sum(jnp.exp(-(distances**2) / 2))


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_kernel_at_one_of_its_centres_is_right_by_squares_and_refused_by_norms(tasks):
    """At distance d the Hessian of exp(-|d|²/2) is (dd' - 1) exp(-|d|²/2), at 0 it is -1."""
    centre = array([[0.1, 0.2]])
    near, far = (loss if tasks == 1 else doubled(loss) for loss in (by_squares, by_norms))
    truth = np.array(-2.0) if tasks == 1 else np.array([-2.0, 4.0])  # and tr (dd' - 1) = 0
    found = hessspec.trace(HessianOperator(near, centre), key=jax.random.key(0), progress=False)
    close(found.value, truth)
    with pytest.raises(ValueError, match=r"not finite .* \(a square root or norm at 0\?\)"):
        hessspec.trace(HessianOperator(far, centre), key=jax.random.key(0), progress=False)


# --- spectra ------------------------------------------------------------------------------------


def springs(positions):
    """A bent chain of atoms: stiff bonds, and soft springs between next-nearest neighbours."""
    bonds = jnp.linalg.norm(positions[1:] - positions[:-1], axis=1)
    angles = jnp.linalg.norm(positions[2:] - positions[:-2], axis=1)
    return 500.0 * jnp.sum((bonds - 1.0) ** 2) + 0.005 * jnp.sum((angles - 1.5) ** 2)


def curvature_of_springs(x):
    """(k/d) [(d - r)(1 - uu') + d uu'] for each spring, with u along it."""
    total = np.zeros((len(x), 3, len(x), 3))
    for step, stiffness, rest in ((1, 1000.0, 1.0), (2, 0.01, 1.5)):
        for i in range(len(x) - step):
            j = i + step
            length = np.linalg.norm(x[j] - x[i])
            along = np.outer(x[j] - x[i], x[j] - x[i]) / length**2
            block = stiffness * ((1 - rest / length) * (np.eye(3) - along) + along)
            total[i, :, i] += block
            total[j, :, j] += block
            total[i, :, j] -= block
            total[j, :, i] -= block
    return total.reshape(3 * len(x), -1)


def test_soft_modes_of_a_molecule_lie_within_the_resolution():
    """In float32 the soft modes and the six motions of the whole are rounding of stiff bonds."""
    turns = np.cumsum([0.3, -0.6, 0.8, -0.5])
    bonds = np.stack([np.cos(turns), np.sin(turns), 0.1 * np.ones(4)], axis=1)
    bonds /= np.linalg.norm(bonds, axis=1, keepdims=True)
    positions = np.concatenate([np.zeros((1, 3)), np.cumsum(bonds, axis=0)])
    found = hessspec.density(
        HessianOperator(springs, array(positions)), key=jax.random.key(0), progress=False
    )
    truth = np.linalg.eigvalsh(curvature_of_springs(positions))
    assert np.abs(found.nodes[0] - truth).max() <= found.resolution
    assert found.resolution < 1e-3 * truth.max()
    low = found.count(-np.inf, 1.0)
    assert low.lower <= 11 <= low.upper  # 15 less the four bonds
