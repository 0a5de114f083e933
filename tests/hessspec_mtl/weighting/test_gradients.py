"""Methods that read the gradients: closed forms, their own conditions, and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from hessspec_mtl.weighting import (
    aligned_mtl,
    cagrad,
    gradnorm,
    imtl_g,
    inverse_gradient_norm,
    mgda,
    nash_mtl,
    pcgrad,
)
from hessspec_mtl.weighting.norms import gradnorm_targets
from hessspec_mtl.weighting.simplex import simplex_minimum

CONFLICT = np.array([[1.0, 0.0], [-0.5, 2.0]])


def weights_of(method, gradients):
    """The first weights of a method for gradients as rows, or for many such at once."""
    count = gradients.shape[-2]
    products = jnp.asarray(gradients @ np.swapaxes(gradients, -1, -2), float)
    state = method.init(count)

    def weigh(products):
        return method.update(jnp.ones(count), state, products)[0]

    weigh = jax.vmap(weigh) if gradients.ndim == 3 else weigh
    return np.asarray(jax.jit(weigh)(products), np.float64)


def each(method, cases):
    """All cases, each with its weights."""
    for gradients in cases.values():
        yield from zip(gradients, weights_of(method, gradients), strict=True)


def smallest(function, count: int) -> float:
    """The smallest value over the simplex by SciPy's SLSQP, the best of three starts."""
    rng, values = np.random.default_rng(0), []
    for start in rng.dirichlet(np.ones(count), 3):
        found = minimize(
            function,
            start,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda x: 1 - x.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        values.append(found.fun)
    return min(values)


def test_pcgrad_projects_each_of_two_gradients_onto_the_others_normal_plane():
    (a, b), product = CONFLICT, CONFLICT[0] @ CONFLICT[1]
    expected = a - product / (b @ b) * b + b - product / (a @ a) * a
    direction = weights_of(pcgrad(jax.random.key(0)), CONFLICT) @ CONFLICT
    np.testing.assert_allclose(direction, expected, rtol=1e-6)
    assert (CONFLICT @ direction > 0).all()
    np.testing.assert_array_equal(weights_of(pcgrad(jax.random.key(0)), np.abs(CONFLICT)), 1.0)


def test_pcgrad_of_many_tasks_is_its_algorithm_for_one_of_the_orders():
    """Algorithm 1 on the vectors themselves, for all orders that could have been drawn."""
    gradients = np.array([[1.0, 0.2, 0.0], [-0.8, 0.5, 0.3], [-0.1, -0.9, 0.4]])
    found = weights_of(pcgrad(jax.random.key(3)), gradients) @ gradients
    possible = [[]]
    for t in range(3):
        others = [u for u in range(3) if u != t]
        rests = []
        for order in (others, others[::-1]):
            rest = gradients[t].copy()
            for u in order:
                if rest @ gradients[u] < 0:
                    rest = rest - rest @ gradients[u] / (gradients[u] @ gradients[u]) * gradients[u]
            rests.append(rest)
        possible = [[*before, rest] for before in possible for rest in rests]
    distances = [np.linalg.norm(sum(rests) - found) for rests in possible]
    assert min(distances) < 1e-5 * np.linalg.norm(found)
    assert np.std(distances) > 1e-3  # the order matters here


def test_mgda_of_two_tasks_is_the_closed_form():
    known = [
        (np.array([[1.0, 0.0], [0.0, 2.0]]), 0.8),  # (g2 - g1)'g2 / |g1 - g2|² = 4/5
        (np.array([[1.0, 0.0], [3.0, 0.5]]), 1.0),  # the first is the shortest of the segment
        (np.array([[2.0, 2.0], [1.0, 0.0]]), 0.0),
        (np.array([[1.0, 1.0], [-3.0, -3.0]]), 0.75),  # opposite: d = 0
    ]
    found = weights_of(mgda(), np.stack([gradients for gradients, _ in known]))
    shares = np.array([share for _, share in known])
    np.testing.assert_allclose(found, 2 * np.stack([shares, 1 - shares], axis=1), atol=2e-5)


def test_mgda_finds_the_shortest_vector_and_it_lowers_every_loss(cases):
    for gradients, weights in each(mgda(), cases):
        count, scale = len(gradients), (gradients**2).sum(axis=1).max()
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(), count, rtol=1e-5)
        direction = weights @ gradients / count
        least = smallest(lambda x, g=gradients, s=scale: (x @ g) @ (x @ g) / s, count)
        assert direction @ direction / scale <= least + 2e-6
        # The shortest d has g_t'd >= |d|² for all t.
        assert (gradients @ direction >= direction @ direction - 3e-6 * scale).all()


