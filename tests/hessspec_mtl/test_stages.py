"""Stages done apart: trained and measured where there is no chemistry package, reported elsewhere.

The machine that trains is a process whose imports of chemistry and download packages fail.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hessspec_mtl import encode, reproduce
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.study import presets
from hessspec_mtl.study.pipeline import begin_study
from hessspec_mtl.study.presets import DATA_SEED, NetworkSizes, Preset, StudyConfig
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.train import saved_epochs
from tests.smaller import SMALLER_APPENDIX

# Curvature after epochs 0, 1 and 3, and the last state alone stays.
TOY = StudyConfig(
    num_examples=24,
    keep_states="last",
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=3, batch_size=24),
    curvature=CurvatureConfig(
        num_epochs=3, num_graphs=6, batch_size=6, trace_matvecs=12, num_probes=2, num_steps=5
    ),
)
EPOCHS = (0, 1, 3)
REFUSED = ("rdkit", "pymatgen", "pooch", "requests", "matplotlib")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run trained and measured without chemistry: its folder, and the arguments of the command.

    Its report is made here, from the folder.
    """
    out = tmp_path_factory.mktemp("stages")
    assert encode.main(["--sets", "molecules", "--to", str(out / "encoded")]) == 0
    arguments = ["--sets", "molecules", "--out", str(out), "--progress", "False"]
    arguments += ["--encoded-dir", str(out / "encoded")]
    command = [sys.executable, __file__, *arguments, "--stages", "train,curvature"]
    settings = {"JAX_ENABLE_X64": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    subprocess.run(command, check=True, env={**os.environ, **settings}, timeout=600)
    return out / "quick-molecules", arguments


@pytest.fixture
def toy(monkeypatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
    monkeypatch.setattr("hessspec_mtl.curvature.appendix_e.appendix_e", SMALLER_APPENDIX)


def test_training_and_curvature_need_no_chemistry(elsewhere):
    """The process would have failed; what comes home are results and one last state."""
    folder, _ = elsewhere
    seed = folder / "molecules" / "seed-0"
    found = {path.name for path in seed.glob("curvature/epoch_*/*.npz")}
    assert found == {"trace.npz", "density.npz"}
    assert [path.name for path in sorted(seed.glob("curvature/*"))] == [
        f"epoch_{epoch:06d}" for epoch in EPOCHS
    ]
    assert saved_epochs(seed / "training") == [3]
    assert not (folder / "report.html").exists()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["studies"]["molecules"]["keep_states"] == "last"
    (machine,) = json.loads((folder / "molecules" / "machines.json").read_text())
    assert machine["device"].endswith("CPU cores, float32")
    assert "jax" in machine["versions"]


def test_the_report_is_made_elsewhere_from_the_folder(elsewhere, toy, monkeypatch):
    """From the sources in place of the encoded file, too: the examples are the same ones."""
    folder, arguments = elsewhere
    before = {path: path.read_bytes() for path in (folder / "molecules").rglob("*.npz")}
    monkeypatch.setattr("hessspec_mtl.curvature.follow.measure", None)
    assert reproduce.main([*arguments[:-2], "--stages", "report"]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Figure 2" in page
    assert "--stages" not in page
    assert {path: path.read_bytes() for path in (folder / "molecules").rglob("*.npz")} == before


def test_a_finished_run_whose_states_are_gone_is_not_trained_again(elsewhere, toy, monkeypatch):
    folder, arguments = elsewhere
    before = (folder / "molecules/seed-0/training/history.csv").read_bytes()
    monkeypatch.setattr("hessspec_mtl.training.train.Training._epoch", None)
    assert reproduce.main([*arguments, "--stages", "train", "curvature"]) == 0
    assert (folder / "molecules/seed-0/training/history.csv").read_bytes() == before
    assert saved_epochs(folder / "molecules/seed-0/training") == [3]


@pytest.mark.slow
def test_the_numbers_are_those_of_a_run_in_one_go_that_keeps_its_states(elsewhere, tmp_path):
    folder, _ = elsewhere
    dataset = load_molecules(progress=False).subset(24, DATA_SEED)
    config = replace(TOY, keep_states="analysed")
    work = begin_study(config, dataset, tmp_path, progress=False, say=lambda text: None)
    work.run(("train",))
    assert saved_epochs(tmp_path / "seed-0/training") == [0, 1, 2, 3]
    work.run(("curvature",))
    for path in (folder / "molecules").rglob("*.npz"):
        with (
            np.load(path) as one,
            np.load(tmp_path / path.relative_to(folder / "molecules")) as two,
        ):
            for name in one.files:
                np.testing.assert_array_equal(one[name], two[name], err_msg=f"{path}: {name}")


def refused(arguments: list[str], capsys) -> str:
    assert reproduce.main(arguments) == 1
    return capsys.readouterr().err


def test_a_report_of_what_is_not_there_says_what_is_missing(toy, tmp_path, capsys):
    arguments = ["--sets", "molecules", "--out", str(tmp_path), "--progress", "False"]
    message = refused([*arguments, "--stages", "report"], capsys)
    assert "quick-molecules/molecules holds no study yet" in message
    assert not (tmp_path / "quick-molecules").exists()
    message = refused([*arguments, "--stages", "train"], capsys)
    assert "`--keep-states last` keeps no state that the curvature could be taken of" in message
    message = refused([*arguments, "--stages", "train", "train"], capsys)
    assert "each once, got train train" in message


def test_an_unfinished_study_tells_what_it_lacks(tmp_path):
    dataset = load_molecules(progress=False).subset(24, DATA_SEED)
    config = replace(TOY, keep_states="analysed", curvature=replace(TOY.curvature, num_epochs=2))
    config = replace(config, curvature=replace(config.curvature, hutchinson_samples=20))
    work = begin_study(config, dataset, tmp_path, progress=False, say=lambda text: None)
    with pytest.raises(StageError, match="needs the state after it, which is not in"):
        work.run(("curvature",))
    with pytest.raises(StageError) as error:
        work.read()
    for text in (
        "training altogether",
        "the curvature after epochs 0, 1, 3",
        "the plain Hutchinson trace after epoch 3",
        "`--stages train curvature`",
    ):
        assert text in str(error.value)


def test_encoded_sets_and_sources_are_not_asked_for_together(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--encoded-dir", "a", "--data-dir", "b"]
    message = refused(arguments, capsys)
    assert "`--encoded-dir` and `--data-dir` both say where data come from; give one." in message
    message = refused(["--out", str(tmp_path), "--encoded-dir", str(tmp_path)], capsys)
    assert "there is no encoded data set" in message


class _Refusing:
    """Finds no chemistry, whatever is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is not to be had here")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Refusing())  # type: ignore[arg-type]
    presets.PRESETS["quick"] = Preset("toy", {"molecules": TOY})
    sys.exit(reproduce.main(sys.argv[1:]))
