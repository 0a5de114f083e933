"""The command from end to end, at toy size: what it writes, resumes and refuses.

Its stages are done apart. The machine that trains and measures is a process whose imports of
chemistry, downloads and plots fail; the report is made here, from the folder.
"""

import errno
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tyro

from hessspec_mtl import encode, reproduce
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.files.whole import sole_use
from hessspec_mtl.study import loading, pipeline, presets
from hessspec_mtl.study.options import CurvatureOptions, with_values
from hessspec_mtl.study.pipeline import begin_study
from hessspec_mtl.study.presets import DATA_SEED, NetworkSizes, Preset, StudyConfig
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.train import saved_epochs
from tests.smaller import SMALLER_APPENDIX

# Curvature after epochs 0, 1 and 2, and the last state alone stays.
TOY = StudyConfig(
    num_examples=24,
    keep_states="last",
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=2, batch_size=24),
    curvature=CurvatureConfig(
        num_epochs=2, num_graphs=6, batch_size=6, trace_matvecs=12, num_probes=2, num_steps=5
    ),
)
EPOCHS = (0, 1, 2)
REFUSED = ("rdkit", "pymatgen", "pooch", "requests", "matplotlib")


def end_a_worker(process: subprocess.Popen[bytes], folder: Path) -> None:
    """By a signal that nothing can catch, as soon as a first result is in `folder`."""
    while process.poll() is None:
        if any(folder.rglob("epoch_*/*.npz")):
            children = psutil.Process(process.pid).children()
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            assert len(workers) == 2
            workers[0].kill()
            return
        time.sleep(0.05)
    pytest.fail("the command ended before it had a result")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of the command on 24 molecules: its folder and its arguments.

    It is done by two workers, one of which dies on the way.
    """
    out = tmp_path_factory.mktemp("runs")
    assert encode.main(["--sets", "molecules", "--to", str(out / "encoded"), "--no-progress"]) == 0
    arguments = ["--sets", "molecules", "--out", str(out), "--progress", "False"]
    arguments += ["--encoded-dir", str(out / "encoded")]
    command = [sys.executable, __file__, *arguments, "--stages", "train,curvature"]
    command += ["--workers", "2"]
    arguments += ["--workers", "0"]
    settings = {"JAX_ENABLE_X64": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(command, env={**os.environ, **settings}) as process:
        end_a_worker(process, out)
        assert process.wait(600) == 0
    assert not (out / "quick-molecules" / "report.html").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
        patch.setattr("hessspec_mtl.curvature.appendix_e.appendix_e", SMALLER_APPENDIX)
        # Nothing is trained or measured for a report.
        patch.setattr("hessspec_mtl.study.seeds.Training", None)
        patch.setattr("hessspec_mtl.curvature.subject.task_hessians", None)
        assert reproduce.main([*arguments, "--stages", "report"]) == 0
    return out / "quick-molecules", arguments


def test_a_run_leaves_report_tables_figures_and_data(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert 'src="http' not in page
    for name in ("report.md", "claims.json", "test_errors.csv", "molecules/examples.csv"):
        assert (folder / name).stat().st_size > 0
    drawn = {path.stem for path in (folder / "figures").glob("*.pdf")}
    assert len(drawn) >= 7
    assert drawn == {path.stem for path in (folder / "figures").glob("*.csv")}
    settings = json.loads((folder / "config.json").read_text())
    assert settings["studies"]["molecules"]["curvature"]["num_steps"] == 5
    assert "jax" in settings["versions"]
    lines = (folder / "molecules" / "examples.csv").read_text().splitlines()
    assert lines[0] == "id,split,in_hessian"
    assert len(lines) == 25
    assert sum(line.endswith(",1") for line in lines) == 6
    left_out = (folder / "molecules" / "left_out.csv").read_text().splitlines()
    assert left_out[0] == "id,reason,detail"
    assert "no two of the molecules are one structure to the network" in page
    assert "--stages" not in page


def test_the_same_command_does_nothing_twice(finished, monkeypatch):
    """Finished epochs, traces and densities are read; with the curvature's files gone, made."""
    folder, _ = finished
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
    history = (folder / "molecules/seed-0/training/history.csv").read_bytes()

    def refuse(*positional, **keywords):
        raise AssertionError("done twice")

    with monkeypatch.context() as patch:
        patch.setattr("hessspec.trace", refuse)
        options = reproduce.Reproduce(out=folder.parent, sets=("molecules",), progress=False)
        _, load = next(iter(reproduce._sources(options)))
        study = pipeline.run_study(
            TOY, load(24)[1], folder / "molecules", progress=False, say=lambda text: None
        )
    assert [record.epoch for record in study.runs[0].curvature] == [0, 1, 2]
    assert (folder / "molecules/seed-0/training/history.csv").read_bytes() == history
    assert np.isfinite(study.runs[0].curvature[0].trace.value).all()


