"""One training run of a study: what it works with, where, and the records that it leaves.

Its work is done unit by unit (`units`). An epoch's curvature is taken as soon as the epoch is
trained: a run that is killed has all results up to its last analysed epoch, and its states need not
be kept for later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from hessspec import TraceEstimate
from hessspec._base.later import Later
from hessspec_mtl.curvature.follow import (
    CurvatureConfig,
    EpochCurvature,
    follow,
    is_measured,
)
from hessspec_mtl.curvature.subject import epoch_folder, hutchinson_name
from hessspec_mtl.curvature.tracking import TaskTracker, load_tracking, tracking_seconds
from hessspec_mtl.datasets.base import EncodedDataset, Examples, Split
from hessspec_mtl.files.timing import unit_seconds
from hessspec_mtl.graphs import with_any_target
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.records import SeedRun
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.training.checkpoints import Checkpoints
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import predictions, predictions_file
from hessspec_mtl.training.state import load_history, load_weights, training_seconds
from hessspec_mtl.training.train import Training, saved_epochs, sound_states

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")  # half a second, and only tables need it


@dataclass(frozen=True, eq=False)
class SeedWork:
    """What one training run works with, and where.

    Attributes:
        config: of the study.
        seed: of this run.
        network: of all tasks.
        encoded: both sides of the split.
        split: indices of both sides.
        examples: the graphs of the Hessians.
        tracked: those of what is followed while it trains; None if nothing is.
        folder: of this run.
        progress: whether to show progress bars.
        say: told in plain English what is being done.
    """

    config: StudyConfig
    seed: int
    network: NetworkConfig
    encoded: EncodedDataset
    split: Split
    examples: Examples
    tracked: Examples | None
    folder: Path
    progress: bool | None
    say: Callable[[str], None] = field(repr=False)

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The analysed epochs, the last of which is the last of training."""
        return self.config.curvature.analysed(self.config.train.num_epochs)

    @property
    def last(self) -> int:
        return self.epochs[-1]

    @property
    def settings(self) -> TrainConfig:
        """How this run is trained, and which states it keeps."""
        kept = set(self.config.train.keep_epochs)
        if self.config.keep_states == "analysed":
            kept |= set(self.epochs)
        return replace(self.config.train, seed=self.seed, keep_epochs=tuple(sorted(kept)))

    @property
    def kept_states(self) -> tuple[int, ...]:
        """Epochs whose states stay in any case, beside the last."""
        return self.settings.keep_epochs + ((0,) if self._keep_first else ())

    @property
    def _keep_first(self) -> bool:
        return self.config.keep_states == "analysed"

    @property
    def measured(self) -> CurvatureConfig:
        """What is measured of the curvature of the shared network."""
        return self.config.curvature

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def curvature(self) -> Path:
        return self.folder / "curvature"

    def folder_of(self, task: str | None) -> Path:
        """Where the network for `task` is trained, or that for all tasks (None)."""
        return self.training if task is None else self.alone[task]

    def curvature_of(self, task: str | None) -> Path:
        """Where the results of its curvature are."""
        return self.curvature if task is None else self.alone[task] / "curvature"

    def network_of(self, task: str | None) -> NetworkConfig:
        return self.network if task is None else replace(self.network, tasks=(task,))

    def measured_of(self, task: str | None) -> CurvatureConfig:
        """What is measured of it: with the network of one task there is nothing to compare."""
        if task is None:
            return self.measured
        return replace(self.measured, num_eigenpairs=0, gradient_groups=0, gauss_newton=False)

    def _settings_of(self, task: str | None) -> TrainConfig:
        """How it is trained: one task has nothing to be weighed against."""
        if task is None:
            return self.settings
        return replace(self.settings, weighting="equal", task_weights=())

    def examples_of(self, task: str | None) -> Examples:
        """The graphs of its Hessians: those that have its target."""
        if task is None:
            return self.examples
        targets = self.examples.targets[:, [self.network.tasks.index(task)]]
        return take(replace(self.examples, targets=targets), with_any_target(targets))

    def training_of(self, task: str | None) -> Training:
        """Its training, begun in its folder or taken up there."""
        return Training(
            self._settings_of(task),
            self.network_of(task),
            self.encoded,
            self.folder_of(task),
            keep_first=self._keep_first,
            along=_tracker(self) if task is None else None,
        )

    @property
    def tracking(self) -> Path:
        return self.folder / "tracking"

    @property
    def alone(self) -> Mapping[str, Path]:
        """The folder of each task's own network: named after it, but never a path of its own."""
        if not self.config.single_task:
            return {}
        return {task: alone_folder(self.folder, task) for task in self.network.tasks}

    @property
    def hutchinson_file(self) -> Path | None:
        """Where the paper's own estimate of the last epoch is, if it is asked for."""
        name = hutchinson_name(self.measured)
        return epoch_folder(self.curvature, self.last) / name if name else None

    def sound_states(self, task: str | None) -> list[int]:
        """Epochs whose state is in the folder of its training, once that is claimed for it."""
        return sound_states(
            self._settings_of(task), self.network_of(task), self.encoded, self.folder_of(task)
        )

    def tell(self, text: str) -> None:
        self.say(f"{self.encoded.name}, seed {self.seed}: {text}")

    def training_words(self, *, measure: bool) -> str:
        """What is told of the training of the shared network, measured on its way or not."""
        along = f"; curvature after epochs {', '.join(map(str, self.epochs))}" if measure else ""
        return (
            f"training on {len(self.encoded.train)} examples, {len(self.encoded.test)} held out, "
            f"{self.settings.num_epochs} epochs{_missing_targets(self.encoded)}{along}"
        )


