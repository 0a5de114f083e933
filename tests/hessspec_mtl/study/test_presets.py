"""The presets are consistent."""

import typing

from hessspec_mtl.reproduce import RunOptions
from hessspec_mtl.study import presets


def test_every_preset_is_consistent():
    for name, preset in presets.PRESETS.items():
        # Twenty-one networks instead of one or two: each Hessian is taken on fewer graphs.
        enough = 32 if name in ("compare", "weighting") else 128
        for config in preset.studies.values():
            assert config.curvature.num_graphs >= enough
            assert config.curvature.num_probes >= 2


def test_the_command_takes_every_preset():
    taken = typing.get_args(typing.get_type_hints(RunOptions)["preset"])
    assert set(taken) == set(presets.PRESETS)


def test_the_study_of_weightings_trains_what_compare_trains():
    """So that the networks of one are those of the other (`study.decision`)."""
    for name, ours in presets.PRESETS["weighting"].studies.items():
        theirs = presets.PRESETS["compare"].studies[name]
        assert (ours.network, ours.train, ours.num_examples) == (
            *(theirs.network, theirs.train, theirs.num_examples),
        )
