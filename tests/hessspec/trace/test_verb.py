"""Traces: exact where they can be, honest where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator, trace
from tests.spectra import (
    DIM,
    METHODS,
    eps,
    hessian,
    outliers,
    trace_of,
    with_spectrum,
)


@pytest.mark.parametrize("method", ["hutchinson", "auto"])
def test_a_diagonal_hessian_is_exact(method):
    """Signs square to one, so nothing is left to average; `auto` notices."""
    found = trace_of(hessian(np.diag(np.arange(DIM) - 20.0)), method)
    np.testing.assert_allclose(found.value, sum(range(DIM)) - 20.0 * DIM, rtol=100 * eps())
    assert found.standard_error <= 100 * eps() * abs(found.value)


SPECIAL = {
    "zero": np.zeros(DIM),
    "identity": np.full(DIM, 3.0),
    "rank 3": np.concatenate([[1.0, -2.0, 5.0], np.zeros(DIM - 3)]),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize(("method", "num_matvecs"), [("hutch++", 48), ("xtrace", 13), ("auto", 48)])
def test_zero_identity_and_low_rank_are_exact(name, method, num_matvecs):
    eigenvalues = SPECIAL[name]
    found = trace_of(hessian(with_spectrum(eigenvalues)), method, num_matvecs)
    size = 1e3 * eps() * np.abs(eigenvalues).sum()
    assert abs(found.value - eigenvalues.sum()) <= size
    assert found.standard_error <= size
    assert found.num_matvecs <= num_matvecs


@pytest.mark.parametrize("num_matvecs", [1, 13])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_products_gives_an_estimate(spectrum, method, num_matvecs):
    operator, _ = spectrum
    found = trace_of(operator, method, num_matvecs)
    assert found.num_matvecs <= num_matvecs
    assert np.isfinite(found.value)
    assert found.reliable == (found.num_samples >= 8)
    low, high = found.confidence_interval()
    if num_matvecs == 1:
        assert found.standard_error == np.inf
        assert (low, high) == (-np.inf, np.inf)
    assert low <= found.value <= high


@pytest.mark.parametrize("num_matvecs", [DIM, 10 * DIM])
@pytest.mark.parametrize("method", METHODS)
def test_as_many_products_as_parameters_give_the_exact_trace(spectrum, method, num_matvecs):
    operator, eigenvalues = spectrum
    found = trace_of(operator, method, num_matvecs)
    np.testing.assert_allclose(found.value, eigenvalues.sum(), rtol=1e3 * eps())
    assert found.standard_error == 0.0
    assert found.reliable
    assert found.num_samples == 0
    assert found.num_matvecs == DIM
    low, high = found.confidence_interval()
    slack = 1e3 * eps() * np.abs(eigenvalues).sum()  # what products are asymmetric by
    assert found.value - slack <= low <= found.value <= high <= found.value + slack


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("method", METHODS)
def test_the_trace_of_c_h_is_c_times_the_trace_of_h(method, factor):
    matrix = with_spectrum(outliers())
    plain, scaled = (trace_of(hessian(c * matrix), method) for c in (1.0, factor))
    assert plain.num_matvecs == scaled.num_matvecs
    size = np.abs(outliers()).sum()
    np.testing.assert_allclose(scaled.value / factor, plain.value, atol=100 * eps() * size)
    np.testing.assert_allclose(
        scaled.standard_error / factor, plain.standard_error, atol=100 * eps() * size
    )


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", METHODS)
def test_errors_are_as_large_as_stated(spectrum, method):
    operator, eigenvalues = spectrum
    found = [trace_of(operator, method, 48, seed) for seed in range(40)]
    scores = [(e.value - eigenvalues.sum()) / e.standard_error for e in found]
    # 40 z-scores: mean within 3 / √40; their mean square near 1.
    assert abs(np.mean(scores)) < 0.48
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.5


@pytest.mark.any_dtype
def test_an_indefinite_operator_of_trace_zero_is_zero_within_its_error():
    eigenvalues = np.concatenate([np.linspace(-9, -1, DIM // 2), np.linspace(1, 9, DIM // 2)])
    for method in METHODS:
        low, high = trace_of(hessian(with_spectrum(eigenvalues)), method).confidence_interval(0.999)
        assert low < 0.0 < high


@pytest.mark.any_dtype
def test_deflation_beats_plain_averaging_by_orders_of_magnitude(spectrum):
    operator, eigenvalues = spectrum
    errors = {
        method: np.sqrt(
            np.mean([(trace_of(operator, method, 48, s).value - eigenvalues.sum()) ** 2
                     for s in range(10)])
        )
        for method in METHODS
    }  # fmt: skip
    assert errors["xtrace"] < errors["hutchinson"] / 20
    assert errors["auto"] < errors["hutchinson"] / 20


def test_the_frobenius_norm_comes_from_the_same_products(spectrum):
    operator, eigenvalues = spectrum
    norm = np.sqrt(np.sum(eigenvalues**2))
    for method in ("hutch++", "xtrace", "auto"):
        found = trace_of(operator, method)
        np.testing.assert_allclose(found.frobenius_norm, norm, rtol=1e-4)
        low, high = found.square.confidence_interval(0.999)
        assert low <= norm**2 <= high
    plain = trace_of(operator, "hutchinson")
    low, high = plain.square.confidence_interval(0.999)
    assert low <= norm**2 <= high


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_loss_gives_a_task_axis_and_paired_differences(three_tasks, method):
    operator, truth = three_tasks
    found = trace_of(operator, method, 48)
    assert found.value.shape == (3,)
    assert found.num_tasks == 3
    assert found.num_matvecs <= 3 * 48
    low, high = found.confidence_interval(0.9999)
    assert np.all((low <= truth) & (truth <= high))
    paired = found.difference(0, 1)
    assert paired.standard_error < 0.5 * np.hypot(*found.standard_error[:2])
    low, high = paired.confidence_interval(0.9999)
    assert low <= truth[0] - truth[1] <= high
    if method != "xtrace":  # tasks have sketches of their own there
        np.testing.assert_allclose(paired.value, found.value[0] - found.value[1], rtol=1e-12)


@pytest.mark.any_dtype
@pytest.mark.parametrize("num_tasks", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_every_product_is_counted(method, num_tasks):
    """Those that tell how sure forms are included: of a task in a vector forms are asked for."""
    matrix = jnp.asarray(with_spectrum(outliers()), jnp.asarray(0.0).dtype)
    calls = []

    def matvec(x):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ x if num_tasks is None else (matrix @ x)[None]

    operator = FunctionOperator(matvec, jnp.zeros(DIM), num_tasks=num_tasks)
    for num_matvecs in (13, 48):
        jax.effects_barrier()
        calls.clear()
        found = trace_of(operator, method, num_matvecs)
        jax.effects_barrier()
        assert len(calls) == found.num_matvecs


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", METHODS)
def test_a_tolerance_is_met_or_the_estimate_says_how_far_it_is(spectrum, method):
    operator, eigenvalues = spectrum
    found = trace_of(operator, method, None, rtol=0.05)
    assert found.converged
    assert abs(found.value - eigenvalues.sum()) <= 0.05 * abs(found.value)
    tight = trace_of(operator, method, 64, atol=1e-9)
    assert not tight.converged
    assert tight.num_matvecs <= 64
    assert tight.matvecs_needed(atol=1e-9) >= DIM  # exact, where rounding lets it be


@pytest.mark.any_dtype
@pytest.mark.parametrize("num_matvecs", [DIM, DIM + 20, 2 * DIM])
def test_a_tolerance_out_of_reach_costs_no_more_than_allowed(spectrum, num_matvecs):
    operator, eigenvalues = spectrum
    found = trace_of(operator, num_matvecs=num_matvecs, rtol=1e-9)
    assert found.num_matvecs <= num_matvecs
    # Exact, and as sure as rounding lets it be, which in float32 is less than was asked for.
    assert found.converged == (found.half_width() <= 1e-9 * abs(found.value))
    assert found.num_samples == 0
    assert float(found.value) == pytest.approx(eigenvalues.sum(), rel=1e-4)


@pytest.mark.any_dtype
def test_products_that_are_not_symmetric_are_refused():
    matrix = np.random.default_rng(0).normal(size=(DIM, DIM))
    matrix = jnp.asarray(matrix, jnp.asarray(0.0).dtype)
    operator = FunctionOperator(lambda x: matrix @ x, jnp.zeros(DIM))
    for method in METHODS:
        with pytest.raises(ValueError, match="not symmetric"):
            trace_of(operator, method)


@pytest.mark.any_dtype
def test_a_product_that_is_not_finite_names_its_parameters():
    def loss(params):
        return jnp.sum(params["fine"] ** 2) + jnp.sqrt(jnp.sum(params["kinked"] ** 2))

    params = {"fine": jnp.ones(DIM - 30), "kinked": jnp.zeros(30)}
    for method in ("hutchinson", "xtrace"):
        with pytest.raises(ValueError, match="`kinked`"):
            trace(loss, params, jax.random.key(0), method=method, num_matvecs=32, progress=False)


@pytest.mark.any_dtype
def test_wrong_arguments_are_explained(spectrum):
    operator, _ = spectrum
    with pytest.raises(ValueError, match="`num_matvecs` must be at least 1, got 0"):
        trace_of(operator, num_matvecs=0)
    with pytest.raises(ValueError, match=r"`method` must be one .*'Xtrac' \(did you mean 'xtrace'"):
        trace_of(operator, "Xtrac")
    with pytest.raises(ValueError, match="`rtol` and `atol` must be at least 0"):
        trace_of(operator, rtol=-1.0)
    with pytest.raises(TypeError, match=r"hessspec\.trace\(operator, key=key\)"):
        trace(operator, jnp.zeros(DIM), jax.random.key(0))
    with pytest.raises(ValueError, match="`level` must lie strictly between 0 and 1"):
        trace_of(operator).confidence_interval(1.0)
    with pytest.raises(ValueError, match="it has no task axis"):
        trace_of(operator).difference(0, 1)
