"""What rounding does to an answer: it is refused, or its size is said. One policy for all tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import GaussNewtonOperator, HessianOperator, TraceEstimate
from hessspec._operators import lift

KEY = jax.random.key(0)
EXACT = {
    "trace": lambda *call, **rest: hessspec.trace(*call, KEY, progress=False, **rest),
    "diagonal": lambda *call, **rest: hessspec.diagonal(*call, KEY, progress=False, **rest),
    "density": lambda *call, **rest: hessspec.density(*call, KEY, progress=False, **rest),
}


def dtype():
    return jnp.asarray(0.0).dtype


def twice(loss):
    return lambda *arguments: jnp.stack([loss(*arguments), 2.0 * loss(*arguments)])


def tasks(loss, count):
    return loss if count == 1 else twice(loss)


# --- forms and products -------------------------------------------------------------------------


def x_log_x(w):
    """The second derivative at 0 is infinite; forward mode passes by, and finds 0 there."""
    return jnp.sum(jnp.where(w**2 > 0, w**2 * jnp.log(w**2), 0.0))


@pytest.mark.any_dtype
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("verb", ["trace", "diagonal"])
def test_a_derivative_that_does_not_exist_is_refused_for_one_task_and_for_several(verb, count):
    with pytest.raises(ValueError, match="not finite in `params`"):
        EXACT[verb](tasks(x_log_x, count), jnp.asarray([0.0, 1.0, 2.0]))


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", ["hutchinson", "auto"])
def test_samples_by_forms_are_refused_where_a_product_is_not_finite(method):
    params = jnp.arange(100.0)
    with pytest.raises(ValueError, match="not finite in `params`"):
        hessspec.trace(twice(x_log_x), params, KEY, method=method, num_matvecs=50, progress=False)


@jax.custom_jvp
def wrong_square(x):
    return x**2


# The rule of a rule: forward over forward keeps the factor 1.1, and reverse mode does too, but
# the mixed second derivative of x y is taken from one side only.
wrong_square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0][::-1] * tangents[0]))


@pytest.mark.any_dtype
@pytest.mark.parametrize("count", [1, 2])
def test_a_rule_that_belongs_to_no_loss_is_refused_by_exact_traces(count):
    with pytest.raises(ValueError, match=r"symmetric.*Likely a custom derivative rule"):
        EXACT["trace"](
            tasks(lambda w: jnp.sum(wrong_square(w) * jnp.arange(1.0, 5.0)), count),
            jnp.arange(1.0, 5.0),
        )


# --- ill-conditioned losses ---------------------------------------------------------------------


def gaussian_process(size=40):
    """The negative log marginal likelihood in log(variance, length scale, noise)."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-3, 3, size))
    y = np.sin(2 * x) + 0.1 * rng.normal(size=size)

    def loss(theta, data):
        x, y = data
        variance, length, noise = jnp.exp(theta)
        gaps = (x[:, None] - x[None]) / length
        kernel = variance * jnp.exp(-0.5 * gaps**2) + noise * jnp.eye(size, dtype=theta.dtype)
        factor = jnp.linalg.cholesky(kernel)
        weights = jax.scipy.linalg.cho_solve((factor, True), y)
        return 0.5 * jnp.vdot(y, weights) + jnp.log(jnp.diagonal(factor)).sum()

    return loss, (x, y)


def inverse_of(matrix):
    """In extended precision: each step squares what the inverse in float64 leaves, eps cond(K)."""
    inverse = np.linalg.inv(matrix.astype(float)).astype(np.longdouble)
    for _ in range(3):
        inverse = inverse @ (2 * np.eye(len(matrix)) - matrix @ inverse)
    return inverse


