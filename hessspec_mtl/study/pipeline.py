"""A study from its configuration to its records, one stage after the other, each resumable.

    <folder>/examples.csv                  which example is in which split, and in the Hessian
    <folder>/left_out.csv                  which records of the source are not examples, and why
    <folder>/seed-0/training/              checkpoints, history and, of the last epoch, test
                                           predictions of the multi-task network
    <folder>/seed-0/single/<task>/         the same for each task alone, if asked for, and
                                           curvature/epoch_.../ of its last epoch
    <folder>/seed-0/curvature/epoch_.../   trace.npz and density.npz of each analysed epoch, and how
                                           the tasks' gradients and eigenvectors lie

A stage that finds its files does not do its work again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Int

from hessspec_mtl.curvature.follow import (
    CurvatureConfig,
    EpochCurvature,
    analysed_epochs,
    follow,
    hessian_indices,
    hutchinson_trace,
    task_hessians,
)
from hessspec_mtl.datasets.base import EncodedDataset, Examples, MultitaskDataset, Split
from hessspec_mtl.datasets.grouping import count_copies, one_to_the_network, with_whole_groups
from hessspec_mtl.files.timing import unit_seconds
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import with_any_target
from hessspec_mtl.network.model import NetworkConfig, init_params
from hessspec_mtl.study.options import shortest_flag
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.records import SeedRun, Study
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import predictions
from hessspec_mtl.training.state import training_seconds
from hessspec_mtl.training.train import load_params, train

# The subset and the split are the same for all seeds of training, so that those compare.
DATA_SEED = 0


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
    root = Path(folder)
    if config.keep_groups_whole:
        dataset = with_whole_groups(dataset)
    split = dataset.split(DATA_SEED, config.test_fraction)
    encoded = dataset.encode(split)
    indices = hessian_indices(len(encoded.train), config.curvature.num_graphs, DATA_SEED)
    examples = _take(encoded.train, indices)
    _check_hessian_graphs(encoded, examples)
    # After what can be refused: a study that never began must not hold its folder.
    _claim(root, config, encoded)
    _write_examples(root / "examples.csv", encoded, examples)
    _write_left_out(root / "left_out.csv", dataset)
    copies = count_copies(one_to_the_network(dataset), split)
    tasks = tuple(task.name for task in encoded.tasks)
    sizes = asdict(config.network)
    network = NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)
    runs = [
        _run_seed(config, seed, network, encoded, split, examples, root, progress, say)
        for seed in config.seeds
    ]
    shared = jax.eval_shape(lambda: init_params(jax.random.key(0), network))["shared"]
    num_params = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shared))
    return Study(dataset, runs, num_params, asdict(config), copies)


def _run_seed(
    config: StudyConfig,
    seed: int,
    network: NetworkConfig,
    encoded: EncodedDataset,
    split: Split,
    examples: Examples,
    root: Path,
    progress: bool | None,
    say: Callable[[str], None],
) -> SeedRun:
    folder = root / f"seed-{seed}"
    epochs = analysed_epochs(config.train.num_epochs, config.curvature.num_epochs)
    kept = tuple(sorted({*epochs, *config.train.keep_epochs}))
    settings = replace(config.train, seed=seed, keep_epochs=kept)

    say(
        f"{encoded.name}, seed {seed}: training on {len(encoded.train)} examples, "
        f"{len(encoded.test)} held out, {settings.num_epochs} epochs{_missing_targets(encoded)}"
    )
    history = train(settings, network, encoded, folder / "training", progress=progress)

    single: dict[str, pd.DataFrame] = {}
    if config.single_task:
        for task in network.tasks:
            say(f"{encoded.name}, seed {seed}: training on {task} alone")
            single[task] = _train_alone(settings, network, task, encoded, folder, progress)

    say(f"{encoded.name}, seed {seed}: curvature after epochs {', '.join(map(str, epochs))}")
    curvature = follow(
        config.curvature,
        network,
        examples,
        epochs,
        folder / "training",
        folder / "curvature",
        seed=seed,
        progress=progress,
    )
    single_curvature = {}
    for index, task in enumerate(single):
        say(f"{encoded.name}, seed {seed}: curvature of the network trained on {task} alone")
        single_curvature[task] = _curvature_alone(
            config.curvature, network, index, examples, epochs[-1], folder, seed, progress
        )
    hutchinson = {}
    if config.curvature.hutchinson_samples:
        last = epochs[-1]
        hessians = task_hessians(
            load_params(folder / "training", last), network, examples, config.curvature.batch_size
        )
        hutchinson[last] = hutchinson_trace(
            hessians,
            config.curvature.hutchinson_samples,
            folder
            / "curvature"
            / f"epoch_{last:06d}"
            / f"hutchinson_{config.curvature.hutchinson_samples}.npz",
            seed=seed,
            epoch=last,
            progress=progress,
        )
    return SeedRun(
        seed=seed,
        split=split,
        history=history,
        curvature=curvature,
        hessian_ids=examples.ids,
        hutchinson=hutchinson,
        single_task=single,
        single_curvature=single_curvature,
        predictions=predictions(network, encoded, folder / "training", epochs[-1]),
        single_predictions={
            task: predictions(
                replace(network, tasks=(task,)), encoded, _alone(folder, task), epochs[-1]
            )
            for task in single
        },
        seconds=_seconds(folder, epochs, tuple(single)),
        timed=all_timed(folder),
    )


def _train_alone(
    settings: TrainConfig,
    network: NetworkConfig,
    task: str,
    encoded: EncodedDataset,
    folder: Path,
    progress: bool | None,
) -> pd.DataFrame:
    alone = replace(network, tasks=(task,))
    return train(settings, alone, encoded, _alone(folder, task), progress=progress)


def _curvature_alone(
    config: CurvatureConfig,
    network: NetworkConfig,
    index: int,
    examples: Examples,
    epoch: int,
    folder: Path,
    seed: int,
    progress: bool | None,
) -> EpochCurvature:
    """Trace and density at `epoch` of the network trained on task number `index` alone."""
    task = network.tasks[index]
    targets = examples.targets[:, [index]]
    (record,) = follow(
        replace(config, num_eigenpairs=0, gradient_groups=0),
        replace(network, tasks=(task,)),
        _take(replace(examples, targets=targets), with_any_target(targets)),
        (epoch,),
        _alone(folder, task),
        _alone(folder, task) / "curvature",
        seed=seed,
        progress=progress,
    )
    return record


def _alone(folder: Path, task: str) -> Path:
    """The folder of the network of one task: named after it, but never a path of its own."""
    if not task.strip("."):
        task = task.replace(".", "%2E")
    return folder / "single" / "".join(f"%{ord(c):02X}" if c in "/\\%\0" else c for c in task)


def _seconds(folder: Path, epochs: Sequence[int], alone: Sequence[str]) -> dict[str, float]:
    """Wall-clock seconds by stage: what its finished units took, each in its own process."""
    units: dict[str, float] = {}
    for epoch in epochs:
        for unit, seconds in unit_seconds(folder / "curvature" / f"epoch_{epoch:06d}").items():
            stage = "plain Hutchinson trace" if unit.startswith("hutchinson") else "curvature"
            units[stage] = units.get(stage, 0.0) + seconds
    name = f"epoch_{epochs[-1]:06d}"
    alone_folders = [_alone(folder, task) / "curvature" / name for task in alone]
    if alone_folders:
        units["curvature of each task alone"] = sum(
            sum(unit_seconds(path).values()) for path in alone_folders
        )
    training = {"training": folder / "training"}
    training |= {f"training on {task} alone": _alone(folder, task) for task in alone}
    return {stage: training_seconds(path) for stage, path in training.items()} | units


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


def _take(examples: Examples, indices: Int[np.ndarray, " n"]) -> Examples:
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


def _check_hessian_graphs(encoded: EncodedDataset, examples: Examples) -> None:
    """Raise if some task has no example among the graphs of the Hessian: it would be 0."""
    columns = zip(encoded.tasks, examples.targets.T, strict=True)
    names = [task.name for task, column in columns if np.isnan(column).all()]
    if names:
        raise ValueError(
            f"`curvature.num_graphs` (--num-graphs) takes {len(examples)} of {len(encoded.train)} "
            f"training graphs for the Hessians, of which none has the target {names}; take more, "
            "or leave these targets out."
        )


def _claim(root: Path, config: StudyConfig, encoded: EncodedDataset) -> None:
    """Refuse a folder that holds results of other settings or other examples."""
    settings = asdict(config)
    for free in ("seeds", "single_task"):  # these add results and change none
        settings.pop(free)
    for free in ("seed", "keep_epochs"):
        settings["train"].pop(free)
    for free in ("num_epochs", "batch_size", "hutchinson_samples"):
        settings["curvature"].pop(free)
    for free in ("num_eigenpairs", "gradient_groups"):
        settings["curvature"].pop(free)
    ids = {"train": list(encoded.train.ids), "test": list(encoded.test.ids)}
    wanted = {"settings": _flat(json.loads(json.dumps(settings))), "examples": ids}
    # A field younger than the folder had its default there.
    young = _flat(json.loads(json.dumps(asdict(StudyConfig()))))
    path = root / "study.json"
    if path.exists():
        found = _read_json(path)
        for name, value in wanted["settings"].items():
            held = found.get("settings", {}).get(name, young.get(name))
            if held != value:
                raise ValueError(
                    f"`{name}` ({shortest_flag(name)}) is {value!r}, but {root} holds results with "
                    f"{held!r}; ask for the same, or choose another `--name`."
                )
        if found.get("examples") != ids:
            raise ValueError(
                f"the examples or their split are not those of the results in {root}; "
                "ask for the same data, or choose another `--name`."
            )
    write_whole(path, json.dumps(wanted) + "\n")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it is written anew if you delete it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}; delete it.")
    return content


def _write_examples(path: Path, encoded: EncodedDataset, examples: Examples) -> None:
    chosen = set(examples.ids)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "split", "in_hessian"])
    for split in ("train", "test"):
        for name in getattr(encoded, split).ids:
            table.writerow([name, split, int(split == "train" and name in chosen)])
    write_whole(path, stream.getvalue())


def _write_left_out(path: Path, dataset: MultitaskDataset) -> None:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "reason", "detail"])
    table.writerows((record.id, record.reason, record.detail) for record in dataset.left_out)
    write_whole(path, stream.getvalue())
