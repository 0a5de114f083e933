"""The folder of a study: which study it holds, and which examples that is on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hessspec_mtl.datasets.base import EncodedDataset, Examples, MultitaskDataset
from hessspec_mtl.files.versions import Machine
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.options import shortest_flag
from hessspec_mtl.study.presets import StudyConfig

STUDY_FILE = "study.json"
_MACHINES_FILE = "machines.json"


def claim(root: Path, config: StudyConfig, encoded: EncodedDataset) -> None:
    """Refuse a folder that holds results of other settings or other examples."""
    settings = asdict(config)
    # These add results, or say which states are kept, and change none; whether groups were kept
    # whole is told by the split itself.
    for free in ("seeds", "single_task", "keep_states", "keep_groups_whole"):
        settings.pop(free)
    for free in ("seed", "keep_epochs", "checkpoint_seconds"):
        settings["train"].pop(free)
    for free in ("num_epochs", "epochs", "batch_size", "hutchinson_samples"):
        settings["curvature"].pop(free)
    for free in ("num_eigenpairs", "gradient_groups", "gauss_newton"):
        settings["curvature"].pop(free)
    ids = {"train": list(encoded.train.ids), "test": list(encoded.test.ids)}
    wanted = {"settings": _flat(json.loads(json.dumps(settings))), "examples": ids}
    # A field younger than the folder had its default there.
    young = _flat(json.loads(json.dumps(asdict(StudyConfig()))))
    path = root / STUDY_FILE
    if path.exists():
        found = read_json(path)
        for name, value in wanted["settings"].items():
            held = found.get("settings", {}).get(name, young.get(name))
            if held != value:
                raise ValueError(
                    f"`{name}` ({shortest_flag(name)}) is {value!r}, but {root} holds results with "
                    f"{held!r}; ask for the same, or choose another `--name`."
                )
        if found.get("examples") != ids:
            raise ValueError(
                f"the examples or their split are not those of the results in {root}; ask for the "
                "same data and the same `--keep-groups-whole`, or choose another `--name`."
            )
    write_whole(path, json.dumps(wanted) + "\n")


def note_machine(root: Path, machine: Machine) -> None:
    """Add `machine` to those that have worked in `root`, unless it is the last that did."""
    known = machines(root)
    if known[-1:] != [machine]:
        records = [asdict(each) for each in (*known, machine)]
        write_whole(root / _MACHINES_FILE, json.dumps(records, indent=2) + "\n")


def machines(root: Path) -> list[Machine]:
    """Those that trained or measured in `root`, in that order; none of older versions' folders."""
    path = root / _MACHINES_FILE
    if not path.exists():
        return []
    try:
        return [Machine(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); delete it, and the report will not say where the "
            "results were made."
        ) from error


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that was written here; an error says what to do with a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it is written anew if you delete it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}; delete it.")
    return content


def write_examples(path: Path, encoded: EncodedDataset, examples: Examples) -> None:
    chosen = set(examples.ids)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "split", "in_hessian"])
    for split in ("train", "test"):
        for name in getattr(encoded, split).ids:
            table.writerow([name, split, int(split == "train" and name in chosen)])
    write_whole(path, stream.getvalue())


def write_left_out(path: Path, dataset: MultitaskDataset) -> None:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "reason", "detail"])
    table.writerows((record.id, record.reason, record.detail) for record in dataset.left_out)
    write_whole(path, stream.getvalue())