def read_seed(work: SeedWork) -> SeedRun:
    """The records of a finished run.

    Raises:
        StageError: if something is not finished; says what.
    """
    if missing := unfinished(work):
        raise StageError(
            f"the report of {work.encoded.name}, seed {work.seed}, needs what is not in "
            f"{work.folder}: {'; '.join(missing)}. Run the same command with `--stages train "
            "curvature` first, here, or elsewhere and bring its folder."
        )
    single = list(work.alone)
    hutchinson = {}
    if work.hutchinson_file is not None:
        hutchinson[work.last] = TraceEstimate.load(work.hutchinson_file)
    return SeedRun(
        seed=work.seed,
        split=work.split,
        history=load_history(work.training),
        curvature=_followed(work, None, work.epochs),
        hessian_ids=work.examples.ids,
        hutchinson=hutchinson,
        single_task={task: load_history(folder) for task, folder in work.alone.items()},
        single_curvature={task: _followed(work, task, (work.last,))[0] for task in single},
        predictions=_predictions(work),
        single_predictions={task: _predictions(work, task) for task in single},
        weights=load_weights(work.training),
        tracking=None if work.tracked is None else load_tracking(work.tracking),
        tracked_graphs=0 if work.tracked is None else len(work.tracked),
        seconds=_seconds(work),
        timed=all_timed(work.folder),
    )


def unfinished(work: SeedWork) -> list[str]:
    """What a report needs and is not there, in words; nothing is computed to tell."""
    missing = []
    trainings = {"": work.training} | {f" on {t} alone": f for t, f in work.alone.items()}
    for of, folder in trainings.items():
        reached = _reached(folder)
        if reached < work.last:
            where = f"after epoch {reached} of {work.last}" if reached >= 0 else "altogether"
            missing.append(f"training{of} {where}")
        elif not predictions_file(folder, work.last).exists() and not _has_state(work, folder):
            missing.append(f"the predictions of the network{of} after epoch {work.last}")
    if work.tracked is not None and load_tracking(work.tracking) is None:
        missing.append("what was tracked while it trained")
    lacking = [e for e in work.epochs if not is_measured(work.config.curvature, work.curvature, e)]
    if lacking:
        missing.append(f"the curvature after epochs {', '.join(map(str, lacking))}")
    for task, folder in work.alone.items():
        if not is_measured(work.measured_of(task), folder / "curvature", work.last):
            missing.append(f"the curvature of the network trained on {task} alone")
    if work.hutchinson_file is not None and not work.hutchinson_file.exists():
        missing.append(f"the plain Hutchinson trace after epoch {work.last}")
    return missing


