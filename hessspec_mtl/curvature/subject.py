"""One state of a network and what is measured of its curvature, each result a file of its own.

A result is the unit that is never done twice: it is read where its file is there, and made and kept
where it is not. The Hessians are made once, when the first result needs them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

import hessspec
from hessspec import Batches, HessianOperator, SpectralDensity, TraceEstimate
from hessspec_mtl.curvature.alignment import (
    Eigenspaces,
    GradientConflict,
    eigenspaces,
    gradient_conflict,
)
from hessspec_mtl.curvature.sketches import LEAST_MATVECS, RANK, pull_backs, size_for_groups
from hessspec_mtl.datasets.base import Examples
from hessspec_mtl.files.timing import timed
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import GraphBatch, balanced_batches
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.network.tasks import (
    is_shared,
    losses_of_predictions,
    partial_losses,
    predictions_of,
)
from hessspec_mtl.network.ways import for_device
from hessspec_mtl.training.train import load_params

if TYPE_CHECKING:
    from hessspec_mtl.curvature.follow import CurvatureConfig

Kind = Literal["trace", "density", "gradients", "eigenspaces", "gauss_newton", "hutchinson"]

# Streams of random numbers drawn from one seed, so that none of them is used twice (11: `follow`).
_TRACE, _DENSITY, _HUTCHINSON, _EIGENPAIRS, _SKETCHES = 12, 13, 14, 15, 17

IDENTITY_FILE = "parameters.txt"
"""Which parameters the results beside it are of."""


def epoch_folder(directory: str | os.PathLike[str], epoch: int) -> Path:
    """Where in `directory` the results of one epoch are."""
    return Path(directory) / f"epoch_{epoch:06d}"


def result_names(config: CurvatureConfig) -> dict[Kind, str]:
    """The file of each result that `config` asks for at every epoch."""
    names: dict[Kind, str] = {"trace": "trace.npz", "density": "density.npz"}
    if config.gradient_groups:
        names["gradients"] = f"gradients_{config.gradient_groups}.npz"
    if config.num_eigenpairs:
        names["eigenspaces"] = f"eigenspaces_{config.num_eigenpairs}.npz"
    if config.gauss_newton:
        names["gauss_newton"] = "gauss_newton.npz"
    return names


def hutchinson_name(config: CurvatureConfig) -> str | None:
    """The file of the paper's own estimate of the trace; None if it is not asked for."""
    samples = config.hutchinson_samples
    return f"hutchinson_{samples}.npz" if samples else None


def task_hessians(
    params: Params, network: NetworkConfig, examples: Examples, batch_size: int
) -> HessianOperator:
    """The Hessians of all tasks' mean losses over `examples`, with respect to theta_sh.

    The mean of task t is over the examples that have its target (`partial_losses`).
    """
    params, network = _under_one_name(params, network)
    batches = balanced_batches(examples.graphs, examples.targets, batch_size)
    return _hessians_over(params, network, batches)


def _hessians_over(
    params: Params, network: NetworkConfig, batches: list[GraphBatch]
) -> HessianOperator:
    sizes = [batch.num_graphs for batch in batches]
    return HessianOperator(
        partial_losses(network),
        jax.device_put(params),
        # On the device once: every product reads them again.
        data=Batches(for_device(batches), sizes=sizes),
        where=is_shared,
    )


def gauss_newton_traces(
    params: Params, network: NetworkConfig, examples: Examples
) -> TraceEstimate:
    """tr G_t of the same mean losses, exactly: what of tr H_t is the curvature of the losses alone.

    Graphs come one by one, for in a batch only the sum of their pull-backs could be had. Cost: a
    reverse pass for each graph and task.
    """
    params, network = _under_one_name(params, network)
    batches = balanced_batches(examples.graphs, examples.targets, 1)
    sizes = [batch.num_graphs for batch in batches]
    return hessspec.gauss_newton_trace(
        predictions_of(network),
        losses_of_predictions,
        jax.device_put(params),
        Batches(for_device(batches), sizes=sizes),
        where=is_shared,
    )


def _under_one_name(params: Params, network: NetworkConfig) -> tuple[Params, NetworkConfig]:
    """Networks for different single tasks share their compiled programs under one name."""
    task, *others = network.tasks
    if others:
        return params, network
    params = {"shared": params["shared"], "heads": {"task": params["heads"][task]}}
    return params, replace(network, tasks=("task",))


