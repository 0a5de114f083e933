"""The command line: `python -m hessspec_mtl.reproduce`, every table and figure of the paper."""

from __future__ import annotations

if __name__ == "__main__":
    # Before NumPy is imported: with other numbers of threads sums end in other digits.
    from hessspec_mtl.files.threads import keep_to_one_thread

    keep_to_one_thread()

import errno
import json
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro

from hessspec._base.arguments import did_you_mean
from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.grouping import with_whole_groups
from hessspec_mtl.files.threads import usable_cores
from hessspec_mtl.files.versions import PACKAGES, this_machine
from hessspec_mtl.files.whole import remove_parts, sole_use, write_whole
from hessspec_mtl.network.ways import full_precision
from hessspec_mtl.study import loading
from hessspec_mtl.study.folder import STUDY_FILE, machines, note_machine, read_json
from hessspec_mtl.study.loading import CrystalFolder, MoleculeTable
from hessspec_mtl.study.options import StudyOptions, command_line, configured, flag, typed
from hessspec_mtl.study.pipeline import StudyWork, begin_study
from hessspec_mtl.study.presets import DATA_SEED, PRESETS, DatasetName, StudyConfig
from hessspec_mtl.study.stages import STAGES, Stage, StageError, check_stages

if TYPE_CHECKING:
    from hessspec_mtl.curvature.appendix_e import AppendixE

# Presets whose networks those of the study of weightings are (`hessspec_mtl.weigh`).
WEIGHED = ("compare", "weighting")


@dataclass(frozen=True)
class RunOptions:
    """How much to do, and where.

    Attributes:
        preset: how much to do: "quick" (minutes on 2 cores), "small" (under an hour a data set
            on 2 cores), "compare" (a reduced network over five seeds, each task alone and all
            together, an hour on a core), "weighting" (that with twenty seeds, for one weighting
            of the tasks), "gpu" (a GPU for a quarter of an hour a data set), "paper" (a GPU).
        stages: what of it; what is not done now can be done later, or on another machine to which
            the run's folder is taken. The report reads what training and curvature left.
        encoded_dir: folder with encoded data sets (`python -m hessspec_mtl.encode`), which are read
            without chemistry packages.
        out: folder of all runs.
        name: folder of this run below `out`; by default the preset's name, with the sets if
            `sets` is given, or the name of your own data. The same name again goes on where that
            run stopped.
        progress: progress bars.
        workers: so many processes of this machine do the work, by default one a core; 0 for this
            process alone, as by default where it computes on a GPU. No number depends on it.
        scheduler: the address of a Dask scheduler, whose workers do the work in place of processes
            of this machine (docs/cluster.md).
        dry_run: only say what the curvature will take, from a few products that are timed; nothing
            is trained, and nothing is written.
    """

    preset: Literal["quick", "small", "compare", "weighting", "gpu", "paper"] = "quick"
    stages: tuple[Stage, ...] = STAGES
    encoded_dir: Path | None = None
    out: Path = Path("runs")
    name: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: see there)")
    ] = None
    progress: Annotated[
        bool | None,
        tyro.conf.arg(metavar="[{True,False}]", help_behavior_hint="(default: in a terminal)"),
    ] = None
    workers: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: see there)")
    ] = None
    scheduler: Annotated[
        str | None,
        tyro.conf.arg(metavar="tcp://HOST:PORT", help_behavior_hint="(default: none)"),
    ] = None
    dry_run: bool = False


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
class OwnMolecules(MoleculeTable, Options):
    """The whole study on molecules of your own: a CSV file with SMILES and target columns."""


@dataclass(frozen=True, kw_only=True)
class OwnCrystals(CrystalFolder, Options):
    """The whole study on crystals of your own: a folder of CIF files and a CSV file of targets."""


_OWN = {"molecules": OwnMolecules, "crystals": OwnCrystals}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (0: done, 1: stopped with a message, 2: no such)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = _OWN.get(arguments[0]) if arguments else None
    if own is None and arguments and not arguments[0].startswith("-"):
        print(
            f"there is no {arguments[0]!r} to reproduce{did_you_mean(arguments[0], _OWN)}: data of "
            "your own are `molecules FILE.csv ...` or `crystals FOLDER ...`, the paper's are named "
            "by `--sets`; `--help` says more.",
            file=sys.stderr,
        )
        return 2
    kind = own or Reproduce
    form = f" {arguments[0]}" if own else ""
    program = f"python -m hessspec_mtl.reproduce{form}"
    options: Options = command_line(kind, arguments[1:] if own else arguments, program)
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


