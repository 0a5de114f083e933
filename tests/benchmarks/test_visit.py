"""A visit to a machine with a GPU: what its steps make comes home, whatever ends them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import visit as visits
from benchmarks.gpu.visit import Step, Visit, pack, run, unpack

pytestmark = pytest.mark.any_dtype

_WRITER = """
import pathlib, sys, time
path, pause = pathlib.Path(sys.argv[1]), float(sys.argv[2])
path.write_text("measured")
print("written", flush=True)
try:
    time.sleep(pause)
except KeyboardInterrupt:
    path.write_text("measured, and saved when asked to stop")
    raise SystemExit(130)
"""


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """A visit whose kit has no wheels and one program, which writes a file and then waits."""
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "writer.py").write_text(_WRITER)
    monkeypatch.setattr(visits, "KIT", kit)
    monkeypatch.setattr(visits, "install", lambda visit: kit)
    monkeypatch.setattr(visits, "CLOSING_SECONDS", 0.0)
    monkeypatch.setattr(visits, "SAVING_SECONDS", 5.0)
    visits.heed_interrupts()
    return Visit(tmp_path / "out", 1.0, tmp_path / "work", tiny=False)


def writer(name: str, pause: float, **keywords: object) -> Step:
    arguments = f"writer {{work}}/results/{name}.txt {pause}"
    return Step(name, arguments, **keywords)  # type: ignore[arg-type]


def home(visit: Visit, to: Path) -> dict[str, str]:
    """The results that came home, by name."""
    unpack(visit.out, to)
    return {path.stem: path.read_text() for path in to.glob("results/*")}


def test_what_every_step_made_comes_home(visit, tmp_path):
    assert run(visit, [writer("first", 0), writer("second", 0)]) == 0
    assert home(visit, tmp_path / "home") == {"first": "measured", "second": "measured"}
    assert "ended with 0" in (tmp_path / "home/logs/visit.log").read_text()
    assert (tmp_path / "home/logs/first.log").read_text() == "written\n"


def test_a_step_past_its_time_is_asked_to_save_and_the_others_go_on(visit, tmp_path):
    assert run(visit, [writer("long", 60, seconds=1.5), writer("short", 0)]) == 1
    found = home(visit, tmp_path / "home")
    assert found == {"long": "measured, and saved when asked to stop", "short": "measured"}


def test_a_step_beside_another_runs_with_it_and_one_whose_partner_is_left_out_runs_alone(
    visit, tmp_path
):
    steps = [writer("main", 0), writer("beside", 0, beside="main"), writer("alone", 0, beside="no")]
    assert run(visit, steps) == 0
    assert set(home(visit, tmp_path / "home")) == {"main", "beside", "alone"}
    said = (tmp_path / "home/logs/visit.log").read_text()
    assert said.index("beside: -m") < said.index("main: ended")


def test_a_step_that_no_longer_fits_is_left_for_the_next_visit(visit, tmp_path):
    visit.ends = visit.began
    assert run(visit, [writer("late", 0)]) == 0
    assert home(visit, tmp_path / "home") == {}
    assert "late: left for the next visit" in (tmp_path / "home/logs/visit.log").read_text()


def test_what_comes_home_is_cut_into_parts_of_a_size_that_travels(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(visits, "PART_BYTES", 100_000)
    content = os.urandom(250_000)
    (visit.work / "runs" / "state").write_bytes(content)
    pack(visit)
    parts = sorted(visit.out.glob("*.part"))
    assert len(parts) == 3
    assert max(part.stat().st_size for part in parts) <= 100_000
    unpack(visit.out, tmp_path / "home")
    assert (tmp_path / "home/runs/state").read_bytes() == content


def test_where_all_is_too_much_the_dearest_come_home_and_the_rest_is_named(
    visit, tmp_path, monkeypatch
):
    monkeypatch.setattr(visits, "PART_BYTES", 100_000)
    (visit.work / "compiled" / "program").write_bytes(os.urandom(300_000))
    (visit.work / "runs" / "state").write_bytes(os.urandom(200_000))
    (visit.work / "results" / "figure").write_bytes(os.urandom(1_000))
    pack(visit)
    assert json.loads((visit.out / "home.json").read_text())["left"] == ["compiled/program"]
    unpack(visit.out, tmp_path / "home")
    found = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert found >= {"state", "figure"}


def test_a_state_comes_home_whole_or_not_at_all_and_the_last_one_first(
    visit, tmp_path, monkeypatch
):
    monkeypatch.setattr(visits, "PART_BYTES", 100_000)
    for epoch in ("epoch_000001", "epoch_000012"):
        folder = visit.work / "runs" / "checkpoints" / epoch / "d"
        folder.mkdir(parents=True)
        for name, size in (("large", 250_000), ("small", 100)):
            (folder / name).write_bytes(os.urandom(size))
    pack(visit)
    unpack(visit.out, tmp_path / "home")
    home = tmp_path / "home" / "runs" / "checkpoints"
    assert [path.name for path in home.iterdir()] == ["epoch_000012"]
    assert len(list(home.glob("*/d/*"))) == 2
    left = json.loads((visit.out / "home.json").read_text())["left"]
    assert {Path(name).parts[2] for name in left} == {"epoch_000001"}


def test_a_damaged_or_missing_part_is_refused_by_name(visit, tmp_path):
    pack(visit)
    part = next(visit.out.glob("*.part"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(SystemExit, match=r"home-0\.part is not the part"):
        unpack(visit.out, tmp_path / "home")
    part.unlink()
    with pytest.raises(SystemExit, match=r"home-0\.part is not the part"):
        unpack(visit.out, tmp_path / "home")


@pytest.mark.parametrize("content", [None, '{"parts": [', "[]"])
def test_a_folder_without_a_sound_index_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "home.json").write_text(content)
    with pytest.raises(SystemExit, match=r"home\.json must be the index that a visit packed"):
        unpack(tmp_path, tmp_path / "home")


def test_parts_of_an_earlier_visit_do_not_write_over_later_work(visit, tmp_path, monkeypatch):
    (visit.work / "runs" / "state").write_text("early")
    pack(visit)
    (visit.work / "runs" / "state").write_text("late")
    words = f"visit.py run --out {visit.out} --work {visit.work} --home {visit.out}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit, match="holds the work of a visit already"):
        visits.main()
    assert (visit.work / "runs" / "state").read_text() == "late"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_visit_has_a_number_of_minutes(tmp_path, monkeypatch, capsys, minutes):
    monkeypatch.setattr(sys, "argv", ["visit.py", "run", "--out", "x", f"--minutes={minutes}"])
    with pytest.raises(SystemExit):
        visits.main()
    assert f"must be positive and finite, got {minutes}" in capsys.readouterr().err


def test_a_script_outside_a_kit_says_where_it_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(visits, "KIT", tmp_path)
    with pytest.raises(SystemExit, match="has no wheels: run the script of a kit"):
        visits.install(Visit(tmp_path / "out", 1.0, tmp_path / "work", tiny=True))


def test_the_script_needs_the_standard_library_alone():
    names = {line.split()[1].split(".")[0] for line in imports(Path(visits.__file__))}
    assert names <= set(sys.stdlib_module_names) | {"__future__"}


def imports(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(("import ", "from "))]