def _tracker(work: SeedWork) -> TaskTracker | None:
    """What follows sharpness and traces while the network of all tasks trains."""
    if work.tracked is None:
        return None
    config = work.config.curvature
    return TaskTracker(
        work.network,
        work.tracked,
        work.tracking,
        every=config.track_every,
        num_probes=config.track_probes,
        seed=work.seed,
    )


def _has_state(work: SeedWork, training: Path) -> bool:
    return work.last in saved_epochs(training)


def release(work: SeedWork) -> None:
    """Remove every state but the last and those that were asked for by their epochs."""
    kept = {work.last, *work.config.train.keep_epochs}
    for folder in (work.training, *work.alone.values()):
        Checkpoints(folder / "checkpoints").prune(kept, newest=1)


def _reached(training: Path) -> int:
    """The epoch that the run in `training` has reached; -1 if it has not begun."""
    if not (training / "history.csv").exists():
        return -1
    return int(load_history(training)["epoch"].max())


def _followed(
    work: SeedWork, task: str | None, epochs: Sequence[int]
) -> tuple[EpochCurvature, ...]:
    return follow(
        work.measured_of(task),
        work.network_of(task),
        work.examples_of(task),
        epochs,
        work.folder_of(task),
        work.curvature_of(task),
        seed=work.seed,
        progress=work.progress,
    )


def _predictions(work: SeedWork, task: str | None = None) -> pd.DataFrame:
    return predictions(work.network_of(task), work.encoded, work.folder_of(task), work.last)


def alone_folder(folder: Path, task: str) -> Path:
    """The folder of the network of one task: named after it, but never a path of its own."""
    if not task.strip("."):
        task = task.replace(".", "%2E")
    return folder / "single" / "".join(f"%{ord(c):02X}" if c in "/\\%\0" else c for c in task)


def _seconds(work: SeedWork) -> dict[str, float]:
    """Wall-clock seconds by stage: what its finished units took, each in its own process."""
    units: dict[str, float] = {}
    for epoch in work.epochs:
        for unit, seconds in unit_seconds(work.curvature / f"epoch_{epoch:06d}").items():
            stage = "plain Hutchinson trace" if unit.startswith("hutchinson") else "curvature"
            units[stage] = units.get(stage, 0.0) + seconds
    name = f"epoch_{work.last:06d}"
    if work.alone:
        units["curvature of each task alone"] = sum(
            sum(unit_seconds(folder / "curvature" / name).values())
            for folder in work.alone.values()
        )
    training = {"training": work.training}
    training |= {f"training on {task} alone": folder for task, folder in work.alone.items()}
    seconds = {stage: training_seconds(path) for stage, path in training.items()}
    if work.tracked is not None:
        # Looks are made within epochs, whose times hold theirs.
        units["tracking"] = tracking_seconds(load_tracking(work.tracking))
        seconds["training"] = max(0.0, seconds["training"] - units["tracking"])
    return seconds | units


def all_timed(folder: Path) -> bool:
    """Whether every epoch trained and every unit of curvature under `folder` has its seconds."""
    trained = [pd.read_csv(path) for path in folder.rglob("seconds.csv")]
    histories = len(list(folder.rglob("history.csv")))
    units = [path for path in folder.rglob("epoch_*/*.npz") if "curvature" in path.parts]
    return (
        len(trained) == histories
        and all(bool(table["seconds"].notna().all()) for table in trained)
        and all(path.stem in unit_seconds(path.parent) for path in units)
    )


def take(examples: Examples, indices: Int[np.ndarray, " n"]) -> Examples:
    """The examples at `indices`, in that order."""
    return Examples(
        ids=tuple(examples.ids[i] for i in indices),
        graphs=tuple(examples.graphs[i] for i in indices),
        targets=examples.targets[indices],
    )


def _missing_targets(encoded: EncodedDataset) -> str:
    """How many training examples each task has, where they differ."""
    counts = np.count_nonzero(~np.isnan(encoded.train.targets), axis=0)
    if (counts == len(encoded.train)).all():
        return ""
    each = (f"{task.name} in {n}" for task, n in zip(encoded.tasks, counts, strict=True))
    return f"; of the training examples, {', '.join(each)}"
