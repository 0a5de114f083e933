"""The presets are consistent."""

from hessspec_mtl.study import presets


def test_every_preset_is_consistent():
    for name, preset in presets.PRESETS.items():
        # Twenty-one networks instead of one or two: each Hessian is taken on fewer graphs.
        enough = 32 if name in ("compare", "weighting") else 128
        for config in preset.studies.values():
            assert config.curvature.num_graphs >= enough
            assert config.curvature.num_probes >= 2