def test_other_settings_under_the_same_name_are_refused(finished, monkeypatch, capsys):
    _, arguments = finished
    other = Preset(
        "toy",
        {
            "molecules": StudyConfig(
                num_examples=24,
                network=TOY.network,
                train=TOY.train,
                curvature=CurvatureConfig(num_graphs=6, num_steps=6, trace_matvecs=12),
            )
        },
    )
    monkeypatch.setitem(presets.PRESETS, "quick", other)
    assert reproduce.main(arguments) == 1
    message = capsys.readouterr().err
    assert "`curvature.num_steps` (--curvature.num-steps) is 6" in message, message
    assert "holds results with 5" in message
    assert "choose another `--name`" in message


def test_another_number_of_epochs_is_refused_by_the_name_of_its_option(
    finished, monkeypatch, capsys
):
    _, arguments = finished
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
    assert reproduce.main([*arguments, "--num-epochs", "3"]) == 1
    message = capsys.readouterr().err
    assert "`train.num_epochs` (--num-epochs) is 3, but" in message
    assert "holds results with 2; ask for the same, or choose another `--name`." in message


def test_a_run_folder_in_use_is_refused(finished, capsys):
    pytest.importorskip("fcntl")
    folder, arguments = finished
    with sole_use(folder):
        assert reproduce.main(arguments) == 1
    assert re.search(r"another process \(number \d+\) works in .*`--name`", capsys.readouterr().err)


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch, capsys):
    def full(options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reproduce, "reproduce", full)
    assert reproduce.main(["--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert f"Stopped: no space is left for {tmp_path}" in message
    assert "What is finished is kept" in message


def test_crystals_that_turn_out_to_have_no_graph_are_counted_as_left_out(records):
    """The whole set is read without graphs; a part of it, with graphs, tells of failures."""
    whole = records.dataset("MP")
    duplicate = LeftOut(whole.ids[5], "duplicate id")
    whole = replace(whole, left_out=(duplicate,))
    failed = LeftOut(whole.ids[3], "no Voronoi graph")
    part = replace(whole.take(np.array([5, 7])), left_out=(duplicate, failed))
    known = loading.without_failures(whole, part)
    assert known.left_out == (duplicate, failed)
    assert set(whole.ids) - set(known.ids) == {whole.ids[3]}


def test_a_missing_file_of_ones_own_is_named(tmp_path, capsys):
    status = reproduce.main(
        ["molecules", str(tmp_path / "none.csv"), "--targets", "gap", "--out", str(tmp_path)]
    )
    assert status == 1
    assert "none.csv" in capsys.readouterr().err


def test_the_command_line_is_written_as_a_reader_would_type_it(tmp_path):
    options = reproduce.Reproduce(preset="small", sets=("mp",), seeds=(0, 1), single_task=True)
    assert reproduce._command(options) == (
        "python -m hessspec_mtl.reproduce --preset small --seeds 0 1 --single-task --sets mp"
    )
    curvature = CurvatureOptions(num_steps=9)
    options = reproduce.Reproduce(single_task=False, num_epochs=3, curvature=curvature)
    assert reproduce._command(options) == (
        "python -m hessspec_mtl.reproduce --no-single-task --num-epochs 3 --curvature.num-steps 9"
    )


def test_a_switch_needs_no_word_behind_it():
    words = with_values(
        ["--single-task", "--seeds", "1", "--no-progress", "--single_task", "False"]
    )
    assert words == [
        *("--single-task", "True", "--seeds", "1", "--progress", "False", "--single_task", "False")
    ]


def test_a_wrong_value_is_told_before_anything_is_read(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--curvature.num-steps", "1", "--data-dir", "nowhere"]
    assert reproduce.main(arguments) == 1
    assert "`--curvature.num-steps` must be at least 2, got 1." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["error.log"]


def test_the_column_that_names_crystals_can_be_said(tmp_path, monkeypatch):
    """Both columns name files; of each file the table has the target on the line of its name."""
    monkeypatch.setenv("HESSSPEC_CACHE", str(tmp_path / "cache"))
    cell = "\n".join(f"_cell_length_{x} 3.{{0}}" for x in "abc")
    sites = "loop_\n_atom_site_label\n" + "\n".join(f"_atom_site_fract_{x}" for x in "xyz")
    for i in range(4):
        text = f"data_po\n{cell.format(i)}\n{sites}\nPo 0 0 0\n"
        (tmp_path / f"{i}.cif").write_text(text)
    table = tmp_path / "t.csv"
    table.write_text("number,name,t\n" + "".join(f"{i},{3 - i},{i}\n" for i in range(4)))
    arguments = [str(tmp_path), "--targets", str(table), "--id-column", "name", "--columns", "t"]
    options = tyro.cli(reproduce.OwnCrystals, args=arguments)
    ((_, load),) = reproduce._sources(options)
    whole, part = load(None)
    assert part is whole
    assert dict(zip(whole.ids, whole.targets[:, 0], strict=True)) == {
        "3": 0,
        "2": 1,
        "1": 2,
        "0": 3,
    }
    assert "--id-column name" in reproduce._command(options)


def test_training_and_curvature_need_no_chemistry(finished):
    """The process would have failed; what comes home are results and one last state."""
    folder, _ = finished
    seed = folder / "molecules" / "seed-0"
    found = {path.name for path in seed.glob("curvature/epoch_*/*.npz")}
    assert found == {"trace.npz", "density.npz"}
    assert [path.name for path in sorted(seed.glob("curvature/*"))] == [
        f"epoch_{epoch:06d}" for epoch in EPOCHS
    ]
    assert saved_epochs(seed / "training") == [2]
    settings = json.loads((folder / "config.json").read_text())
    assert settings["studies"]["molecules"]["keep_states"] == "last"
    (machine,) = json.loads((folder / "molecules" / "machines.json").read_text())
    assert machine["device"].endswith("CPU cores, float32")
    assert "jax" in machine["versions"]


def test_a_finished_run_whose_states_are_gone_is_not_trained_again(finished, monkeypatch):
    folder, arguments = finished
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
    before = (folder / "molecules/seed-0/training/history.csv").read_bytes()
    monkeypatch.setattr("hessspec_mtl.training.train.Training._epoch", None)
    assert reproduce.main([*arguments, "--stages", "train", "curvature"]) == 0
    assert (folder / "molecules/seed-0/training/history.csv").read_bytes() == before
    assert saved_epochs(folder / "molecules/seed-0/training") == [2]


@pytest.mark.slow
def test_the_numbers_are_those_of_a_run_in_one_go_that_keeps_its_states(finished, tmp_path):
    folder, _ = finished
    dataset = load_molecules(progress=False).subset(24, DATA_SEED)
    config = replace(TOY, keep_states="analysed")
    work = begin_study(config, dataset, tmp_path, progress=False, say=lambda text: None)
    work.run(("train",))
    assert saved_epochs(tmp_path / "seed-0/training") == [0, 1, 2]
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


def test_a_report_of_what_is_not_there_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
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
        "the curvature after epochs 0, 1, 2",
        "the plain Hutchinson trace after epoch 2",
        "`--stages train curvature`",
    ):
        assert text in str(error.value)


def test_encoded_sets_and_sources_are_not_asked_for_together(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--encoded-dir", "a", "--data-dir", "b"]
    message = refused(arguments, capsys)
    assert "`--encoded-dir` and `--data-dir` both say where data come from; give one." in message
    message = refused(["--out", str(tmp_path), "--encoded-dir", str(tmp_path)], capsys)
    assert "there is no encoded data set" in message


def test_who_does_the_work_is_said_once_and_can_be(tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path), "--encoded-dir", str(tmp_path)]
    message = refused([*out, "--workers", "2", "--scheduler", "tcp://a:1"], capsys)
    assert "`--workers` and `--scheduler` both say who does the work; give one" in message
    assert "must be at least 0, got -1" in refused([*out, "--workers", "-1"], capsys)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    message = refused([*out, "--workers", "2"], capsys)
    assert "computes on its gpu, which belongs to one process" in message
    monkeypatch.setattr(reproduce, "find_spec", lambda name: None)
    message = refused([*out, "--workers", "2"], capsys)
    assert "need Dask: pip install 'hessspec[cluster]'" in message


def test_by_default_the_work_is_done_by_workers_where_that_is_of_use(monkeypatch):
    monkeypatch.setattr(reproduce, "usable_cores", lambda: 4)
    assert reproduce._has_workers(reproduce.Reproduce())
    assert not reproduce._has_workers(reproduce.Reproduce(workers=0))
    for name, value in (("usable_cores", lambda: 1), ("find_spec", lambda name: None)):
        with monkeypatch.context() as patch:
            patch.setattr(reproduce, name, value)
            assert not reproduce._has_workers(reproduce.Reproduce())
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert not reproduce._has_workers(reproduce.Reproduce())
    assert reproduce._has_workers(reproduce.Reproduce(scheduler="tcp://a:1"))


class _Refusing:
    """Finds no chemistry, whatever is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is not to be had here")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Refusing())  # type: ignore[arg-type]
    presets.PRESETS["quick"] = Preset("toy", {"molecules": TOY})
    sys.exit(reproduce.main(sys.argv[1:]))