def reproduce(options: Options) -> Path | None:
    """Run the studies that `options` ask for; returns the path of the report, if that is asked for.

    Raises:
        FolderInUseError: if another process works in the same folder.
        StageError: if a stage lacks what another one must have done before it.
    """
    _check(options)
    # Asked for all sets before the first is read: what cannot be is said at once.
    configs = {name: _configured(options, name) for name, _ in _sources(options)}
    for config in configs.values():
        check_stages(options.stages, config.keep_states)
    if options.dry_run:
        return _foretell(options, configs)
    folder = options.out / _run_name(options)
    if "train" not in options.stages:
        _require_begun([folder / name for name in configs])
    with sole_use(folder):
        remove_parts(folder)
        return _reproduce(options, configs, folder)


def _require_begun(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not (folder / STUDY_FILE).exists():
            raise StageError(
                f"{folder} holds no study yet, so there is nothing to go on with; begin it with "
                "`--stages train curvature` and the same options, here, or elsewhere and bring its "
                "folder."
            )


def _foretell(options: Options, configs: Mapping[str, StudyConfig]) -> None:
    """Say what the curvature of each study will take."""
    # Imported late, like the report: whoever runs a study does not ask.
    from hessspec_mtl.study.foretell import foretold

    for name, load in _sources(options):
        _, dataset = load(configs[name].num_examples)
        if configs[name].keep_groups_whole:
            dataset = with_whole_groups(dataset)
        with full_precision():
            _say(foretold(_fitted(configs[name], options, dataset), dataset))


def _reproduce(options: Options, configs: Mapping[str, StudyConfig], folder: Path) -> Path | None:
    start, has_workers = time.perf_counter(), _has_workers(options)
    done: dict[str, tuple[MultitaskDataset, StudyWork]] = {}
    for name, load in _sources(options):
        _say(f"Reading {name}")
        whole, dataset = load(configs[name].num_examples)
        if configs[name].keep_groups_whole:
            dataset = with_whole_groups(dataset)
        config = _fitted(configs[name], options, dataset)
        work = begin_study(config, dataset, folder / name, progress=options.progress, say=_say)
        done[name] = whole, work
        _write_config(options, folder, {w.dataset.name: asdict(w.config) for _, w in done.values()})
        if not has_workers:
            _work_here(options, folder / name, work)
    appendix = None
    if has_workers and not {"train", "curvature"}.isdisjoint(options.stages):
        appendix = _work_elsewhere(options, [work for _, work in done.values()])
    if "report" not in options.stages:
        _say(f"Results: {folder}")
        return None
    return _report(options, done, folder, start, appendix)


def _has_workers(options: Options) -> bool:
    """Whether other processes than this one do the work; by default where that is of use."""
    if options.scheduler is not None:
        return True
    if options.workers == 0 or (usable_cores() == 1 and options.workers is None):
        return False
    on_cpu = jax.default_backend() == "cpu"
    if options.workers is not None and not on_cpu:
        raise ValueError(
            f"`--workers` starts a process for each of a machine's cores, but JAX computes on its "
            f"{jax.default_backend()}, which belongs to one process; leave it out, or start a "
            "worker for each device yourself (docs/cluster.md)."
        )
    return on_cpu and (options.workers is not None or find_spec("distributed") is not None)


def _work_here(options: Options, folder: Path, work: StudyWork) -> None:
    if not {"train", "curvature"}.isdisjoint(options.stages) and work.unfinished():
        note_machine(folder, this_machine(PACKAGES))
    with full_precision():
        work.run(options.stages)


def _work_elsewhere(options: Options, studies: Sequence[StudyWork]) -> AppendixE | None:
    """Have the studies done by workers, with what of the report they could do on the way."""
    # Imported late: Dask takes a second.
    from hessspec_mtl.cluster.team import run_studies

    return run_studies(
        studies,
        options.stages,
        workers=options.workers,
        scheduler=options.scheduler,
        progress=options.progress,
        say=_say,
    )


def _write_config(options: Options, folder: Path, settings: Mapping[str, Any]) -> None:
    """What is in force, of the sets that are studied now and of others that stand in the folder."""
    path = folder / "config.json"
    held = read_json(path).get("studies", {}) if path.exists() else {}
    effective = {
        "command": _command(options),
        "preset": options.preset,
        "studies": {**held, **settings},
        "versions": this_machine(PACKAGES).versions,
    }
    write_whole(path, json.dumps(effective, indent=2, default=str) + "\n")


def _report(
    options: Options,
    done: Mapping[str, tuple[MultitaskDataset, StudyWork]],
    folder: Path,
    start: float,
    appendix: AppendixE | None = None,
) -> Path:
    # Imported late: plotting and chemistry need seconds to load, training needs neither.
    from hessspec_mtl.curvature.appendix_e import appendix_e
    from hessspec_mtl.report import FullDataset, Results, write_results
    from hessspec_mtl.study.delta_m import decisions

    studies = [work.read() for _, work in done.values()]
    if appendix is None:
        _say("Appendix E: a Hessian whose spectrum is known")
        with full_precision():
            appendix = appendix_e()
    _say("Tables, figures and report")
    made = [machine for name in done for machine in machines(folder / name)]
    made = made or [this_machine(PACKAGES)]
    results = Results(
        title="Curvature of multi-task graph networks",
        studies=studies,
        full=[
            FullDataset(whole, work.encoded.node_features, work.encoded.edge_features)
            for whole, work in done.values()
        ],
        appendix=appendix,
        preset=options.preset,
        command=_command(options),
        settings={study.name: dict(study.settings) for study in studies},
        versions=made[-1].versions,
        device="; ".join(dict.fromkeys(machine.device for machine in made)),
        seconds=time.perf_counter() - start,
        finished=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        # Of these networks alone: nothing is said of them in a report on others.
        weightings=decisions(options.out, list(done) if options.preset in WEIGHED else ()),
        other_files={
            f"{name}/examples.csv": f"which examples of {name} were trained on, held out, and "
            "used for the Hessian"
            for name in done
        }
        | {
            f"{name}/left_out.csv": f"which records of {name} are not examples, and why"
            for name in done
        },
    )
    report = write_results(results, folder).html
    _say(f"Report: {report}")
    return report


def _check(options: Options) -> None:
    sets = getattr(options, "sets", None) or ()
    if isinstance(options, Reproduce) and options.encoded_dir is not None:
        for name in ("data_dir", "api_key"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"`--encoded-dir` and `{flag(name)}` both say where data come from; give one."
                )
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"`--workers` must be at least 0, got {options.workers}.")
    if options.workers is not None and options.scheduler is not None:
        raise ValueError(
            "`--workers` and `--scheduler` both say who does the work; give one of them."
        )
    if (options.workers or options.scheduler) and find_spec("distributed") is None:
        raise ValueError(
            "`--workers` and `--scheduler` need Dask: pip install 'hessspec[cluster]'."
        )
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
        return options.set_name
    sets = getattr(options, "sets", None)
    return options.preset if sets is None else "-".join([options.preset, *sets])


