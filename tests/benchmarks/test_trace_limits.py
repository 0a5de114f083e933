"""What a basis and probes could bring a trace, from deviations and prices that are given."""

import jax
import numpy as np
import pytest

import hessspec
from benchmarks import trace_limits
from benchmarks.trace_limits import Beside, Way, deviations

pytestmark = pytest.mark.any_dtype


def beside(basis: str, deviations: dict[str, float], *, rank=0, groups=1, before=0.0, sample=0.5):
    rows = [
        Beside("QM8 at epoch 0", basis, rank, "signs", groups, task, value, before, sample, "abc")
        for task, value in deviations.items()
    ]
    return tuple(rows)


PLAIN = beside("none", {"a": 4.0, "b": 10.0})
HALVED = beside("Krylov", {"a": 2.0, "b": 2.0}, rank=16, before=37.5, sample=0.5)


def test_the_task_that_gains_least_decides_how_many_samples_there_must_be():
    way = Way(HALVED, PLAIN)
    assert way.samples == 125.0  # a quarter of the variance of 500
    assert way.products == 37.5 + 125 * 0.5
    assert way.faster == 2 * 500 / 100
    assert Way(PLAIN, PLAIN).faster == 4.0


def test_the_page_names_the_best_and_what_forms_alone_would_make_of_it(monkeypatch):
    monkeypatch.setattr(trace_limits, "read", lambda: [*PLAIN, *HALVED])
    page = trace_limits.page()
    assert "| Krylov | 16 | signs, common | 2 2 | 38 | 125 at 0.50 | 10.0 |" in page
    assert "The best of these: Krylov of rank 16, 10.0 times fewer; the bar is 20." in page
    assert "their forms alone it would be 16.0." in page


def test_what_groups_leave_is_told_as_a_power_of_their_number():
    """A quarter of the variance with two groups is 2^-2."""
    common = beside("Krylov", {"a": 2.0, "b": 2.0}, rank=16)
    own = beside("Krylov", {"a": 1.0, "b": 1.0}, rank=16, groups=2)
    assert "for g = 2: 2.00 ± 0.00.\n" in trace_limits.in_short([*common, *own])
    assert trace_limits.in_short(list(PLAIN)) == ""


def test_deviations_beside_a_basis_are_those_of_what_it_leaves():
    """2^½ |H_rest|_F about the mean, to three times the tenth that 48 probes leave."""
    eigenvalues = np.array([100.0, 50.0, *np.linspace(-1.0, 1.0, 62)])
    operator = hessspec.HessianOperator(
        lambda x: 0.5 * (x @ (eigenvalues.astype(np.float32) * x)), np.zeros(64, np.float32)
    )
    rows = jax.numpy.eye(64)[:2]
    for basis, rest in ((None, eigenvalues), (rows, eigenvalues[2:])):
        (found,) = deviations(operator, basis, "spherical").values()
        wanted = np.sqrt(2 * (np.sum(rest**2) - np.sum(rest) ** 2 / len(rest)))
        assert found == pytest.approx(wanted, rel=0.3)
