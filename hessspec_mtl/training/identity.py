"""Which run a training folder holds: its settings and its data, so that no two are mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import MultiGraph
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.checkpoints import CheckpointError, Checkpoints
from hessspec_mtl.training.config import TrainConfig

RUN_FILE = "config.json"
_PARTS = ("config", "network", "data")


def describe(
    config: TrainConfig,
    network: NetworkConfig,
    splits: Mapping[str, tuple[Sequence[MultiGraph], np.ndarray]],
) -> dict[str, Any]:
    """What a folder was trained with, as JSON; the fields that may change later are not in it."""
    training = {**asdict(config), "decay_start": config.last_constant_epoch}
    for free in ("num_epochs", "keep_epochs", "checkpoint_seconds"):
        training.pop(free)
    data = {name: _fingerprint(*split) for name, split in splits.items()}
    parts = zip(_PARTS, (training, asdict(network), data), strict=True)
    return json.loads(json.dumps(dict(parts)))


def _fingerprint(graphs: Sequence[MultiGraph], targets: np.ndarray) -> str:
    """A hash of every number that training sees of a split."""
    digest = hashlib.blake2b(digest_size=16)
    for graph in graphs:
        for array in (graph.nodes, graph.edges, graph.senders, graph.receivers):
            digest.update(f"{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    digest.update(np.ascontiguousarray(targets, np.float32).tobytes())
    return f"{len(graphs)} graphs, hash {digest.hexdigest()}"


def claim(folder: Path, config: TrainConfig, description: dict[str, Any]) -> None:
    """Make `folder` the home of this run, or find that it already is.

    Raises:
        ValueError: if it holds a run of another description; the message names the field.
        CheckpointError: if it cannot be written, or what it holds cannot be told.
    """
    path = folder / RUN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = _read_description(path)
        elif Checkpoints(folder / "checkpoints").epochs():
            raise CheckpointError(
                f"{folder} holds checkpoints but no config.json, so it is not known what they "
                "are of; put that file back or choose another `directory`."
            )
        else:
            found = {**description, "num_epochs": config.num_epochs}
            write_whole(path, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"`directory` must be a folder that can be written, got {folder} ({error}); "
            "choose another one."
        ) from error
    # A field younger than the folder had its default there.
    young = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for kind in (config, NetworkConfig)
        for field in fields(kind)
    }
    for part, wanted in description.items():
        for field, value in wanted.items():
            there = found.get(part, {}).get(field, young.get(field))
            if there == value:
                continue
            if field == "decay_start" and config.decay_start is None:
                epochs = found.get("num_epochs", "another number of")
                raise ValueError(
                    f"`num_epochs` is {config.num_epochs}, so that the learning rate decays after "
                    f"epoch {value}, but {folder} holds a run of {epochs} epochs whose rate decays "
                    f"after epoch {there}; ask for as many epochs as that run, set `decay_start` "
                    f"to {there} to train it for longer, or choose another `directory`."
                )
            raise ValueError(
                f"`{part}.{field}` is {value!r}, but {folder} holds a run with {there!r}; "
                "ask for the same or choose another `directory`."
            )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(found.get(p, {}), dict) for p in _PARTS):
            return found
        problem = "it does not hold what training wrote there"
    except ValueError as error:
        problem = str(error)
    raise CheckpointError(
        f"{path} cannot be read ({problem}), so it is not known what the checkpoints beside it are "
        "of; put the file back, remove the folder, or choose another `directory`."
    )
