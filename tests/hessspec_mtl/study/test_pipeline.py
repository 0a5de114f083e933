"""A study's split, what is written of it and what it knows of finished work, without training."""

import csv

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.curvature.tracking import TaskTracker
from hessspec_mtl.datasets.base import Examples, LeftOut, MultitaskDataset, Task
from hessspec_mtl.datasets.grouping import Copies
from hessspec_mtl.featurize.molecules import graph_of
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.report.words import copies
from hessspec_mtl.study import pipeline
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.records import SeedRun, Study
from hessspec_mtl.study.seeds import all_timed, unfinished

NAMES = ("CC=CC", "C/C=C/C", "CC=CO", "C/C=C/O", "CC=CN", r"C/C=C\N", "CO", "C[18OH]", "CN", "CF")


def molecules() -> MultitaskDataset:
    """Four molecules under two names each, and two others, every name a group of its own."""
    return MultitaskDataset(
        name="isomers",
        domain="molecules",
        ids=NAMES,
        structures=NAMES,
        graphs=tuple(graph_of(text, add_hydrogens=True) for text in NAMES),
        targets=np.arange(10.0)[:, None] ** 2,
        tasks=(Task("t", "t", "1"),),
        groups=np.arange(10),
        elements=(1, 6, 7, 8, 9),
        left_out=(LeftOut("line-7", "no molecular graph", 'a "reason", with a comma'),),
    )


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that makes the study of a configuration in which nothing is trained."""

    def untrained(work):
        return SeedRun(seed=work.seed, split=work.split, history=pd.DataFrame())

    monkeypatch.setattr(pipeline, "run_seed", lambda work, stages: None)
    monkeypatch.setattr(pipeline, "unavailable", lambda dataset: "no forest here")
    monkeypatch.setattr(pipeline, "read_seed", untrained)

    def made(**settings) -> Study:
        return pipeline.run_study(
            StudyConfig(curvature=CurvatureConfig(num_graphs=3), **settings),
            molecules(),
            tmp_path,
            say=lambda _: None,
        )

    return made


def test_structures_under_several_names_are_counted_and_told(study):
    """Seed 0 of the split separates some of them, which the report says with its numbers."""
    found = study(test_fraction=0.3)
    assert found.copies is not None
    assert (found.copies.groups, found.copies.examples) == (4, 8)
    assert found.copies.crossing == found.copies.test_examples > 0
    (text,) = copies([found])
    assert text.startswith("isomers: 8 of the 10 molecules are only 4 structures to the network")
    assert f"{found.copies.test_examples} of 3 test examples have a twin in training" in text
    assert "--keep-groups-whole" in text


def test_groups_kept_whole_are_on_one_side(study):
    found = study(keep_groups_whole=True)
    assert found.copies == Copies(groups=4, examples=8, crossing=0, test_examples=0)
    assert found.settings["keep_groups_whole"] is True
    assert found.forest == "no forest here"
    split = found.runs[0].split
    assert sorted([*split.train, *split.test]) == list(range(10))
    assert copies([found])[0].endswith("none of these is on both sides of the split.")


def test_what_was_left_out_is_listed_with_the_reasons(study, tmp_path):
    study()
    with (tmp_path / "left_out.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["id", "reason", "detail"],
        ["line-7", "no molecular graph", 'a "reason", with a comma'],
    ]


def test_the_time_of_work_is_known_only_where_every_unit_has_kept_it(tmp_path):
    write_whole(tmp_path / "training" / "history.csv", "epoch\n")
    write_whole(tmp_path / "training" / "seconds.csv", "epoch,seconds\n0,1.5\n")
    assert all_timed(tmp_path)
    unit = tmp_path / "curvature" / "epoch_000000" / "trace.npz"
    write_whole(unit, b"")
    assert not all_timed(tmp_path)
    write_whole(unit.parent / "seconds.json", '{"trace": 2.0}')
    assert all_timed(tmp_path)
    write_whole(tmp_path / "training" / "seconds.csv", "epoch,seconds\n0,1.5\n1,\n")
    assert not all_timed(tmp_path)


def test_the_network_of_all_tasks_is_followed_if_that_is_asked_for(tmp_path):
    """On as many graphs as are named, and by nothing that holds its folder when they cannot be."""
    few = {"num_graphs": 3, "track_every": 2}
    config = StudyConfig(curvature=CurvatureConfig(**few, track_graphs=5))
    (seed,) = pipeline.begin_study(config, molecules(), tmp_path / "a", say=print).seeds
    assert isinstance(seed.tracked, Examples)
    assert len(seed.tracked) == 5
    along = seed.training_of(None)._along
    assert isinstance(along, TaskTracker)
    assert along.every == 2
    assert "what was tracked while it trained" in unfinished(seed)
    too_many = StudyConfig(curvature=CurvatureConfig(**few, track_graphs=50))
    with pytest.raises(ValueError, match=r"`curvature.track_graphs` \(--track-graphs\) .* got 50"):
        pipeline.begin_study(too_many, molecules(), tmp_path / "b", say=print)
    assert not (tmp_path / "b").exists()
    off = StudyConfig(curvature=CurvatureConfig(num_graphs=3))
    (seed,) = pipeline.begin_study(off, molecules(), tmp_path / "c", say=print).seeds
    assert seed.training_of(None)._along is None
