"""A study that an earlier version began is gone on with by this one, or refused in words."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hessspec import TraceEstimate
from hessspec_mtl.curvature.alignment import Eigenspaces, GradientConflict
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.study.pipeline import DATA_SEED, run_study
from hessspec_mtl.study.presets import NetworkSizes, StudyConfig
from hessspec_mtl.study.records import Study
from hessspec_mtl.training.config import TrainConfig

OLD = Path(__file__).parents[1] / "data" / "0.1.0"
HELD = json.loads((OLD / "study.json").read_text(encoding="utf-8"))
# Seed 0 is finished; of seed 1 one epoch of two was trained when it was killed. Eigenvectors,
# gradients and a plain trace were asked for then, and are not asked for again.
CONFIG = StudyConfig(
    num_examples=23,
    seeds=(0, 1),
    network=NetworkSizes(num_steps=1, width=3, head_width=3),
    train=TrainConfig(num_epochs=2, batch_size=8, learning_rate=0.01),
    curvature=CurvatureConfig(
        num_epochs=2,
        num_graphs=6,
        batch_size=6,
        trace_matvecs=12,
        num_probes=2,
        num_steps=5,
    ),
)


EXAMPLES = load_molecules(progress=False).subset(CONFIG.num_examples, DATA_SEED)


def gone_on_with(config: StudyConfig, folder: Path) -> Study:
    return run_study(config, EXAMPLES, folder, progress=False, say=lambda text: None)


def unpacked(folder: Path) -> Path:
    with zipfile.ZipFile(OLD / "study.zip") as archive:
        archive.extractall(folder)
    return folder / "study"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.npz")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Study, Path, dict[Path, bytes]]:
    """The part that was finished, asked for alone; nothing is left to compile or to compute."""
    folder = unpacked(tmp_path_factory.mktemp("older"))
    before = contents(folder)
    return gone_on_with(replace(CONFIG, seeds=(0,)), folder), folder, before


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> tuple[Study, Path, dict[Path, bytes]]:
    """The study, ended by this version; its folder, and the records that were there before."""
    folder = unpacked(tmp_path_factory.mktemp("older"))
    before = contents(folder)
    return gone_on_with(CONFIG, folder), folder, before


def test_what_was_finished_is_read_and_not_made_again(finished):
    study, folder, before = finished
    assert len(before) == 13
    assert contents(folder) == before
    assert study.num_params == HELD["num_params"]
    for record, trace, error, spectral in zip(
        study.runs[0].curvature,
        HELD["traces"][0],
        HELD["trace errors"][0],
        HELD["spectral traces"][0],
        strict=True,
    ):
        np.testing.assert_allclose(record.trace.value, trace, rtol=1e-6)
        np.testing.assert_allclose(record.trace.standard_error, error, rtol=1e-6)
        np.testing.assert_allclose(record.density.trace().value, spectral, rtol=1e-6)
    last = folder / "seed-0" / "curvature" / "epoch_000002"
    conflict = GradientConflict.load(last / "gradients_2.npz")
    np.testing.assert_allclose(conflict.cosines, HELD["cosines"], rtol=1e-6)
    spaces = Eigenspaces.load(last / "eigenspaces_2.npz")
    np.testing.assert_allclose(spaces.values, HELD["eigenvalues"], rtol=1e-6)
    plain = TraceEstimate.load(last / "hutchinson_8.npz")
    np.testing.assert_allclose(plain.value, HELD["hutchinson"], rtol=1e-6)


@pytest.mark.slow
def test_going_on_adds_what_was_missing_and_changes_nothing(resumed):
    _, folder, before = resumed
    assert {path: path.read_bytes() for path in before} == before
    assert len(contents(folder)) == len(before) + 2 * 3


@pytest.mark.slow
def test_training_goes_on_from_the_older_checkpoint_as_if_nothing_had_happened(resumed):
    """Parameters, the optimizer's state and the order of examples: a lost one shows at once.

    Epoch 2 is eight steps away from the checkpoint of epoch 1; what compilers round differently
    grows to less than 1e-4 over them.
    """
    study, *_ = resumed
    history = pd.DataFrame(HELD["history of seed 1"])
    found = study.runs[1].history
    assert found[["epoch", "split", "task"]].equals(history[["epoch", "split", "task"]])
    for metric in ("mse", "mae"):
        np.testing.assert_allclose(found[metric], history[metric], rtol=1e-4)


@pytest.mark.slow
def test_curvature_measured_now_is_that_of_the_older_networks(resumed):
    """Probes may be drawn in other ways by now: each interval is held against the exact trace."""
    study, *_ = resumed
    last = study.runs[1].curvature[-1]
    for estimate in (last.trace, last.density.trace()):
        low, high = estimate.confidence_interval(level=0.999)
        assert np.all(low <= HELD["exact traces of seed 1"])
        assert np.all(high >= HELD["exact traces of seed 1"])


def test_other_settings_than_the_older_studys_are_refused_in_words(tmp_path):
    folder = unpacked(tmp_path)
    before = contents(folder)
    other = replace(CONFIG, curvature=replace(CONFIG.curvature, num_steps=6))
    with pytest.raises(
        ValueError,
        match=r"`curvature.num_steps` \(--curvature.num-steps\) is 6, but .* with 5; ask for",
    ):
        gone_on_with(other, folder)
    longer = replace(CONFIG, train=replace(CONFIG.train, num_epochs=3))
    with pytest.raises(ValueError, match=r"`train.num_epochs` \(--num-epochs\) is 3, but"):
        gone_on_with(longer, folder)
    assert contents(folder) == before