def test_cagrad_maximises_the_worst_improvement_within_its_ball(cases):
    c = 0.4
    for gradients, weights in each(cagrad(c=c), cases):
        count, scale = len(gradients), (gradients**2).sum(axis=1).max()
        mean = gradients.mean(axis=0)
        direction = weights @ gradients / count * (1 + c**2)
        radius = c * np.linalg.norm(mean)
        assert np.linalg.norm(direction - mean) <= radius * (1 + 1e-4)

        def dual(x, g=gradients, m=mean, r=radius, s=scale):
            return (x @ g @ m + r * np.linalg.norm(x @ g)) / s

        # Strong duality: the least of the dual is the most that the worst task can have.
        assert (gradients @ direction).min() / scale >= smallest(dual, count) - 2e-5


@pytest.mark.parametrize("name", ["mgda", "cagrad"])
def test_gradients_of_very_unlike_lengths_have_the_direction_that_their_conditions_ask_for(name):
    """Lengths from 1 to 1e-4; an error of the longest gradient's size would turn d around.

    Sufficient for the shortest vector: w >= 0 with mean 1, and g_t'd >= |d|² for all t. For the
    best of the worst in the ball: d = g_0 + Σ x_t g_t with x >= 0 of length c|g_0|, and x_t = 0
    where g_t'd is not the least.
    """
    rng, c = np.random.default_rng(3), 0.4
    many = rng.normal(size=(8, 4, 6)) + 0.5 * rng.normal(size=(8, 1, 6))
    many *= 10 ** rng.uniform(-4, 0, size=(8, 4, 1))
    method = {"mgda": mgda(), "cagrad": cagrad(c=c)}[name]
    for gradients, weights in zip(many, weights_of(method, many), strict=True):
        if name == "mgda":
            direction = weights @ gradients / 4
            assert (weights >= 0).all()
            np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
            assert (gradients @ direction >= direction @ direction * (1 - 1e-4)).all()
            continue
        mean, shares = gradients.mean(axis=0), np.maximum(weights * (1 + c**2) - 1, 0) / 4
        direction = mean + shares @ gradients
        np.testing.assert_allclose(weights @ gradients / 4 * (1 + c**2), direction, rtol=1e-5)
        away = np.linalg.norm(direction - mean) / np.linalg.norm(mean)
        np.testing.assert_allclose(away, c, rtol=1e-3)
        gains = gradients @ direction
        assert shares @ (gains - gains.min()) <= 2e-3 * shares.sum() * abs(gains.min())


def test_cagrad_without_a_radius_is_the_sum_of_the_gradients(cases):
    np.testing.assert_allclose(weights_of(cagrad(c=0.0), cases[2]), 1.0, rtol=1e-5)


def test_nash_mtl_solves_its_condition_and_lowers_every_loss(cases):
    """M w = m / w: that each task's gain times its weight is the same."""
    for gradients, weights in each(nash_mtl(), cases):
        gains = gradients @ (weights @ gradients)
        mean_square = (gradients**2).sum(axis=1).mean()
        np.testing.assert_allclose(gains * weights / mean_square, 1.0, rtol=3e-3)
        assert (weights > 0).all()


def test_nash_mtl_has_the_largest_product_of_gains_among_directions_of_its_length(cases):
    rng = np.random.default_rng(1)
    for gradients, weights in each(nash_mtl(), {4: cases[4]}):
        direction = weights @ gradients
        length = np.linalg.norm(direction)
        best = np.log(gradients @ direction).sum()
        for other in direction + 0.3 * length * rng.normal(size=(200, len(direction))):
            gains = gradients @ other * length / np.linalg.norm(other)
            assert (gains <= 0).any() or np.log(gains).sum() <= best + 1e-4


def test_imtl_g_has_equal_projections_onto_all_gradients(cases):
    for gradients, weights in each(imtl_g(), cases):
        np.testing.assert_allclose(weights.sum(), len(gradients), rtol=1e-4)
        lengths = np.linalg.norm(gradients, axis=1)
        projections = gradients @ (weights @ gradients) / lengths
        scale = np.abs(weights) @ lengths
        assert np.ptp(projections) < 1e-4 * scale
        if len(gradients) == 2:
            np.testing.assert_allclose(weights, 2 / lengths / (1 / lengths).sum(), rtol=1e-3)


