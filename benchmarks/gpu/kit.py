"""Build the folder that travels to a machine with a GPU: wheels, encoded data and one script.

    python -m benchmarks.gpu.kit [--to gpu-kit] [--sets qm8 mp] [--data-dir DATA]

    gpu-kit/visit.py      what is run there (see `visit`)
    gpu-kit/wheels/       this project, and what that machine may lack (wheels.txt)
    gpu-kit/benchmarks/   the benchmarks, which are not installed
    gpu-kit/REVISION      which commit all of it is of
    gpu-kit/data/         the data sets, encoded, so that nobody there needs chemistry

The machine is taken to be a bare one with Python 3.12 and JAX for CUDA, without a network.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.visit import MIB
from benchmarks.machine import revision

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MOST_BYTES = 60 * MIB
SETS = ("qm8", "mp", "molecules", "crystals")
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")


def build(to: Path, sets: Sequence[str], data: Path | None) -> None:
    """Make the kit's folder anew.

    Raises:
        SystemExit: if something cannot be had, or the folder is too large to travel.
    """
    shutil.rmtree(to, ignore_errors=True)
    wheels = to / "wheels"
    wheels.mkdir(parents=True)
    project = ["wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    there = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    there += [f"--platform={platform}" for platform in PLATFORMS]
    others = ["download", "--no-deps", "--dest", str(wheels), *there]
    pip(project, "the project's own wheel cannot be built")
    pip([*others, "--requirement", str(HERE / "wheels.txt")], "a wheel cannot be had")
    ignored = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(ROOT / "benchmarks", to / "benchmarks", ignore=ignored)
    shutil.copy(HERE / "visit.py", to / "visit.py")
    (to / "REVISION").write_text(revision() + "\n", encoding="utf-8")
    encode(to / "data", sets, data)
    report(to)


def pip(arguments: list[str], failure: str) -> None:
    """Run pip, or stop with what failed."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{failure}: see above; pip needs its package index for this.")


def encode(to: Path, sets: Sequence[str], data: Path | None) -> None:
    """The encoded data sets, each in one file."""
    command = [sys.executable, "-m", "hessspec_mtl.encode", "--sets", *sets, "--to", str(to)]
    if data is not None:
        command += ["--data-dir", str(data)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit("the data sets cannot be encoded: see above.")


def report(to: Path) -> None:
    """Say what the kit weighs.

    Raises:
        SystemExit: if that is more than may travel.
    """
    total = 0
    for entry in sorted(to.iterdir()):
        files = (
            [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
        )
        size = sum(path.stat().st_size for path in files)
        total += size
        print(f"{entry.name:12} {size / MIB:6.2f} MiB")
    print(f"{'in all':12} {total / MIB:6.2f} MiB of {MOST_BYTES // MIB} that may travel")
    if total > MOST_BYTES:
        raise SystemExit(f"{to} is too large to travel; take fewer data sets.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kit")
    parser.add_argument("--to", type=Path, default=ROOT / "gpu-kit")
    parser.add_argument("--data-dir", type=Path, help="where the files of QM8 and MP are")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["qm8", "mp"])
    options = parser.parse_args()
    build(options.to.resolve(), options.sets, options.data_dir)


if __name__ == "__main__":
    main()
