"""Losses with derivative rules, loops and solvers: each in an order of modes that JAX can do."""

from functools import partial

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from jax.experimental.ode import odeint

import hessspec
from hessspec import Batches, GaussNewtonOperator, HessianOperator
from hessspec._operators.modes import Modes, least

POINT = np.array([0.3, 0.7, 1.1, 0.9])
USUAL, TWICE_REVERSE = "forward over reverse", "reverse over reverse"


def point():
    return jnp.asarray(POINT, jnp.asarray(0.0).dtype)


def close(found, truth, units=1e3):
    eps = float(jnp.finfo(jnp.asarray(0.0).dtype).eps)
    np.testing.assert_allclose(found, truth, rtol=0, atol=units * eps * np.abs(truth).max())


# --- losses and their Hessians ------------------------------------------------------------------


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda cosine, g: (cosine * g,))


@jax.custom_vjp
def cube(x):
    return x**3


def cube_forward(x):
    """Calls the function itself, whose rule forward mode cannot enter, and needs what it gives."""
    y = cube(x)
    return y, (x, y)


cube.defvjp(cube_forward, lambda kept, g: (3.0 * kept[1] / kept[0] * g,))


@jax.custom_jvp
def sixth(x):
    return x**3 / 6.0


# Nothing shows this rule but a second derivative.
sixth.defjvp(
    lambda primals, tangents: (sixth(*primals), cube(primals[0]) ** (2 / 3) * tangents[0] / 2)
)


def sine_thrice(x):
    return jnp.sin(jnp.sin(jnp.sin(x)))


def by_while(x):
    _, y = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))
    return y


def by_scan(x):
    return jax.lax.scan(lambda y, _: (jnp.sin(y), None), x, None, length=3)[0]


def by_checkpointed_loop(x):
    def body(carry):
        return carry[0] + 1, jnp.sin(carry[1])

    loop = partial(eqxi.while_loop, kind="checkpointed", max_steps=4)
    return loop(lambda carry: carry[0] < 3, body, (0, x))[1]


def thrice_curved(w):
    inner, middle = np.sin(w), np.sin(np.sin(w))
    return (
        -np.sin(middle) * (np.cos(inner) * np.cos(w)) ** 2
        - np.cos(middle) * np.sin(inner) * np.cos(w) ** 2
        - np.cos(middle) * np.cos(inner) * np.sin(w)
    )


def cube_root(a):
    def solve(f, x):
        def newton(_, y):
            return y - f(y) / (3.0 * y**2)

        return jax.lax.fori_loop(0, 40, newton, x)

    return jax.lax.custom_root(
        lambda x: x**3 - a, jnp.ones_like(a), solve, lambda g, y: y / g(jnp.ones_like(y))
    )


def inverse(w):
    ones = jnp.ones_like(w)
    return jax.lax.custom_linear_solve(lambda x: w * x, ones, lambda _, b: b / w, symmetric=True)


def largest_of_pairs(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (2,), "VALID")


def times_the_sum(w):
    return jax.vmap(lambda x: x * jax.lax.psum(x, "all"), axis_name="all")(w)


ORDINARY = {
    "scan": (lambda w: jnp.sum(by_scan(w)), np.diag(thrice_curved(POINT))),
    "checkpoint": (
        lambda w: jnp.sum(jax.checkpoint(sine_thrice)(w)),
        np.diag(thrice_curved(POINT)),
    ),
    "custom_linear_solve": (lambda w: jnp.sum(inverse(w)), np.diag(2 / POINT**3)),
    "fft": (lambda w: jnp.sum(jnp.abs(jnp.fft.fft(w)) ** 2), 2.0 * POINT.size * np.eye(POINT.size)),
    "max-pooling": (lambda w: jnp.sum(largest_of_pairs(w**3)), np.diag(6 * POINT * [0, 1, 1, 0])),
    "psum": (lambda w: jnp.sum(times_the_sum(w)), 2.0 * np.ones((POINT.size, POINT.size))),
}
WITHOUT_FORMS = {
    "custom_vjp": (lambda w: jnp.sum(sine(w) ** 2), np.diag(2 * np.cos(2 * POINT))),
    "checkpointed loop": (
        lambda w: jnp.sum(by_checkpointed_loop(w)),
        np.diag(thrice_curved(POINT)),
    ),
}
BACKWARD_ONLY = {
    "a rule that calls its function": (lambda w: jnp.sum(cube(w)), np.diag(6 * POINT)),
    "a custom_jvp with such a rule": (lambda w: jnp.sum(sixth(w)), np.diag(POINT)),
}
LOSSES = {
    **{name: (*case, Modes()) for name, case in ORDINARY.items()},
    "custom_root": (lambda w: jnp.sum(cube_root(w)), np.diag(-2 / 9 * POINT ** (-5 / 3)), Modes()),
    **{name: (*case, Modes(USUAL, forms=False)) for name, case in WITHOUT_FORMS.items()},
    **{name: (*case, Modes(TWICE_REVERSE, forms=False)) for name, case in BACKWARD_ONLY.items()},
}