def test_imtl_g_raises_every_loss_where_its_weights_cancel_beyond_0():
    """As its sources have it: Σ β_t/|g_t| < 0 for a short gradient between two long ones."""
    gradients = np.array([[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [1e-2, 1e-2, 1e-5]])
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    beta = np.linalg.solve(unit @ unit.T, np.ones(3))
    expected = beta / np.linalg.norm(gradients, axis=1)
    assert expected.sum() < 0
    weights = weights_of(imtl_g(), gradients)
    assert weights.sum() > 0
    assert (gradients @ (weights @ gradients) < 0).all()


def test_aligned_mtl_makes_the_gradients_orthogonal_and_as_long_as_the_least_axis(cases):
    for gradients, weights in each(aligned_mtl(), cases):
        products = gradients @ gradients.T
        values, vectors = np.linalg.eigh(products)
        balance = values[0] ** 0.5 * vectors @ np.diag(values**-0.5) @ vectors.T
        aligned = balance @ gradients
        np.testing.assert_allclose(
            aligned @ aligned.T, values[0] * np.eye(len(values)), atol=1e-10 * values[-1]
        )
        direction = weights @ gradients
        np.testing.assert_allclose(
            direction, aligned.sum(axis=0), atol=2e-3 * np.abs(aligned.sum(axis=0)).max()
        )


def test_aligned_mtl_leaves_out_what_has_no_length():
    """Three gradients in a plane: the null direction of the Gramian has no share."""
    gradients = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    values, vectors = np.linalg.eigh(gradients @ gradients.T)
    kept = vectors[:, 1:] @ np.diag((values[1] / values[1:]) ** 0.5) @ vectors[:, 1:].T
    np.testing.assert_allclose(weights_of(aligned_mtl(), gradients), kept.sum(axis=1), atol=1e-5)


def test_gradnorms_targets_are_the_mean_length_times_the_relative_progress_to_the_power_alpha():
    lengths, losses, initial = jnp.array([1.0, 3.0]), jnp.array([0.5, 0.9]), jnp.array([1.0, 1.0])
    counted = jnp.array([True, True])
    expected = 2.0 * (np.array([0.5, 0.9]) / 0.7) ** 1.5
    np.testing.assert_allclose(
        gradnorm_targets(lengths, losses, initial, counted, 1.5), expected, rtol=1e-6
    )


def test_gradnorm_comes_to_weighted_gradients_of_equal_length_where_progress_is_equal():
    gradients, method = np.diag([1.0, 4.0, 2.0]), gradnorm(rate=0.01)
    products = jnp.asarray(gradients @ gradients.T, float)

    def step(state, _):
        found, state = method.update(jnp.ones(3), state, products)
        return state, found

    _, found = jax.lax.scan(step, method.init(3), None, 800)
    np.testing.assert_allclose(found.sum(axis=1), 3.0, rtol=1e-5)
    lengths = np.asarray(found[-1]) * np.array([1.0, 4.0, 2.0])
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=0.1)  # steps of 0.01 around it


def test_gradnorm_gives_the_task_that_is_behind_the_longer_gradient():
    method, products = gradnorm(rate=0.01), jnp.eye(2)
    _, state = method.update(jnp.ones(2), method.init(2), products)
    behind = jax.jit(lambda state: method.update(jnp.array([0.5, 1.0]), state, products))
    for _ in range(150):
        found, state = behind(state)
    # The fixed point: w_t = mean(w) r_t^1.5, scaled; r = (2/3, 4/3).
    expected = np.array([2 / 3, 4 / 3]) ** 1.5
    np.testing.assert_allclose(found, 2 * expected / expected.sum(), rtol=0.1)


def test_inverse_norms_make_all_weighted_gradients_equally_long(cases):
    for gradients, weights in each(inverse_gradient_norm(), cases):
        lengths = weights * np.linalg.norm(gradients, axis=1)
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
        np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-5)


def test_a_simplex_minimum_at_a_corner_an_edge_and_inside():
    """½|x - p|² is smallest at the projection of p: known where p is beyond a face."""
    known = [
        ([3.0, 0.0, -1.0], [True, True, True], [1.0, 0.0, 0.0]),
        ([0.7, 0.5, -1.0], [True, True, True], [0.6, 0.4, 0.0]),
        ([0.4, 0.6, 0.3], [True, True, True], [0.3, 0.5, 0.2]),
        ([0.4, 5.0, 0.2], [True, False, True], [0.6, 0.0, 0.4]),
    ]

    def nearest(point, counted):
        return simplex_minimum(lambda x: (x - point, jnp.eye(3)), counted, point.dtype)

    points, counted, expected = map(np.array, zip(*known, strict=True))
    found = jax.jit(jax.vmap(nearest))(jnp.asarray(points), jnp.asarray(counted))
    np.testing.assert_allclose(found, expected, atol=5e-5)
