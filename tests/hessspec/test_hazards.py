"""Where codes for Hessian spectra have gone wrong without a word: one short test for each way.

Tests run in float32, and those of what the dtype can change in float64 too, as the whole suite
does. Longer tests of the same hazards, where there are any, are named beside them.

a  the zero operator              below; test_density `..._has_trace_zero_and_an_atom_at_zero`
b  breakdown, m far above rank    below; test_lanczos `..._exhausted_space_is_noticed_at_once`
c  scales from 1e-12 to 1e12      below; test_verb, test_density, test_eigenpairs `..._of_c_h_...`
d  ghosts: three outliers stay 3  below; test_density `test_three_outliers_over_a_tiny_bulk_...`
e  indefinite, trace 0            below; test_verb `..._is_zero_within_its_error`
f  a ragged last batch            below; test_over_data `test_ragged_batches_give_the_mean_...`
g  unused parameters              below; test_hessian `test_unused_parameters_have_zero_rows`
h  dtypes, integer leaves         below; test_hessian `test_mixed_dtypes_compute_in_...`
i  odd and excessive requests     below; test_verb `test_any_number_of_products_...`
j  coverage of intervals          below, 200 seeds; studies/test_trace_studies, 2,000 seeds
k  H at another point             below; test_hessian `test_the_hessian_is_taken_at_...`
l  uncounted products             below; test_verb, test_eigenpairs `..._is_counted...`
m  probes shared between keys     below; test_verb, test_density `...`
n  compile time and data loops    below
o  settings changed by errors     below
"""

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import Batches, FunctionOperator, HessianOperator
from hessspec._operators.rows import compiled_rows
from tests.spectra import METHODS, dtype, eps, quadratic
from tests.spectra import trace_of as trace

DIM = 60
BASIS, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))


def with_spectrum(eigenvalues) -> HessianOperator:
    """An operator with these eigenvalues in a random basis. All share their compiled programs."""
    matrix = (BASIS * np.asarray(eigenvalues, float)) @ BASIS.T
    matrix = jnp.asarray((matrix + matrix.T) / 2, dtype())
    return HessianOperator(quadratic, jnp.zeros(DIM, dtype()), data=matrix)


def key(seed: int = 0):
    return jax.random.key(seed)


def density(operator, num_probes=2, num_steps=40, seed=0):
    return hessspec.density(
        operator, key=key(seed), num_probes=num_probes, num_steps=num_steps, progress=False
    )


def diagonal(operator, num_matvecs=40, seed=0):
    return hessspec.diagonal(operator, key=key(seed), num_matvecs=num_matvecs, progress=False)


def eigenpairs(operator, k=4, seed=0, **options):
    return hessspec.eigenpairs(operator, key=key(seed), k=k, progress=False, **options)


# --- a: the zero operator -----------------------------------------------------------------------


def test_every_verb_says_zero_of_the_zero_operator():
    zero = with_spectrum(np.zeros(DIM))
    for method in METHODS:
        found = trace(zero, method)
        assert (float(found.value), float(found.standard_error)) == (0.0, 0.0)
    spectrum = density(zero)
    assert float(spectrum.trace().value) == 0.0
    assert (spectrum.cdf(np.array([-1e-30, 0.0])) == [0.0, 1.0]).all()
    entries = diagonal(zero)
    assert not np.any(entries.value)
    assert not np.any(entries.standard_error)
    pairs = eigenpairs(zero)
    assert not np.any(pairs.values)
    assert pairs.converged.all()


def two_heads(params, batch):
    """The second head is not connected: its Hessian is zero."""
    first = jnp.sum(jnp.tanh(batch @ params["shared"]) ** 2)
    return jnp.stack([first, 0.0 * first + 1.0])


def test_a_dead_head_among_the_tasks_is_zero_and_harms_no_other():
    generator = np.random.default_rng(0)
    batch = jnp.asarray(generator.normal(size=(20, 12)), dtype())
    operator = HessianOperator(
        two_heads, {"shared": jnp.asarray(generator.normal(size=(12, 5)), dtype())}, data=batch
    )
    truth = np.trace(np.asarray(operator.dense()[0], np.float64))
    for method in METHODS:
        found = trace(operator, method)
        assert (found.value[1], found.standard_error[1]) == (0.0, 0.0)
        low, high = found.confidence_interval(0.9999)
        assert low[0] <= truth <= high[0]
    spectrum = density(operator, num_steps=20)
    assert float(spectrum.trace().value[1]) == 0.0
    assert float(spectrum.task(1).cdf(np.array(0.0))) == 1.0


# --- b: more steps than there are distinct eigenvalues ------------------------------------------

