"""A study from its configuration to its records, one stage after the other, each resumable.

    <folder>/examples.csv                  which example is in which split, and in the Hessian
    <folder>/left_out.csv                  which records of the source are not examples, and why
    <folder>/forest.csv                    test errors of random forests on the same split
    <folder>/seed-0/training/              checkpoints, history and, of the last epoch, test
                                           predictions of the multi-task network
    <folder>/seed-0/tracking/              sharpness and traces while it trained, if asked for
    <folder>/seed-0/single/<task>/         the same for each task alone, if asked for, and
                                           curvature/epoch_.../ of its last epoch
    <folder>/seed-0/curvature/epoch_.../   trace.npz and density.npz of each analysed epoch, and how
                                           the tasks' gradients and eigenvectors lie

A stage that finds its files does not do its work again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from hessspec_mtl.baselines.forest import forest_errors, unavailable
from hessspec_mtl.curvature.follow import hessian_indices
from hessspec_mtl.datasets.base import EncodedDataset, Examples, MultitaskDataset
from hessspec_mtl.datasets.grouping import (
    Copies,
    count_copies,
    has_whole_groups,
    one_to_the_network,
    with_whole_groups,
)
from hessspec_mtl.datasets.paper import is_users_dataset
from hessspec_mtl.network.model import NetworkConfig, init_params
from hessspec_mtl.study.folder import claim, write_examples, write_left_out
from hessspec_mtl.study.options import flag
from hessspec_mtl.study.presets import DATA_SEED, StudyConfig
from hessspec_mtl.study.records import Study
from hessspec_mtl.study.seeds import SeedWork, read_seed, take, unfinished
from hessspec_mtl.study.stages import STAGES, Stage, check_stages
from hessspec_mtl.study.units import run_seed

if TYPE_CHECKING:
    import pandas as pd


def run_study(
    config: StudyConfig,
    dataset: MultitaskDataset,
    folder: str | os.PathLike[str],
    *,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> Study:
    """Train, follow the curvature, and return all records of the study.

    Args:
        config: what to do.
        dataset: the examples to use, already reduced to `config.num_examples`.
        folder: where results are kept and looked for.
        progress: whether to show progress bars; None for "if standard error is a terminal".
        say: told in plain English what is being done.

    Raises:
        ValueError: if the folder holds results of another configuration or other data.
    """
    work = begin_study(config, dataset, folder, progress=progress, say=say)
    work.run(STAGES)
    return work.read()


@dataclass(frozen=True, eq=False)
class StudyWork:
    """A study in its folder: stage after stage is run in it, and its records read from it.

    Attributes:
        config: what it does.
        dataset: the examples it is on, groups as they are kept together.
        encoded: both sides of the split.
        seeds: its training runs.
        copies: structures that stand in the data under several names.
    """

    config: StudyConfig
    dataset: MultitaskDataset
    encoded: EncodedDataset
    seeds: tuple[SeedWork, ...]
    copies: Copies

    def run(self, stages: Collection[Stage]) -> None:
        """Do what `stages` ask for and is not done; the report is not made here.

        Raises:
            ValueError: if the stages make no sense together (`check_stages`).
            StageError: if a stage lacks what it builds on.
        """
        check_stages(tuple(stages), self.config.keep_states)
        for seed in self.seeds:
            run_seed(seed, stages)

    def unfinished(self) -> list[str]:
        """What a report still needs, in words (`seeds.unfinished`)."""
        return [text for seed in self.seeds for text in unfinished(seed)]

    def read(self) -> Study:
        """All records of the study, once it is finished.

        Raises:
            StageError: if it is not; says what is missing.
        """
        runs = [read_seed(seed) for seed in self.seeds]
        network = self.seeds[0].network
        shared = jax.eval_shape(lambda: init_params(jax.random.key(0), network))["shared"]
        num_params = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shared))
        settings = asdict(self.config)
        return Study(self.dataset, runs, num_params, settings, self.copies, self._forest())

    @property
    def forest_path(self) -> Path:
        """Where the errors of random forests are kept, once they have been made."""
        return self.seeds[0].folder.parent / "forest.csv"

    def _forest(self) -> pd.DataFrame | str:
        """Errors of random forests on the same split, or why there are none."""
        if reason := unavailable(self.dataset):
            return reason
        return forest_errors(self.dataset, self.seeds[0].split, self.forest_path)


def begin_study(
    config: StudyConfig,
    dataset: MultitaskDataset,
    folder: str | os.PathLike[str],
    *,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> StudyWork:
    """The study of `dataset` in `folder`, begun there or gone on with; nothing is trained yet.

    Raises:
        ValueError: if the folder holds results of another configuration or other data.
    """
    root = Path(folder)
    if config.keep_groups_whole:
        dataset = with_whole_groups(dataset)
    elif is_users_dataset(dataset) and has_whole_groups(dataset):
        # Data of one's own are read so: the settings say what is the case.
        config = replace(config, keep_groups_whole=True)
    seeds = seed_works(config, dataset, root, progress=progress, say=say)
    encoded, split, examples = seeds[0].encoded, seeds[0].split, seeds[0].examples
    # After what can be refused: a study that never began must not hold its folder.
    claim(root, config, encoded)
    write_examples(root / "examples.csv", encoded, examples)
    write_left_out(root / "left_out.csv", dataset)
    copies = count_copies(one_to_the_network(dataset), split)
    return StudyWork(config, dataset, encoded, seeds, copies)


def seed_works(
    config: StudyConfig,
    dataset: MultitaskDataset,
    root: Path,
    *,
    progress: bool | None = None,
    say: Callable[[str], None] = print,
) -> tuple[SeedWork, ...]:
    """The training runs of a study in `root`, of which nothing is touched.

    `dataset` has its groups as they are to be kept together.

    Raises:
        ValueError: if some task has no example where it needs one.
    """
    split = dataset.split(DATA_SEED, config.test_fraction)
    encoded = dataset.encode(split)
    indices = hessian_indices(len(encoded.train), config.curvature.num_graphs, DATA_SEED)
    examples = take(encoded.train, indices)
    _check_hessian_graphs(encoded, examples)
    tracked = _tracked_graphs(config, encoded)
    tasks = tuple(task.name for task in encoded.tasks)
    sizes = asdict(config.network)
    network = NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)
    return tuple(
        SeedWork(
            config=config,
            seed=seed,
            network=network,
            encoded=encoded,
            split=split,
            examples=examples,
            tracked=tracked,
            folder=root / f"seed-{seed}",
            progress=progress,
            say=say,
        )
        for seed in config.seeds
    )


def _tracked_graphs(config: StudyConfig, encoded: EncodedDataset) -> Examples | None:
    """The graphs on which the curvature is followed at fine grain, if it is."""
    if config.curvature.track_every == 0:
        return None
    number, option = config.curvature.track_graphs, "track_graphs"
    indices = hessian_indices(len(encoded.train), number, DATA_SEED, option=option)
    examples = take(encoded.train, indices)
    _check_hessian_graphs(encoded, examples, option)
    return examples


def _check_hessian_graphs(
    encoded: EncodedDataset, examples: Examples, option: str = "num_graphs"
) -> None:
    """Raise if some task has no example among the graphs of the Hessian: it would be 0."""
    columns = zip(encoded.tasks, examples.targets.T, strict=True)
    names = [task.name for task, column in columns if np.isnan(column).all()]
    if names:
        raise ValueError(
            f"`curvature.{option}` ({flag(option)}) takes {len(examples)} of {len(encoded.train)} "
            f"training graphs for the Hessians, of which none has the target {names}; take more, "
            "or leave these targets out."
        )
