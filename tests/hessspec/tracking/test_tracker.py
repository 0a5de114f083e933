"""The tracker beside a training loop: what it says of each step, and what it costs."""

import gc
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from tests.networks import X, Y, network_params, scalar_loss, vector_loss

KEY = jax.random.key(0)
BATCH = (X, Y)


def descended(loss, params, rate=0.05, steps=3):
    gradient = jax.jit(jax.grad(lambda p, batch: jnp.sum(loss(p, batch))))
    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient(params, BATCH))
    return params


def dense(loss, params, **options):
    operator = hessspec.HessianOperator(loss, params, data=BATCH, **options)
    return np.asarray(operator.dense(), np.float64)


def units(dtype, number):
    return number * float(np.finfo(np.dtype(dtype)).eps)


@pytest.fixture(scope="module")
def run():
    """A tracked descent: the tracker, and the parameters at each step."""
    tracker = hessspec.Tracker(scalar_loss, KEY, k=2, data=BATCH, trace=64)
    points, params = [], network_params()
    for step in range(0, 12, 3):
        tracker.update(step, params)
        points.append(params)
        params = descended(scalar_loss, params)
    return tracker, points


def test_values_losses_and_residuals_are_those_of_the_dense_hessian(run):
    tracker, points = run
    assert tracker.table["values"].shape == (4, 2)
    for values, residuals, loss, point in zip(
        *(tracker.table[name] for name in ("values", "residuals", "loss")), points, strict=True
    ):
        truth = np.linalg.eigvalsh(dense(scalar_loss, point))[::-1]
        np.testing.assert_allclose(values, truth[:2], atol=units(X.dtype, 100) * truth[0])
        assert np.all(residuals <= units(X.dtype, 1) ** (2 / 3) * np.abs(truth).max())
        np.testing.assert_allclose(loss, scalar_loss(point, BATCH), rtol=units(X.dtype, 10))
    vectors = hessspec.HessianOperator(scalar_loss, points[-1], data=BATCH).matmat(tracker.vectors)
    for row, value in enumerate(tracker.steps[-1].values):
        for image, leaf in zip(
            jax.tree.leaves(vectors), jax.tree.leaves(tracker.vectors), strict=True
        ):
            atol = 3 * float(tracker.steps[-1].residuals[row]) + units(X.dtype, 100) * value
            np.testing.assert_allclose(image[row], value * leaf[row], rtol=0, atol=atol)


def test_the_share_of_the_gradient_is_that_in_the_span_of_the_eigenvectors(run):
    tracker, points = run
    point = points[-1]
    _, vectors = np.linalg.eigh(dense(scalar_loss, point))
    gradient = jax.grad(scalar_loss)(point, BATCH)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    share = np.sum((vectors[:, -2:].T @ flat) ** 2) / np.sum(flat**2)
    np.testing.assert_allclose(tracker.steps[-1].gradient_share, share, rtol=1e-3)


def test_traces_and_their_differences_are_within_their_errors(run):
    """Four standard errors; and pairing leaves less than a third of the error of two estimates."""
    tracker, points = run
    traces = [np.trace(dense(scalar_loss, point)) for point in points]
    for found, truth in zip(tracker.steps, traces, strict=True):
        assert abs(found.trace.value - truth) < 4 * found.trace.standard_error
    difference = tracker.trace_difference(0, 3)
    assert repr(difference).startswith("TraceEstimate: tr H at step 3 - tr H at step 0 = ")
    assert abs(difference.value - (traces[1] - traces[0])) < 4 * difference.standard_error
    apart = np.hypot(*(tracker.steps[n].trace.standard_error for n in (0, 1)))
    assert difference.standard_error < apart / 3


@pytest.mark.any_dtype
def test_a_trace_is_exact_where_all_of_the_space_is_followed():
    where = {"w1": False, "b1": True, "w2": False}
    tracker = hessspec.Tracker(scalar_loss, KEY, k=4, data=BATCH, trace=2, where=where)
    trace = tracker.update(0, network_params()).trace
    block = dense(scalar_loss, network_params(), where=where)
    np.testing.assert_allclose(trace.value, np.trace(block), rtol=units(X.dtype, 50))
    assert trace.standard_error < units(X.dtype, 50) * abs(trace.value)