FEW_VALUES = {
    "identity": np.ones(DIM),
    "two clusters": np.repeat([-2.0, 1.0], DIM // 2),
    "rank 3": np.concatenate([[5.0, 3.0, -2.0], np.zeros(DIM - 3)]),
}


@pytest.mark.parametrize("name", FEW_VALUES)
def test_steps_beyond_the_rank_add_no_value_outside_the_spectrum(name):
    eigenvalues = FEW_VALUES[name]
    found = density(with_spectrum(eigenvalues))
    nodes = np.asarray(found.nodes)
    distance = np.abs(nodes[..., None] - np.unique(eigenvalues)).min(axis=-1)
    assert distance.max() < 200 * eps() * np.abs(eigenvalues).max()
    assert np.asarray(found.num_valid_steps).max() <= np.unique(eigenvalues).size + 1
    low, high = found.trace().confidence_interval(0.9999)
    slack = 200 * eps() * np.abs(eigenvalues).sum()
    assert low - slack <= eigenvalues.sum() <= high + slack


# --- c: scale -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e12])
def test_answers_scale_with_the_operator(factor):
    """An absolute threshold anywhere (rank, breakdown, smoothing) would show here."""
    eigenvalues = np.linspace(1.0, 2.0, DIM)
    one, scaled = (with_spectrum(c * eigenvalues) for c in (1.0, factor))
    # Rounding of the products, and once more where half of the space is removed from them.
    close = partial(np.testing.assert_allclose, rtol=2e3 * eps())
    for method in METHODS:
        close(trace(scaled, method).value, factor * trace(one, method).value)
    a, b = density(one), density(scaled)
    close(b.trace().value, factor * a.trace().value)
    close(b.resolution, factor * a.resolution)
    x = np.linspace(0.9, 2.1, 7)
    smooth = partial(np.testing.assert_allclose, rtol=0, atol=1e5 * eps())
    smooth(b.pdf(factor * x) * factor, a.pdf(x))
    close(diagonal(scaled).value, factor * np.asarray(diagonal(one).value))
    pairs = eigenpairs(one), eigenpairs(scaled)
    assert pairs[0].converged.all()
    assert pairs[1].converged.all()
    close(pairs[1].values, factor * np.asarray(pairs[0].values))


# --- d: copies ----------------------------------------------------------------------------------


def test_three_outliers_are_counted_as_three():
    bulk = 1e-3 * np.random.default_rng(1).normal(size=DIM - 3)
    found = density(with_spectrum(np.concatenate([[1.0, 1.5, 2.0], bulk])), num_steps=50)
    outliers = (np.asarray(found.nodes) > 0.5) & (np.asarray(found.weights) > 0)
    assert outliers.sum(axis=1).max() == 3
    count = found.count(0.5, np.inf)
    assert (count.lower, count.upper) == (3, 3)


# --- e: indefinite operators --------------------------------------------------------------------


@pytest.mark.any_dtype
def test_a_trace_of_zero_is_never_a_confident_number():
    """True trace 0: a method for positive operators would cut off one half of the spectrum."""
    eigenvalues = np.concatenate([np.linspace(-9, -1, DIM // 2), np.linspace(1, 9, DIM // 2)])
    operator = with_spectrum(eigenvalues)
    for method in METHODS:
        scores = [
            e.value / e.standard_error for e in (trace(operator, method, 32, s) for s in range(10))
        ]
        # Ten t-values with 10 or more degrees of freedom: rms 1.1, and 2 once in 10,000 tries.
        assert np.sqrt(np.mean(np.square(scores))) < 2.0
    with pytest.raises(ValueError, match="`method` must be one of"):
        trace(operator, "xnystrace")


# --- f: batches ---------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_a_ragged_last_batch_weighs_as_much_as_it_holds():
    generator = np.random.default_rng(2)
    items = jnp.asarray(generator.normal(size=(11, 6)), dtype())
    params = jnp.asarray(generator.normal(size=6), dtype())

    def loss(w, x):
        return jnp.mean(jnp.logaddexp(0.0, x @ w))

    whole = HessianOperator(loss, params, data=items).dense()
    parts = HessianOperator(loss, params, data=Batches([items[:4], items[4:8], items[8:]])).dense()
    tolerance = 1e-12 if dtype() == np.float64 else 1e-5
    np.testing.assert_allclose(parts, whole, rtol=0, atol=tolerance * float(jnp.abs(whole).max()))


# --- g: parameters that the loss does not use ---------------------------------------------------


def test_unused_parameters_have_curvature_zero_exactly():
    tree = {"other head": jnp.ones((3, 4), dtype()), "used": jnp.ones(DIM - 12, dtype())}

    def loss(p):
        return jnp.sum(jnp.cos(p["used"] * jnp.arange(1, DIM - 11, dtype=dtype())))

    operator = HessianOperator(loss, tree)
    vector = jax.tree.map(jnp.ones_like, tree)
    assert not np.any(hessspec.hvp(operator, vector=vector)["other head"])
    assert not np.any(diagonal(operator).value["other head"])
    # A vector may turn by its residual, eps^(2/3) of the norm, over the gap to 0.
    assert np.abs(eigenpairs(operator).vectors["other head"]).max() < 4 * eps() ** (2 / 3)
    truth = -np.sum(np.cos(np.arange(1, DIM - 11)) * np.arange(1, DIM - 11.0) ** 2)
    for method in METHODS:
        low, high = trace(operator, method).confidence_interval(0.9999)
        slack = 100 * eps() * abs(truth)
        assert low - slack <= truth <= high + slack


# --- h: dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [np.float32, np.float64])
def test_products_have_the_dtype_of_the_parameters_whatever_the_settings(leaf):
    """Float32 parameters stay float32 with x64 on; integers and keys never meet a derivative."""
    if leaf == np.float64 and dtype() == np.float32:
        pytest.skip("float64 arrays need x64")
    tree = {
        "w": jnp.ones(20, leaf),
        "steps": jnp.arange(3),
        "flag": True,
        "name": "encoder",
        "key": jax.random.key(0),
    }

    def loss(p):
        assert p["name"] == "encoder"
        assert p["steps"].dtype == jnp.arange(3).dtype
        return jnp.sum(jnp.sin(p["w"])) * p["steps"].sum().astype(leaf)

    operator = HessianOperator(loss, tree)
    assert operator.dim == 20
    assert operator.dtype == leaf
    product = operator.matvec(operator.chosen)
    assert product["w"].dtype == leaf
    assert product["steps"] is None
    found = diagonal(operator, 8)
    assert found.value["w"].dtype == leaf
    np.testing.assert_allclose(found.value["w"], -3 * np.sin(1.0), rtol=1e-5)
    assert found.trace.value.dtype == np.float64  # on the host
    assert hessspec.rademacher(key(), jnp.arange(2), 5, jnp.dtype(leaf)).dtype == leaf


# --- i: requests at the edge --------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 5])
def test_requests_beyond_the_size_of_the_operator_are_exact_and_defined(dim):
    values = np.arange(dim) - 1.5
    matrix = jnp.diag(jnp.asarray(values, dtype()))
    operator = FunctionOperator(
        partial(jnp.matmul, matrix, precision="highest"), jnp.zeros(dim, dtype())
    )
    close = partial(np.testing.assert_allclose, atol=100 * eps() * dim)
    for method in METHODS:
        found = trace(operator, method, 33)
        close(found.value, values.sum())
        assert (found.standard_error, found.num_matvecs) == (0.0, dim)
    for num_probes in (1, 3):
        spectrum = density(operator, num_probes)
        assert bool(spectrum.exact)
        close(np.asarray(spectrum.nodes)[0], values)
    close(diagonal(operator, 33).value, values)
    close(np.sort(eigenpairs(operator, dim).values), values)
    with pytest.raises(ValueError, match=rf"`k` must lie in \[1, {dim}\]"):
        eigenpairs(operator, dim + 1)


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_matvecs", [2, 5])
def test_few_and_odd_numbers_of_products_are_defined_and_say_so(method, num_matvecs):
    operator = with_spectrum(np.linspace(1.0, 2.0, DIM))
    found = trace(operator, method, num_matvecs)
    assert found.num_matvecs <= num_matvecs
    assert not found.reliable
    low, high = found.confidence_interval(0.9999)
    assert low <= 1.5 * DIM <= high


# --- j: coverage --------------------------------------------------------------------------------


def load_benchmark(name: str):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.any_dtype
def test_intervals_from_16_samples_cover_and_two_samples_are_not_called_reliable():
    """The quick form: 200 seeds know a coverage of 95 % to 1.5 %."""
    coverage = load_benchmark("accuracy_trace_coverage")
    eigenvalues = coverage.spectra()["one outlier"]
    for method, budget in (("hutchinson", 16), ("hutch++", 48), ("xtrace", 32), ("auto", 48)):
        run, _ = coverage.METHODS[method]
        found = [next(run(eigenvalues, seed, (budget,))) for seed in range(200)]
        assert all(estimate.reliable for estimate in found)
        row = coverage.study(found, coverage.true_trace(method, eigenvalues))
        assert row["coverage"] >= 0.95 - 3 * 0.0154
        assert 0.8 < row["width"] < 1.8
    assert not next(coverage.hutchinson(eigenvalues, 0, (2,))).reliable


# --- k: the point at which H is taken -----------------------------------------------------------


def cubic(x):
    return jnp.sum(x**3) / 6


def test_every_verb_sees_the_hessian_at_the_parameters_given():
    """The Hessian of Σ x³/6 is diag(x), another matrix at every point."""
    for point in (np.linspace(-1.0, 2.0, DIM), np.linspace(3.0, 4.0, DIM)):
        x = jnp.asarray(point, dtype())
        ones = jnp.ones(DIM, dtype())
        close = partial(np.testing.assert_allclose, atol=1e3 * eps() * np.abs(point).max())
        close(hessspec.hvp(cubic, x, ones), point)
        close(hessspec.diagonal(cubic, x, key(), num_matvecs=2, progress=False).value, point)
        close(hessspec.trace(cubic, x, key(), progress=False).value / DIM, point.mean())
        ends = hessspec.density(cubic, x, key(), progress=False).extremes()
        close([ends.smallest, ends.largest], [point.min(), point.max()])


# --- l: counting --------------------------------------------------------------------------------

COUNTED = {
    **{f"trace, {method}": partial(trace, method=method) for method in METHODS},
    "trace, to a tolerance": partial(trace, num_matvecs=None, rtol=1e-2),
    "trace, exact": partial(trace, num_matvecs=DIM),
    "density": partial(density, num_steps=20),
    "density, exact": partial(density, num_steps=DIM),
    "diagonal": diagonal,
    "diagonal, exact": partial(diagonal, num_matvecs=DIM),
    "eigenpairs": eigenpairs,
    "eigenpairs, all": partial(eigenpairs, k=DIM),
}


@pytest.mark.any_dtype
def test_products_reported_are_the_products_executed():
    """Counted in the product itself, guards and checks included."""
    values = np.concatenate([[300.0, -40.0], np.random.default_rng(3).normal(size=DIM - 2)])
    matrix = jnp.asarray((BASIS * values) @ BASIS.T, dtype())
    executed = []

    def matvec(v):
        jax.debug.callback(lambda: executed.append(1))
        return jnp.matmul(matrix, v, precision="highest")

    operator = FunctionOperator(matvec, jnp.zeros(DIM, dtype()))
    for name, verb in COUNTED.items():
        jax.effects_barrier()
        executed.clear()
        found = verb(operator)
        jax.effects_barrier()
        assert len(executed) == found.num_matvecs, name


# --- m: keys ------------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_neighbouring_keys_share_no_probe():
    """Codes that seed probe i with `seed + i` repeat n - 1 of n probes at the next seed."""
    seeds, count = 8, 40
    rows = np.concatenate(
        [hessspec.gaussian(key(s), jnp.arange(count), 50, dtype()) for s in range(seeds)]
    )
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.abs(rows @ rows.T)[np.triu_indices(seeds * count, 1)]
    # 51,040 pairs in 50 dimensions: the largest of their cosines stays below 0.8.
    assert cosines.max() < 0.8
    operator = with_spectrum(np.random.default_rng(4).normal(size=DIM))
    for method in METHODS:
        one, other = (np.asarray(trace(operator, method, 24, seed).samples) for seed in (0, 1))
        gaps = np.abs(one[:, None] - other[None])
        assert gaps.min() > 100 * eps() * np.abs(one).max()


# --- n: compile time ----------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_the_compiled_program_does_not_grow_with_the_number_of_batches():
    items = jnp.asarray(np.random.default_rng(5).normal(size=(64, 4, 6)), dtype())
    traced = []

    def loss(w, x):
        traced.append(1)
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    def size(num_batches):
        traced.clear()
        operator = HessianOperator(
            loss, jnp.ones(6, dtype()), data=Batches(list(items[:num_batches]))
        )
        block = jnp.ones((2, 6), dtype())
        return len(compiled_rows.lower(operator, block).as_text()), len(traced)

    (small, few), (large, many) = size(4), size(64)
    assert large < 1.05 * small
    assert many <= few


# --- o: settings --------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_settings_survive_an_error():
    def failing(x):
        return jnp.sum(jnp.sqrt(x))

    def state():
        return dict(jax.config.values), np.geterr(), list(warnings.filters)

    before = state()
    calls = [
        lambda: hessspec.trace(failing, jnp.zeros(9, dtype()), key(), num_matvecs=4),
        lambda: hessspec.density(failing, jnp.zeros(9, dtype()), key()),
        lambda: hessspec.eigenpairs(failing, jnp.zeros(9, dtype()), key(), k=2),
        lambda: hessspec.diagonal(failing, jnp.zeros(9, dtype()), key()),
        lambda: hessspec.hvp(failing, jnp.zeros(9, dtype()), jnp.ones(9, dtype())),
        lambda: hessspec.trace(lambda x: jnp.sum(x) / 0.0, jnp.ones(9, dtype()), key()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"not finite|is inf"):
            call()
        assert state() == before
