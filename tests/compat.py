"""The core's quick tests against the oldest and the newest JAX: `make compat`, ARGS for pytest.

The oldest versions are the lower bounds of the core in pyproject.toml, the newest the pins of
constraints-newest.txt. Each pair of Python and JAX has an environment of its own in
`.venv-compat/`, kept for the next time. A Python that is not at hand is passed over, in words.
Only the standard library is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv-compat"
# Some tests differentiate networks of flax.
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "beartype", "flax")


@dataclass(frozen=True)
class Pair:
    """A Python, and what is pinned on it: a file of pins, and versions in place of some of them."""

    name: str
    python: str
    pins: str
    instead: dict[str, str] = field(default_factory=dict)

    def constraints(self) -> dict[str, str]:
        """The pinned version of each package."""
        return pins((ROOT / self.pins).read_text(encoding="utf-8")) | self.instead


def pins(text: str) -> dict[str, str]:
    """Package and version of each line `package==version`."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def lower_bounds() -> dict[str, str]:
    """The oldest version of each package that the core says it works with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = (re.fullmatch(r"([\w-]+)>=([\d.]+)", line) for line in project["dependencies"])
    return {found[1]: found[2] for found in stated if found}


def pairs() -> tuple[Pair, ...]:
    """Every pair that is tested, the oldest first."""
    bounds = lower_bounds()
    oldest = {**bounds, "jaxlib": bounds["jax"]}
    return (
        Pair("the oldest", "3.11", "constraints.txt", oldest),
        Pair("the first without Python 3.11", "3.12", "constraints-newest.txt", _JAX_0_11),
        Pair("the newest", "3.13", "constraints-newest.txt"),
    )


# The last of 0.11: flax asks for it, and machines that are lent with CUDA have it.
_JAX_0_11 = {"jax": "0.11.2", "jaxlib": "0.11.2"}


def interpreters(version: str) -> Iterator[str]:
    """Where a Python of that version may be: on the path, or among those that pyenv keeps."""
    yield f"python{version}"
    kept = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    yield from map(str, sorted(kept.glob(f"{version}.*/bin/python{version}")))


def at_hand(version: str) -> str | None:
    """A Python of that version that runs, or None."""
    for name in interpreters(version):
        program = shutil.which(name)
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            return program
    return None


def environment(pair: Pair, python: str) -> Path:
    """The Python of an environment that holds what the pair pins, made if it is not there."""
    folder = ENVIRONMENTS / f"{pair.python}-jax-{pair.constraints()['jax']}"
    inside = folder / "bin" / "python"
    wanted = "".join(f"{name}=={version}\n" for name, version in pair.constraints().items())
    installed = folder / "installed.txt"
    if installed.exists() and installed.read_text() == wanted:
        return inside
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(wanted)
    install = [str(inside), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    command = [*install, "--constraint", str(constraints), "--editable", ".[plot]", *TOOLS]
    subprocess.run(command, check=True, cwd=ROOT)
    constraints.rename(installed)
    return inside


def main(arguments: list[str]) -> int:
    """Test every pair whose Python is at hand; 0 if none failed."""
    outcomes = []
    for pair in pairs():
        title = f"Python {pair.python}, jax {pair.constraints()['jax']} ({pair.name})"
        python = at_hand(pair.python)
        if python is None:
            outcomes.append((f"{title}: not tested, there is no python{pair.python} here", 0))
            continue
        print(title, flush=True)
        try:
            command = [str(environment(pair, python)), "-m", "pytest", "-q", "-n", "2"]
        except subprocess.CalledProcessError as error:
            outcomes.append((f"{title}: cannot be installed, see above", error.returncode))
            continue
        settings = {**os.environ, "JAX_ENABLE_X64": "0"}
        done = subprocess.run([*command, "tests/hessspec", *arguments], cwd=ROOT, env=settings)
        outcomes.append((f"{title}: {'failed' if done.returncode else 'passed'}", done.returncode))
    print("", *(words for words, _ in outcomes), sep="\n")
    return int(any(status for _, status in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