def _fitted(config: StudyConfig, options: Options, dataset: MultitaskDataset) -> StudyConfig:
    """With no more Hessian graphs than there are training graphs, unless asked for by name."""
    available = len(dataset.split(DATA_SEED, config.test_fraction).train)
    wanted = config.curvature.num_graphs
    by_name = options.num_graphs is not None or options.curvature.num_graphs is not None
    if wanted > available and not by_name:
        _say(f"The Hessians are averaged over all {available} training graphs ({wanted} wanted)")
        wanted = available
    tracked = config.curvature.track_graphs
    by_name = options.track_graphs is not None or options.curvature.track_graphs is not None
    if config.curvature.track_every and tracked > available and not by_name:
        _say(f"Sharpness and traces are followed on all {available} training graphs")
        tracked = available
    fitted = replace(config.curvature, num_graphs=wanted, track_graphs=tracked)
    return replace(config, curvature=fitted)


def _sources(options: Options) -> Iterator[tuple[str, loading.Load]]:
    """Name and loader of each data set."""
    if isinstance(options, OwnMolecules | OwnCrystals):
        yield options.set_name, partial(loading.own, options, encoded_dir=options.encoded_dir)
    elif isinstance(options, Reproduce):
        for name in options.sets or tuple(PRESETS[options.preset].studies):
            load = partial(
                loading.named,
                name,
                data_dir=options.data_dir,
                encoded_dir=options.encoded_dir,
                api_key=options.api_key,
                progress=options.progress,
            )
            yield name, load


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
    """What a reader types to run all of this again, in one go."""
    form = {OwnMolecules: " molecules", OwnCrystals: " crystals"}.get(type(options), "")
    words = typed(replace(options, stages=STAGES, dry_run=False, workers=None, scheduler=None))
    return "python -m hessspec_mtl.reproduce" + form + " " * bool(words) + shlex.join(words)


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
