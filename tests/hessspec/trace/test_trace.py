"""Traces: exact where they can be, honest where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hessspec import FunctionOperator, HessianOperator, TraceEstimate, trace
from hessspec._krylov.block_basis import KrylovBasis
from hessspec._trace.xtrace import leave_one_out, pair_covariance

METHODS = ("hutchinson", "hutch++", "xtrace", "auto")
DIM = 120


def quadratic(x, matrix):
    """Its Hessian is `matrix`; a stack of matrices gives a vector-valued loss."""
    return jnp.einsum("p,...pq,q->...", x, matrix, x, precision="highest") / 2


def hessian(matrix) -> HessianOperator:
    matrix = jnp.asarray(matrix, jnp.asarray(0.0).dtype)
    return HessianOperator(quadratic, jnp.zeros(matrix.shape[-1]), data=matrix)


def with_spectrum(eigenvalues, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues in a random orthogonal basis."""
    eigenvalues = np.asarray(eigenvalues, float)
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(eigenvalues.size,) * 2))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def outliers(seed: int = 0) -> np.ndarray:
    eigenvalues = np.random.default_rng(seed).normal(size=DIM)
    eigenvalues[:5] = [1000.0, -300.0, 200.0, 100.0, 50.0]
    return eigenvalues


@pytest.fixture(scope="module")
def spectrum():
    eigenvalues = outliers()
    return hessian(with_spectrum(eigenvalues)), eigenvalues


def estimate(operator, method="auto", num_matvecs=48, seed=0, **options) -> TraceEstimate:
    return trace(
        operator,
        key=jax.random.key(seed),
        method=method,
        num_matvecs=num_matvecs,
        progress=False,
        **options,
    )


def eps(x64: bool) -> float:
    return float(np.finfo(np.float64 if x64 else np.float32).eps)


@pytest.mark.parametrize("method", ["hutchinson", "auto"])
def test_a_diagonal_hessian_is_exact(method, x64):
    """Signs square to one, so nothing is left to average; `auto` notices."""
    found = estimate(hessian(np.diag(np.arange(DIM) - 20.0)), method)
    np.testing.assert_allclose(found.value, sum(range(DIM)) - 20.0 * DIM, rtol=100 * eps(x64))
    assert found.standard_error <= 100 * eps(x64) * abs(found.value)


SPECIAL = {
    "zero": np.zeros(DIM),
    "identity": np.full(DIM, 3.0),
    "rank 3": np.concatenate([[1.0, -2.0, 5.0], np.zeros(DIM - 3)]),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize(("method", "num_matvecs"), [("hutch++", 48), ("xtrace", 13), ("auto", 48)])
def test_zero_identity_and_low_rank_are_exact(name, method, num_matvecs, x64):
    eigenvalues = SPECIAL[name]
    found = estimate(hessian(with_spectrum(eigenvalues)), method, num_matvecs)
    size = 1e3 * eps(x64) * np.abs(eigenvalues).sum()
    assert abs(found.value - eigenvalues.sum()) <= size
    assert found.standard_error <= size
    assert found.num_matvecs <= num_matvecs


@pytest.mark.parametrize("num_matvecs", [1, 13])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_products_gives_an_estimate(spectrum, method, num_matvecs):
    operator, _ = spectrum
    found = estimate(operator, method, num_matvecs)
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
def test_as_many_products_as_parameters_give_the_exact_trace(spectrum, method, num_matvecs, x64):
    operator, eigenvalues = spectrum
    found = estimate(operator, method, num_matvecs)
    np.testing.assert_allclose(found.value, eigenvalues.sum(), rtol=1e3 * eps(x64))
    assert found.standard_error == 0.0
    assert found.reliable
    assert found.num_samples == 0
    assert found.num_matvecs == DIM
    assert found.confidence_interval() == (found.value, found.value)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("method", METHODS)
def test_the_trace_of_c_h_is_c_times_the_trace_of_h(method, factor, x64):
    matrix = with_spectrum(outliers())
    plain, scaled = (estimate(hessian(c * matrix), method) for c in (1.0, factor))
    assert plain.num_matvecs == scaled.num_matvecs
    size = np.abs(outliers()).sum()
    np.testing.assert_allclose(scaled.value / factor, plain.value, atol=100 * eps(x64) * size)
    np.testing.assert_allclose(
        scaled.standard_error / factor, plain.standard_error, atol=100 * eps(x64) * size
    )


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_as_large_as_stated(spectrum, method):
    operator, eigenvalues = spectrum
    found = [estimate(operator, method, 48, seed) for seed in range(40)]
    scores = [(e.value - eigenvalues.sum()) / e.standard_error for e in found]
    # 40 z-scores: mean within 3 / √40; their mean square near 1.
    assert abs(np.mean(scores)) < 0.48
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.5


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.concatenate([np.logspace(1, 4, 15), np.linspace(-1, 1, 385)]),
        np.concatenate([[1e5], np.linspace(-1, 1, 399)]),
        np.logspace(-6, 6, 400),
        np.concatenate([[5.0, 3.0, -2.0], np.zeros(397)]),
        np.repeat(np.logspace(-1, 3, 40), 10),
        np.zeros(400),
    ],
    ids=["outliers", "one outlier", "geometric", "rank 3", "tenfold", "zero"],
)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_block_basis_is_orthonormal_and_t_is_h_within_it(eigenvalues, scale, x64):
    matrix = with_spectrum(eigenvalues * scale)
    krylov = KrylovBasis(hessian(matrix), jax.random.key(0))
    for _ in range(40):
        krylov.grow()
    rows = np.asarray(krylov.basis.rows(0, krylov.rank), np.float64)
    # 2 to 4 eps were measured; what a lost pass leaves is 100 eps and more.
    np.testing.assert_allclose(rows @ rows.T, np.eye(krylov.rank), atol=20 * eps(x64))
    compressed = krylov.compressed * krylov.scale
    size = scale * np.abs(eigenvalues).max()
    np.testing.assert_allclose(rows @ matrix @ rows.T, compressed, atol=20 * eps(x64) * size)


