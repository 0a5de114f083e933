"""Probes of their own for groups of batches, and how much the trace varies over the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

import hessspec
from hessspec import Batches, HessianOperator, TraceEstimate
from hessspec._operators.parts import MOST_PARTS, parts_of, share_of
from hessspec._trace.costs import Costs
from hessspec._trace.strata import Strata, expected_share, halved
from tests.spectra import DIM, dtype, eps, trace_of, with_spectrum

COUNT = 8


def one_task(x, batch):
    """The Hessian of a batch is the mean of its matrices."""
    return jnp.einsum("p,npq,q->", x, batch, x, precision="highest") / (2 * batch.shape[0])


def two_tasks(x, batch):
    mean = batch.mean(axis=0)
    first = jnp.einsum("p,pq,q->", x, mean, x, precision="highest") / 2
    inner = jnp.matmul(mean, x, precision="highest")
    return jnp.stack([first, jnp.vdot(inner, x, precision="highest") / 4 + jnp.vdot(x, x) * 3])


LOSSES = {1: one_task, 2: two_tasks}


def matrices(agreement, sizes=(1,) * COUNT, seed=0):
    """Batches of matrices: a common part of this weight, and a part of their own."""
    rng = np.random.default_rng(seed)
    common = with_spectrum(rng.normal(size=DIM), seed=1)
    own = [
        np.stack([with_spectrum(rng.normal(size=DIM), seed=10 + 7 * b + i) for i in range(size)])
        for b, size in enumerate(sizes)
    ]
    return [agreement * common + (1 - agreement) * part for part in own]


def operator_of(batches, tasks=1):
    data = Batches([jnp.asarray(batch, dtype()) for batch in batches])
    return HessianOperator(LOSSES[tasks], jnp.zeros(DIM, dtype()), data=data)


def traces(batches, tasks=1):
    every = np.concatenate(batches)
    value = np.trace(every.mean(axis=0))
    return value if tasks == 1 else np.array([value, value / 2 + 6 * DIM])


@pytest.fixture(scope="module")
def agreeing():
    """Batches that agree on what is sharp: common probes see it eight times."""
    return matrices(0.9)


@pytest.mark.parametrize(
    "sizes",
    [
        (2, 2, 2, 1),
        *(
            pytest.param(sizes, marks=pytest.mark.any_dtype)
            for sizes in ((1,) * 8, (1,) * 12, (1, 2, 3, 4, 5, 6, 7, 8, 9))
        ),
    ],
    ids=str,
)
def test_parts_add_up_to_the_operator_and_share_shapes(sizes):
    operator = operator_of(matrices(0.5, sizes))
    parts = parts_of(operator)
    assert 2 <= len(parts) <= MOST_PARTS
    assert sum(map(share_of, parts)) == pytest.approx(1.0, rel=1e-6)
    rows = jnp.eye(3, DIM, dtype=dtype())
    whole = np.asarray(operator.rows(rows))
    np.testing.assert_allclose(
        sum(np.asarray(part.rows(rows)) for part in parts), whole, atol=50 * eps()
    )
    scaled = parts_of(-2.0 * operator)
    forms = sum(np.asarray(part.forms(rows)) for part in scaled)
    np.testing.assert_allclose(forms, -2.0 * np.asarray(operator.forms(rows)), atol=50 * eps())


@pytest.mark.any_dtype
def test_a_part_whose_loss_is_not_finite_names_its_batch_of_the_data(agreeing):
    broken = [*agreeing[:5], np.full_like(agreeing[5], np.inf), *agreeing[6:]]
    part = parts_of(operator_of(broken))[5]
    with pytest.raises(ValueError, match="of batch 5 of `data`, not finite"):
        part.linearised(2, 1 << 30)


@pytest.mark.any_dtype
def test_one_batch_and_streamed_data_have_no_parts(agreeing):
    whole = jnp.asarray(np.concatenate(agreeing), dtype())
    assert len(parts_of(HessianOperator(one_task, jnp.zeros(DIM, dtype()), data=whole))) == 1
    data = Batches([jnp.asarray(batch, dtype()) for batch in agreeing])
    streamed = HessianOperator(
        one_task, jnp.zeros(DIM, dtype()), data=data, memory_budget=3 * whole.nbytes
    )
    assert streamed.streamed is not None
    assert parts_of(streamed) == [streamed]
    with pytest.raises(ValueError, match="`data_standard_error` takes forms of several batches"):
        trace_of(streamed, "hutchinson").data_standard_error  # noqa: B018


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("method", "tasks"),
    [
        ("hutchinson", 1),
        ("auto", 2),
        ("hutch++", 2),
        pytest.param("hutch++", 1, marks=pytest.mark.slow),
        pytest.param("hutchinson", 2, marks=pytest.mark.slow),
        pytest.param("auto", 1, marks=pytest.mark.slow),
    ],
)
def test_probes_of_their_own_are_unbiased_and_as_good_as_they_say(agreeing, method, tasks):
    operator, truth = operator_of(agreeing, tasks), traces(agreeing, tasks)
    found = [trace_of(operator, method, 100, seed) for seed in range(24)]
    own = [f for f in found if f.probes == "own for each of 8 groups of batches"]
    assert len(own) >= 20
    scores = np.array([(f.value - truth) / f.standard_error for f in own])
    assert np.all(np.abs(scores.mean(axis=0)) < 4 / len(own) ** 0.5)
    # The root mean square of n normal scores is known to (2n)^-½; a tenth is what is claimed.
    noise = 4 / (2 * len(own)) ** 0.5
    assert np.all(np.abs(np.sqrt(np.mean(scores**2, axis=0)) - 1.0) < 0.1 + noise)
    if tasks == 2:
        paired = own[0].difference(0, 1)
        low, high = paired.confidence_interval(0.9999)
        assert low <= truth[0] - truth[1] <= high


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_diagonal_with_probes_of_their_own_is_unbiased_and_as_good_as_it_says(agreeing, tasks):
    """Scores of 12 x 120 entries; those of one seed share its probes, so means are over seeds."""
    operator = operator_of(agreeing, tasks)
    diagonal = np.diag(np.concatenate(agreeing).mean(axis=0))
    truth = diagonal if tasks == 1 else np.stack([diagonal, diagonal / 2 + 6])
    found = [
        hessspec.diagonal(operator, key=jax.random.key(seed), num_matvecs=80, progress=False)
        for seed in range(12)
    ]
    own = [f for f in found if f.trace.probes == "own for each of 8 groups of batches"]
    assert len(own) >= 10
    scores = np.array([(f.value - truth) / f.standard_error for f in own])
    assert np.all(np.abs(scores.mean(axis=-1).mean(axis=0)) < 4 / (len(own) * DIM) ** 0.5)
    assert np.all(np.abs(np.sqrt(np.mean(scores**2, axis=(0, -1))) - 1.0) < 0.1)
    if tasks == 1:
        for f in own:
            np.testing.assert_allclose(f.trace.value, np.sum(f.value), rtol=1e4 * eps())
        whole = HessianOperator(one_task, operator.params, data=np.concatenate(agreeing))
        common = [
            hessspec.diagonal(whole, key=jax.random.key(seed), num_matvecs=80, progress=False)
            for seed in range(12)
        ]
        errors = [np.mean([np.sum((f.value - truth) ** 2) for f in kind]) for kind in (own, common)]
        assert errors[1] > 1.5 * errors[0]


@pytest.mark.any_dtype
def test_what_decides_counts_half_whatever_is_decided():
    """The weights of the samples that are looked at do not depend on what they show."""
    cancelling = [m * (-1) ** i for i, m in enumerate(np.repeat(matrices(0.0)[:4], 2, axis=0))]
    for batches, probes in ((matrices(0.9), "own"), (cancelling, "common")):
        found = trace_of(operator_of(batches), "hutchinson", 60)
        assert found.probes.startswith(probes)
        assert found.num_samples == 60 - 4
    samples = np.arange(5.0)[None]
    np.testing.assert_array_equal(halved(samples), [[0.5, 2.5, 4.0]])


@pytest.mark.any_dtype
def test_they_are_chosen_where_batches_agree_and_not_where_they_cancel():
    """Opposite batches cancel under one probe: all of them, or each two in one of four groups."""
    agreeing, parts = matrices(0.9), matrices(0.0)[:4]
    apart, beside = [*parts, *(-m for m in parts)], [m * s for m in parts for s in (1, -1)]
    cases = (
        (agreeing, "own for each of 8 groups of batches"),
        (apart, "common"),
        (beside, "own for each of 4 groups of batches"),
    )
    for batches, wanted in cases:
        if wanted != cases[0][1]:
            batches = [m + 0.1 * common for m, common in zip(batches, agreeing, strict=True)]
        found = [trace_of(operator_of(batches, 2), "hutchinson", 60, seed) for seed in range(6)]
        assert all(f.probes == wanted for f in found)


@pytest.mark.any_dtype
@pytest.mark.parametrize(("other", "groups"), [("apart", 8), ("cancelling", 1), ("rounding", 8)])
def test_one_task_that_gains_nothing_does_not_forbid_what_one_that_loses_does(
    agreeing, other, groups
):
    """Forms of eight batches: those of the first task are alike, so that its own probes leave an
    eighth; of the second they are orthogonal, which leaves all, or half of each cancels in the sum,
    which makes of its variance twice to six times as much: less than the first one gains. A
    task whose forms differ by rounding alone has no say, whatever rounding says."""
    strata = Strata(operator_of(agreeing, 2), jax.random.key(0))
    rows = hadamard(16)[1:9].astype(float)
    forms = {
        "alike": np.tile(rows[0], (8, 1)),
        "apart": rows,
        "cancelling": np.outer(np.repeat([1.0, -1.0], 4), rows[0]) + rows,
    }
    forms["rounding"] = 1.0 + eps() * forms["cancelling"]
    strata.samples = [np.stack([forms["alike"], forms[other]], axis=1)]
    strata.decide(1000)
    assert strata.groups == groups


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("prices", "rank", "groups"),
    [
        ({"sign": 0.1}, 0, 8),
        ({"sign": 4.0}, 0, 1),
        ({"projection": 8.0}, 0, 8),
        ({"projection": 8.0}, 16, 1),
    ],
)
def test_groups_must_pay_for_their_draws_and_projections(agreeing, prices, rank, groups):
    """Beside a form of 1 eight draws of .1 are worth an eighth of the variance. With draws of 4 a
    sample of 8 groups costs 33 where a common one costs 5, and beside projections of 8, 65 where it
    costs 9: more than the .15 of the variance saves that are expected to be left."""
    strata = Strata(operator_of(agreeing), jax.random.key(0))
    strata.samples = [np.tile(hadamard(16)[1].astype(float)[:8], (8, 1))]
    strata.costs = Costs(form=1.0, extra=0.0, **prices)
    strata.decide(1000, rank)
    assert strata.groups == groups


@pytest.mark.any_dtype
def test_what_eight_forms_have_seen_counts_more_the_more_groups_may_differ():
    """In logarithms: two fifths from two groups, six sevenths from eight; the rest is typical."""
    for groups, weight in ((2, 0.414), (4, 0.739), (8, 0.864)):
        usual = groups**-0.28
        seen = np.array([usual, 2 * usual, 0.5])
        found = expected_share(seen, groups)
        np.testing.assert_allclose(found[0], usual, rtol=1e-12)
        np.testing.assert_allclose(found[1] / usual, 2.0**weight, rtol=5e-3)
    assert expected_share(np.zeros(1), 2) < 1e-50


@pytest.mark.any_dtype
def test_the_pilot_tells_the_variances_of_both_kinds(agreeing):
    """2 ‖Σ H_b‖²_F less the diagonal, and 2 Σ ‖H_b‖²_F less theirs: from 400 forms within 20 %."""
    strata = Strata(operator_of(agreeing), jax.random.key(0))
    rows = hessspec.rademacher(jax.random.key(1), jnp.arange(400), DIM, dtype())
    forms = strata.common(rows)
    parts = [batch[0] / COUNT for batch in agreeing]

    def variance(matrix):
        return 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))

    common, own = variance(sum(parts)), sum(map(variance, parts))
    np.testing.assert_allclose(forms.sum(axis=0).var(ddof=1), common, rtol=0.2)
    np.testing.assert_allclose(forms.var(axis=-1, ddof=1).sum(), own, rtol=0.2)
    strata.groups = COUNT
    drawn = strata.draw(400, lambda rows: rows)
    np.testing.assert_allclose(drawn.sum(axis=0).var(ddof=1), own, rtol=0.2)


@pytest.mark.any_dtype
def test_the_same_key_gives_the_same_answer_whatever_the_budget(agreeing):
    operator = operator_of(agreeing, 2)
    first, again = (trace_of(operator, "hutchinson", 80) for _ in range(2))
    np.testing.assert_array_equal(first.samples, again.samples)
    longer = trace_of(operator, "hutchinson", 100)
    n = first.num_samples
    np.testing.assert_allclose(longer.samples[:, :n], first.samples, rtol=1e3 * eps())


@pytest.mark.any_dtype
def test_samples_are_the_sums_of_their_groups_and_survive_a_file(agreeing, tmp_path):
    found = trace_of(operator_of(agreeing, 2), "hutchinson", 60)
    np.testing.assert_allclose(found.by_group.sum(axis=-1), found.samples, rtol=1e-12)
    found.save(tmp_path / "trace.npz")
    loaded = TraceEstimate.load(tmp_path / "trace.npz")
    assert loaded.probes == found.probes
    np.testing.assert_array_equal(loaded.by_group, found.by_group)
    np.testing.assert_allclose(loaded.data_standard_error, found.data_standard_error, rtol=1e-9)
    one = found.task(1)
    assert one.data_standard_error == pytest.approx(found.data_standard_error[1])


def test_the_error_from_the_data_is_that_of_a_weighted_mean_of_batches():
    """Exact traces of groups: σ² from the weighted scatter, nothing taken off for probes."""
    shares, values = np.array([0.5, 0.25, 0.25]), np.array([10.0, 13.0, 7.0])
    by_group = np.broadcast_to(shares * values, (5, 3))
    found = TraceEstimate.from_samples(
        by_group.sum(axis=-1), by_group=by_group, exact_by_group=np.zeros(3), group_shares=shares
    )
    assert found.data_standard_error == pytest.approx((4.5 / 2) ** 0.5)
    assert found.population_error(data=4.0) == pytest.approx((4.5 / 8) ** 0.5)
    with pytest.raises(ValueError, match="`probes` and `data` must be above 0"):
        found.population_error(data=0.0)
    with pytest.raises(TypeError, match="`data` must be a number, got str '4'"):
        found.population_error(data="4")
    with pytest.raises(ValueError, match=r"leave out `by`, and use `method='auto'` \(from 48"):
        TraceEstimate.from_samples(np.ones(3)).data_standard_error  # noqa: B018


def population(rng, count, spread):
    """Matrices with tr drawn around 50, and probes that see them vary."""
    base = with_spectrum(np.linspace(0, 1, DIM))
    scale = 1.0 + spread * rng.normal(size=(count, 1, 1))
    return base * scale * 50 / np.trace(base)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hutchinson", "auto"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_both_errors_together_cover_the_trace_of_the_population(method, tasks):
    """300 data sets of 8 batches from one population, each with probes of its own key."""
    rng, truth = np.random.default_rng(0), traces([np.eye(DIM)[None] * 50 / DIM], tasks)
    scores, seen = [], []
    for seed in range(300):
        items = population(rng, 16, 0.2)
        batches = [items[2 * b : 2 * b + 2] for b in range(COUNT)]
        found = trace_of(operator_of(batches, tasks), method, 60, seed)
        scores.append((found.value - truth) / found.population_error())
        seen.append(found.data_standard_error)
    scores = np.array(scores)
    # Student's t with 7 degrees of freedom: its rms is (7/5)^½ = 1.18, and 95 % lie within 2.36.
    assert np.all(np.mean(np.abs(scores) < 2.365, axis=0) > 0.92)
    exact = 50 * 0.2 / 16**0.5 * np.array([1.0, 0.5])[:tasks].squeeze()
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(seen), axis=0)), exact, rtol=0.1)
