"""Errors without our network on a preset's split: the median's, forests', and those of chemprop."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import accuracy_baselines
from benchmarks.accuracy_baselines import Problem
from benchmarks.peers import accuracy_chemprop, install
from hessspec_mtl.datasets.base import MultitaskDataset, Task
from hessspec_mtl.study.presets import DATA_SEED
from hessspec_mtl.study.records import median_error

pytestmark = pytest.mark.any_dtype

# What the command line of chemprop 2.3 is given and leaves behind; it "predicts" 0.5 throughout.
CHEMPROP = """#!{python}
import csv, pathlib, sys
given = dict(zip(sys.argv[2::1], sys.argv[3::1]))
assert sys.argv[1] == "train" and given["--splits-column"] == "split", sys.argv
rows = list(csv.DictReader(open(given["--data-path"], encoding="utf-8")))
if {fails}:
    sys.exit("a warning\\nno such option: --epochs")
out = pathlib.Path(given["--output-dir"], "model_0")
out.mkdir(parents=True)
with open(out / "test_predictions.csv", "w", newline="", encoding="utf-8") as stream:
    found = csv.writer(stream)
    found.writerow(["smiles", "a", "b"])
    tested = [row["smiles"] for row in rows if row["split"] == "test"]
    found.writerows([s, 0.5, 0.5] for s in ({order}))
