"""Every field of a study's configuration as an option of the command, made from its records.

An option that is not given is None and leaves the field as the preset has it. The option
`--curvature.num-steps` is the field `num_steps` of `CurvatureConfig`, with the words written there.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from hessspec._base.arguments import did_you_mean
from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.study.presets import KeptStates, NetworkSizes, StudyConfig
from hessspec_mtl.training.config import TrainConfig

Optimizer = Literal["adamw", "adam", "sgd"]

_GROUPS: Mapping[str, type[Any]] = {
    "network": NetworkSizes,
    "train": TrainConfig,
    "curvature": CurvatureConfig,
}
_OF_STUDY = (
    *("num_examples", "seeds", "test_fraction"),
    *("single_task", "keep_groups_whole", "keep_states"),
)
SWITCHES = ("single_task", "keep_groups_whole")
_SHORT: Mapping[str, str] = {
    "optimizer": "train",
    "learning_rate": "train",
    "num_epochs": "train",
    "num_graphs": "curvature",
    "track_every": "curvature",
    "track_graphs": "curvature",
}
"""Fields whose option also goes without the name of its group."""

_DERIVED: Mapping[str, tuple[str, ...]] = {"train": ("seed",)}
"""Fields that no option sets: the seed of a run is one of `--seeds`."""


def _arg(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: the preset's)")


INT, INTS, FLOAT, WORD, YES_NO = map(_arg, ("INT", "INT ...", "FLOAT", "WORD", "[{True,False}]"))
_ARGS = {int: INT, float: FLOAT, str: WORD, bool: YES_NO}
_MANY = {int: INTS, float: _arg("FLOAT ...")}


def _optional(record: type[Any], left_out: tuple[str, ...]) -> type[Any]:
    """A record of the same fields, each of which may be None, explained in the same words."""
    kinds = typing.get_type_hints(record)

    def annotated(kind: Any) -> Any:
        inner = typing.get_args(kind)
        is_many, one = typing.get_origin(kind) is tuple, inner[0] if inner else kind
        shown = _MANY[one] if is_many else _ARGS[one]
        return Annotated[kind | None, shown]

    chosen = [item.name for item in fields(record) if item.name not in left_out]
    made: Any = make_dataclass(
        f"{record.__name__}Options",
        [(name, annotated(kinds[name]), field(default=None)) for name in chosen],
        frozen=True,
    )
    made.__doc__ = record.__doc__
    return made


if TYPE_CHECKING:
    NetworkOptions = TrainOptions = CurvatureOptions = Any
else:
    NetworkOptions, TrainOptions, CurvatureOptions = (
        _optional(record, _DERIVED.get(group, ())) for group, record in _GROUPS.items()
    )


@dataclass(frozen=True)
class StudyOptions:
    """What the command changes of a preset's study; None leaves it as it is.

    Attributes:
        seeds: one training run each.
        single_task: also train each task alone, to compare.
        test_fraction: share of the examples that is held out.
        keep_groups_whole: structures that are one to the network (stereoisomers, cells of one
            crystal) stay on one side of the split; data of your own are always split so.
        keep_states: which states of training stay on disk: those that are analysed, or, once all
            results are there, the last alone.
        optimizer: which optimizer trains.
        learning_rate: of the first half of training.
        num_epochs: passes over the training examples.
        num_examples: a random subset of each data set; all, if there are no more.
        num_graphs: training graphs that the Hessians are averaged over; if not given, all of them
            where those are fewer than the preset's.
        track_every: steps from one look at every task's sharpness and trace to the next, while it
            trains; 0, the presets' default, looks at none.
        track_graphs: training graphs that these are averaged over; all, if there are no more.
        network: Sizes of the network.
        train: How it is trained.
        curvature: What is measured of the curvature, and when.
    """

    seeds: Annotated[tuple[int, ...] | None, INTS] = None
    single_task: Annotated[bool | None, YES_NO] = None
    test_fraction: Annotated[float | None, FLOAT] = None
    keep_groups_whole: Annotated[bool | None, YES_NO] = None
    keep_states: Annotated[KeptStates | None, _arg("{analysed,last}")] = None
    optimizer: Annotated[Optimizer | None, _arg("{adamw,adam,sgd}")] = None
    learning_rate: Annotated[float | None, FLOAT] = None
    num_epochs: Annotated[int | None, INT] = None
    num_examples: Annotated[int | None, INT] = None
    num_graphs: Annotated[int | None, INT] = None
    track_every: Annotated[int | None, INT] = None
    track_graphs: Annotated[int | None, INT] = None
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    curvature: CurvatureOptions = field(default_factory=CurvatureOptions)


def flag(name: str, group: str = "") -> str:
    """What one types to set a field: `--train.batch-size`."""
    return "--" + (f"{group}." if group else "") + name.replace("_", "-")


def shortest_flag(dotted: str) -> str:
    """The shortest option for a field such as `train.num_epochs`: here `--num-epochs`."""
    group, _, name = dotted.rpartition(".")
    return flag(name, "" if _SHORT.get(name) == group else group)


def configured(config: StudyConfig, options: StudyOptions) -> StudyConfig:
    """`config` with what `options` change.

    Raises:
        ValueError: for a value that cannot be, in the words of the record but naming the option;
            or where the long and the short form of an option say different things.
    """
    for group in _GROUPS:
        given, names = _given(options, group)
        config = replace(config, **{group: _changed(getattr(config, group), given, names)})
    given = {name: getattr(options, name) for name in _OF_STUDY}
    given = {name: value for name, value in given.items() if value is not None}
    return _changed(config, given, {name: flag(name) for name in given})


def _given(options: StudyOptions, group: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values given for a group's fields, and by which option each."""
    inner = getattr(options, group)
    values = {item.name: getattr(inner, item.name) for item in fields(inner)}
    values = {name: value for name, value in values.items() if value is not None}
    names = {name: flag(name, group) for name in values}
    for name, home in _SHORT.items():
        value = getattr(options, name)
        if home != group or value is None:
            continue
        if name in values and values[name] != value:
            raise ValueError(
                f"`{flag(name)}` and `{flag(name, group)}` set one thing, got {value} and "
                f"{values[name]}; give one of them."
            )
        values[name], names[name] = value, flag(name)
    return values, names


