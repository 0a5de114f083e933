"""The spectra of QM8's tasks before training and after: `python -m docs.spectra [FOLDER]`.

Drawn from the densities that came back from a GPU (docs/gpu.md), which lie in
`benchmarks/results/gpu`.
"""

import sys
from pathlib import Path

import hessspec

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "gpu"
TASKS = ("E1", "E2", "f1", "f2")
EPOCHS = (0, 173)


def main(folder):
    """Draw the four tasks at both epochs on common axes, and print their extremes."""
    from matplotlib import pyplot

    from hessspec.plotting import plot_densities

    found = {}
    for epoch in EPOCHS:
        density = hessspec.SpectralDensity.load(KEPT / f"qm8_density_{epoch:03}.npz")
        for number, task in enumerate(TASKS):
            found[f"{task}, epoch {epoch}"] = density.task(number)
    figure, axes = pyplot.subplots(
        len(EPOCHS), len(TASKS), figsize=(11, 5), sharex=True, sharey=True, layout="constrained"
    )
    plot_densities(found, ax=axes)
    for ax, (title, density) in zip(axes.flat, found.items(), strict=True):
        ax.set_title(title, fontsize="medium")
        print(f"{title}: {density.extremes()}")
    figure.savefig(folder / "spectra.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
