"""Curvature over training: from checkpoints to every task's trace and density, with error bars.

The Hessians are those of the tasks' mean losses over one fixed set of training graphs, with
respect to the shared parameters; the heads are held constant. Where targets are missing, the loss
of a task is the mean over those of the graphs that have its target. The error bars are probe
errors: how far the estimate is from the Hessian of these graphs, not of all graphs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

import hessspec
from hessspec import Batches, HessianOperator, SpectralDensity, TraceEstimate
from hessspec_mtl.curvature.alignment import (
    Eigenspaces,
    GradientConflict,
    eigenspaces,
    gradient_conflict,
)
from hessspec_mtl.datasets.base import Examples
from hessspec_mtl.files.timing import timed
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import balanced_batches
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.network.tasks import is_shared, partial_losses
from hessspec_mtl.network.ways import for_device
from hessspec_mtl.training.checkpoints import CheckpointError
from hessspec_mtl.training.train import load_params

# Streams of random numbers drawn from one seed, so that none of them is used twice.
_GRAPHS, _TRACE, _DENSITY, _HUTCHINSON, _EIGENPAIRS = 11, 12, 13, 14, 15


@dataclass(frozen=True)
class CurvatureConfig:
    """What is measured of the curvature, and at which epochs.

    Attributes:
        num_epochs: how many epochs are analysed; epoch 0 and the last are among them, the others
            are spaced geometrically, because curvature changes fastest at first.
        epochs: the epochs themselves, in place of `num_epochs`; the last of training is among them
            in any case.
        num_graphs: training graphs over which the Hessians are averaged, the same at all epochs;
            that of a task over those of them that have its target.
        batch_size: graphs in one batch of a product; it changes the speed and nothing else.
        trace_matvecs: products for each task's trace.
        num_probes: random starts of each density. Two or more let the multiplicity of outliers
            be proved.
        num_steps: Lanczos steps of each start; the paper takes 100.
        hutchinson_samples: samples of the paper's own trace estimator at the last epoch, for the
            claim that about 500 suffice; 0 leaves it out.
        num_eigenpairs: dominant eigenvectors of each task, compared between tasks; 0 leaves them
            out. The last of them only tells the gap behind those before it.
        eigenpairs_tol: residual of each, relative to the norm of H.
        gradient_groups: random groups of the graphs over which the tasks' gradients are taken, to
            compare them and to tell how far the choice of graphs matters; 0 leaves them out.
    """

    num_epochs: int = 7
    epochs: tuple[int, ...] = ()
    num_graphs: int = 128
    batch_size: int = 32
    trace_matvecs: int = 48
    num_probes: int = 2
    num_steps: int = 40
    hutchinson_samples: int = 0
    num_eigenpairs: int = 0
    eigenpairs_tol: float = 1e-3
    gradient_groups: int = 0

    def __post_init__(self) -> None:
        least = {"num_epochs": 2, "num_graphs": 1, "batch_size": 1, "trace_matvecs": 2}
        least |= {"num_probes": 1, "num_steps": 2, "hutchinson_samples": 0}
        least |= {"num_eigenpairs": 0, "gradient_groups": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"`{name}` must be at least {bound}, got {getattr(self, name)}.")
        if any(epoch < 0 for epoch in self.epochs):
            raise ValueError(f"`epochs` must be 0 or more each, got {self.epochs}.")
        if not 0 < self.eigenpairs_tol < 1:
            raise ValueError(f"`eigenpairs_tol` must lie in (0, 1), got {self.eigenpairs_tol}.")

    def analysed(self, num_epochs: int) -> tuple[int, ...]:
        """The epochs analysed of a training of `num_epochs`, in order, the last one included.

        Raises:
            ValueError: if one of `epochs` comes after the end.
        """
        if not self.epochs:
            return analysed_epochs(num_epochs, self.num_epochs)
        if max(self.epochs) > num_epochs:
            raise ValueError(
                f"`curvature.epochs` (--curvature.epochs) must lie in [0, {num_epochs}], the "
                f"epochs of training, got {max(self.epochs)}."
            )
        return tuple(sorted({*self.epochs, num_epochs}))


@dataclass(frozen=True)
class EpochCurvature:
    """The curvature of all tasks after one epoch. Units: loss / parameter², the loss standardised.

    Attributes:
        epoch: 0 is the state before training.
        trace: tr H_t of each task, from its own probes.
        density: the spectral density of each task.
        gradients: the tasks' gradients against each other, if asked for.
        eigenspaces: the tasks' dominant eigenvectors against each other, if asked for.
    """

    epoch: int
    trace: TraceEstimate
    density: SpectralDensity
    gradients: GradientConflict | None = None
    eigenspaces: Eigenspaces | None = None


def analysed_epochs(num_epochs: int, count: int) -> tuple[int, ...]:
    """Up to `count` epochs from 0 to `num_epochs`: both ends, the others spaced geometrically."""
    spaced = np.geomspace(1, num_epochs, max(count - 1, 1)).round().astype(int)
    return tuple(sorted({0, num_epochs, *map(int, spaced)}))


def hessian_indices(
    num_examples: int, num_graphs: int, seed: int
) -> Int[np.ndarray, " num_graphs"]:
    """Which training examples the Hessian is taken on: a random subset, in increasing order."""
    if num_graphs > num_examples:
        raise ValueError(
            f"`curvature.num_graphs` (--num-graphs) must be at most {num_examples}, the number of "
            f"training graphs, got {num_graphs}."
        )
    generator = np.random.default_rng([_GRAPHS, seed])
    return np.sort(generator.choice(num_examples, num_graphs, replace=False))


def is_measured(config: CurvatureConfig, directory: str | os.PathLike[str], epoch: int) -> bool:
    """Whether `directory` holds all that `follow` would measure of `epoch`."""
    return _Files.of(_folder(directory, epoch), config).complete


def _folder(directory: str | os.PathLike[str], epoch: int) -> Path:
    return Path(directory) / f"epoch_{epoch:06d}"


def task_hessians(
    params: Params, network: NetworkConfig, examples: Examples, batch_size: int
) -> HessianOperator:
    """The Hessians of all tasks' mean losses over `examples`, with respect to theta_sh.

    The mean of task t is over the examples that have its target (`partial_losses`).
    """
    if len(network.tasks) == 1:
        # Under one name, networks for different tasks share their compiled programs.
        params = {"shared": params["shared"], "heads": {"task": params["heads"][network.tasks[0]]}}
        network = replace(network, tasks=("task",))
    batches = balanced_batches(examples.graphs, examples.targets, batch_size)
    sizes = [batch.num_graphs for batch in batches]
    return HessianOperator(
        partial_losses(network),
        jax.device_put(params),
        # On the device once: every product reads them again.
        data=Batches(for_device(batches), sizes=sizes),
        where=is_shared,
    )


def follow(
    config: CurvatureConfig,
    network: NetworkConfig,
    examples: Examples,
    epochs: Sequence[int],
    training: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    seed: int,
    progress: bool | None = None,
) -> tuple[EpochCurvature, ...]:
    """The curvature at `epochs` of the run in `training`, kept in `directory` as it is made.

    What is already in `directory` (one file for each trace, density, comparison of gradients and
    comparison of eigenvectors) is read and not made again, so a run that was stopped loses at most
    the one it was in.

    Args:
        examples: the graphs of the Hessian, with standardised targets.
        epochs: epochs whose checkpoints were kept.
        seed: of the probes; each epoch has its own.

    Cost, in products of one task on `examples`, for each epoch and task: `config.trace_matvecs`
    for the trace, `config.num_probes * config.num_steps` for the density, and that of
    `hessspec.eigenpairs` for the eigenvectors.
    """
    records = []
    for epoch in epochs:
        folder = _folder(directory, epoch)
        files = _Files.of(folder, config)
        try:
            params = load_params(training, epoch)
        except CheckpointError:
            # The checkpoint has done its duty if all results are there.
            if not files.complete:
                raise
            params = None
        if params is not None:
            _claim(folder, params)
        if files.complete:
            records.append(files.read(epoch))
            continue
        assert params is not None
        hessians = task_hessians(params, network, examples, config.batch_size)
        record = measure(hessians, epoch, config, folder, seed=seed, progress=progress)
        records.append(
            _compared(
                record,
                hessians,
                params,
                network,
                examples,
                config,
                files,
                key=_key(seed, _EIGENPAIRS, epoch),
                progress=progress,
            )
        )
    return tuple(records)


def _compared(
    record: EpochCurvature,
    hessians: HessianOperator,
    params: Params,
    network: NetworkConfig,
    examples: Examples,
    config: CurvatureConfig,
    files: _Files,
    *,
    key: PRNGKeyArray,
    progress: bool | None,
) -> EpochCurvature:
    """`record` with what was asked for of the tasks' gradients and eigenvectors."""
    if files.gradients is not None:
        conflict = _unit(
            files.gradients,
            GradientConflict,
            lambda: gradient_conflict(hessians, params, network, examples, config.gradient_groups),
        )
        record = replace(record, gradients=conflict)
    if files.eigenspaces is not None:
        spaces = _unit(
            files.eigenspaces,
            Eigenspaces,
            lambda: eigenspaces(
                hessians,
                params,
                network,
                examples,
                config.num_eigenpairs,
                key=key,
                tol=config.eigenpairs_tol,
                num_groups=max(1, config.gradient_groups),
                progress=progress,
            ),
        )
        record = replace(record, eigenspaces=spaces)
    return record


