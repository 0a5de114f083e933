"""The command line: `python -m hessspec_mtl.reproduce`, every table and figure of the paper."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.computed import load_crystals, load_molecules
from hessspec_mtl.datasets.csv_table import table_name
from hessspec_mtl.datasets.grouping import with_whole_groups
from hessspec_mtl.datasets.materials_project import load_materials_project
from hessspec_mtl.datasets.own import load_own_crystals, load_own_molecules
from hessspec_mtl.datasets.qm8 import load_qm8
from hessspec_mtl.files.whole import remove_parts, sole_use, write_whole
from hessspec_mtl.study.options import SWITCHES, StudyOptions, configured, flag
from hessspec_mtl.study.pipeline import DATA_SEED, run_study
from hessspec_mtl.study.presets import PRESETS, DatasetName, StudyConfig


@dataclass(frozen=True)
class RunOptions:
    """How much to do, and where.

    Attributes:
        preset: how much to do: "quick" (minutes on 2 cores), "small" (under an hour a data set
            on 2 cores), "compare" (a reduced network over five seeds, each task alone and all
            together, an hour on a core), "paper" (a GPU).
        out: folder of all runs.
        name: folder of this run below `out`; by default the preset's name, with the sets if
            `sets` is given, or the name of your own data. The same name again goes on where that
            run stopped.
        progress: progress bars.
    """

    preset: Literal["quick", "small", "compare", "paper"] = "quick"
    out: Path = Path("runs")
    name: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: see there)")
    ] = None
    progress: Annotated[
        bool | None,
        tyro.conf.arg(metavar="[{True,False}]", help_behavior_hint="(default: in a terminal)"),
    ] = None


@dataclass(frozen=True)
class Options(StudyOptions, RunOptions):
    """What every form of the command understands."""


@dataclass(frozen=True)
class Reproduce(Options):
    """Train the paper's network, follow its curvature, and write tables, figures and a report.

    A set of your own: `molecules FILE.csv ...` or `crystals FOLDER ...` in place of options.

    Attributes:
        data_dir: folder with the data files; by default the variable HESSSPEC_DATA, then a cache
            that is filled by download.
        sets: which data sets; default: the preset's.
        api_key: query the Materials Project with this key instead of reading a file.
    """

    data_dir: Path | None = None
    sets: tuple[DatasetName, ...] | None = None
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class OwnMolecules(Options):
    """The whole study on molecules of your own: a CSV file with SMILES and target columns.

    Attributes:
        file: the CSV file, with a header; semicolons and tabs are read too, and .csv.gz.
        smiles: the column of SMILES strings.
        targets: the columns to learn, numbers.
        units: their units, in the same order.
        add_hydrogens: make hydrogens nodes although the SMILES leave them out, as the paper has
            them.
    """

    file: Annotated[Path, tyro.conf.Positional]
    smiles: str = "smiles"
    targets: tuple[str, ...]
    units: tuple[str, ...] | None = None
    add_hydrogens: bool = True


@dataclass(frozen=True, kw_only=True)
class OwnCrystals(Options):
    """The whole study on crystals of your own: a folder of CIF files and a CSV file of targets.

    Attributes:
        folder: the folder with one CIF file a crystal.
        targets: the CSV file, with a header or without one (cgcnn's `id_prop.csv`).
        columns: the columns to learn; default: every column but the one that names the files.
        id_column: the column that names the files; default: the first, or the only one that does.
        units: their units, in the same order.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    targets: Path
    columns: tuple[str, ...] | None = None
    id_column: str | None = None
    units: tuple[str, ...] | None = None


_OWN = {"molecules": OwnMolecules, "crystals": OwnCrystals}
_PACKAGES = (
    *("hessspec", "jax", "jaxlib", "equinox", "numpy", "scipy", "flax", "jraph", "optax"),
    *("orbax-checkpoint", "pandas", "rdkit", "pymatgen"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (0: done, 1: stopped with a message)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = _OWN.get(arguments[0]) if arguments else None
    kind = own or Reproduce
    options: Options = tyro.cli(
        kind,
        args=_with_values(arguments[1:] if own else arguments),
        prog="python -m hessspec_mtl.reproduce" + (f" {arguments[0]}" if own else ""),
        description=(kind.__doc__ or "").split("Attributes:")[0],
    )
    try:
        reproduce(options)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:  # told in one line; where it came from is kept for a bug report
        print(f"\nStopped: {_told(error, options)}", file=sys.stderr)
        print(f"What is finished is kept. {_kept_traceback(error, options)}", file=sys.stderr)
        return 1
    return 0


def _with_values(arguments: Sequence[str]) -> list[str]:
    """`--single-task` becomes `--single-task True`, and `--no-single-task` the same with False."""
    words: list[str] = []
    for place, word in enumerate(arguments):
        name = word.replace("_", "-").removeprefix("--")
        if flag(name.removeprefix("no-")) not in map(flag, (*SWITCHES, "progress")):
            words.append(word)
        elif name.startswith("no-"):
            words += ["--" + name.removeprefix("no-"), "False"]
        else:
            has_value = arguments[place + 1 : place + 2] in (["True"], ["False"], ["None"])
            words += [word] if has_value else [word, "True"]
    return words


def _told(error: Exception, options: Options) -> str:
    """What a user is told of `error`."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left for {options.out} ({error}); free some, then say the same again."
    return str(error) or type(error).__name__


def _kept_traceback(error: Exception, options: Options) -> str:
    try:
        path = write_whole(options.out / "error.log", traceback.format_exc())
    except OSError:
        # The same folder that cannot be written: `error` has said so, and no code is to blame.
        if isinstance(error, OSError):
            return f"No log of it could be written to {options.out}."
        return "Where it happened:\n" + traceback.format_exc()
    return f"Where it happened stands in {path}."


def reproduce(options: Options) -> Path:
    """Run the studies that `options` ask for and write their report; returns its path.

    Raises:
        FolderInUseError: if another process works in the same folder.
    """
    _check(options)
    # Asked for all sets before the first is read: what cannot be is said at once.
    configs = {name: _configured(options, name) for name, _ in _sources(options)}
    folder = options.out / _run_name(options)
    with sole_use(folder):
        remove_parts(folder)
        return _reproduce(options, configs, folder)


def _reproduce(options: Options, configs: Mapping[str, StudyConfig], folder: Path) -> Path:
    # Imported late: plotting needs seconds to load, and `--help` does not need it.
    from hessspec_mtl.curvature.appendix_e import appendix_e
    from hessspec_mtl.report import FullDataset, Results, write_results

    start = time.perf_counter()
    studies, full = [], []
    for name, load in _sources(options):
        config = configs[name]
        _say(f"Reading {name}")
        whole, dataset = load(config.num_examples)
        if config.keep_groups_whole:
            dataset = with_whole_groups(dataset)
        config = _fitted(config, options, dataset)
        with _full_precision():
            study = run_study(config, dataset, folder / name, progress=options.progress, say=_say)
        encoded = dataset.encode(study.runs[0].split)
        studies.append(study)
        full.append(FullDataset(whole, encoded.node_features, encoded.edge_features))
    _say("Appendix E: a Hessian whose spectrum is known")
    with _full_precision():
        appendix = appendix_e()
    _say("Tables, figures and report")
    settings = {study.name: dict(study.settings) for study in studies}
    results = Results(
        title="Curvature of multi-task graph networks",
        studies=studies,
        full=full,
        appendix=appendix,
        preset=options.preset,
        command=_command(options),
        settings=settings,
        versions=_versions(),
        device=_device(),
        seconds=time.perf_counter() - start,
        finished=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        other_files={
            f"{name}/examples.csv": f"which examples of {name} were trained on, held out, and "
            "used for the Hessian"
            for name, _ in _sources(options)
        }
        | {
            f"{name}/left_out.csv": f"which records of {name} are not examples, and why"
            for name, _ in _sources(options)
        },
    )
    effective = {
        "command": _command(options),
        "preset": options.preset,
        "studies": settings,
        "versions": _versions(),
    }
    write_whole(folder / "config.json", json.dumps(effective, indent=2, default=str) + "\n")
    report = write_results(results, folder).html
    _say(f"Report: {report}")
    return report


def _check(options: Options) -> None:
    sets = getattr(options, "sets", None) or ()
    if len(set(sets)) < len(sets):
        raise ValueError(f"`--sets` must name each data set once, got {' '.join(sets)}.")
    if isinstance(options, OwnMolecules | OwnCrystals) and options.keep_groups_whole is False:
        raise ValueError(
            "`--no-keep-groups-whole` is for the paper's sets, whose published splits part some "
            "structures; data of your own are always split with them on one side. Leave it out."
        )


def _run_name(options: Options) -> str:
    if options.name is not None:
        return options.name
    if isinstance(options, OwnMolecules | OwnCrystals):
        return _own_name(options)
    sets = getattr(options, "sets", None)
    return options.preset if sets is None else "-".join([options.preset, *sets])


def _own_name(options: OwnMolecules | OwnCrystals) -> str:
    if isinstance(options, OwnMolecules):
        return table_name(options.file.resolve())
    return options.folder.resolve().stem


def _fitted(config: StudyConfig, options: Options, dataset: MultitaskDataset) -> StudyConfig:
    """With no more Hessian graphs than there are training graphs, unless asked for by name."""
    available = len(dataset.split(DATA_SEED, config.test_fraction).train)
    wanted = config.curvature.num_graphs
    by_name = options.num_graphs is not None or options.curvature.num_graphs is not None
    if wanted > available and not by_name:
        _say(f"The Hessians are averaged over all {available} training graphs ({wanted} wanted)")
        wanted = available
    return replace(config, curvature=replace(config.curvature, num_graphs=wanted))


# Takes the number of examples to keep; gives the whole data set (perhaps without its graphs), for
# the tables, and the part to be studied.
Load = Callable[[int | None], tuple[MultitaskDataset, MultitaskDataset]]


def _sources(options: Options) -> Iterator[tuple[str, Load]]:
    """Name and loader of each data set."""
    if isinstance(options, OwnMolecules):
        yield _own_name(options), partial(_own_molecules, options)
    elif isinstance(options, OwnCrystals):
        yield _own_name(options), partial(_own_crystals, options)
    elif isinstance(options, Reproduce):
        for name in options.sets or tuple(PRESETS[options.preset].studies):
            yield name, partial(_published, options, name)


def _own_molecules(
    options: OwnMolecules, num_examples: int | None
) -> tuple[MultitaskDataset, MultitaskDataset]:
    whole = load_own_molecules(
        options.file,
        targets=options.targets,
        smiles=options.smiles,
        units=options.units,
        add_hydrogens=options.add_hydrogens,
        progress=options.progress,
    )
    return whole, _subset(whole, num_examples)


def _own_crystals(
    options: OwnCrystals, num_examples: int | None
) -> tuple[MultitaskDataset, MultitaskDataset]:
    whole = load_own_crystals(
        options.folder,
        options.targets,
        targets=options.columns,
        id_column=options.id_column,
        units=options.units,
        progress=options.progress,
    )
    return whole, _subset(whole, num_examples)


def _published(
    options: Reproduce, name: DatasetName, num_examples: int | None
) -> tuple[MultitaskDataset, MultitaskDataset]:
    match name:
        case "molecules":
            whole = load_molecules(progress=options.progress)
        case "crystals":
            whole = load_crystals(progress=options.progress)
        case "qm8":
            whole = load_qm8(options.data_dir, progress=options.progress)
        case "mp":
            # Making graphs takes 0.1 s a crystal: only those of the subset are made.
            load = partial(
                load_materials_project,
                options.data_dir,
                api_key=options.api_key,
                progress=options.progress,
            )
            whole = load(graphs=False)
            few = num_examples is not None and num_examples < len(whole)
            part = load(num_examples=num_examples if few else None, seed=DATA_SEED)
            return _without_failures(whole, part), part
    return whole, _subset(whole, num_examples)


def _without_failures(whole: MultitaskDataset, part: MultitaskDataset) -> MultitaskDataset:
    """`whole`, loaded without graphs, less the crystals that turned out to have none in `part`."""
    failed = {record.id for record in set(part.left_out) - set(whole.left_out)}
    kept = np.array([i for i, name in enumerate(whole.ids) if name not in failed], np.int64)
    return replace(whole.take(kept), left_out=part.left_out)


def _subset(whole: MultitaskDataset, num_examples: int | None) -> MultitaskDataset:
    if num_examples is None or num_examples >= len(whole):
        return whole
    return whole.subset(num_examples, DATA_SEED)


def _configured(options: Options, name: str) -> StudyConfig:
    """The preset's configuration of a data set, with what the command line changes.

    A set that the preset does not have, one's own say, is studied like the preset's set of the
    same kind.
    """
    studies = PRESETS[options.preset].studies
    own = isinstance(options, OwnMolecules | OwnCrystals)
    crystalline = isinstance(options, OwnCrystals) if own else name in ("crystals", "mp")
    kind: tuple[DatasetName, ...] = ("crystals", "mp") if crystalline else ("molecules", "qm8")
    config = next(studies[key] for key in kind if key in studies)
    if not own and name in studies:
        config = studies[name]  # type: ignore[index]
    if own or name not in studies:
        config = replace(config, num_examples=None)
    return configured(config, options)


def _command(options: Options) -> str:
    """What a reader types to run this again."""
    form = {OwnMolecules: " molecules", OwnCrystals: " crystals"}.get(type(options), "")
    words = _typed(options)
    return "python -m hessspec_mtl.reproduce" + form + " " * bool(words) + shlex.join(words)


def _typed(options: Any, group: str = "") -> list[str]:
    """The words that set what differs from its default."""
    words: list[str] = []
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            words += _typed(value, item.name)
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


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **versions}


def _device() -> str:
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    return f"{kind}, {'float64' if jax.config.read('jax_enable_x64') else 'float32'}"


def _full_precision() -> AbstractContextManager[object]:
    """On accelerators, products of matrices in float32 proper: with TF32 a Hessian is symmetric to
    three digits only. A CPU knows nothing else."""
    on_cpu = jax.default_backend() == "cpu"
    return nullcontext() if on_cpu else jax.default_matmul_precision("highest")


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
