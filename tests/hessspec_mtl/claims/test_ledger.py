"""The ledger of claims: all twelve, in words, tables and JSON."""

import json
import math
from dataclasses import replace

import pytest

from hessspec_mtl.claims import Statistic, Verdict, judge, ledger_html, ledger_markdown
from hessspec_mtl.claims.ledger import number
from hessspec_mtl.claims.statistics import (
    Judgement,
)
from hessspec_mtl.curvature.spectra import Measured


def statistic(*values: Measured, threshold: float = 0.0, above: bool = True) -> Statistic:
    return Statistic("a number", values, threshold, above)


def test_the_ledger_has_all_twelve_claims_and_is_valid_json(records):
    from hessspec_mtl.claims import ledger_records

    judgements = judge([records.study("QM8", 2)])
    assert sorted({judgement.number for judgement in judgements}) == list(range(1, 13))
    text = json.dumps(ledger_records(judgements), allow_nan=False)
    entry = next(r for r in json.loads(text) if r["claim"] == 2)
    assert entry["verdict"] == "not measured in this run"
    assert "--sets mp" in entry["how_to_measure"]


def test_without_curvature_the_ledger_says_what_to_run(records):
    study = records.study("QM8")
    bare = replace(study, runs=(replace(study.runs[0], curvature=()),))
    judgements = {j.number: j for j in judge([bare])}
    for claim in (4, 5, 6, 7, 9, 10, 11):
        assert judgements[claim].verdict is Verdict.NOT_MEASURED
        assert judgements[claim].how_to_measure.startswith("python -m hessspec_mtl.reproduce")


def test_seeds_and_probes_are_told_apart_in_the_ledger(records):
    text = ledger_markdown(judge([records.study("QM8", 2)]))
    assert "(probes)" in text
    assert "(2 seeds)" in text
    single = ledger_markdown(judge([records.study("QM8")]))
    assert "not measured (one seed)" in single


def test_the_ledger_escapes_what_it_shows(records):
    study = records.study("QM8")
    odd = replace(study, dataset=replace(study.dataset, name="<b>&"))
    assert "<b>&" not in ledger_html(judge([odd]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.12345, "−0.123"),
        (1234.5, "1,234"),
        (2.5e-7, "2.50·10⁻⁷"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_written_to_three_digits(value, text):
    assert number(value) == text


def test_every_rule_of_a_claim_is_shown():
    known = (statistic(Measured(3.0, 1.0)),)
    one, other = (Judgement(10, "c", n, known, f"rule of {n}.", "figure6") for n in ("A", "B"))
    page = ledger_html([one, other, one])
    assert page.count("rule of A.") == page.count("rule of B.") == 1
