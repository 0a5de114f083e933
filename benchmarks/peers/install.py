"""Make the peers' environments, for JAX, for PyTorch and for chemprop, outside the repository.

    python -m benchmarks.peers.install [--folder FOLDER] [-- ARGUMENTS OF PIP]

The folder is that of HESSSPEC_PEERS, or `.cache/hessspec-peers` in the home directory. PyTorch's
builds for CPUs are smallest: `-- --find-links FOLDER_OR_PAGE` tells pip where they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

VARIABLE = "HESSSPEC_PEERS"
ENVIRONMENTS = ("jax", "torch", "chemprop")


def folder() -> Path:
    """Where the environments are."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "hessspec-peers")


def interpreter(environment: str) -> Path:
    """The Python of an environment, whether it is there or not."""
    name = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return folder() / environment / name


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.install")
    parser.add_argument("--folder", type=Path, help=f"default: {VARIABLE} or the home directory")
    parser.add_argument("pip", nargs="*", help="further arguments of pip, after --")
    options = parser.parse_args()
    if options.folder:
        os.environ[VARIABLE] = str(options.folder.resolve())
    failed = 0
    for environment in ENVIRONMENTS:
        place = folder() / environment
        if not interpreter(environment).exists():
            venv.create(place, with_pip=True)
        wanted = Path(__file__).parent / f"requirements-{environment}.txt"
        words = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        done = subprocess.run(
            [str(interpreter(environment)), *words, "-r", str(wanted), *options.pip]
        )
        failed |= done.returncode
        print(f"{environment}: {'failed' if done.returncode else 'ready'} in {place}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
