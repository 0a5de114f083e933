"""The command on data of one's own: each table ends in a report, or in a sentence saying why."""

import csv
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl import reproduce
from hessspec_mtl.study.presets import NetworkSizes
from tests.smaller import SMALLER_APPENDIX

TINY = (
    *("--network.num-steps", "1", "--network.width", "4", "--network.head-width", "4"),
    *("--num-epochs", "2", "--train.batch-size", "8", "--progress", "False"),
    *("--curvature.num-epochs", "2", "--curvature.batch-size", "8", "--num-graphs", "8"),
    *("--curvature.trace-matvecs", "8", "--curvature.num-steps", "4"),
    *("--curvature.hutchinson-samples", "0", "--workers", "0"),
)
MIDDLES, ENDS = ("C=C", "C(C)", "OC", "CC", "NC"), ("C", "O", "N", "F", "C=O", "C#N")


def smiles(count: int) -> list[str]:
    """Different molecules of up to nine heavy atoms."""
    many = [f"C{a}{b}{c}" for a in MIDDLES for b in MIDDLES for c in ENDS]
    return [many[i % len(many)] + "C" * (i // len(many)) for i in range(count)]


def table(
    path: Path, names: Sequence[str], targets: np.ndarray, texts: Sequence[str] | None = None
) -> Path:
    """A CSV file of molecules, empty where a target is NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["smiles", *names])
        for text, row in zip(texts or smiles(len(targets)), targets, strict=True):
            rows.writerow([text, *("" if np.isnan(v) else repr(float(v)) for v in row)])
    return path


def numbers(count: int, *shares: float) -> np.ndarray:
    """Random targets, each known of this share of the rows; every row has the first or second."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(count, len(shares)))
    for task, share in enumerate(shares):
        targets[rng.permutation(count)[round(share * count) :], task] = np.nan
    empty = np.isnan(targets).all(axis=1)
    targets[empty, 0] = 0.5
    return targets


def command(path: Path, names: Sequence[str], out: Path, *more: str) -> int:
    words = ["molecules", str(path), "--targets", *names, "--out", str(out), *TINY, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hessspec_mtl.curvature.appendix_e.appendix_e", SMALLER_APPENDIX)
        return reproduce.main(words)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A run on a table that lacks targets, with names that no file or formula could have."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    targets = numbers(30, 0.9, 0.5)
    path = table(folder / "données ∆" / "mes molécules.csv", ["ΔE $x$/eV", "NA"], targets)
    path.chmod(stat.S_IREAD)
    path.parent.chmod(stat.S_IREAD | stat.S_IEXEC)
    try:
        status = command(path, ["ΔE $x$/eV", "NA"], folder / "out put", "--units", "eV", "")
    finally:
        path.parent.chmod(stat.S_IRWXU)
    assert status == 0
    assert os.listdir(path.parent) == [path.name]
    return folder / "out put" / "mes molécules", targets


def test_a_table_that_lacks_targets_is_studied_whole(lacking):
    folder, targets = lacking
    examples = pd.read_csv(folder / "tables/examples_of_tasks.csv", keep_default_na=False)
    assert list(examples["task"]) == ["ΔE $x$/eV", "NA"]
    known = (~np.isnan(targets)).sum(axis=0).tolist()
    assert (examples["train"] + examples["test"]).tolist() == known
    errors = pd.read_csv(folder / "test_errors.csv", keep_default_na=False)
    assert np.isfinite(errors["mae"].astype(float)).all()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert np.isfinite(errors["forest_mae"].astype(float)).all()
    assert "Random forest of mes molécules: 100 trees" in page
    assert f"ΔE $x$/eV of {known[0]} and NA of {known[1]}" in page
    assert r"ΔE \$x\$/eV" in (folder / "report.md").read_text(encoding="utf-8")


def test_its_predictions_and_errors_are_those_of_the_known_targets(lacking):
    """The mean absolute error of the last epoch, from the predictions beside it."""
    folder, targets = lacking
    (run,) = folder.glob("*/seed-0/training")
    found = pd.read_csv(run / "predictions_000002.csv", keep_default_na=False)
    history = pd.read_csv(run / "history.csv", keep_default_na=False)
    last = history[(history["epoch"] == 2) & (history["split"] == "test")].set_index("task")
    for task, rows in found.groupby("task"):
        error = (rows["predicted"] - rows["target"]).abs().mean()
        assert last.loc[task, "mae"] == pytest.approx(error, rel=1e-5)
    lines = [int(name.removeprefix("line-")) - 2 for name in found["id"]]
    column = (found["task"] == "NA").astype(int).to_numpy()
    assert not np.isnan(targets[lines, column]).any()


def test_the_settings_of_the_command_line_are_in_the_runs_configuration(lacking):
    settings = json.loads((lacking[0] / "config.json").read_text(encoding="utf-8"))
    (study,) = settings["studies"].values()
    sizes = {"num_steps": 1, "width": 4, "head_width": 4, "head_layers": 1}
    assert study["network"] == asdict(NetworkSizes(**sizes))
    assert study["train"]["batch_size"] == 8
    assert study["curvature"]["trace_matvecs"] == 8
    assert "--curvature.trace-matvecs 8" in settings["command"]
    assert "--keep-groups-whole" not in settings["command"]
    assert study["keep_groups_whole"] is True  # of one's own data always


def test_a_first_word_that_is_no_kind_of_data_is_asked_about(capsys):
    assert reproduce.main(["molecule", "my.csv", "--targets", "gap"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("there is no 'molecule' to reproduce (did you mean 'molecules'?)")


def test_a_preset_that_is_misspelt_is_asked_about(tmp_path, capsys):
    words = ["molecules", "my.csv", "--targets", "gap", "--out", str(tmp_path), "--preset", "smal"]
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(words)
    told = capsys.readouterr().err
    assert told.startswith("`--preset` must be one of quick, small, compare, ")
    assert told.endswith(", got 'smal' (did you mean 'small'?).\n")
    assert not list(tmp_path.iterdir())


def test_a_constant_target_ends_in_a_sentence(tmp_path, capsys):
    targets = numbers(12, 1.0, 1.0)
    targets[:, 1] = 4.0
    path = table(tmp_path / "constant.csv", ["a", "b"], targets)
    assert command(path, ["a", "b"], tmp_path) == 1
    assert "`targets` of ['b'] are constant on the training split" in capsys.readouterr().err


def test_a_target_of_too_few_examples_ends_in_a_sentence(tmp_path, capsys):
    path = table(tmp_path / "few.csv", ["a", "b"], numbers(12, 1.0, 0.1))
    assert command(path, ["a", "b"], tmp_path) == 1
    message = capsys.readouterr().err
    assert "'b'" in message
    assert "leave them out (of --targets" in message


def test_a_target_that_no_graph_of_the_hessian_has_ends_in_a_sentence(tmp_path, capsys):
    """Every row has one of two targets: whichever graph is drawn lacks the other."""
    targets = numbers(40, 1.0, 1.0)
    targets[::2, 0] = targets[1::2, 1] = np.nan
    path = table(tmp_path / "either.csv", ["a", "b"], targets)
    assert command(path, ["a", "b"], tmp_path, "--num-graphs", "1") == 1
    message = capsys.readouterr().err
    assert re.search(r"`curvature.num_graphs` \(--num-graphs\) takes 1 of \d+ training", message)
    assert re.search(r"of which none has the target \['[ab]'\]; take more", message)


def test_more_hessian_graphs_than_there_are_end_in_a_sentence_with_the_option(tmp_path, capsys):
    path = table(tmp_path / "small.csv", ["a"], numbers(12, 1.0))
    assert command(path, ["a"], tmp_path, "--num-graphs", "9") == 1
    message = capsys.readouterr().err
    assert "`curvature.num_graphs` (--num-graphs) must be at most 8, the number of" in message
    assert "training graphs, got 9." in message
    # Nothing was begun, and so nothing holds the folder against the corrected command.
    assert not list(tmp_path.rglob("study.json"))


def test_groups_of_ones_own_data_cannot_be_parted(tmp_path, capsys):
    path = table(tmp_path / "own.csv", ["a"], numbers(12, 1.0))
    assert command(path, ["a"], tmp_path, "--no-keep-groups-whole") == 1
    assert "data of your own are always split with them on one side" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder_of_runs_ends_in_a_sentence(tmp_path, capsys):
    path = table(tmp_path / "own.csv", ["a"], numbers(12, 1.0))
    assert command(path, ["a"], path) == 1
    message = capsys.readouterr().err
    assert "must be a folder that can be written" in message
    assert f"No log of it could be written to {path}." in message
    assert "Traceback" not in message


def test_no_path_hides_in_the_name_of_a_task(tmp_path):
    from hessspec_mtl.study.seeds import alone_folder

    for name in ("gap", "ΔE (eV)", "a.b"):
        assert alone_folder(tmp_path, name) == tmp_path / "single" / name
    for name in ("../up", "/etc", "a/b", "..", ".", "a\\b"):
        assert alone_folder(tmp_path, name).resolve().parent == tmp_path.resolve() / "single"
    assert alone_folder(tmp_path, "a/b") != alone_folder(tmp_path, "a%2Fb")