def true_hessian(theta):
    """In closed form, in extended precision where there is any: with a = K⁻¹y and K_i = ∂K/∂θ_i,

    H_ij = a'K_i K⁻¹K_j a - a'K_ij a/2 + tr(K⁻¹K_ij)/2 - tr(K⁻¹K_i K⁻¹K_j)/2.
    """
    _, (x, y) = gaussian_process()
    variance, length, noise = np.exp(theta.astype(np.longdouble))
    square = ((x[:, None] - x[None]) / length) ** 2
    smooth, white = variance * np.exp(-0.5 * square), noise * np.eye(x.size)
    inverse = inverse_of(smooth + white)
    a, zero = inverse @ y, np.zeros_like(smooth)
    first = [smooth, smooth * square, white]
    second = [
        [smooth, smooth * square, zero],
        [smooth * square, smooth * (square**2 - 2 * square), zero],
        [zero, zero, white],
    ]
    return np.array(
        [
            [
                a @ first[i] @ inverse @ first[j] @ a
                - a @ second[i][j] @ a / 2
                + np.trace(inverse @ second[i][j]) / 2
                - np.trace(inverse @ first[i] @ inverse @ first[j]) / 2
                for j in range(3)
            ]
            for i in range(3)
        ],
        dtype=float,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_the_interval_of_an_exact_trace_holds_the_truth_of_an_ill_conditioned_loss(count):
    loss, data = gaussian_process()
    theta = np.array([0.0, -1.0, -9.0])
    truth = np.trace(true_hessian(theta)) * np.arange(1, count + 1).squeeze()
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype()), (theta, data))
    found = EXACT["trace"](tasks(loss, count), single[0], data=single[1])
    low, high = found.confidence_interval()
    assert np.all((low <= truth) & (truth <= high))
    assert np.all(found.standard_error == 0)
    assert np.all(found.systematic < 0.01 * np.abs(truth))


def test_the_density_of_an_ill_conditioned_loss_says_how_far_rounding_moves_it():
    loss, data = gaussian_process()
    theta = np.array([0.0, -1.0, -9.0])
    truth = np.linalg.eigvalsh(true_hessian(theta))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype()), (theta, data))
    found = EXACT["density"](loss, single[0], data=single[1])
    assert np.all(np.abs(found.nodes - truth) <= found.resolution)
    assert found.resolution < 0.01 * np.abs(truth).max()


def test_rounding_widens_an_interval_and_no_sample_can_narrow_it():
    samples = np.random.default_rng(0).normal(5.0, 1.0, 64)
    plain = TraceEstimate.from_samples(samples)
    rounded = TraceEstimate.from_samples(samples, systematic=np.asarray(0.5))
    low, high = plain.confidence_interval()
    np.testing.assert_allclose(rounded.confidence_interval(), (low - 0.5, high + 0.5))
    assert rounded.standard_error == plain.standard_error
    assert rounded.matvecs_needed(atol=0.4) == np.inf
    pair = TraceEstimate.from_samples(np.stack([samples, samples]), systematic=np.array([0.5, 0.1]))
    assert pair.difference(0, 1).systematic == pytest.approx(0.6)
    assert pair.task(1).systematic == pytest.approx(0.1)


def test_the_error_of_rounding_is_saved_with_the_record(tmp_path):
    record = TraceEstimate.from_samples(np.ones(3), systematic=np.asarray(0.25))
    record.save(tmp_path / "trace.npz")
    assert TraceEstimate.load(tmp_path / "trace.npz").systematic == 0.25


# --- differences of operators -------------------------------------------------------------------


def network(params, batch):
    return jnp.matmul(jnp.tanh(batch[0] @ params["a"]), params["b"], precision="highest")


def squared(outputs, batch):
    return jnp.mean((outputs - batch[1]) ** 2)


