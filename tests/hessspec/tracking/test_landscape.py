"""The loss on lines and planes, where polynomials say what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from tests.networks import X, Y, network_params, scalar_loss, vector_loss

MATRIX = jnp.asarray([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, -1.0]], X.dtype)
POINT = jnp.asarray([0.5, -1.0, 2.0], X.dtype)
DIRECTIONS = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]], X.dtype)


def quadratic(x):
    return 0.5 * x @ MATRIX @ x - x.sum()


def cubic(x):
    return quadratic(x) + jnp.sum(x**3)


def test_a_quadratic_loss_is_its_own_model_on_a_plane():
    found = hessspec.landscape(quadratic, POINT, DIRECTIONS, span=(0.5, 2.0), num_points=7)
    assert found.values.shape == (7, 7)
    eps = np.finfo(X.dtype).eps
    np.testing.assert_allclose(found.values, found.quadratic, rtol=0, atol=100 * eps * 10)
    corner = POINT + 0.5 * DIRECTIONS[0] - 2.0 * DIRECTIONS[1]
    np.testing.assert_allclose(found.values[-1, 0], quadratic(corner), rtol=100 * eps)
    np.testing.assert_allclose(found.curvature, DIRECTIONS @ MATRIX @ DIRECTIONS.T, rtol=10 * eps)
    gradient = DIRECTIONS @ jax.grad(quadratic)(POINT)
    np.testing.assert_allclose(found.gradient, gradient, rtol=100 * eps)
    assert found.loss == found.values[3, 3]


def test_what_the_model_leaves_of_a_cubic_is_the_cube():
    found = hessspec.landscape(cubic, POINT, DIRECTIONS[:1], span=0.25, num_points=5)
    np.testing.assert_allclose(
        found.values - found.quadratic, found.coordinates[0] ** 3, rtol=0, atol=3e-5
    )


@pytest.mark.any_dtype
def test_each_task_batch_and_block_of_points_is_seen():
    """Two tasks over two batches, 35 points in blocks of 32."""
    params = network_params()
    pairs = hessspec.eigenpairs(
        scalar_loss, params, jax.random.key(0), data=(X, Y), k=1, progress=False
    )
    batches = hessspec.Batches([(X[:4], Y[:4]), (X[4:], Y[4:])])
    found = hessspec.landscape(vector_loss, params, pairs.vectors, data=batches, num_points=35)
    assert found.values.shape == (2, 35)
    for n in (0, 17, 34):
        c = found.coordinates[0, n]
        moved = jax.tree.map(lambda p, v, c=c: p + c.astype(p.dtype) * v[0], params, pairs.vectors)
        np.testing.assert_allclose(found.values[:, n], vector_loss(moved, (X, Y)), rtol=1e-5)
    np.testing.assert_allclose(found.curvature.sum(), pairs.values[0], rtol=1e-4)
    one = hessspec.HessianOperator(vector_loss, params, data=batches).task(1)
    alone = hessspec.landscape(one, directions=pairs.vectors, num_points=35)
    np.testing.assert_allclose(alone.values, found.task(1).values, rtol=1e-6)
    np.testing.assert_array_equal(found.task(1).coordinates, found.coordinates)


@pytest.mark.any_dtype
def test_it_is_saved_printed_and_drawn(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    plane = hessspec.landscape(cubic, POINT, DIRECTIONS, num_points=5)
    line = hessspec.landscape(cubic, POINT, DIRECTIONS[:1], num_points=5)
    plane.save(tmp_path / "plane.npz")
    again = hessspec.Landscape.load(tmp_path / "plane.npz")
    np.testing.assert_array_equal(again.quadratic, plane.quadratic)
    assert "Landscape of 5 by 5 points" in repr(again)
    axes = line.plot(label="cubic")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), line.values)
    drawn = plane.plot()
    assert len(drawn.collections) == 2
    written = [float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in drawn.texts]
    assert written  # contours say their loss
    assert plane.values.min() < min(written) <= max(written) < plane.values.max()


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": jnp.ones((3, 3))}, "`directions` must be 1 or 2, .* got 3"),
        ({"directions": jnp.full((1, 3), jnp.nan)}, "`directions` must be finite"),
        ({"num_points": 4}, "`num_points` must be odd"),
        ({"span": (1.0, 2.0, 3.0)}, "`span` must be positive, one number or one for each"),
        ({"span": -1.0}, "`span` must be positive"),
        ({"span": "wide"}, "`span` must be a number, got str 'wide'"),
        ({"span": [[1.0, 2.0], [3.0]]}, "`span` must be a number, got list"),
        ({"span": 1e-320}, "`span` must have a size between"),
        ({"directions": {"x": jnp.ones((1, 3))}}, "`directions` must be a tree like the chosen"),
        ({"directions": jnp.ones((2, 3), complex)}, "`directions` must hold arrays of real"),
    ],
)
def test_grids_that_cannot_be_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hessspec.landscape(quadratic, POINT, **{"directions": DIRECTIONS, **options})


@pytest.mark.any_dtype
def test_calls_that_mix_the_two_forms_are_shown_the_right_ones():
    operator = hessspec.HessianOperator(quadratic, POINT)
    with pytest.raises(TypeError, match=r"`directions` is missing; call `hessspec\.landscape"):
        hessspec.landscape(quadratic, POINT)
    with pytest.raises(TypeError, match="an operator already holds its parameters"):
        hessspec.landscape(operator, POINT, DIRECTIONS)
    with pytest.raises(TypeError, match="must be a loss function or a HessianOperator, got Scaled"):
        hessspec.landscape(2 * operator, directions=DIRECTIONS)
    with pytest.raises(TypeError, match="`landscape` looks at its numbers on the host"):
        jax.jit(lambda p: hessspec.landscape(quadratic, p, DIRECTIONS).values)(POINT)


@pytest.mark.any_dtype
def test_directions_are_given_as_elsewhere_stacked_or_in_a_list_or_alone():
    whole = hessspec.landscape(quadratic, POINT, DIRECTIONS, num_points=3)
    listed = hessspec.landscape(quadratic, POINT, list(DIRECTIONS), num_points=3)
    np.testing.assert_array_equal(listed.values, whole.values)
    alone = hessspec.landscape(quadratic, POINT, DIRECTIONS[0], num_points=3)
    np.testing.assert_allclose(alone.values, whole.values[:, 1], rtol=1e-6)
