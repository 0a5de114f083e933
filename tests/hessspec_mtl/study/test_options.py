"""Every field of a study's configuration has an option, and what is given is what is run."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import pytest
import tyro

from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.study.options import (
    StudyOptions,
    configured,
    shortest_flag,
    unknown_word,
    with_values,
)
from hessspec_mtl.study.presets import PRESETS, NetworkSizes, StudyConfig
from hessspec_mtl.training.config import TrainConfig

PRESET = PRESETS["compare"].studies["mp"]
GROUPS = {"network": NetworkSizes, "train": TrainConfig, "curvature": CurvatureConfig}


def parsed(*words: str) -> StudyOptions:
    return tyro.cli(StudyOptions, args=list(words))


def flat(config: StudyConfig) -> dict:
    settings = asdict(config)
    for group in GROUPS:
        settings |= {f"{group}.{name}": value for name, value in settings.pop(group).items()}
    return settings


# Of every field a value that no preset has, as it is typed.
TYPED = {
    "num_examples": "77",
    "seeds": "3 8",
    "test_fraction": "0.4",
    "single_task": "False",
    "keep_groups_whole": "True",
    "keep_states": "last",
    "network.num_steps": "2",
    "network.width": "5",
    "network.head_width": "6",
    "network.head_layers": "3",
    "network.initializer": "glorot_normal",
    "network.skip": "hidden",
    "network.carried": "raw",
    "train.num_epochs": "9",
    "train.batch_size": "7",
    "train.learning_rate": "0.5",
    "train.decay_start": "4",
    "train.decay_rate": "0.25",
    "train.warmup_steps": "11",
    "train.optimizer": "sgd",
    "train.evaluate_every": "3",
    "train.keep_epochs": "2 4",
    "train.checkpoint_seconds": "2.5",
    "train.matmul_precision": "tf32",
    "train.loss": "absolute",
    "train.reduction": "sum",
    "train.weighting": "fixed",
    "train.task_weights": "0.5 2.0 1.5",
    "train.measure_every": "12",
    "train.measure_graphs": "14",
    "curvature.num_epochs": "3",
    "curvature.epochs": "0 4",
    "curvature.num_graphs": "13",
    "curvature.batch_size": "5",
    "curvature.trace_matvecs": "17",
    "curvature.num_probes": "4",
    "curvature.num_steps": "19",
    "curvature.hutchinson_samples": "21",
    "curvature.num_eigenpairs": "6",
    "curvature.eigenpairs_tol": "0.125",
    "curvature.gradient_groups": "5",
    "curvature.track_every": "50",
    "curvature.track_graphs": "9",
    "curvature.track_probes": "6",
    "curvature.gauss_newton": "True",
}


def test_every_field_of_a_study_is_an_option_that_reaches_it():
    """All at once, then each beside the preset's other fields; `--seeds` sets `train.seed`."""
    assert set(TYPED) == set(flat(PRESET)) - {"train.seed"}
    words = [w for name, text in TYPED.items() for w in (shortest_flag(name), *text.split())]
    found = flat(configured(PRESET, parsed(*words)))
    for name, text in TYPED.items():
        value = found[name]
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert shown == text, name
        assert value != flat(PRESET)[name], name


def test_what_is_not_given_stays_as_the_preset_has_it():
    assert configured(PRESET, parsed()) == PRESET
    changed = configured(PRESET, parsed("--curvature.num-steps", "19"))
    assert changed == replace(PRESET, curvature=replace(PRESET.curvature, num_steps=19))


def test_the_long_form_of_an_option_is_the_short_one():
    short, long = (parsed(f"--{form}num-epochs", "9") for form in ("", "train."))
    assert configured(PRESET, short) == configured(PRESET, long)
    both = parsed("--num-epochs", "9", "--train.num-epochs", "8")
    with pytest.raises(ValueError, match=r"`--num-epochs` and `--train.num-epochs` .* got 9 and 8"):
        configured(PRESET, both)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--curvature.num-steps 1", "`--curvature.num-steps` must be at least 2, got 1"),
        ("--network.num-steps 0", "`--network.num-steps` must be at least 1, got 0"),
        ("--network.head-layers -1", "`--network.head-layers` must be at least 0, got -1"),
        ("--train.batch-size 0", "`--train.batch-size` must be at least 1, got 0"),
        ("--num-epochs 0", "`--num-epochs` must be at least 1, got 0"),
        ("--num-graphs 0", "`--num-graphs` must be at least 1, got 0"),
        ("--learning-rate nan", "`--learning-rate` must be positive, got nan"),
        ("--train.optimizer lamb", "`--train.optimizer` must be one of .*, got 'lamb'"),
        ("--curvature.eigenpairs-tol 2", r"`--curvature.eigenpairs-tol` must lie in \(0, 1\)"),
        ("--test-fraction 1", r"`--test-fraction` must lie in \(0, 1\), got 1.0"),
        ("--num-examples 3", "`--num-examples` must be at least 4, got 3"),
        ("--seeds 0 0", r"`--seeds` must name .* each once, got \(0, 0\)"),
    ],
)
def test_what_cannot_be_is_said_of_the_option(words, message):
    with pytest.raises(ValueError, match=message):
        configured(PRESET, parsed(*words.split()))


@dataclass(frozen=True)
class Command(StudyOptions):
    """A command with options that take one or several of a few words."""

    stages: tuple[Literal["train", "curvature"], ...] = ("train",)
    preset: Literal["quick", "small"] = "quick"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--preset smal", "`--preset` must be one of quick, small, got 'smal' (did you mean 's"),
        ("--seeds 0 1 --preset=Quick", "`--preset` must be one of quick, small, got 'Quick' (did"),
        ("--stages train,curvatur", "got 'curvatur' (did you mean 'curvature'?)."),
        ("--optimizer adamm", "`--optimizer` must be one of adamw, adam, sgd, got 'adamm' (did"),
        ("--keep_states all", "`--keep-states` must be one of analysed, last, got 'all'."),
        ("--preset small --keep-states None --stages train curvature --seeds 3", ""),
        ("--network.width smal --num-epochs 3 --single-task", ""),
    ],
)
def test_a_word_that_an_option_does_not_know_is_asked_about(words, told):
    found = unknown_word(Command, with_values(words.split()))
    assert told in found
    assert bool(told) == bool(found)


def test_the_help_says_of_each_option_what_its_record_says(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for group, record in GROUPS.items():
        for item in fields(record):
            if (group, item.name) != ("train", "seed"):
                assert shortest_flag(f"{group}.{item.name}") in page
                assert f"--{group}.{item.name.replace('_', '-')}" in page
    assert "Lanczos steps of each start; the paper takes 100. (default: the preset's)" in page
