"""Make the states of training lighter before they travel: a third of each is enough for analysis.

    python -m benchmarks.gpu.lighten --runs FOLDER

The last state of each run stays whole: training goes on from it. Of the others the parameters stay,
which is what curvature is taken of, and the optimizer's part goes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hessspec_mtl.training.checkpoints import Checkpoints


def lighten(checkpoints: Checkpoints) -> int:
    """How many states were made lighter; the last, and those that were so already, stay."""
    count = 0
    for epoch in checkpoints.epochs()[:-1]:
        state = checkpoints.restore(epoch)
        if state.pop("opt_state", None) is not None:
            checkpoints.save(epoch, state)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.lighten")
    parser.add_argument("--runs", type=Path, required=True, help="folder of runs")
    for folder in sorted(parser.parse_args().runs.rglob("checkpoints")):
        print(f"{folder}: {lighten(Checkpoints(folder))} made lighter")


if __name__ == "__main__":
    main()