def test_an_indefinite_operator_of_trace_zero_is_zero_within_its_error():
    eigenvalues = np.concatenate([np.linspace(-9, -1, DIM // 2), np.linspace(1, 9, DIM // 2)])
    for method in METHODS:
        low, high = estimate(hessian(with_spectrum(eigenvalues)), method).confidence_interval(0.999)
        assert low < 0.0 < high


def test_deflation_beats_plain_averaging_by_orders_of_magnitude(spectrum):
    operator, eigenvalues = spectrum
    errors = {
        method: np.sqrt(
            np.mean([(estimate(operator, method, 48, s).value - eigenvalues.sum()) ** 2
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
        found = estimate(operator, method)
        np.testing.assert_allclose(found.frobenius_norm, norm, rtol=1e-4)
        low, high = found.square.confidence_interval(0.999)
        assert low <= norm**2 <= high
    plain = estimate(operator, "hutchinson")
    low, high = plain.square.confidence_interval(0.999)
    assert low <= norm**2 <= high


def test_leave_one_out_agrees_with_leaving_one_out():
    """Against the definition: a new QR factorisation without vector i, and without i and j."""
    rng = np.random.default_rng(0)
    dim, k = 30, 6
    matrix = with_spectrum(rng.normal(size=dim))
    tests = rng.normal(size=(dim, k))
    tests *= dim**0.5 / np.linalg.norm(tests, axis=0)
    sketch = matrix @ tests

    def sample(i, out):
        basis, _ = np.linalg.qr(np.delete(sketch, out, axis=1))
        rest = tests[:, i] - basis @ (basis.T @ tests[:, i])
        form = rest @ matrix @ rest * (dim - basis.shape[1]) / (rest @ rest)
        return np.trace(basis.T @ matrix @ basis) + form

    basis, factor = np.linalg.qr(sketch)
    directions = np.linalg.inv(factor).T
    found = leave_one_out(
        dim,
        directions / np.linalg.norm(directions, axis=0),
        basis.T @ tests,
        basis.T @ matrix @ basis,
        factor,
        np.sum(tests * sketch, axis=0),
    )
    expected = [sample(i, [i]) for i in range(k)]
    np.testing.assert_allclose(found.samples, expected, rtol=1e-9)
    for i, j in [(0, 1), (3, 2), (5, 0)]:
        influence = expected[i] - sample(i, [i, j])
        np.testing.assert_allclose(found.influence[i, j], influence, rtol=1e-6, atol=1e-9)


def test_the_variance_of_xtrace_counts_the_covariance_of_its_samples():
    """Without it the stated variance is a third too small on a decaying spectrum."""
    eigenvalues = 0.9 ** np.arange(100)
    rng = np.random.default_rng(0)
    errors, stated, plain, covered = [], [], [], []
    for _ in range(400):
        tests = rng.normal(size=(100, 8))
        tests *= 10.0 / np.linalg.norm(tests, axis=0)
        basis, factor = np.linalg.qr(eigenvalues[:, None] * tests)
        directions = np.linalg.inv(factor).T
        found = leave_one_out(
            100,
            directions / np.linalg.norm(directions, axis=0),
            basis.T @ tests,
            basis.T @ (eigenvalues[:, None] * basis),
            factor,
            eigenvalues @ tests**2,
        )
        errors.append(found.samples.mean() - eigenvalues.sum())
        plain.append(found.samples.var(ddof=1) / 8)
        covariance = pair_covariance([found.influence])[0, 0]
        stated.append(plain[-1] + covariance)
        record = TraceEstimate.from_samples(found.samples, pair_covariance=covariance)
        low, high = record.confidence_interval()
        covered.append(low <= eigenvalues.sum() <= high)
    true = np.mean(np.square(errors))
    assert np.mean(plain) < 0.75 * true
    assert 0.8 * true < np.mean(stated) < 1.25 * true
    # So Student's t covers too seldom, and the record's interval does not.
    assert np.mean(np.abs(errors) <= stats.t.ppf(0.975, 7) * np.sqrt(plain)) < 0.92
    assert np.mean(covered) > 0.93


@pytest.fixture(scope="module")
def three_tasks():
    """Two that share their outliers, and their difference."""
    first = with_spectrum(outliers())
    second = first + 0.1 * with_spectrum(np.random.default_rng(5).normal(size=DIM), seed=1)
    stack = np.stack([first, second, first - second])
    return hessian(stack), np.trace(stack, axis1=1, axis2=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_loss_gives_a_task_axis_and_paired_differences(three_tasks, method):
    operator, truth = three_tasks
    found = estimate(operator, method, 48)
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


def test_the_trace_is_linear_in_the_task_weights(three_tasks, x64):
    operator, _ = three_tasks
    weights = np.array([0.5, -2.0, 1.5])
    tasks = estimate(operator, "hutchinson", 16)
    one = estimate(operator.weighted(weights), "hutchinson", 16)
    np.testing.assert_allclose(
        one.samples, weights @ tasks.samples, atol=1e4 * eps(x64) * np.abs(tasks.samples).max()
    )


def test_probes_can_be_added_and_different_keys_share_none(spectrum, x64):
    operator, _ = spectrum
    few, many = (estimate(operator, "hutchinson", n).samples for n in (16, 40))
    np.testing.assert_allclose(many[:16], few, rtol=1e4 * eps(x64))
    other = estimate(operator, "hutchinson", 40, seed=1).samples
    assert np.intersect1d(np.round(many, 3), np.round(other, 3)).size == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_product_is_counted(method):
    matrix = jnp.asarray(with_spectrum(outliers()), jnp.asarray(0.0).dtype)
    calls = []

    def matvec(x):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ x

    operator = FunctionOperator(matvec, jnp.zeros(DIM))
    for num_matvecs in (13, 48):
        jax.effects_barrier()
        calls.clear()
        found = estimate(operator, method, num_matvecs)
        jax.effects_barrier()
        assert len(calls) == found.num_matvecs


@pytest.mark.parametrize("method", METHODS)
def test_a_tolerance_is_met_or_the_estimate_says_how_far_it_is(spectrum, method):
    operator, eigenvalues = spectrum
    found = estimate(operator, method, None, rtol=0.05)
    assert found.converged
    assert abs(found.value - eigenvalues.sum()) <= 0.05 * abs(found.value)
    tight = estimate(operator, method, 64, atol=1e-9)
    assert not tight.converged
    assert tight.num_matvecs <= 64
    assert tight.matvecs_needed(atol=1e-9) > 1e6


@pytest.mark.parametrize("tasks", [1, 2])
def test_at_a_later_look_the_basis_may_grow_again(tasks):
    """Sixty outliers do not fit into the basis that the first 48 products can pay for."""
    eigenvalues = np.random.default_rng(2).normal(size=600)
    eigenvalues[:60] = np.logspace(4, 2, 60)
    matrices = [with_spectrum(eigenvalues * (1 + t)) for t in range(tasks)]
    operator = hessian(matrices[0] if tasks == 1 else np.stack(matrices))
    truth = eigenvalues.sum() * (1 + np.arange(tasks))
    found = [estimate(operator, num_matvecs=598, rtol=1e-3, seed=seed) for seed in range(4)]
    shares = [np.abs(f.exact / truth - 1).max() for f in found]
    # Not for every key: eight pilot probes may see too little of a drop to go on.
    assert np.min(shares) < 0.01, "no basis holds the outliers"
    for f in found:
        np.testing.assert_array_less(np.abs(f.value - truth), 4 * f.standard_error + 1e-5 * truth)


def test_a_task_without_spread_does_not_drown_the_others():
    """The forms of a multiple of the identity differ by rounding, and 1 / rounding is no weight."""
    matrix, eigenvalues = with_spectrum(outliers()), outliers()
    beside = [hessian(np.stack([matrix, other])) for other in (2 * matrix, np.eye(DIM))]
    errors = [
        [estimate(op, num_matvecs=64, seed=seed).value[0] - eigenvalues.sum() for seed in range(6)]
        for op in beside
    ]
    same, identity = (float(np.sqrt(np.mean(np.square(e)))) for e in errors)
    assert identity < 3 * same


@pytest.mark.parametrize("num_matvecs", [DIM, DIM + 20, 2 * DIM])
def test_a_tolerance_out_of_reach_costs_no_more_than_allowed(spectrum, num_matvecs):
    operator, eigenvalues = spectrum
    found = estimate(operator, num_matvecs=num_matvecs, rtol=1e-9)
    assert found.num_matvecs <= num_matvecs
    assert found.converged
    assert found.num_samples == 0
    assert float(found.value) == pytest.approx(eigenvalues.sum(), rel=1e-4)


def test_the_products_still_needed_follow_from_the_measured_variance():
    samples = np.random.default_rng(0).normal(5.0, 1.0, 64)
    found = TraceEstimate.from_samples(samples, num_matvecs=64, dim=100)
    assert found.matvecs_needed(atol=10.0) == 0.0
    width = found.half_width()
    assert found.matvecs_needed(atol=width / 2) == 3 * 64
    assert found.matvecs_needed() == float("inf")


def test_a_look_among_many_has_a_wider_interval():
    samples = np.random.default_rng(0).normal(size=32)
    once = TraceEstimate.from_samples(samples)
    among = TraceEstimate.from_samples(samples, error_share=0.1)
    assert among.confidence_interval(0.9) == once.confidence_interval(0.99)


def test_products_that_are_not_symmetric_are_refused():
    matrix = np.random.default_rng(0).normal(size=(DIM, DIM))
    matrix = jnp.asarray(matrix, jnp.asarray(0.0).dtype)
    operator = FunctionOperator(lambda x: matrix @ x, jnp.zeros(DIM))
    for method in METHODS:
        with pytest.raises(ValueError, match="not symmetric"):
            estimate(operator, method)


def test_a_product_that_is_not_finite_names_its_parameters():
    def loss(params):
        return jnp.sum(params["fine"] ** 2) + jnp.sqrt(jnp.sum(params["kinked"] ** 2))

    params = {"fine": jnp.ones(DIM - 30), "kinked": jnp.zeros(30)}
    for method in ("hutchinson", "xtrace"):
        with pytest.raises(ValueError, match="`kinked`"):
            trace(loss, params, jax.random.key(0), method=method, num_matvecs=32, progress=False)


def test_wrong_arguments_are_explained(spectrum):
    operator, _ = spectrum
    with pytest.raises(ValueError, match="`num_matvecs` must be at least 1, got 0"):
        estimate(operator, num_matvecs=0)
    with pytest.raises(ValueError, match="`method` must be one of"):
        estimate(operator, "xnystrace")
    with pytest.raises(ValueError, match="`rtol` and `atol` must be at least 0"):
        estimate(operator, rtol=-1.0)
    with pytest.raises(TypeError, match=r"hessspec\.trace\(operator, key=key\)"):
        trace(operator, jnp.zeros(DIM), jax.random.key(0))
    with pytest.raises(ValueError, match="`level` must lie strictly between 0 and 1"):
        estimate(operator).confidence_interval(1.0)
    with pytest.raises(ValueError, match="it has no task axis"):
        estimate(operator).difference(0, 1)


def test_records_survive_a_file_and_are_trees(three_tasks, tmp_path):
    operator, _ = three_tasks
    for method in ("xtrace", "auto"):
        found = estimate(operator, method, 48)
        found.save(tmp_path / "trace.npz")
        loaded = TraceEstimate.load(tmp_path / "trace.npz")
        assert jax.tree.structure(loaded) == jax.tree.structure(found)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(a, b)
