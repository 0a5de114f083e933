"""`make` mends what an interruption left of the virtual environment, and repeats nothing else.

Each Python has an environment and pins of its own.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

# Stands for a Python of version MINOR: `-m venv` makes a folder with this script in it, and pip
# (told by where the script lies) logs what it was asked, unless a file says that it breaks off.
PYTHON = """\
#!/bin/sh
case "$*" in
  "-c "*) echo "$MINOR" ;;
  "-m venv --clear "*)
    echo venv >> "$LOG"
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$STUB" "$4/bin/python"
    echo "version = $MINOR.1" > "$4/pyvenv.cfg"
    [ ! -e "$BREAK/venv" ] && touch "$4/pip" ;;
  "-m pip "*"--version") [ -e "$(dirname "$0")/../pip" ] ;;
  "-m pip "*) echo pip >> "$LOG"; echo "$*" > "$LOG.pip"; [ ! -e "$BREAK/pip" ] ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Runs `make` for an environment in a copy; gives whether it succeeded and what was done."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    shutil.copy(MAKEFILE, tmp_path)
    stub = tmp_path / "stub"
    stub.write_text(PYTHON)
    stub.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", "constraints-newest.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "break").mkdir()
    log = tmp_path / "log"

    def run(
        *, interrupted: str | None = None, minor: str = "3.11", goal: str = ".venv/.run"
    ) -> tuple[bool, list[str]]:
        log.write_text("")
        broken = tmp_path / "break" / str(interrupted)
        if interrupted:
            broken.touch()
        names = {"LOG": str(log), "BREAK": str(tmp_path / "break"), "STUB": str(stub)}
        names["MINOR"] = minor
        command = ["make", "-s", f"PYTHON={stub}", goal]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **names}, capture_output=True
        )
        broken.unlink(missing_ok=True)
        return done.returncode == 0, log.read_text().split()

    return run


def test_what_is_installed_is_not_installed_again(make):
    assert make() == (True, ["venv", "pip"])
    assert make() == (True, [])


def test_an_environment_that_was_half_made_is_made_anew(make):
    assert make(interrupted="venv") == (False, ["venv"])
    assert make() == (True, ["venv", "pip"])


def test_an_installation_that_was_interrupted_is_done_anew_in_a_fresh_environment(make):
    assert make(interrupted="pip") == (False, ["venv", "pip"])
    assert make() == (True, ["venv", "pip"])
    assert make() == (True, [])


def test_an_environment_that_works_is_kept_when_requirements_change(make, tmp_path):
    assert make() == (True, ["venv", "pip"])
    (tmp_path / ".venv" / ".run").unlink()
    assert make() == (True, ["pip"])


def test_another_python_gets_an_environment_of_its_own_and_takes_nobody_elses(make, tmp_path):
    assert make(minor="3.13") == (True, ["venv", "pip"])
    assert make(minor="3.11", goal=".venv-3.11/.run") == (True, ["venv", "pip"])
    assert make(minor="3.13") == (True, [])
    assert make(minor="3.11", goal=".venv-3.11/.run") == (True, [])
    held = {path.parent.name: path.read_text() for path in tmp_path.glob("*/pyvenv.cfg")}
    assert held == {".venv": "version = 3.13.1\n", ".venv-3.11": "version = 3.11.1\n"}


@pytest.mark.parametrize(
    ("minor", "pins"), [("3.11", "constraints.txt"), ("3.12", "constraints-newest.txt")]
)
def test_each_python_installs_its_own_pins(make, tmp_path, minor, pins):
    assert make(minor=minor) == (True, ["venv", "pip"])
    assert f"--constraint {pins} " in (tmp_path / "log.pip").read_text()