"""


@pytest.fixture(scope="module")
def given() -> Problem:
    """Sixty alkanes and ethers, ten of them twice, with two random targets."""
    smiles = [f"C{'C' * n}" for n in range(25)] + [f"CO{'C' * n}C" for n in range(25)]
    smiles += smiles[:10]
    groups = np.array([smiles.index(one) for one in smiles])
    dataset = MultitaskDataset(
        name="QM8",
        domain="molecules",
        ids=tuple(f"m{i}" for i in range(60)),
        structures=tuple(smiles),
        graphs=(),
        targets=np.random.default_rng(0).lognormal(size=(60, 2)),
        tasks=(Task("a", "a", "hartree"), Task("b", "b", "1")),
        groups=groups,
        elements=(6, 8),
    )
    return Problem("compare", dataset, dataset.split(DATA_SEED))


def chemprop_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, order: str = "tested", fails: bool = False
) -> None:
    """An environment whose chemprop is the program above."""
    programs = folder / "chemprop" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    program = programs / "chemprop"
    program.write_text(CHEMPROP.format(python=sys.executable, order=order, fails=fails))
    program.chmod(0o755)
    monkeypatch.setenv(install.VARIABLE, str(folder))
    monkeypatch.setattr(accuracy_chemprop, "_versions", lambda: {"chemprop": "2", "torch": "2"})


def test_chemprop_is_told_the_molecules_on_each_side_of_our_split(given):
    table = accuracy_chemprop.molecules(given)
    assert table.columns.tolist() == ["smiles", "a", "b", "split"]
    assert np.flatnonzero(table["split"] == "test").tolist() == list(given.split.test)
    validated = table["split"] == "val"
    assert validated.sum() in (4, 5)  # a tenth of 42, and a copy at most
    sides = table.assign(group=given.dataset.groups).groupby("group")["split"].nunique()
    assert (sides == 1).all()
    assert table[["a", "b"]].to_numpy().tolist() == given.dataset.targets.tolist()


def test_errors_are_in_the_units_of_our_reports(given):
    """Whoever predicts the training median has the error that our reports have for it."""
    train, test = (given.dataset.targets[side] for side in (given.split.train, given.split.test))
    medians = np.broadcast_to(np.median(train, axis=0), test.shape)
    np.testing.assert_allclose(
        accuracy_chemprop.errors(given, medians), median_error(given.dataset, given.split)
    )
    np.testing.assert_allclose(accuracy_chemprop.errors(given, test + given.deviations), 1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="its program is a script")
def test_a_run_that_is_there_is_not_done_again(given, tmp_path, monkeypatch, capsys):
    chemprop_in(tmp_path, monkeypatch)
    monkeypatch.setattr(accuracy_chemprop, "problem", lambda *_: given)
    out = tmp_path / "rows.csv"
    words = ["--output", str(out), "--epochs", "3", "--seeds"]
    assert accuracy_chemprop.main([*words, "0"]) == 0
    first = out.read_text()
    assert accuracy_chemprop.main([*words, "0", "4"]) == 0
    assert out.read_text().startswith(first)
    table = pd.read_csv(out)
    assert table[["seed", "task"]].to_numpy().tolist() == [
        [seed, task] for seed in (0, 4) for task in "ab"
    ]
    truth = given.dataset.targets[given.split.test]
    expected = np.tile(np.abs(truth - 0.5).mean(axis=0), 2)
    np.testing.assert_allclose(table["test_mae_raw"], expected, rtol=1e-5)
    assert (table["learnt_from"] + table["validated_on"] == len(given.split.train)).all()
    assert "compare, test MAE as a share of the median's: a " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="its program is a script")
@pytest.mark.parametrize(
    ("order", "fails", "said"),
    [
        ("tested[::-1]", False, "its predictions are not of the test molecules in their order"),
        ("tested", True, "no such option: --epochs"),
    ],
)
def test_what_chemprop_does_wrong_is_told_in_a_line(
    given, tmp_path, monkeypatch, capsys, order, fails, said
):
    chemprop_in(tmp_path, monkeypatch, order, fails)
    monkeypatch.setattr(accuracy_chemprop, "problem", lambda *_: given)
    assert accuracy_chemprop.main(["--output", str(tmp_path / "rows.csv")]) == 1
    assert capsys.readouterr().err == f"chemprop did not run: {said}\n"
    assert not (tmp_path / "rows.csv").exists()


def test_the_claim_falls_short_where_one_run_is_no_better_than_the_median():
    rows = {"preset": "compare", "epochs": 50, "seed": [0, 0, 1, 1], "task": list("abab")}
    table = pd.DataFrame({**rows, "test_mae": [0.4, 0.9, 0.6, 1.0], "median_mae": 1.0})
    met = accuracy_chemprop.verdict(table[table["seed"] == 0], "compare", 50)
    assert met == "compare, test MAE as a share of the median's: a 0.40, b 0.90. The claim: met."
    both = accuracy_chemprop.verdict(table, "compare", 50)
    assert both.endswith("a 0.50, b 0.95. The claim: falls short.")


def test_without_its_environment_chemprop_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv(install.VARIABLE, str(tmp_path))
    with pytest.raises(accuracy_chemprop.PeerError, match=r"benchmarks\.peers\.install makes it"):
        accuracy_chemprop.predictions(pd.DataFrame(), ["a"], seed=0, epochs=1)


def test_every_environment_of_the_peers_says_what_it_needs():
    for environment in install.ENVIRONMENTS:
        wanted = Path(install.__file__).parent / f"requirements-{environment}.txt"
        lines = wanted.read_text(encoding="utf-8").splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))


def test_rows_of_the_forests_are_those_of_our_reports(given, tmp_path, monkeypatch, capsys):
    grown = pd.DataFrame({"task": ["a", "a", "b", "b"], "mae": [0.2, 0.4, 0.7, 0.9]})
    calls = []

    def forests(dataset, split, path):
        calls.append(dataset.name)
        return grown

    monkeypatch.setattr(accuracy_baselines, "forest_errors", forests)
    monkeypatch.setattr(accuracy_baselines, "problem", lambda *_: given)
    words = ["--presets", "compare", "--sets", "qm8", "--output", str(tmp_path / "rows.csv")]
    assert accuracy_baselines.main(words) == accuracy_baselines.main(words) == 0
    assert calls == ["QM8"]
    table = pd.read_csv(tmp_path / "rows.csv")
    np.testing.assert_allclose(table["forest_mae"], [0.3, 0.8])
    medians = median_error(given.dataset, given.split)
    np.testing.assert_allclose(table["median_mae"], medians, rtol=1e-5)
    np.testing.assert_allclose(table["forest_mae_raw"], [0.3, 0.8] * given.deviations, rtol=1e-5)
    assert table[["train", "test"]].to_numpy().tolist() == [[42, 18]] * 2
    train, test = (given.dataset.targets[side] for side in (given.split.train, given.split.test))
    means = np.abs(test - train.mean(axis=0)).mean(axis=0) / given.deviations
    np.testing.assert_allclose(table["mean_mae"], means, rtol=1e-5)
    farthest = np.sort(((train - train.mean(axis=0)) / given.deviations) ** 2, axis=0)[-2:]
    np.testing.assert_allclose(table["heaviest"], farthest.sum(axis=0) / 41, rtol=1e-5)
    better = int((np.array([0.3, 0.8]) < medians).sum())
    assert f"better than the median for {better} of 2 tasks" in capsys.readouterr().out


def test_a_problem_is_what_the_command_makes_of_a_preset(given, monkeypatch):
    asked = []

    def named(name, num_examples, **_):
        asked.append((name, num_examples))
        return given.dataset, given.dataset

    monkeypatch.setattr(accuracy_baselines, "named", named)
    found = accuracy_baselines.problem("compare", "qm8")
    assert asked == [("qm8", 2000)]
    assert found.split.test.tolist() == given.dataset.split(DATA_SEED, 0.3).test.tolist()
    assert found.head == {"preset": "compare", "dataset": "QM8", "train": 42, "test": 18}
