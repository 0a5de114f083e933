"""Rehearse a visit on the CPU: the kit built, run tiny, brought home and gone on from.

    python -m benchmarks.gpu.rehearse [--kit gpu-kit] [--python PYTHON]

It runs as there: from the kit's folder alone, with the kit's wheels, in Python 3.12 with the JAX of
a visit where that interpreter is at hand (an environment is made for it in `.venv-kit`), else in
this one. Imports of rdkit and pymatgen are refused. The second visit starts from what the first
brought home and must find its work done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.visit import INDEX, SETS, unpack
from tests.compat import at_hand

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-kit"
# What the machine of a visit has of its own, as far as the steps use it.
BARE = ("jax==0.11.2", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")
BARE += ("matplotlib", "tqdm", "wadler-lindig", "requests", "typing-extensions")
REFUSED = ("rdkit", "pymatgen")

_REFUSING = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"no {{name}} on a visit")
sys.meta_path.insert(0, Refusing())
"""


def bare_python() -> str:
    """A Python with what that machine has, or this one."""
    python = at_hand("3.12")
    if python is None:
        print("there is no python3.12 here: rehearsed in this environment", flush=True)
        return sys.executable
    inside = ENVIRONMENT / "bin" / "python"
    made = ENVIRONMENT / "made.txt"
    if not made.exists() or made.read_text() != "\n".join(BARE):
        subprocess.run([python, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        pip = [str(inside), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, *BARE], check=True)
        made.write_text("\n".join(BARE))
    return str(inside)


def visit(python: str, kit: Path, folder: Path, number: int, refusing: Path) -> str:
    """Run a tiny visit in `folder`; returns what it said."""
    home = folder / f"home-{number}"
    command = [python, str(kit / "visit.py"), "run", "--tiny", "--minutes", "120"]
    command += ["--out", str(home), "--work", str(folder / f"work-{number}"), "--steps", *STEPS]
    if number > 1:
        command += ["--home", str(folder / f"home-{number - 1}")]
    settings = {**os.environ, "PYTHONPATH": str(refusing), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=settings, text=True, stdout=subprocess.PIPE)
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"visit {number} failed in {done.returncode} of its steps: see above.")
    return done.stdout


STEPS = ("card", "qm8", "precision", "lighten", "speed", "ways", "mp")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.rehearse")
    parser.add_argument("--kit", type=Path, default=ROOT / "gpu-kit")
    parser.add_argument("--python", help="the interpreter to rehearse in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        refusing = folder / "refusing"
        refusing.mkdir()
        (refusing / "sitecustomize.py").write_text(_REFUSING.format(refused=REFUSED))
        python = options.python or bare_python()
        for number in (1, 2):
            visit(python, options.kit.resolve(), folder, number, refusing)
        unpack(folder / "home-2", folder / "home")
        check(folder / "home")
        left = json.loads((folder / "home-2" / INDEX).read_text(encoding="utf-8"))["left"]
        if left:
            raise SystemExit(f"these files found no room on the way home: {left}")
    print("the rehearsal went well")


def check(home: Path) -> None:
    """Whether everything that a visit makes has come home."""
    wanted = [f"results/{name}.json" for name in ("card", "precision", "speed", "epochs")]
    wanted += [f"runs/gpu/{name}/seed-0/training/history.csv" for name in SETS]
    missing = [name for name in wanted if not (home / name).exists()]
    if missing:
        raise SystemExit(f"these files did not come home: {missing}")


if __name__ == "__main__":
    main()
