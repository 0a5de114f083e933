"""What holds for every method: rules for zeros, NaN and one task, and the way into optax."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hessspec_mtl import weighting as w

KEY = jax.random.key(0)
METHODS = {
    "equal": w.equal,
    "fixed": lambda: w.fixed([1.0, 2.0, 3.0]),
    "random": lambda: w.random_weights(KEY),
    "uncertainty": w.uncertainty,
    "average": lambda: w.dynamic_weight_average(2),
    "famo": w.famo,
    "gradnorm": w.gradnorm,
    "inverse norm": w.inverse_gradient_norm,
    "pcgrad": lambda: w.pcgrad(KEY),
    "imtl": w.imtl_g,
    "aligned": w.aligned_mtl,
    "mgda": w.mgda,
    "cagrad": w.cagrad,
    "nash": w.nash_mtl,
    "curvature": w.inverse_curvature,
}
BY_GRADIENTS = [name for name, made in METHODS.items() if made().needs_gramian]
LOSSES = jnp.array([0.5, 2.0, 1.0])
GRADIENTS = np.array([[1.0, 0.0, 0.5], [-0.3, 2.0, 0.0], [0.4, 0.2, -1.0]])


@cache
def compiled(name: str):
    """Of a method: itself, and its update as one program."""
    method = METHODS[name]()
    return method, jax.jit(method.update)


def weights_of(name: str, losses, gradients) -> np.ndarray:
    """The first weights of a method."""
    method, update = compiled(name)
    products = jnp.asarray(gradients @ gradients.T, losses.dtype)
    return np.asarray(update(losses, method.init(losses.size), products)[0])


def raw(leaf):
    """An array that NumPy can compare, of a key too."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_finite_gives_weights_that_are_not_and_leaves_the_state(name):
    method, update = compiled(name)
    state = method.init(3)
    products = jnp.asarray(GRADIENTS @ GRADIENTS.T, LOSSES.dtype)
    for losses, gramian in (
        (LOSSES.at[1].set(jnp.nan), products),
        (LOSSES, products.at[0, 2].set(jnp.inf)),
    ):
        if gramian is products or method.needs_gramian:
            found, new = update(losses, state, gramian)
            assert np.isnan(found).all()
            jax.tree.map(lambda a, b: np.testing.assert_array_equal(*map(raw, (a, b))), new, state)


@pytest.mark.parametrize("name", BY_GRADIENTS)
def test_edges_are_weighted_by_rule(name):
    """Orthogonal gradients of one length, equal ones, opposite ones, one alone, none at all.

    A single gradient, or several that are equal, have the weights 1; CAGrad's are longer by what
    its ball leaves room for.
    """
    longer = 1.4 / 1.16 if name == "cagrad" else 1.0
    orthogonal = weights_of(name, jnp.ones(3), 3 * np.eye(3, 5))
    np.testing.assert_allclose(orthogonal, longer, rtol=1e-4)
    alike = weights_of(name, jnp.ones(3), np.repeat(GRADIENTS[:1], 3, axis=0))
    np.testing.assert_allclose(alike, alike[0] * np.ones(3), rtol=1e-3)
    alone = weights_of(name, LOSSES, GRADIENTS * np.array([[1.0], [0.0], [0.0]]))
    np.testing.assert_allclose(alone[0], longer, rtol=1e-4)
    opposite = np.array([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
    found = weights_of(name, jnp.ones(3), opposite)
    # No direction lowers both losses.
    assert np.linalg.norm(found @ opposite) <= 1e-2 * np.linalg.norm(opposite)
    assert np.isfinite(weights_of(name, LOSSES, 0 * GRADIENTS)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_GRADIENTS)
def test_a_task_without_a_gradient_leaves_the_others_as_they_would_be_alone(name):
    of_three = weights_of(name, LOSSES, GRADIENTS * np.array([[1.0], [0.0], [1.0]]))
    of_two = weights_of(name, LOSSES[::2], GRADIENTS[::2])
    np.testing.assert_allclose(of_three[::2], of_two, rtol=1e-4)
    assert np.isfinite(of_three).all()


@pytest.mark.parametrize("name", ["nash", "imtl", "inverse norm"])
def test_the_direction_does_not_depend_on_the_scales_of_the_losses(name):
    """Of these three it is claimed: but for a common factor."""
    scales = np.array([1.0, 30.0, 0.02])
    before = weights_of(name, LOSSES, GRADIENTS)
    scaled = LOSSES * jnp.asarray(scales, LOSSES.dtype)
    after = weights_of(name, scaled, scales[:, None] * GRADIENTS)
    ratios = after * scales / before
    np.testing.assert_allclose(ratios, ratios[0] * np.ones(3), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_pure_function_that_runs_inside_a_compiled_loop(name):
    method, update = compiled(name)
    products = jnp.asarray(GRADIENTS @ GRADIENTS.T, LOSSES.dtype)
    later = LOSSES * jnp.array([0.9, 0.7, 1.1])

    def step(update, state):
        found, state = update(LOSSES, state, products)
        return method.after(LOSSES, later, state), found

    _, scanned = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(method.update, s), state, None, 4)
    )(method.init(3))
    state, one_by_one = method.init(3), []
    for _ in range(4):
        state, found = step(update, state)
        one_by_one.append(found)
    np.testing.assert_allclose(scanned, jnp.stack(one_by_one), rtol=1e-3)


def losses_of(params, targets):
    """Two quadratics: |x - a|²/2 and 2 |x - b|², and a head each that the other does not see."""
    first = 0.5 * jnp.sum((params["shared"] - targets[0]) ** 2) + params["heads"]["a"] ** 2
    second = 2.0 * jnp.sum((params["shared"] - targets[1]) ** 2) + params["heads"]["b"] ** 2
    return jnp.stack([first, second])


PARAMS = {"shared": jnp.array([1.0, 2.0, 3.0]), "heads": {"a": jnp.array(0.5), "b": jnp.array(2.0)}}
TARGETS = jnp.array([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]])


