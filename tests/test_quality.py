"""Tables that commands write into pages: these hold what the files say, and no number besides."""

import json

import numpy as np
import pandas as pd
import pytest

from docs import compared, quality, weightings
from docs.made import ROOT, with_table
from docs.quality import Row, splits

pytestmark = pytest.mark.any_dtype


@pytest.mark.parametrize(
    ("maker", "page", "name"),
    [
        (maker, page, name)
        for maker in (compared, quality, weightings)
        for page, names in maker.PAGES.items()
        for name in names
    ],
)
def test_a_page_holds_the_table_that_its_files_make(maker, page, name):
    """`python -m docs.compared`, `docs.quality` and `docs.weightings` write them."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert with_table(text, name, maker.TABLES[name]()) == text


def test_nothing_is_kept_of_a_folder_that_is_no_such_run(tmp_path, monkeypatch):
    """A run without tasks alone has claims of its own, which are not those of the page."""
    run, kept = tmp_path / "run", tmp_path / "kept"
    monkeypatch.setattr(compared, "KEPT", kept)
    with pytest.raises(ValueError, match=r"lacks config\.json, test_errors\.csv"):
        compared.keep(run)
    for name in ("config.json", "test_errors.csv", *compared.SOURCES):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("[]")
    config = {"preset": "compare", "studies": {"QM8": {"train": {"weighting": "uncertainty"}}}}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="of QM8 and of weights uncertainty; what is kept"):
        compared.keep(run)
    (run / "tables" / "single_against_multi.csv").unlink()
    with pytest.raises(ValueError, match=r"lacks tables/single_against_multi\.csv; give"):
        compared.keep(run)
    assert not kept.exists()


def test_two_judgements_of_a_claim_are_both_told_where_they_differ(monkeypatch):
    """Claim 10 is judged on the network and on a spectrum that is known."""
    statistic = {"value": 1.0, "interval_95": [0.5, "infinity"], "threshold": 0.1}
    statistic |= {"name": "error", "claim_is_above": False, "holds": False}
    pair = [
        {"claim": 10, "dataset": "MP", "verdict": "not reproduced", "statistics": [statistic]},
        {"claim": 10, "dataset": "MP", "verdict": "reproduced", "statistics": []},
    ]
    monkeypatch.setattr(compared, "_judgements", lambda name: pair if name == "MP" else [])
    lines = compared.ledger()
    assert "| 10 Lanczos gives the extremes |  | not reproduced; reproduced |" in lines
    assert lines[-1] == "- 10, MP: error: 1 (0.5 to ∞), asked is below 0.1."


def test_a_page_without_a_place_for_its_table_is_named():
    with pytest.raises(ValueError, match="no <!-- made: qm8 -->"):
        with_table("# Results\n", "qm8", ["| a |"])
    other = "<!-- made: mp -->\n\n| b |\n\n<!-- end -->\n"
    with pytest.raises(ValueError, match="no <!-- made: qm8 --> with an <!-- end -->"):
        with_table("<!-- made: qm8 -->\n" + other, "qm8", ["| a |"])


def test_a_table_takes_the_place_of_the_last_one_alone():
    first, second = (f"<!-- made: {n} -->\n\n| old {n} |\n\n<!-- end -->\n" for n in "xy")
    page = f"a\n{first}b\n{second}"
    assert with_table(page, "x", ["| new |", "| 2 |"]) == page.replace(
        "| old x |", "| new |\n| 2 |"
    )


def test_raw_errors_have_the_units_of_the_targets():
    for base, rows in splits("QM8").values():
        raw = quality._raw(rows[0].errors, base)
        assert raw == pytest.approx((base["median_mae"] * base["deviation"]).mean())
        assert rows[2].words.startswith("random forest")
        forest = quality._raw(rows[2].errors, base)
        assert forest == pytest.approx(base["forest_mae_raw"].mean(), rel=1e-5)


def test_errors_of_several_seeds_have_their_spread():
    errors = pd.Series({"a": 0.25, "b": 0.5})
    row = Row("one", "10", errors, pd.Series({"a": 0.01, "b": np.nan}))
    assert (row.cell("a"), row.cell("b")) == ("0.250 ± 0.010", "0.500")
