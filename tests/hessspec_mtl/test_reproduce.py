"""The command from end to end, at toy size: what it writes, resumes and refuses."""

import errno
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tyro

from hessspec_mtl import reproduce
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.files.whole import sole_use
from hessspec_mtl.study import loading, pipeline, presets
from hessspec_mtl.study.options import CurvatureOptions, with_values
from hessspec_mtl.study.presets import NetworkSizes, Preset, StudyConfig
from hessspec_mtl.training.config import TrainConfig
from tests.smaller import SMALLER_APPENDIX

TOY = StudyConfig(
    num_examples=24,
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=2, batch_size=24),
    curvature=CurvatureConfig(
        num_epochs=2, num_graphs=6, batch_size=6, trace_matvecs=12, num_probes=2, num_steps=5
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of the command on 24 molecules: its folder and its arguments."""
    out = tmp_path_factory.mktemp("runs")
    arguments = ["--sets", "molecules", "--out", str(out), "--progress", "False"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
        patch.setattr("hessspec_mtl.curvature.appendix_e.appendix_e", SMALLER_APPENDIX)
        assert reproduce.main(arguments) == 0
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
