"""The study of several tasks' intervals: it chooses as `trace` does, and its rows are kept."""

import numpy as np
import pytest

from benchmarks import accuracy_tasks_coverage as study

pytestmark = pytest.mark.any_dtype
SEEDS = 2000


def test_a_form_of_all_tasks_costs_what_the_operator_says():
    assert study.operator("decaying", "unlike").form_cost == study.FORM_COST


def chosen(method: str, spectrum: str, groups: str, budget: int, seeds: int) -> set:
    """(rank, whose probes, samples) of the emulation: what follows from its choices."""
    matrices = study.hessians(spectrum, groups)
    truth = np.einsum("btpp->t", matrices)
    found = [study.METHODS[method](matrices, truth, seed, budget) for seed in range(seeds)]
    return {(f.rank, f.estimate.probes, f.estimate.num_samples) for f in found}


def as_called(method: str, spectrum: str, groups: str, budget: int, calls: int) -> set:
    """The same of `hessspec.trace`."""
    found = [study.called(method, spectrum, groups, seed, budget) for seed in range(calls)]
    ranks = [0 if f.choice is None else f.choice.rank for f in found]
    return {(rank, f.probes, f.num_samples) for rank, f in zip(ranks, found, strict=True)}


def agree(method: str, spectrum: str, groups: str, budget: int, calls: int) -> None:
    """What the calls chose is among what the emulation did, with as many samples each."""
    emulated = chosen(method, spectrum, groups, budget, 300)
    assert as_called(method, spectrum, groups, budget, calls) <= emulated


def test_what_trace_chooses_is_among_what_the_emulation_does():
    agree("auto", "ten outliers", "agreeing", 96, 3)


@pytest.mark.slow
@pytest.mark.parametrize("groups", study.AGREEMENT)
@pytest.mark.parametrize("spectrum", study.SPECTRA)
@pytest.mark.parametrize("method", study.METHODS)
def test_of_every_method_trace_chooses_what_the_emulation_does(method, spectrum, groups):
    for budget in study.BUDGETS:
        agree(method, spectrum, groups, budget, 8)


@pytest.mark.slow
@pytest.mark.parametrize("groups", study.AGREEMENT)
@pytest.mark.parametrize("spectrum", study.SPECTRA)
@pytest.mark.parametrize("method", study.METHODS)
def test_intervals_of_several_tasks_cover_at_least_93_percent(method, spectrum, groups):
    """2,000 seeds of each row, of the worst task and of a difference of two."""
    for budget in study.BUDGETS:
        row = study.emulated(method, spectrum, groups, budget, SEEDS)
        assert min(row["worst"], row["paired"]) >= 0.93


def test_a_row_that_is_kept_is_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "rows.csv")
    case = ("hutchinson", "flat", "agreeing", 48)
    study.add("emulated", case, 12)
    kept = study.read()
    monkeypatch.setattr(study, "WAYS", {})
    study.add("emulated", case, 12)
    study.add("emulated", case, 5)
    assert study.read() == kept
    (row,) = kept
    assert (row["seeds"], row["samples"], row["own"]) == ("12", "42", "1")
    page = study.page()
    assert "12 seeds a row" in page
    assert f"drawn at revision {row['revision']}" in page
    assert page.count("| hutchinson | flat | agreeing | 48 | 42 | 100% |") == 1
    assert "itself" not in page  # no calls, no table of them


def test_more_seeds_take_the_place_of_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "rows.csv")
    for seeds in (8, 16):
        study.add("emulated", ("hutchinson", "flat", "unlike", 48), seeds)
    assert [row["seeds"] for row in study.read()] == ["16"]
