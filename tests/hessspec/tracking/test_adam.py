"""The scale of Adam against the steps that optax takes, in every wrapping of its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

optax = pytest.importorskip("optax")

B1, B2, EPS = 0.9, 0.95, 1e-3
HYPER = {"b1": B1, "b2": B2, "eps": EPS}
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.fixture(autouse=True)
def _as_optax_needs_it():
    """Its arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), PARAMS)


def after(optimiser, steps=3):
    state = optimiser.init(PARAMS)
    for step in range(steps):
        _, state = optimiser.update(gradients(step), state, PARAMS)
    return state


def expected(steps=3, eps_root=0.0):
    """By the recurrence in float64."""
    nu = jax.tree.map(lambda p: np.zeros(p.shape), PARAMS)
    for step in range(steps):
        squares = jax.tree.map(lambda g: np.asarray(g, np.float64) ** 2, gradients(step))
        nu = jax.tree.map(lambda n, s: B2 * n + (1 - B2) * s, nu, squares)
    corrected = jax.tree.map(lambda n: n / (1 - B2**steps), nu)
    return jax.tree.map(lambda n: (np.sqrt(n + eps_root) + EPS) ** -0.5, corrected)


def half_of_squares(params):
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in params.values())


def agrees(found, truth):
    assert jax.tree.structure(found) == jax.tree.structure(truth)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-6)


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.adam(1e-3, **HYPER),
        optax.adamw(1e-3, **HYPER),
        optax.chain(optax.clip_by_global_norm(1e9), optax.scale_by_adam(**HYPER), optax.scale(-1)),
        optax.inject_hyperparams(optax.adam)(1e-3, **HYPER),
        optax.masked(optax.adam(1e-3, **HYPER), {"w": True, "b": True}),
        optax.adam(optax.linear_schedule(1e-3, 0.0, 9), **HYPER),
    ],
    ids=["adam", "adamw", "chained", "injected", "masked", "scheduled"],
)
def test_the_scale_is_that_of_the_recurrence_in_every_wrapping(optimiser):
    agrees(hessspec.adam_scale(after(optimiser), b2=B2, eps=EPS), expected())


def test_the_first_step_of_adam_is_the_gradient_scaled_twice():
    """Step 1: m̂ = g, so the update is -lr D² g."""
    optimiser = optax.adam(0.5, **HYPER, eps_root=1e-4)
    updates, state = optimiser.update(gradients(0), optimiser.init(PARAMS), PARAMS)
    scale = hessspec.adam_scale(state, b2=B2, eps=EPS, eps_root=1e-4)
    agrees(jax.tree.map(lambda d, g: -0.5 * d**2 * g, scale, gradients(0)), updates)
    agrees(scale, expected(1, eps_root=1e-4))


def test_several_steps_of_gradients_are_one_step_of_adam():
    optimiser = optax.MultiSteps(optax.adam(1e-3, **HYPER), every_k_schedule=2)
    state = optimiser.init(PARAMS)
    for step in (0, 0, 1, 1):
        _, state = optimiser.update(gradients(step), state, PARAMS)
    agrees(hessspec.adam_scale(state, b2=B2, eps=EPS), expected(2))


def test_what_is_masked_has_no_scale_and_groups_of_parameters_are_put_together():
    masked = after(optax.masked(optax.adam(1e-3, **HYPER), {"w": True, "b": False}))
    found = hessspec.adam_scale(masked, b2=B2, eps=EPS)
    assert len(jax.tree.leaves(found)) == 1
    np.testing.assert_allclose(found["w"], expected()["w"], rtol=3e-6)
    groups = {"slow": optax.adam(1e-4, **HYPER), "fast": optax.adam(1e-2, **HYPER)}
    parted = after(optax.partition(groups, {"w": "slow", "b": "fast"}))
    agrees(hessspec.adam_scale(parted, b2=B2, eps=EPS), expected())


def test_it_scales_the_hessian_of_those_parameters():
    scale = hessspec.adam_scale(after(optax.adam(1e-3, **HYPER)), b2=B2, eps=EPS)
    hessian = hessspec.HessianOperator(
        lambda p: 0.5 * sum(jnp.sum(x**2) for x in p.values()), PARAMS
    )
    d = np.concatenate([np.ravel(expected()[name]) for name in ("b", "w")])
    np.testing.assert_allclose(hessian.congruent(scale).dense(), np.diag(d**2), rtol=1e-5)


def test_the_threshold_is_where_frozen_adam_on_a_quadratic_begins_to_grow():
    """The recurrence of the docstring, a little below and above 2 (1 + b1) / ((1 - b1) lr)."""
    threshold = 2 * (1 + B1) / ((1 - B1) * 0.1)
    sizes = []
    for curvature in (0.99 * threshold, 1.01 * threshold):
        y, m = 1.0, 0.0
        for _ in range(2000):
            m = B1 * m + (1 - B1) * curvature * y
            y -= 0.1 * m
        sizes.append(abs(y) + abs(0.1 * m))
    assert sizes[0] < 1e-3
    assert sizes[1] > 1e3


@pytest.mark.any_dtype
def test_states_without_a_scale_are_refused():
    with pytest.raises(ValueError, match="must have taken a step"):
        hessspec.adam_scale(optax.adam(1e-3).init(PARAMS), b2=B2, eps=EPS)
    with pytest.raises(ValueError, match=r"must hold a state of Adam.*found only .*TraceState"):
        hessspec.adam_scale(optax.sgd(1e-3, momentum=0.9).init(PARAMS), b2=B2, eps=EPS)
    twice = optax.chain(optax.scale_by_adam(**HYPER), optax.scale_by_adam(**HYPER))
    with pytest.raises(ValueError, match="several states of Adam for one parameter"):
        hessspec.adam_scale(after(twice), b2=B2, eps=EPS)
    injected = after(optax.inject_hyperparams(optax.adam)(1e-3, **HYPER))
    with pytest.raises(ValueError, match="`b2` must be that of the optimiser, whose state holds"):
        hessspec.adam_scale(injected, b2=0.999, eps=EPS)
    with pytest.raises(ValueError, match=r"`b2` must lie in \[0, 1\)"):
        hessspec.adam_scale(injected, b2=1.5, eps=EPS)
    for eps in (np.nan, np.inf):
        with pytest.raises(ValueError, match="`eps_root` must be finite and not negative"):
            hessspec.adam_scale(after(optax.adam(1e-3, **HYPER)), b2=B2, eps=eps)