def doubled(loss):
    return lambda *arguments: jnp.stack([loss(*arguments), 2.0 * loss(*arguments)])


# In float64 one of each kind: the order of modes is the same.
IN_BOTH = ("custom_root", "custom_vjp", "a custom_jvp with such a rule")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in IN_BOTH else pytest.mark.any_dtype) for n in LOSSES]
)
def test_products_and_traces_are_those_of_the_closed_form(name):
    loss, truth, modes = LOSSES[name]
    one, two = (HessianOperator(f, point()) for f in (loss, doubled(loss)))
    assert one.plan.modes == two.plan.modes == modes
    close(one.dense(), truth)
    found = hessspec.trace(two, key=jax.random.key(0), progress=False)
    close(found.value, np.trace(truth) * np.array([1, 2]))


@pytest.mark.any_dtype
@pytest.mark.parametrize("name", ["custom_vjp", "a rule that calls its function"])
def test_the_way_taken_is_in_the_plan(name):
    loss, truth, _ = LOSSES[name]
    found = hessspec.density(loss, point(), jax.random.key(0), progress=False)
    close(np.unique(found.nodes), np.sort(np.diagonal(truth)))
    assert (TWICE_REVERSE in found.product_plan) == (name in BACKWARD_ONLY)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_blocks_of_products_in_reverse_over_reverse_are_those_of_single_rows(rematerialize):
    loss, truth, _ = LOSSES["a rule that calls its function"]
    hessian = HessianOperator(loss, point(), rematerialize=rematerialize)
    block = jnp.asarray(np.random.default_rng(0).normal(size=(3, POINT.size)), hessian.dtype)
    close(hessian.rows(block), np.asarray(block) @ truth)


@pytest.mark.any_dtype
def test_the_initial_value_of_an_ode_has_its_curvature():
    """u' = -r u, observed at three times: so H_ii = Σ 4 t² u0² exp(-2 r t)."""
    times, start = np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0])
    rates = np.array([0.5, 1.5])

    def loss(r):
        solution = odeint(
            lambda u, t, r: -r * u, jnp.asarray(start, r.dtype), jnp.asarray(times, r.dtype), r
        )
        return jnp.sum(solution**2)

    hessian = HessianOperator(loss, jnp.asarray(rates, point().dtype))
    decay = np.exp(-2 * rates * times[:, None])
    truth = np.diag(np.sum(4 * times[:, None] ** 2 * start**2 * decay, axis=0))
    # The solver's own tolerance is 1.4e-8, and rounding in float32.
    np.testing.assert_allclose(hessian.dense(), truth, rtol=0, atol=1e-5)
    assert TWICE_REVERSE in hessian.product_plan


# --- a loop without reverse mode ----------------------------------------------------------------


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_loop_without_reverse_mode_has_a_trace_by_forms_alone(tasks):
    def loss(w):
        return jnp.sum(by_while(w))

    hessian = HessianOperator(loss if tasks == 1 else doubled(loss), point())
    factor = 1.0 if tasks == 1 else np.array([1.0, 2.0])
    truth = thrice_curved(POINT).sum()
    assert hessian.product_plan == "forms v'Hv alone, forward over forward"
    found = hessspec.trace(hessian, key=jax.random.key(0), progress=False)
    close(found.value, truth * factor)
    assert found.systematic is None  # nothing to compare forms with
    # A diagonal H has no variance over random signs.
    sampled = hessspec.trace(hessian, key=jax.random.key(0), num_matvecs=3, progress=False)
    close(sampled.value, truth * factor)
    entries = hessspec.diagonal(hessian, key=jax.random.key(0), progress=False)
    close(entries.value, np.multiply.outer(factor, thrice_curved(POINT)))


