"""What a study's curvature will take is told from a few products, and nothing else is done."""

import re

import pytest

from hessspec_mtl import reproduce
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.study import loading, presets
from hessspec_mtl.study.presets import NetworkSizes, Preset, StudyConfig
from hessspec_mtl.training.config import TrainConfig

TOY = StudyConfig(
    num_examples=24,
    seeds=(0, 1),
    network=NetworkSizes(num_steps=1, width=4, head_width=4),
    train=TrainConfig(num_epochs=2, batch_size=24),
    curvature=CurvatureConfig(
        num_epochs=2, num_graphs=6, batch_size=6, trace_matvecs=12, num_steps=5, num_eigenpairs=2
    ),
)


@pytest.fixture(scope="module")
def molecules():
    whole = load_molecules()
    return whole, loading.subset(whole, 24)


def test_a_dry_run_counts_the_products_and_writes_nothing(molecules, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets.PRESETS, "quick", Preset("toy", {"molecules": TOY}))
    monkeypatch.setattr("hessspec_mtl.study.loading.named", lambda *_, **__: molecules)
    # Nothing is trained.
    monkeypatch.setattr("hessspec_mtl.study.seeds.Training", None)
    arguments = ["--sets", "molecules", "--out", str(tmp_path / "runs"), "--dry-run"]
    assert reproduce.main(arguments) == 0
    said = capsys.readouterr().out
    # Two runs, three epochs (0, 1, 2), four tasks: densities of 2 x 5 products, traces of 12.
    products = 2 * 3 * 4 * (2 * 5 + 12)
    assert re.search(rf"takes {products:,} products, about .* on this device", said)
    assert "at 3 epochs of 2 training runs" in said
    assert said.rstrip().endswith("Not counted: training, eigenpairs.")
    assert not (tmp_path / "runs").exists()


def test_the_command_that_a_run_writes_down_is_no_dry_one():
    options = reproduce.Reproduce(dry_run=True, seeds=(3,))
    assert "--dry-run" not in reproduce._command(options)
