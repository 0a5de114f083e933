"""Variants of the study: each changes one thing, is run once, and leaves rows to be read."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.claims import judge
from hessspec_mtl.claims.statistics import Verdict
from hessspec_mtl.study import readings
from hessspec_mtl.study.presets import PRESETS
from hessspec_mtl.study.readings import (
    CLAIMS,
    NOT_REPRODUCED,
    READINGS,
    RECIPES,
    REPRODUCED,
    Variant,
    missing,
    read_rows,
    readings_table,
    recipes_table,
    run_readings,
    run_recipes,
)

CONFIG = PRESETS["compare"].studies["qm8"]


@dataclass(frozen=True)
class Examples:
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Encoded:
    train: Examples


@pytest.mark.parametrize("variants", [READINGS, RECIPES])
def test_each_variant_differs_from_ours_in_one_thing_and_from_all_others(variants):
    ours, *others = [variant.of(CONFIG, (0,)) for variant in variants]
    assert ours.network == CONFIG.network
    assert ours.train == CONFIG.train
    assert len({variant.name for variant in variants}) == len(variants)
    for variant, made in zip(variants[1:], others, strict=True):
        changed = [made.network != ours.network, made.train != ours.train]
        changed += [made.num_examples != ours.num_examples, variant.clip]
        assert sum(changed) == 1, variant.name
    longer = next(v for v in RECIPES if v.name == "longer").of(CONFIG, (0,)).train
    last, first = longer.learning_rate_at(160), CONFIG.train.learning_rate_at(40)
    assert last == pytest.approx(first, rel=1e-6)


@pytest.fixture
def studied(records, monkeypatch) -> list[str]:
    """The folders in which a study was asked for; raw features diverge."""
    asked: list[str] = []

    def study(config, dataset, folder, progress, say):
        asked.append(str(folder.relative_to(folder.parents[2])))
        if config.network.carried == "raw":
            raise FloatingPointError("the train error of task 'E1' is nan in epoch 3")
        return records.study("MP")

    monkeypatch.setattr(readings, "_study", study)
    return asked


def test_readings_are_judged_once_in_pieces_and_one_that_diverges_says_so(
    records, studied, tmp_path
):
    judged = judge([records.study("MP")])

    def go_on(most):
        return run_readings(
            CONFIG,
            None,
            lambda studies: judged,
            tmp_path,
            "qm8",
            seeds=(0,),
            most=most,
            say=lambda _: None,
        )

    assert len(missing(READINGS, go_on(1))) == len(READINGS) - 1
    assert studied == ["readings/ours/qm8"]
    table = go_on(None)
    assert len(studied) == len(READINGS)
    assert len(go_on(None)) == len(table)
    assert len(studied) == len(READINGS)
    ours = table[table["variant"] == "ours"]
    assert set(ours["claim"]) == set(CLAIMS)
    assert set(ours["holds"]) <= {"yes", "no", "open"}
    read = read_rows(tmp_path / "readings" / "readings_qm8.csv")
    assert list(read["verdict"]) == list(table["verdict"])
    made = readings_table({"QM8": read})
    assert len(made.rows) == len(READINGS) + 1
    raw = next(row for row in made.rows if row[0].startswith("raw"))
    assert all("QM8: diverged" in cell for cell in raw[1:])
    with pytest.raises(ValueError, match=r"`most` \(--most\) must be at least 0, got -1"):
        go_on(-1)


def test_the_last_row_says_what_holds_whatever_one_assumes():
    """Claims 4 to 7 and 11 under eight readings, of which the last does not train."""
    yes, no, open_ = "reproduced", "not reproduced", "undecided"
    by_claim = {4: [yes] * 7, 5: [no] * 7, 6: [yes, no] + [open_] * 5, 7: [yes, open_] + [yes] * 5}
    by_claim[11] = [open_] * 7
    rows = [
        {"variant": variant.name, "claim": claim, "verdict": verdict}
        for claim, verdicts in by_claim.items()
        for variant, verdict in zip(READINGS, verdicts, strict=False)
    ]
    rows.append({"variant": READINGS[-1].name, "claim": 0, "verdict": "diverged: epoch 3"})
    whole = pd.DataFrame(rows)
    part = whole[whole["variant"] != READINGS[2].name]
    made = readings_table({"QM8": whole, "MP": part})
    said = ["holds", "fails", "hangs on a choice", "open", "open"]
    far = [s if s.startswith("hangs") else f"{s} so far, 1 not run" for s in said]
    both = (f"QM8: {one}; MP: {other}" for one, other in zip(said, far, strict=True))
    assert made.rows[-1] == ("whatever one assumes", *both)
    assert set(by_claim) == set(CLAIMS)
    assert {REPRODUCED, NOT_REPRODUCED} < {str(verdict) for verdict in Verdict}


def test_recipes_train_on_what_they_say_and_stand_beside_the_median(monkeypatch, tmp_path):
    loaded: list[int | None] = []
    spread: dict[str, float] = {}
    targets = np.zeros((200, 1), np.float32)
    targets[0] = 100.0  # an outlier

    def works(config, dataset, folder):
        return [
            SimpleNamespace(
                seed=seed,
                encoded=Encoded(Examples(targets)),
                settings=config.train,
                network=SimpleNamespace(tasks=("f1",)),
                training=folder / f"seed-{seed}",
                split=None,
            )
            for seed in config.seeds
        ]

    def trained(settings, network, examples, folder, *, progress):
        spread[folder.parents[1].name] = float(examples.train.targets.max())
        folder.mkdir(parents=True)
        rows = [(epoch, split, "f1", 1.0, 0.3) for epoch in range(4) for split in ("train", "test")]
        return pd.DataFrame(rows, columns=["epoch", "split", "task", "mse", "mae"])

    monkeypatch.setattr(readings, "seed_works", works)
    monkeypatch.setattr(readings, "train", trained)
    monkeypatch.setattr(readings, "median_error", lambda dataset, split: np.array([0.4]))
    table = run_recipes(CONFIG, loaded.append, tmp_path, "qm8", seeds=(0, 1), say=lambda _: None)
    assert loaded == [8000 if v.name == "more" else 2000 for v in RECIPES]
    assert not missing(RECIPES, table)
    assert len(table) == 2 * len(RECIPES)
    assert spread["clipped"] == 0.0  # one in 200 lies beyond the outer 1 %
    assert spread["ours"] == 100.0
    made = recipes_table(read_rows(tmp_path / "recipes" / "recipes_qm8.csv"))
    assert [row[1] for row in made.rows] == ["0.75 ± 0.00"] * len(RECIPES)
    assert not list(tmp_path.glob("recipes/*/qm8/seed-*"))


@pytest.mark.slow
def test_a_reading_is_trained_measured_and_judged(alcohols, monkeypatch, tmp_path):
    """A real one: raw features, the skip from the hidden layer, a sum over examples."""
    reading = Variant("all", "all", {"carried": "raw", "skip": "hidden"}, {"reduction": "sum"})
    monkeypatch.setattr(readings, "READINGS", (reading,))
    sizes = replace(CONFIG.network, num_steps=1, width=4, head_width=4)
    curvature = replace(CONFIG.curvature, num_graphs=4, num_steps=4, trace_matvecs=4)
    small = replace(CONFIG, network=sizes, curvature=curvature, num_examples=None)
    small = replace(small, train=replace(CONFIG.train, num_epochs=2))
    table = run_readings(
        small, alcohols, judge, tmp_path, "qm8", seeds=(0,), progress=False, say=lambda _: None
    )
    assert set(table["claim"]) >= {4, 5, 7, 11}
    assert np.isfinite(table["test_mae"]).all()