def is_shared(path, leaf):
    return path.startswith("shared")


def test_gradients_of_all_tasks_and_their_gramian():
    losses, gradients = w.task_gradients(losses_of, PARAMS, TARGETS)
    np.testing.assert_allclose(losses, losses_of(PARAMS, TARGETS), rtol=1e-6)
    expected = jax.jacrev(losses_of)(PARAMS, TARGETS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradients, expected)
    rows = np.asarray(expected["shared"])
    np.testing.assert_allclose(w.gramian(gradients, is_shared), rows @ rows.T, rtol=1e-6)
    with pytest.raises(ValueError, match="`where` must choose at least one leaf"):
        w.gramian(gradients, lambda path, leaf: False)


def test_a_head_follows_its_own_loss_or_the_weighted_one():
    _, gradients = w.task_gradients(losses_of, PARAMS, TARGETS)
    weights = jnp.array([0.25, 3.0])
    direction = w.combined(weights, gradients, where=is_shared)
    np.testing.assert_allclose(direction["shared"], weights @ gradients["shared"], rtol=1e-6)
    assert (float(direction["heads"]["a"]), float(direction["heads"]["b"])) == (1.0, 4.0)
    direction = w.combined(weights, gradients)
    assert (float(direction["heads"]["a"]), float(direction["heads"]["b"])) == (0.25, 12.0)


@pytest.mark.parametrize("made", [w.nash_mtl, w.mgda])
def test_any_optax_optimizer_takes_it_to_where_no_direction_lowers_both_losses(made):
    """Two quadratics: what cannot be improved for both is the segment between their minima."""
    rates = optax.exponential_decay(0.05, 100, 0.3)
    optimizer = optax.chain(w.as_optax(made(), 2, where=is_shared), optax.sgd(rates))

    @jax.jit
    def step(state, _):
        params, opt_state = state
        losses, gradients = w.task_gradients(losses_of, params, TARGETS)
        updates, opt_state = optimizer.update(gradients, opt_state, params, losses=losses)
        return (optax.apply_updates(params, updates), opt_state), losses

    (params, _), losses = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), None, 500)
    x, (a, b) = np.asarray(params["shared"]), np.asarray(TARGETS)
    along = (x - a) @ (b - a) / ((b - a) @ (b - a))
    assert -0.01 < along < 1.01
    assert np.linalg.norm(x - a - along * (b - a)) < 0.01
    assert abs(params["heads"]["a"]) < 1e-3
    assert (np.asarray(losses)[-1] < np.asarray(losses)[0]).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`num_tasks` must be at least 1, got 0"):
        w.equal().init(0)
    with pytest.raises(ValueError, match=r"`losses` must have shape \(tasks,\), got \(1, 3\)"):
        w.equal().update(LOSSES[None], ())
    with pytest.raises(ValueError, match="`gramian` is what MGDA weighs by"):
        w.mgda().update(LOSSES, ())
    with pytest.raises(ValueError, match=r"`gramian` must have shape \(3, 3\) for 3 losses"):
        w.mgda().update(LOSSES, (), jnp.eye(2))
    for made in (w.famo, w.inverse_curvature):
        with pytest.raises(ValueError, match="is told of more than gradients and losses"):
            w.as_optax(made(), 2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: w.fixed([1.0, -2.0]), "`weights` must be finite numbers, none negative"),
        (lambda: w.fixed([0.0, 0.0]), "`weights` must be .* not all 0"),
        (lambda: w.fixed([1.0]).init(3), "`weights` must be one a task, got 1 for 3 tasks"),
        (lambda: w.uncertainty(rate=0), "`rate` must be positive and finite, got 0"),
        (lambda: w.dynamic_weight_average(0), "`window` must be at least 1, got 0"),
        (lambda: w.dynamic_weight_average(3, temperature=0), "`temperature` must be positive"),
        (lambda: w.famo(decay=-1), "`decay` must be at least 0, got -1"),
        (lambda: w.gradnorm(alpha=-1), "`alpha` must be at least 0, got -1"),
        (lambda: w.inverse_gradient_norm(exponent=0), "`exponent` must be positive"),
        (lambda: w.cagrad(c=1), r"`c` must lie in \[0, 1\), got 1"),
        (lambda: w.inverse_curvature(drift=0), "`drift` must be positive"),
    ],
)
def test_settings_that_cannot_be_are_named(made, message):
    with pytest.raises(ValueError, match=message):
        made()