@pytest.mark.any_dtype
def test_each_task_is_followed_as_it_is_alone():
    tracker = hessspec.Tracker(vector_loss, KEY, k=2, data=BATCH, trace=4)
    params = network_params()
    for step in range(2):
        found = tracker.update(step, params)
        params = descended(vector_loss, params, steps=1)
        if step == 0:
            points = params
    truth = np.linalg.eigvalsh(dense(vector_loss, points))[:, ::-1]
    np.testing.assert_allclose(found.values, truth[:, :2], rtol=units(X.dtype, 300))
    assert found.trace.samples.shape == (2, 4)
    assert {"task_0/value_0", "task_1/trace_error"} <= set(found.as_dict())
    assert jax.tree.leaves(tracker.vectors)[0].shape[:2] == (2, 2)
    assert tracker.table["loss"].shape == (2, 2)


@pytest.mark.any_dtype
def test_nothing_is_compiled_after_the_second_update(caplog):
    tracker = hessspec.Tracker(scalar_loss, KEY, k=2, trace=4)
    rng, params = np.random.default_rng(0), network_params()
    scales = [
        jax.tree.map(lambda p, n=n: jnp.full(p.shape, 1.0 + n, p.dtype), params) for n in range(4)
    ]
    points = [jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), params) for _ in range(4)]
    points = [jax.tree.map(lambda p: jnp.asarray(p, X.dtype), point) for point in points]
    batches = [(X + n, Y) for n in range(4)]
    compiled = []
    for n in range(4):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level(logging.WARNING):
            tracker.update(n, points[n], data=batches[n], scale=scales[n])
        compiled.append(sum("Compiling" in record.getMessage() for record in caplog.records))
    assert compiled[0] > 0
    assert compiled[2:] == [0, 0]


@pytest.mark.any_dtype
def test_arrays_that_are_alive_do_not_grow_with_the_updates(run):
    _, points = run
    tracker = hessspec.Tracker(scalar_loss, KEY, k=2, data=BATCH, trace=4)
    alive = {}
    for step in range(6):
        tracker.update(step, points[step % 4])
        if step in (2, 5):
            gc.collect()
            alive[step] = sum(array.nbytes for array in jax.live_arrays())
    assert alive[2] == alive[5]


@pytest.mark.any_dtype
def test_an_update_that_finds_little_changed_costs_few_products(run):
    _, points = run
    tracker = hessspec.Tracker(scalar_loss, KEY, k=2, data=BATCH)
    spent = [tracker.update(step, points[0]).num_matvecs for step in range(5)]
    assert spent[-1] == 4 < spent[0]


@pytest.mark.any_dtype
def test_it_goes_on_from_a_file_as_if_it_had_not_stopped(run, tmp_path):
    tracker, points = run
    twin = hessspec.Tracker(scalar_loss, KEY, k=2, data=BATCH, trace=64)
    for step, point in zip((0, 3), points, strict=False):
        twin.update(step, point)
    twin.save(tmp_path / "tracker.npz")
    again = hessspec.Tracker.load(tmp_path / "tracker.npz", scalar_loss, data=BATCH)
    with pytest.raises(ValueError, match="the file holds no structure of the parameters; call"):
        _ = again.vectors
    for step, point in zip((6, 9), points[2:], strict=True):
        again.update(step, point)
    for name, column in tracker.table.items():
        if name != "seconds":
            np.testing.assert_array_equal(again.table[name], column)


def test_a_scale_is_followed_in_its_coordinates():
    params = network_params()
    rng = np.random.default_rng(3)
    scale = jax.tree.map(lambda p: jnp.asarray(np.exp(rng.normal(size=p.shape)), p.dtype), params)
    d = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(scale)]).astype(np.float64)
    found = hessspec.Tracker(scalar_loss, KEY, k=2, data=BATCH, scale=scale).update(0, params)
    values, vectors = np.linalg.eigh(d[:, None] * dense(scalar_loss, params) * d)
    np.testing.assert_allclose(found.values[0], values[-1], rtol=units(X.dtype, 200))
    gradient = jax.grad(scalar_loss)(params, BATCH)
    flat = d * np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    share = np.sum((vectors[:, -2:].T @ flat) ** 2) / (flat @ flat)
    np.testing.assert_allclose(found.gradient_share, share, rtol=1e-3)


@pytest.mark.any_dtype
def test_operators_can_be_followed_and_a_stream_of_batches():
    params = network_params()
    whole = hessspec.HessianOperator(scalar_loss, params, data=BATCH)
    found = hessspec.Tracker(None, KEY, k=2).update(0, 2 * whole)
    value = np.linalg.eigvalsh(dense(scalar_loss, params))[-1]
    np.testing.assert_allclose(found.values[0], 2 * value, rtol=1e-5)
    assert np.isnan(found.gradient_share)
    assert np.isnan(found.loss)
    halves = hessspec.Batches([(X[:6], Y[:6]), (X[6:], Y[6:])])
    streamed = hessspec.Tracker(scalar_loss, KEY, k=2, data=halves).update(0, params)
    np.testing.assert_allclose(streamed.values[0], value, rtol=1e-5)


