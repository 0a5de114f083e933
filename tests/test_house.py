"""The house stands: arrows between wings point down, nothing runs in a circle, rooms stay small."""

import graphlib
from pathlib import Path

import pytest

from docs import house, house_picture

ROOT = Path(__file__).parents[1]
MOST_LINES = 450
MOST_LOOSE = {"hessspec": 6, "hessspec_mtl": 8}  # `__init__` counts

IMPORTS = house.imports(ROOT)


def climbs(module: str, used: str) -> bool:
    """Whether an import goes up, to the side into another wing, or from the core to the plugin."""
    if house.package(module) != house.package(used):
        return house.package(module) == "hessspec"
    above = house.floor(used) - house.floor(module)
    return above > 0 or (above == 0 and house.wing(module) != house.wing(used))


def read_back(tmp_path: Path, sources: dict[str, str]) -> house.Imports:
    """The imports of a small house made of these files."""
    for path, text in sources.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return house.imports(tmp_path)


def test_wings_use_only_the_floors_below_their_own():
    found = [f"{a} uses {b}" for a, used in IMPORTS.items() for b in sorted(used) if climbs(a, b)]
    assert not found


def test_the_plugin_takes_of_the_core_what_is_public_and_its_ground_floor():
    """Progress bars and files of records serve both; all else comes from the contents page."""
    of_core = {
        name
        for module, used in IMPORTS.items()
        for name in used
        if house.package(module) == "hessspec_mtl" and house.package(name) == "hessspec"
    }
    assert "hessspec" in of_core
    assert {house.wing(name) for name in of_core} <= {"", "_base"}


def test_no_module_needs_itself():
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("package", house.FLOORS)
def test_every_folder_has_a_floor_and_few_modules_lie_loose(package):
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    named = {wing for wings in house.FLOORS[package] for wing in wings}
    files = {path.stem for path in (ROOT / package).glob("*.py")}
    assert folders <= named
    assert named <= folders | files
    assert len(files) <= MOST_LOOSE[package], sorted(files)


@pytest.mark.parametrize("folder", [*house.FLOORS, "benchmarks"])
def test_a_file_can_be_read_in_one_go(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths
    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_imports_count_wherever_they_run_but_not_for_types_alone(tmp_path):
    late = "def draw():\n    from ..plotting import plot_density"
    either = "if TYPE_CHECKING:\n    import hessspec\nelse:\n    from .selection import choose"
    tried = "try:\n    import hessspec_mtl.graphs\nexcept ImportError:\n    pass"
    sources = {
        "hessspec/__init__.py": "from hessspec._base import space\nimport numpy",
        "hessspec/_base/__init__.py": "",
        "hessspec/_base/space.py": "import hessspec._base.checks as c\nfrom . import memory",
        "hessspec/_base/memory.py": late,
        "hessspec/_base/checks.py": either,
        "hessspec/_base/selection.py": tried,
        "hessspec/plotting.py": "import typing\nif typing.TYPE_CHECKING:\n    import hessspec",
        "hessspec_mtl/graphs.py": "from hessspec import trace, _base",
    }
    found = read_back(tmp_path, sources)
    assert found == {
        "hessspec": {"hessspec._base.space"},
        "hessspec._base": set(),
        "hessspec._base.space": {"hessspec._base.checks", "hessspec._base.memory"},
        "hessspec._base.memory": {"hessspec.plotting"},
        "hessspec._base.checks": {"hessspec._base.selection"},
        "hessspec._base.selection": {"hessspec_mtl.graphs"},
        "hessspec.plotting": set(),
        "hessspec_mtl.graphs": {"hessspec", "hessspec._base"},
    }
    assert [(a, b) for a, used in found.items() for b in used if climbs(a, b)] == [
        ("hessspec._base.memory", "hessspec.plotting"),
        ("hessspec._base.selection", "hessspec_mtl.graphs"),
    ]


def test_a_step_to_the_side_is_an_arrow_too():
    assert climbs("hessspec._base.space", "hessspec._pictures.scales")
    assert not climbs("hessspec._base.space", "hessspec._base.memory")
    assert not climbs("hessspec._verify", "hessspec.plotting")  # loose: above all wings
    assert climbs("hessspec._trace.verb", "hessspec")
    assert not climbs("hessspec_mtl.files.whole", "hessspec._trace.verb")


def test_the_pictures_show_the_house_as_it_is():
    drawn = (house_picture.IMAGES / "house.txt").read_text(encoding="utf-8")
    assert drawn == house_picture.text(IMPORTS), "draw the house anew: make house"


def test_an_arrow_is_left_out_only_where_a_longer_way_says_the_same():
    used = {"roof": {"hall", "cellar"}, "hall": {"cellar"}, "shed": {"cellar"}, "cellar": set()}
    assert house_picture.shortened(used) == {**used, "roof": {"hall"}}