@dataclass(frozen=True)
class _Files:
    """Where the results of one epoch are; None for what was not asked for."""

    trace: Path
    density: Path
    gradients: Path | None
    eigenspaces: Path | None

    @classmethod
    def of(cls, folder: Path, config: CurvatureConfig) -> _Files:
        groups, count = config.gradient_groups, config.num_eigenpairs
        return cls(
            folder / "trace.npz",
            folder / "density.npz",
            folder / f"gradients_{groups}.npz" if groups else None,
            folder / f"eigenspaces_{count}.npz" if count else None,
        )

    @property
    def complete(self) -> bool:
        files = (self.trace, self.density, self.gradients, self.eigenspaces)
        return all(file.exists() for file in files if file is not None)

    def read(self, epoch: int) -> EpochCurvature:
        return EpochCurvature(
            epoch,
            TraceEstimate.load(self.trace),
            SpectralDensity.load(self.density),
            None if self.gradients is None else GradientConflict.load(self.gradients),
            None if self.eigenspaces is None else Eigenspaces.load(self.eigenspaces),
        )


def _claim(folder: Path, params: Params) -> None:
    """Tie the results in `folder` to the parameters they are of."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    path = folder / "parameters.txt"
    if path.exists() and path.read_text().strip() != digest.hexdigest():
        raise ValueError(
            f"{folder} holds the curvature of other parameters than those trained now; "
            "delete that folder to measure it anew, or choose another `--name`."
        )
    write_whole(path, digest.hexdigest() + "\n")


def measure(
    hessians: HessianOperator,
    epoch: int,
    config: CurvatureConfig,
    folder: Path,
    *,
    seed: int,
    progress: bool | None = None,
) -> EpochCurvature:
    """The trace and the density of every task at one epoch, from `folder` or newly made there."""
    trace = _unit(
        folder / "trace.npz",
        TraceEstimate,
        lambda: hessspec.trace(
            hessians,
            key=_key(seed, _TRACE, epoch),
            num_matvecs=config.trace_matvecs,
            progress=progress,
        ),
    )
    density = _unit(
        folder / "density.npz",
        SpectralDensity,
        lambda: hessspec.density(
            hessians,
            key=_key(seed, _DENSITY, epoch),
            num_probes=config.num_probes,
            num_steps=config.num_steps,
            progress=progress,
        ),
    )
    return EpochCurvature(epoch, trace, density)


def hutchinson_trace(
    hessians: HessianOperator,
    num_samples: int,
    file: Path,
    *,
    seed: int,
    epoch: int,
    progress: bool | None = None,
) -> TraceEstimate:
    """The paper's own estimator, the mean of v'Hv over `num_samples` signs v, kept in `file`."""
    return _unit(
        file,
        TraceEstimate,
        lambda: hessspec.trace(
            hessians,
            key=_key(seed, _HUTCHINSON, epoch),
            method="hutchinson",
            num_matvecs=num_samples,
            progress=progress,
        ),
    )


class _Record(Protocol):
    """A result that can be kept in a file."""

    def save(self, path: Path, /) -> None: ...
    @classmethod
    def load(cls, path: Path, /) -> Self: ...


_R = TypeVar("_R", bound=_Record)


def _unit(file: Path, kind: type[_R], make: Callable[[], _R]) -> _R:
    """The result in `file`, or a new one, kept there and its time beside it."""
    if file.exists():
        return kind.load(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with timed(file.parent, file.stem):
        record = make()
    record.save(file)
    return record


def _key(seed: int, stream: int, epoch: int) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), epoch)