@pytest.mark.any_dtype
def test_what_needs_products_says_which_primitive_has_no_reverse_mode():
    hessian = HessianOperator(lambda w: jnp.sum(by_while(w)), point())
    for verb in (hessspec.density, partial(hessspec.eigenpairs, k=1)):
        with pytest.raises(
            ValueError, match=r"`lax.while_loop` has no reverse mode; use `lax.scan`"
        ):
            verb(hessian, key=jax.random.key(0), progress=False)
    with pytest.raises(ValueError, match=r"`hessspec.trace` works, by forms"):
        hessspec.hvp(hessian, vector=point())


@pytest.mark.any_dtype
def test_a_callback_without_a_rule_is_named_with_the_way_out():
    def loss(w):
        shape = jax.ShapeDtypeStruct(w.shape, w.dtype)
        return jax.pure_callback(np.sin, shape, w, vmap_method="sequential").sum()

    for f in (loss, doubled(loss)):
        with pytest.raises(ValueError, match=r"`jax.pure_callback` has no deriv.*`jax.custom_jvp`"):
            hessspec.hvp(f, point(), point())


@jax.custom_jvp
def sine_without_nan(x):
    return jnp.sin(x)


# Not linear in the tangent, so that it cannot be transposed: JAX fails without a word.
sine_without_nan.defjvp(
    lambda primals, tangents: (
        sine_without_nan(*primals),
        jnp.nan_to_num(jnp.cos(primals[0]) * tangents[0]),
    )
)


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_rule_that_cannot_be_transposed_has_a_trace_by_forms_and_is_explained(tasks):
    def loss(w):
        return jnp.sum(sine_without_nan(w))

    hessian = HessianOperator(loss if tasks == 1 else doubled(loss), point())
    found = hessspec.trace(hessian, key=jax.random.key(0), progress=False)
    close(found.value, -np.sin(POINT).sum() * (1.0 if tasks == 1 else np.array([1.0, 2.0])))
    with pytest.raises(
        ValueError, match=r"what JAX cannot transpose \(`nan_to_num`.*`hessspec.tra"
    ):
        hessspec.density(hessian, key=jax.random.key(0), progress=False)


# --- Gauss-Newton, sparse data ------------------------------------------------------------------


@pytest.mark.any_dtype
@pytest.mark.parametrize("function", [sine, cube], ids=["sine", "cube"])
def test_the_gauss_newton_matrix_of_a_model_with_its_own_rule(function):
    """Outputs f(w) with loss Σ z²/2 give G = diag f'(w)²."""
    slope = {sine: np.cos(POINT), cube: 3 * POINT**2}[function]
    gauss_newton = GaussNewtonOperator(
        lambda w, _: function(w), lambda z, _: jnp.sum(z**2) / 2, point(), jnp.zeros(1)
    )
    close(gauss_newton.dense(), np.diag(slope**2))


def as_sparse(matrix: np.ndarray) -> sparse.BCOO:
    places = np.argwhere(matrix)
    entries = jnp.asarray(matrix[tuple(places.T)], point().dtype)
    return sparse.BCOO((entries, jnp.asarray(places, jnp.int32)), shape=matrix.shape)


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, 2])
def test_sparse_matrices_are_data_whatever_the_number_of_their_entries(tasks):
    """L_b = Σ (M w)³ / n_b, so H = mean of 6 M' diag(M w) M."""
    rng = np.random.default_rng(0)
    matrices = [
        rng.normal(size=(n, POINT.size)) * (np.arange(n * POINT.size).reshape(n, -1) % step == 0)
        for n, step in ((3, 2), (3, 5), (2, 2))
    ]
    rows = [as_sparse(m) for m in matrices]
    assert len({m.nse for m in rows}) == 3

    def loss(w, matrix):
        return jnp.mean((matrix @ w) ** 3)

    hessian = HessianOperator(
        loss if tasks == 1 else doubled(loss), point(), data=Batches(rows, sizes=[3, 3, 2])
    )
    whole = np.concatenate(matrices)
    truth = 6 * whole.T @ np.diag(whole @ POINT) @ whole / whole.shape[0]
    if tasks == 1:
        close(hessian.dense(), truth)
    else:
        found = hessspec.trace(hessian, key=jax.random.key(0), progress=False)
        close(found.value, np.trace(truth) * np.array([1, 2]))


@pytest.mark.any_dtype
def test_several_programs_can_do_what_each_of_them_can():
    backward = Modes(TWICE_REVERSE, forms=False)
    none = Modes(None, obstacle="no rule")
    assert least([Modes(), Modes()]) == Modes()
    assert least([Modes(), backward]) == least([backward, Modes()]) == backward
    assert least([backward, none]) == Modes(None, forms=False, obstacle="no rule")
