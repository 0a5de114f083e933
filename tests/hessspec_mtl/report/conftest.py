"""A run that was trained and not measured, and figures that were not drawn: a report in no time."""

from types import SimpleNamespace

import numpy as np
import pytest

from hessspec_mtl.datasets.base import Split
from hessspec_mtl.figures import PlotFiles
from hessspec_mtl.report import FullDataset, Results
from hessspec_mtl.study.records import SeedRun, Study


@pytest.fixture
def trained(records: SimpleNamespace) -> Results:
    """Two seeds on crystals whose names and settings hold what HTML and Markdown read as marks."""
    data = records.dataset("MP")
    curve = records.decay(0.8, 0.25)
    names = [task.name for task in data.tasks]
    runs = tuple(
        SeedRun(
            seed,
            Split(np.arange(0, 40), np.arange(40, 60)),
            records.history(names, lambda i, e: curve(e), lambda i, e, s=seed: curve(e) + 0.1 * s),
        )
        for seed in range(2)
    )
    return Results(
        title="Crystals <of> A & B",
        studies=(Study(data, runs, records.DIM),),
        full=(FullDataset(data, 112, 40),),
        settings={"MP": {"train": {"optimizer": "adam|sgd <b>"}}},
        versions={"jax": "0.0"},
        other_files={"mp/examples.csv": "ids & splits"},
    )


@pytest.fixture
def drawn(tmp_path) -> list[PlotFiles]:
    """Three figures, two of which share a number."""
    figures = []
    for name in ("figure3", "figure5_qm8", "figure5_mp"):
        paths = {kind: tmp_path / "figures" / f"{name}.{kind}" for kind in ("png", "pdf", "csv")}
        paths["png"].parent.mkdir(exist_ok=True)
        paths["png"].write_bytes(b"\x89PNG")
        figures.append(PlotFiles(name, f"Title <{name}>", "What it & others show.", **paths))
    return figures
