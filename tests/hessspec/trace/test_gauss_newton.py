"""The exact trace of the Gauss-Newton matrix against the dense J'(∇²ℓ)J."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, gauss_newton_trace
from tests.spectra import dtype, eps

INPUTS, HIDDEN, OUTPUTS = 3, 4, 3
SIZES = (4, 4, 2)


def model(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def cross_entropy(outputs, batch):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(outputs) * batch["y"], axis=-1))


def two_losses(outputs, batch):
    """One that sees a single output, and cross-entropy."""
    return jnp.stack([jnp.mean(outputs[:, 0] ** 2), cross_entropy(outputs, batch)])


def waves(outputs, batch):
    """Concave where the cosine is positive."""
    del batch
    return jnp.mean(jnp.cos(outputs))


def spread(outputs, batch):
    del batch
    return jnp.var(outputs)


def normalised(params, batch):
    outputs = model(params, batch)
    return outputs - outputs.mean(axis=0, keepdims=True)


def leaking(params, batch):
    """The same outputs in a batch and alone, but not the same derivative."""
    outputs = model(params, batch)
    mean = outputs.mean()
    return outputs + mean - jax.lax.stop_gradient(mean)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(rng.normal(size=(INPUTS, HIDDEN)), dtype()),
        "out": jnp.asarray(rng.normal(size=(HIDDEN, OUTPUTS)), dtype()),
    }

    def batch(size):
        x = jnp.asarray(rng.normal(size=(size, INPUTS)), dtype())
        y = jax.nn.one_hot(rng.integers(OUTPUTS, size=size), OUTPUTS, dtype=dtype())
        return {"x": x, "y": y}

    return params, [batch(size) for size in SIZES]


def dense(loss_fn, params, batches):
    """tr J'(∇²ℓ)J of the mean over examples, one number a loss."""
    total = 0.0
    for batch in batches:
        z = model(params, batch)
        outer = jax.hessian(lambda z: jnp.atleast_1d(loss_fn(z, batch)))(z)  # noqa: B023
        rows = jax.tree.leaves(jax.jacobian(model)(params, batch))
        jacobian = np.concatenate([np.reshape(row, (z.size, -1)) for row in rows], axis=1)
        outer = np.asarray(outer, np.float64).reshape(-1, z.size, z.size)
        kernel = jacobian.astype(np.float64) @ jacobian.T
        total = total + len(z) * np.einsum("tij,ij->t", outer, kernel)
    return total / sum(SIZES)


@pytest.mark.parametrize(
    ("loss_fn", "independent"),
    [
        (two_losses, False),
        (two_losses, True),
        (waves, True),
        pytest.param(cross_entropy, False, marks=pytest.mark.slow),
        pytest.param(cross_entropy, True, marks=pytest.mark.slow),
        pytest.param(waves, False, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_trace_of_the_dense_matrix(case, loss_fn, independent):
    params, batches = case
    data = Batches(batches)
    found = gauss_newton_trace(model, loss_fn, params, data, independent=independent)
    wanted = dense(loss_fn, params, batches)
    assert found.num_samples == 0
    assert found.num_tasks == (2 if loss_fn is two_losses else None)
    np.testing.assert_allclose(found.value, np.squeeze(wanted), rtol=200 * eps())
    low, high = found.confidence_interval()
    assert np.all((low <= np.squeeze(wanted)) & (np.squeeze(wanted) <= high))
    assert ("indefinite" in found.method) == (loss_fn is waves)


@pytest.mark.any_dtype
def test_passes_over_the_data_are_counted_by_the_rank_in_the_outputs(case):
    """One output is looked at by the first loss; a softmax leaves two directions of three."""
    params, batches = case
    alone = gauss_newton_trace(model, two_losses, params, Batches(batches), independent=True)
    assert alone.num_matvecs == 1 + (OUTPUTS - 1)
    whole = gauss_newton_trace(model, two_losses, params, Batches(batches))
    assert whole.num_matvecs == max(SIZES) * alone.num_matvecs


@pytest.mark.any_dtype
def test_batches_of_one_example_need_no_promise(case):
    params, batches = case
    singles = [jax.tree.map(lambda a: a[i : i + 1], b) for b in batches for i in range(len(b["x"]))]  # noqa: B023
    found = gauss_newton_trace(model, cross_entropy, params, Batches(singles))
    wanted = dense(cross_entropy, params, batches)
    np.testing.assert_allclose(found.value, wanted[0], rtol=200 * eps())
    assert found.num_matvecs == OUTPUTS - 1


@pytest.mark.any_dtype
def test_streamed_batches_add_up_and_are_not_taken_apart(case):
    params, batches = case
    data, room = Batches(8 * batches), {"memory_budget": 4_000}
    operator = hessspec.GaussNewtonOperator(model, cross_entropy, params, data, **room)
    assert operator.streamed is not None
    streamed = gauss_newton_trace(model, cross_entropy, params, data, **room)
    whole = dense(cross_entropy, params, batches)
    np.testing.assert_allclose(streamed.value, whole[0], rtol=200 * eps())
    with pytest.raises(MemoryError, match="`independent` takes data that fit"):
        gauss_newton_trace(model, cross_entropy, params, data, independent=True, **room)
    with pytest.raises(MemoryError, match="the Hessians of 1 losses in 12 outputs"):
        gauss_newton_trace(model, cross_entropy, params, data, memory_budget=2_000)


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("model_fn", "loss_fn", "said"),
    [
        (model, spread, "the loss couples examples"),
        (normalised, cross_entropy, "other outputs than in its batch"),
        (leaking, cross_entropy, "another derivative than in its batch"),
    ],
)
def test_examples_that_see_each_other_are_refused(case, model_fn, loss_fn, said):
    params, batches = case
    with pytest.raises(ValueError, match=f"`independent` does not hold.*{said}"):
        gauss_newton_trace(model_fn, loss_fn, params, Batches(batches), independent=True)


@pytest.mark.any_dtype
def test_batches_that_cannot_be_split_are_explained(case):
    params, batches = case
    odd = batches[0] | {"scale": jnp.ones((7,), dtype())}
    with pytest.raises(ValueError, match=r"one entry for each of the 4 outputs of batch 0.*\(7,\)"):
        gauss_newton_trace(model, cross_entropy, params, odd, independent=True)
    with pytest.raises(ValueError, match="a leading axis of examples, got one number"):
        gauss_newton_trace(
            lambda params, batch: model(params, batch).sum(),
            lambda z, batch: z**2,
            params,
            batches[0],
            independent=True,
        )


@pytest.mark.any_dtype
@pytest.mark.parametrize("independent", [False, True])
def test_derivatives_that_do_not_exist_are_refused_and_not_left_out(case, independent):
    """A norm at 0 is finite and has no second derivative; a root of 0 has no first one."""
    params, batches = case

    def norm(outputs, batch):
        del batch
        return jnp.sqrt(jnp.sum((outputs - jax.lax.stop_gradient(outputs)) ** 2, axis=-1)).mean()

    def root(params, batch):
        return model(params, batch) + jnp.sqrt(0 * params["out"][0, 0])

    cases = [
        (model, norm, "the second derivative of the loss in the outputs is not finite"),
        (root, cross_entropy, "the derivative of the outputs is not finite"),
    ]
    for model_fn, loss_fn, said in cases:
        with pytest.raises(ValueError, match=said):
            gauss_newton_trace(model_fn, loss_fn, params, batches[0], independent=independent)