@pytest.mark.any_dtype
def test_numbers_go_to_a_logger_a_table_and_a_picture(run):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    seen = []
    tracker = hessspec.Tracker(vector_loss, KEY, k=2, data=BATCH, trace=2, log=seen.append)
    tracker.update(7, network_params())
    np.testing.assert_equal(seen, [tracker.steps[0].as_dict()])
    assert seen[0]["step"] == 7
    assert all(isinstance(number, int | float) for number in seen[0].values())
    frame = run[0].to_pandas()
    np.testing.assert_array_equal(frame["value_1"], run[0].table["values"][:, 1])
    axes = run[0].plot(threshold=3.0, label="lambda")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), run[0].table["values"][:, 0])
    assert len(tracker.plot("trace").lines) == 2
    with pytest.raises(ValueError, match=r"`name` must be a column of the table.*got 'x'"):
        tracker.plot("x")
    assert "2 largest eigenvalues: 4 updates\nStep 9: " in repr(run[0])
    assert "trace of task 1" in repr(tracker.steps[0])


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "BE"}, "`which` must be one of LA, SA, LM, got 'BE'; both ends"),
        ({"tol": 2.0}, r"`tol` must lie in \[0, 1\)"),
        ({"k": 0}, "`k` must be at least 1"),
        ({"trace": -1}, "`trace` must be at least 0"),
        ({"k": 3, "max_matvecs": 2}, "`max_matvecs` must be at least 3"),
        ({"log": "wandb"}, "`log` must be a function of a dict of numbers, .* got str"),
        ({"memory_budget": "4 GiB"}, "`memory_budget` must be a number of bytes"),
    ],
)
def test_settings_are_looked_at_at_once(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hessspec.Tracker(scalar_loss, KEY, **options)


@pytest.mark.any_dtype
def test_calls_that_cannot_be_are_told_what_to_do(run):
    tracker, points = run
    with pytest.raises(ValueError, match="`params` must be those of the updates before"):
        tracker.update(12, hessspec.FunctionOperator(lambda v: v, jnp.zeros(3)))
    renamed = {f"{name}0": leaf for name, leaf in points[0].items()}
    other = hessspec.FunctionOperator(lambda v: v, renamed)
    with pytest.raises(ValueError, match=r"with `b1 .*`, got `b10 .*` in its place"):
        tracker.update(12, other)
    with pytest.raises(ValueError, match="`second` must be a step that was tracked, got 1"):
        tracker.trace_difference(0, 1)
    with pytest.raises(TypeError, match="`params` must be an operator for a tracker without"):
        hessspec.Tracker(None, KEY).update(0, points[0])
    with pytest.raises(ValueError, match=r"`k` must lie in \[1, 24\] for 24 chosen"):
        hessspec.Tracker(scalar_loss, KEY, k=25, data=BATCH).update(0, points[0])
    with pytest.raises(TypeError, match=r"call `Tracker\(loss_fn, key, data=batch\)`"):
        hessspec.Tracker(scalar_loss, points[0], KEY)
    assert (
        repr(hessspec.Tracker(scalar_loss, KEY)) == "Tracker of the largest eigenvalue: 0 updates"
    )
    with pytest.raises(ValueError, match="nothing was tracked yet"):
        hessspec.Tracker(scalar_loss, KEY).plot()
    with pytest.raises(TypeError, match="`loss_fn` must be a function, got dict"):
        hessspec.Tracker(points[0], KEY)
    broken = jax.tree.map(lambda p: p * jnp.nan, points[0])
    with pytest.raises(TypeError, match=r"`Tracker.update` looks .* `hessspec.track` is the same"):
        jax.jit(lambda p: tracker.update(12, p).values)(points[0])
    with pytest.raises(ValueError, match=r"the loss is nan .*`params` is not finite at `b1`"):
        tracker.update(12, broken)
    assert len(tracker.steps) == 4


@pytest.mark.any_dtype
def test_a_file_knows_the_kind_of_its_key(tmp_path):
    tracker = hessspec.Tracker(scalar_loss, jax.random.key(0, impl="rbg"), data=BATCH)
    tracker.update(0, network_params())
    tracker.save(tmp_path / "tracker.npz")
    again = hessspec.Tracker.load(tmp_path / "tracker.npz", scalar_loss, data=BATCH)
    assert again.key == tracker.key
    assert again.key.dtype == tracker.key.dtype
