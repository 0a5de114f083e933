"""Curvature over training: from checkpoints to every task's trace and density, with error bars.

The Hessians are those of the tasks' mean losses over one fixed set of training graphs, with
respect to the shared parameters; the heads are held constant. Where targets are missing, the loss
of a task is the mean over those of the graphs that have its target. The error bars are probe
errors: how far the estimate is from the Hessian of these graphs, not of all graphs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hessspec import SpectralDensity, TraceEstimate
from hessspec_mtl.curvature.alignment import Eigenspaces, GradientConflict
from hessspec_mtl.curvature.subject import Subject, epoch_folder, result_names
from hessspec_mtl.datasets.base import Examples
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.checkpoints import CheckpointError

_GRAPHS = 11  # the stream of random numbers that chooses the graphs (12 to 15, 17: `subject`)


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
        batch_size: graphs in one batch of a product; it changes the speed and nothing else, but for
            traces, where eight batches (smaller ones, if need be) may have probes of their own.
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
        track_every: steps of training from one look at every task's sharpness and trace to the
            next, while it trains (`curvature.tracking`); 0 looks at none.
        track_graphs: training graphs that these are averaged over.
        track_probes: random vectors of these traces, the same at all steps.
        gauss_newton: whether the trace of each task's Gauss-Newton matrix is taken too, exactly:
            tr H = tr G + the part that the curvature of the network itself has.
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
    track_every: int = 0
    track_graphs: int = 64
    track_probes: int = 4
    gauss_newton: bool = False

    def __post_init__(self) -> None:
        least = {"num_epochs": 2, "num_graphs": 1, "batch_size": 1, "trace_matvecs": 2}
        least |= {"num_probes": 1, "num_steps": 2, "hutchinson_samples": 0}
        least |= {"num_eigenpairs": 0, "gradient_groups": 0}
        least |= {"track_every": 0, "track_graphs": 1, "track_probes": 2}
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
        gauss_newton: tr G_t of each task without sampling, if asked for.
    """

    epoch: int
    trace: TraceEstimate
    density: SpectralDensity
    gradients: GradientConflict | None = None
    eigenspaces: Eigenspaces | None = None
    gauss_newton: TraceEstimate | None = None


def analysed_epochs(num_epochs: int, count: int) -> tuple[int, ...]:
    """Up to `count` epochs from 0 to `num_epochs`: both ends, the others spaced geometrically."""
    spaced = np.geomspace(1, num_epochs, max(count - 1, 1)).round().astype(int)
    return tuple(sorted({0, num_epochs, *map(int, spaced)}))


def hessian_indices(
    num_examples: int, num_graphs: int, seed: int, *, option: str = "num_graphs"
) -> Int[np.ndarray, " num_graphs"]:
    """Which training examples the Hessian is taken on: a random subset, in increasing order.

    Equal numbers are equal subsets. `option` is the setting that an error names.
    """
    if num_graphs > num_examples:
        flag = option.replace("_", "-")
        raise ValueError(
            f"`curvature.{option}` (--{flag}) must be at most {num_examples}, the number of "
            f"training graphs, got {num_graphs}."
        )
    generator = np.random.default_rng([_GRAPHS, seed])
    return np.sort(generator.choice(num_examples, num_graphs, replace=False))


def is_measured(config: CurvatureConfig, directory: str | os.PathLike[str], epoch: int) -> bool:
    """Whether `directory` holds all that `follow` would measure of `epoch`."""
    folder = epoch_folder(directory, epoch)
    return all((folder / name).exists() for name in result_names(config).values())


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
    for the trace (from 48 on, beside them 14 reverse passes for all tasks, see `sketches`),
    `config.num_probes * config.num_steps` for the density, and that of `hessspec.eigenpairs` for
    the eigenvectors.
    """
    records = []
    for epoch in epochs:
        subject = Subject(
            config, network, examples, epoch, training, directory, seed=seed, progress=progress
        )
        try:
            subject.claim()
        except CheckpointError:
            # The checkpoint has done its duty if all results are there.
            if not is_measured(config, directory, epoch):
                raise
        records.append(
            EpochCurvature(epoch, **{kind: subject.result(kind) for kind in result_names(config)})
        )
    return tuple(records)
