"""Run examples of the gallery and keep their figures and what they print.

    python -m docs.gallery NAME [NAME ...]    those
    python -m docs.gallery --all              all, some minutes on two cores
    python -m docs.gallery --list             their names, with the first line of each

Writes `NAME.png` and `NAME.txt` beside the script, or into the folder that `--to` names.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import runpy
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl

HERE = Path(__file__).resolve().parent
STYLE = {
    "figure.figsize": (7.2, 3.6),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.size": 10,
}


def scripts() -> dict[str, Path]:
    """The examples by name."""
    return {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem[0] != "_"}


def first_line(path: Path) -> str:
    """What an example says of itself."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def run(path: Path, folder: Path) -> None:
    """Run one example and write its figure and its words into `folder`.

    An example that saves a figure itself, as `first` does, is drawn as it is for whoever pastes it.
    """
    import jax
    import matplotlib.pyplot as plt

    plt.close("all")
    precise = jax.config.jax_enable_x64
    words = io.StringIO()
    style = {} if "savefig" in path.read_text("utf-8") else STYLE
    with (
        tempfile.TemporaryDirectory() as elsewhere,
        contextlib.chdir(elsewhere),
        mpl.rc_context(style),
        contextlib.redirect_stdout(words),
    ):
        runpy.run_path(str(path), run_name="__main__")
        if not plt.get_fignums():
            raise RuntimeError(f"{path.name} drew no figure")
        jax.config.update("jax_enable_x64", precise)
        # No version inside, so that an equal picture is an equal file.
        plt.gcf().savefig(folder / f"{path.stem}.png", metadata={"Software": None})
    (folder / f"{path.stem}.txt").write_text(words.getvalue(), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.gallery")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *scripts()])
    parser.add_argument("--all", action="store_true", help="run every example")
    parser.add_argument("--list", action="store_true", help="name them, and run none")
    parser.add_argument("--to", type=Path, default=HERE, help="folder for figures and words")
    options = parser.parse_args()
    if options.list or not (options.names or options.all):
        for name, path in scripts().items():
            print(f"{name:14} {first_line(path)}")
        return 0
    mpl.use("agg")
    folder = options.to.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in scripts() if options.all else options.names:
        start = time.perf_counter()
        run(scripts()[name], folder)
        print(f"{name:14} {time.perf_counter() - start:5.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