_Record = TypeVar("_Record")


def _changed(record: _Record, given: Mapping[str, Any], names: Mapping[str, str]) -> _Record:
    try:
        return replace(record, **given)  # type: ignore[type-var]
    except ValueError as error:
        text = str(error)
        for name, option in names.items():
            text = text.replace(f"`{name}`", f"`{option}`")
        raise ValueError(text) from error


def with_values(arguments: Sequence[str]) -> list[str]:
    """Words as tyro takes them, from words as people type them.

    `--single-task` becomes `--single-task True`, `--no-single-task` the same with False, and
    `--stages train,curvature` becomes `--stages train curvature`.
    """
    words: list[str] = []
    for place, word in enumerate(arguments):
        if "," in word and arguments[place - 1 : place] == ["--stages"]:
            words += [part for part in word.split(",") if part]
            continue
        name = word.replace("_", "-").removeprefix("--")
        if flag(name.removeprefix("no-")) not in map(flag, (*SWITCHES, "progress")):
            words.append(word)
        elif name.startswith("no-"):
            words += ["--" + name.removeprefix("no-"), "False"]
        else:
            has_value = arguments[place + 1 : place + 2] in (["True"], ["False"], ["None"])
            words += [word] if has_value else [word, "True"]
    return words


def command_line(record: type[_Record], arguments: Sequence[str], program: str) -> _Record:
    """The `record` that the words of a command line fill.

    Raises:
        SystemExit: with status 2 after a sentence that says which word is not understood.
    """
    words = with_values(arguments)
    if told := unknown_word(record, words):
        print(told, file=sys.stderr)
        raise SystemExit(2)
    text = (record.__doc__ or "").split("Attributes:")[0]
    return tyro.cli(record, args=words, prog=program, description=text)


def ended(work: Callable[[], None], stopped: str) -> int:
    """Do the work of a command; returns its exit status: 0, 1 after an error, 130 after Ctrl-C.

    An error is told in one line, and `stopped` is what is said of a work that was stopped.
    """
    try:
        work()
    except KeyboardInterrupt:
        print(f"\nStopped. {stopped}", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"\nStopped: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def unknown_word(record: type[Any], words: Sequence[str]) -> str:
    """What is said of the first word that an option does not know, with a guess; else nothing.

    `words` are as `with_values` returns them, `record` is what they fill. Only options that take
    one or more of a few words are looked at.
    """
    known = {flag(name): _choices(kind) for name, kind in typing.get_type_hints(record).items()}
    choices: tuple[Any, ...] = ()
    option = ""
    for word in words:
        name, has_value, value = word.partition("=")
        if word.startswith("--"):
            option = name.replace("_", "-")
            choices = known.get(option, ())
            if not has_value:
                continue
            word = value
        if choices and word not in (*choices, "None"):
            return (
                f"`{option}` must be one of {', '.join(choices)}, got {word!r}"
                f"{did_you_mean(word, choices)}."
            )
    return ""


def _choices(kind: Any) -> tuple[Any, ...]:
    """The words of the first Literal within a type."""
    if typing.get_origin(kind) is Literal:
        return tuple(map(str, typing.get_args(kind)))
    return next(filter(None, map(_choices, typing.get_args(kind))), ())


def typed(options: Any, group: str = "") -> list[str]:
    """The words that set what differs from its default."""
    words: list[str] = []
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            words += typed(value, item.name)
        elif value == item.default or item.name == "progress":
            continue
        elif item.name in ("file", "folder"):
            words.insert(0, str(value))
        elif isinstance(value, bool):
            words.append(flag(item.name if value else f"no_{item.name}", group))
        else:
            value = "YOUR_KEY" if item.name == "api_key" else value
            values = value if isinstance(value, tuple) else (value,)
            words += [flag(item.name, group), *map(str, values)]
    return words