class Subject:
    """The state after `epoch` of the run in `training`, with the results of it in `directory`.

    Args:
        network: of which the state is.
        examples: the graphs of the Hessian, with standardised targets.
        seed: of the probes; each epoch has its own.
    """

    def __init__(
        self,
        config: CurvatureConfig,
        network: NetworkConfig,
        examples: Examples,
        epoch: int,
        training: str | os.PathLike[str],
        directory: str | os.PathLike[str],
        *,
        seed: int,
        progress: bool | None = None,
    ) -> None:
        self.config, self.network, self.examples, self.epoch = config, network, examples, epoch
        self.folder = epoch_folder(directory, epoch)
        self._training, self._seed, self._progress = training, seed, progress

    def result(self, kind: Kind) -> Any:
        """The record of this kind: from its file, or newly made and kept there.

        Raises:
            CheckpointError: if it must be made and the state is not there.
            ValueError: if the folder holds results of other parameters, or a damaged file.
        """
        record, make = self._ways[kind]
        name = hutchinson_name(self.config) if kind == "hutchinson" else None
        file = self.folder / (name or result_names(self.config)[kind])
        if not file.exists():
            self.claim()
        return _unit(file, record, make)

    def claim(self) -> None:
        """Tie the results in the folder to the parameters they are of.

        Raises:
            CheckpointError: if the state is not there.
            ValueError: if they are of others.
        """
        digest = hashlib.blake2b(digest_size=16)
        for leaf in jax.tree.leaves(self._params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        path = self.folder / IDENTITY_FILE
        if not path.exists():
            write_whole(path, digest.hexdigest() + "\n")
        elif path.read_text().strip() != digest.hexdigest():
            raise ValueError(
                f"{self.folder} holds the curvature of other parameters than those trained now; "
                "delete that folder to measure it anew, or choose another `--name`."
            )

    @cached_property
    def _params(self) -> Params:
        return load_params(self._training, self.epoch)

    @cached_property
    def hessians(self) -> HessianOperator:
        """Of all tasks, at this state."""
        return task_hessians(self._params, self.network, self.examples, self.config.batch_size)

    @property
    def _ways(self) -> dict[Kind, tuple[type[Any], Callable[[], Any]]]:
        """Of each kind what it is kept as, and what makes it."""
        return {
            "trace": (TraceEstimate, self._trace),
            "density": (SpectralDensity, self._density),
            "gradients": (GradientConflict, self._gradients),
            "eigenspaces": (Eigenspaces, self._eigenspaces),
            "gauss_newton": (TraceEstimate, self._gauss_newton),
            "hutchinson": (TraceEstimate, self._hutchinson),
        }

    def _trace(self) -> TraceEstimate:
        """Beside pull-backs of random signs, where there are products enough for both."""
        graphs, directions = self.examples.graphs, None
        size = size_for_groups(graphs, self.config.batch_size)
        batches = balanced_batches(graphs, self.examples.targets, size)
        params, network = _under_one_name(self._params, self.network)
        if self.config.trace_matvecs >= LEAST_MATVECS:
            directions = pull_backs(params, network, batches, RANK, self._key(_SKETCHES))
        return hessspec.trace(
            _hessians_over(params, network, batches),
            key=self._key(_TRACE),
            num_matvecs=self.config.trace_matvecs,
            directions=directions,
            progress=self._progress,
        )

    def _density(self) -> SpectralDensity:
        return hessspec.density(
            self.hessians,
            key=self._key(_DENSITY),
            num_probes=self.config.num_probes,
            num_steps=self.config.num_steps,
            progress=self._progress,
        )

    def _gradients(self) -> GradientConflict:
        groups = self.config.gradient_groups
        return gradient_conflict(self.hessians, self._params, self.network, self.examples, groups)

    def _eigenspaces(self) -> Eigenspaces:
        return eigenspaces(
            self.hessians,
            self._params,
            self.network,
            self.examples,
            self.config.num_eigenpairs,
            key=self._key(_EIGENPAIRS),
            tol=self.config.eigenpairs_tol,
            num_groups=max(1, self.config.gradient_groups),
            progress=self._progress,
        )

    def _gauss_newton(self) -> TraceEstimate:
        return gauss_newton_traces(self._params, self.network, self.examples)

    def _hutchinson(self) -> TraceEstimate:
        """The paper's own estimator: the mean of v'Hv over so many vectors v of signs."""
        return hessspec.trace(
            self.hessians,
            key=self._key(_HUTCHINSON),
            method="hutchinson",
            num_matvecs=self.config.hutchinson_samples,
            progress=self._progress,
        )

    def _key(self, stream: int) -> PRNGKeyArray:
        key = jax.random.fold_in(jax.random.key(self._seed), stream)
        return jax.random.fold_in(key, self.epoch)


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