def residual_of_gauss_newton(noise):
    """H - G for targets that the network meets up to `noise`, in proportion to which it is."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 8), "b": (8, 1)}
    params = {k: jnp.asarray(rng.normal(size=s), dtype()) for k, s in shapes.items()}
    inputs = jnp.asarray(rng.normal(size=(40, 3)), dtype())
    missed = jnp.asarray(noise * rng.normal(size=(40, 1)), dtype())
    batch = (inputs, network(params, (inputs,)) + missed)
    hessian = HessianOperator(lambda p, b: squared(network(p, b), b), params, data=batch)
    return hessian, hessian - GaussNewtonOperator(network, squared, params, batch)


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 0.0])
def test_a_difference_near_zero_is_judged_by_the_rounding_of_its_parts(noise):
    hessian, rest = residual_of_gauss_newton(noise)
    largest = np.abs(np.linalg.eigvalsh(np.asarray(hessian.dense(), np.float64))).max()
    eps = float(jnp.finfo(dtype()).eps)
    for num_steps in (20, 40):  # Lanczos, and the matrix itself
        found = hessspec.density(rest, key=KEY, num_steps=num_steps, progress=False)
        ends = found.extremes()
        # A product is good to a few eps of its parts, and so are eigenvalues.
        assert eps * largest < found.resolution < 100 * eps * largest
        assert abs(ends.largest) < 2 * noise * largest + found.resolution
    pairs = hessspec.eigenpairs(rest, key=KEY, k=2, progress=False)
    assert np.all(np.abs(pairs.values) < 2 * noise * largest + found.resolution)
    for budget in (24, 64):
        trace = hessspec.trace(-2.0 * rest, key=KEY, num_matvecs=budget, progress=False)
        low, high = trace.confidence_interval(0.9999)
        exact = -2.0 * np.trace(np.asarray(rest.dense(), np.float64))
        slack = 2 * eps * largest * rest.dim
        assert low - slack <= exact <= high + slack


# --- lower precision inside ---------------------------------------------------------------------


def half_inside(w, batch):
    hidden = jnp.tanh(batch.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16))
    return jnp.sum(hidden.astype(w.dtype) ** 2)


def half_in_a_loop(w, batch):
    def turn(carry, row):
        return carry + (row.astype(jnp.float16) * carry.astype(jnp.float16)).astype(w.dtype), None

    return jnp.sum(jax.lax.scan(turn, w, batch)[0] ** 2)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("verb", EXACT)
def test_parameters_in_lower_precision_inside_are_refused_with_the_way_out(verb, count):
    batch, w = jnp.ones((3, 4), dtype()), jnp.full(4, 0.1, dtype())
    for loss, name in ((half_inside, "bfloat16"), (half_in_a_loop, "float16")):
        with pytest.raises(ValueError, match=rf"computes with its parameters in {name}.*leave out"):
            EXACT[verb](tasks(loss, count), w, data=batch)


def test_lower_precision_that_no_parameter_meets_is_no_concern():
    """Data in bfloat16, doubled there and widened before they meet the parameters: H = 8 X'X."""
    batch = jnp.asarray([[1.0, 2.0], [0.5, 4.0]], jnp.bfloat16)

    def loss(w, x):
        return jnp.sum(((x + x).astype(w.dtype) @ w) ** 2)

    found = EXACT["trace"](loss, jnp.ones(2, dtype()), data=batch)
    np.testing.assert_allclose(found.value, 8 * (1 + 4 + 0.25 + 16), rtol=1e-6)


def test_lower_precision_that_no_derivative_passes_through_is_no_concern():
    """w in bfloat16 that is printed, compared, or behind a stop_gradient: H = 2 on where w > 0."""
    w = jnp.asarray([1.0, -1.0, 2.0], dtype())

    def loss(w):
        half = w.astype(jnp.bfloat16)
        jax.debug.callback(lambda total: None, jnp.sum(half))
        stopped = jnp.sum(jax.lax.stop_gradient(half)).astype(w.dtype)
        return jnp.sum(jnp.where(half > 0, w, 0) ** 2) + stopped

    found = EXACT["trace"](loss, w)
    np.testing.assert_allclose(found.value, 4.0, rtol=1e-6)


# --- programs -----------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_losses_that_differ_in_a_number_keep_a_bounded_number_of_programs():
    for i in range(lift.KEPT_PROGRAMS + 40):
        HessianOperator(lambda w, i=i: jnp.sum(w**2) * (i + 0.37), jnp.ones(2))
    assert len(lift._BY_TEXT) == lift.KEPT_PROGRAMS


@pytest.mark.any_dtype
def test_a_constant_that_is_an_array_shares_its_program_and_an_old_program_is_found_while_in_use():
    def of(factor):
        return HessianOperator(lambda w: jnp.sum(w**2) * factor, jnp.ones(2))

    def program(operator):
        return operator.chunks[0].functions[0].program

    first, second = of(jnp.asarray(2.0)), of(jnp.asarray(3.0))
    assert program(first) is program(second)
    np.testing.assert_allclose(second.dense(), 6.0 * np.eye(2))
    for i in range(lift.KEPT_PROGRAMS + 1):
        lift._BY_TEXT.put(f"another {i}", lift._Program(program(first).trace, None, "", None))
    assert program(of(jnp.asarray(4.0))) is program(first)
