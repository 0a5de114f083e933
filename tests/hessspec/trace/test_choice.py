"""What `auto` chooses before it samples, and at which prices."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import TraceEstimate
from hessspec._krylov.block_basis import ON_TRUST, PILOT, TYPICAL, growth_pays
from hessspec._operators.work import Work
from hessspec._trace.choice import Goal, decline_of, next_rank
from hessspec._trace.costs import MACHINE, Costs, seconds
from tests.spectra import hessian, outliers, trace_of, with_spectrum

pytestmark = pytest.mark.any_dtype

FREE = Costs(form=0.6, extra=0.6)  # products are all there is
TAX = 1.6 / 0.6


def typical(rank: int) -> float:
    return float((1 + rank) ** -TYPICAL)


def wanted_rank(measured, costs=FREE, samples=100.0, room=10_000):
    return next_rank(
        measured, costs, held=PILOT / 2, wanted=samples, room=room, tax=TAX, most=10_000
    )


def final_rank(costs, samples, off=1.0):
    """Where it ends if variances fall as is typical and the pilot beside the first basis is off."""
    measured = [(0, 1.0)]
    while True:
        rank = measured[-1][0]
        needed = samples * typical(rank)
        target = wanted_rank(measured, costs, needed)
        if target == rank:
            return rank
        measured.append((target, typical(target) * (off if rank == 0 else 1.0)))


def price(costs, samples, rank):
    """Of all that reaches the error which so many samples without a basis have."""
    return rank * costs.direction(rank) + samples * typical(rank) * costs.sample(rank)


def test_a_costly_projection_leads_to_a_smaller_basis_and_a_cheap_one_to_a_larger():
    ranks = [final_rank(replace(FREE, projection=p), 2000) for p in (0.0, 0.1, 0.4, 4.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > ranks[2] > ranks[3] == 0
    cheap = final_rank(replace(FREE, form=0.1, extra=0.1), 200)
    assert cheap <= final_rank(FREE, 200)


@pytest.mark.parametrize("samples", [60, 250, 1000])
def test_a_pilot_that_is_four_times_off_does_not_decide(samples):
    """What is reached costs at most a third more than the best rank would."""
    best = min(price(FREE, samples, rank) for rank in range(0, 400, PILOT))
    for off in (0.25, 1.0, 4.0):
        assert price(FREE, samples, final_rank(FREE, samples, off)) < 1.34 * best


def test_noise_says_nothing_of_the_decline_and_a_fall_that_has_ended_promises_nothing():
    ranks = (0, 16, 32, 64)
    usual = [(rank, typical(rank) * 1.1 ** (-1) ** i) for i, rank in enumerate(ranks)]
    assert decline_of(usual[:1]) == TYPICAL
    assert decline_of(usual) == pytest.approx(TYPICAL)
    steep = [(rank, typical(rank) ** 4) for rank in ranks]
    assert 2 * TYPICAL < decline_of(steep) < 4 * TYPICAL
    ended = [*steep, (128, steep[-1][1])]
    assert decline_of(ended) <= TYPICAL
    assert 0 <= decline_of([(rank, 1.0) for rank in ranks]) < TYPICAL / 2


def test_a_basis_at_most_doubles_and_stays_within_what_is_allowed():
    assert wanted_rank([(0, 1.0)], samples=1e6, room=10**7) == ON_TRUST
    assert wanted_rank([(0, 1.0), (16, 0.2)], samples=1e6, room=10**7) == 32
    assert wanted_rank([(0, 1.0)], room=PILOT * TAX + PILOT) == 0
    assert wanted_rank([(0, 0.0)]) == 0, "forms without spread need no basis"


def test_a_tolerance_asks_for_the_samples_of_its_worst_task():
    goal = Goal(rtol=0.1, atol=1.0, cap=100)
    assert goal.samples(np.array([90.0, 0.0]), np.array([100.0, 9.0])) == pytest.approx(36)
    assert Goal(0.0, 0.0, 1).samples(np.zeros(1), np.ones(1)) == 1e10


def two_tasks():
    matrix = with_spectrum(outliers())
    return hessian(np.stack([matrix, with_spectrum(outliers(1), seed=1)]))


def test_the_same_key_gives_the_same_choice_and_says_so(tmp_path):
    operator = two_tasks()
    found, again = (trace_of(operator, num_matvecs=90, seed=3) for _ in range(2))
    assert found.choice == again.choice
    np.testing.assert_array_equal(found.samples, again.samples)
    assert found.choice.rank > 0
    assert f"{found.choice.rank} directions, common probes" in str(found)
    found.save(tmp_path / "trace.npz")
    assert TraceEstimate.load(tmp_path / "trace.npz").choice == found.choice
    assert trace_of(operator, "hutchinson").choice is None


def test_a_trace_chooses_by_the_costs_of_its_loss(monkeypatch):
    operator = two_tasks()
    assert trace_of(operator, num_matvecs=90, seed=3).choice.rank > 0
    costly = replace(Costs.of(operator), projection=20.0)
    monkeypatch.setattr(Costs, "of", lambda operator: costly)
    found = trace_of(operator, num_matvecs=90, seed=3)
    assert (found.choice.rank, found.num_samples) == (0, 90 - PILOT // 2 - 4)
    assert found.choice.sample == costly.sample(0)


def test_costs_are_those_of_the_count_and_nothing_where_that_is_not_known():
    operator = two_tasks()
    costs = Costs.of(operator)
    assert costs == Costs.of(operator)
    assert costs.form == costs.extra == operator.form_cost
    assert 0 < costs.sign == costs.probe, "several tasks have random signs"
    of_one = Costs.of(operator.weighted(jnp.ones(2)))
    assert 0 < of_one.sign < of_one.probe
    fast = replace(MACHINE, sign=MACHINE.sign / 2)
    assert Costs.of(operator, fast).probe == pytest.approx(costs.probe / 2)
    assert seconds(Work(MACHINE.flops, MACHINE.nbytes)) == 2.0
    unknown = replace(FREE, form=1.0, extra=0.0)
    assert unknown.direction(64) == unknown.sample(64) == unknown.own_sample(64, 8) == 1.0
    # Sixteen rows lie in a chunk, which is read as a whole.
    assert costs.project(1) == costs.project(16) < costs.project(17)


def test_one_task_with_costly_projections_takes_fewer_directions():
    variances = 0.97 ** np.arange(0, 66, 2)
    falls = -np.diff(variances, prepend=1.0)
    falling = list(zip(range(0, 66, 2), variances, falls, strict=True))
    for costs, pays in ((Costs(1.0, 0.0), True), (Costs(1.0, 0.0, projection=1.0), False)):
        assert growth_pays(falling, 200, PILOT, costs=costs) == pays
    assert growth_pays([(0, 1.0, 0.0)], 60, PILOT, costs=Costs(1.0, 0.0))
    assert not growth_pays([(0, 1.0, 0.0)], 60, PILOT, costs=Costs(1.0, 0.0, projection=2.0))
