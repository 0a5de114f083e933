"""A data set as one compact file that is read without chemistry packages.

What rdkit and pymatgen found is kept as they found it, nothing fitted and nothing rounded: elements
and bond types as small integers, each different face of a crystal once, in float64. So whatever is
done to a data set (a subset, a split, deciles, standardisation) comes out the same, bit for bit,
from this file as from the files that it was made of. It takes a few megabytes, and a machine that
trains needs no chemistry package, and no second to load one.

Structures are not kept, since nothing after the graphs asks for them; which crystals are one in
another cell is kept as pairs (`MultitaskDataset.twins`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from hessspec._base.records import load_record, save_record
from hessspec_mtl.datasets.base import NUM_BOND_TYPES, LeftOut, MultitaskDataset, Task
from hessspec_mtl.datasets.grouping import equal_pairs
from hessspec_mtl.datasets.sources import DataError, Source
from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.files.versions import versions

ENCODED_VERSION = 1
"""Raised whenever what is in the file, or what it means, changes."""

_KIND = "MultitaskDataset"
_AGAIN = "encode the data set again (python -m hessspec_mtl.encode)."

# Number of axes and kind of numbers of each array; the first axis is named after what it counts.
_ARRAYS: Mapping[str, tuple[str, int, str]] = {
    "targets": ("example", 2, "f"),
    "groups": ("example", 1, "iu"),
    "num_nodes": ("example", 1, "iu"),
    "num_edges": ("example", 1, "iu"),
    "num_faces": ("example", 1, "iu"),
    "atomic_numbers": ("node", 1, "iu"),
    "senders": ("edge", 1, "iu"),
    "receivers": ("edge", 1, "iu"),
    "edge_kinds": ("edge", 1, "iu"),
    "faces": ("face", 2, "f"),
    "twins": ("pair", 2, "iu"),
}


def write_encoded(dataset: MultitaskDataset, path: str | os.PathLike[str]) -> Path:
    """Write `dataset`, with its graphs, to `path` (npz, no pickle); returns the path.

    The file appears whole or not at all. Cost: seconds, and for crystals that of
    `grouping.equal_pairs` unless the data set has its `twins`.

    Raises:
        ValueError: if the data set has no graphs.
    """
    if not dataset.graphs:
        raise ValueError(
            f"the data set {dataset.name!r} was loaded with `graphs=False` and cannot be encoded; "
            "load it with graphs."
        )
    crystals = dataset.domain == "crystals"
    twins = dataset.twins
    if twins is None:
        twins = equal_pairs(dataset.structures) if crystals else np.zeros((0, 2), np.int64)
    attributes = [graph.edge_attributes for graph in dataset.graphs]
    rows, kinds = zip(*map(_different_rows, attributes), strict=True) if crystals else ((), ())
    arrays = {
        "targets": np.asarray(dataset.targets, np.float64),
        "groups": _small(dataset.groups),
        "num_nodes": _small([graph.num_nodes for graph in dataset.graphs]),
        "num_edges": _small([graph.num_edges for graph in dataset.graphs]),
        "num_faces": _small([len(r) for r in rows] if crystals else [0] * len(dataset)),
        "atomic_numbers": _small(np.concatenate([g.atomic_numbers for g in dataset.graphs])),
        "senders": _small(np.concatenate([graph.senders for graph in dataset.graphs])),
        "receivers": _small(np.concatenate([graph.receivers for graph in dataset.graphs])),
        "edge_kinds": _small(np.concatenate(kinds if crystals else attributes)),
        "faces": np.concatenate(rows) if crystals else np.zeros((0, 0)),
        "twins": _small(twins),
    }
    meta = {
        "encoded_version": ENCODED_VERSION,
        "name": dataset.name,
        "domain": dataset.domain,
        "published": dataset.published,
        "ids": list(dataset.ids),
        "elements": [int(z) for z in dataset.elements],
        "tasks": [asdict(task) for task in dataset.tasks],
        "left_out": [asdict(record) for record in dataset.left_out],
        "sources": [asdict(source) for source in dataset.sources],
        "made_with": versions(("rdkit", "pymatgen")),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_record(path, _KIND, arrays, meta)


def read_encoded(path: str | os.PathLike[str]) -> MultitaskDataset:
    """The data set in the file that `write_encoded` wrote: its graphs, but no structures.

    Imports no chemistry package and computes nothing but the graphs' arrays.

    Raises:
        DataError: if there is no such file, it is damaged or of a newer version, or an array in it
            is not what it should be; the message names file and array.
    """
    path = Path(path)
    try:
        arrays, meta = load_record(path, _KIND)
    except FileNotFoundError as error:
        raise DataError(
            f"there is no encoded data set {path}; make it where the chemistry packages are, with "
            "python -m hessspec_mtl.encode, and take the file along."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{error} To mend it, {_AGAIN}") from error
    if (found := meta.get("encoded_version")) != ENCODED_VERSION:
        raise DataError(
            f"{path} holds a data set of version {found}, this hessspec reads {ENCODED_VERSION}; "
            f"{_AGAIN}"
        )
    try:
        tasks = tuple(Task(**task) for task in meta["tasks"])
        described = {
            "name": meta["name"],
            "domain": meta["domain"],
            "published": meta["published"],
            "ids": tuple(meta["ids"]),
            "elements": tuple(meta["elements"]),
            "tasks": tasks,
            "left_out": tuple(LeftOut(**record) for record in meta["left_out"]),
            "sources": tuple(Source(**source) for source in meta["sources"]),
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lacks a part of its description ({error}); {_AGAIN}") from error
    if described["domain"] not in ("molecules", "crystals"):
        raise DataError(
            f"{path} must hold molecules or crystals, got {described['domain']!r}; {_AGAIN}"
        )
    _check(path, arrays, described)
    try:
        return MultitaskDataset(
            structures=(),
            graphs=_graphs(arrays, crystals=described["domain"] == "crystals"),
            targets=arrays["targets"],
            groups=arrays["groups"].astype(np.int64),
            twins=arrays["twins"].astype(np.int64),
            **described,
        )
    except ValueError as error:
        raise DataError(f"{path} holds what no data set can: {error}") from error


def _check(path: Path, arrays: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> None:
    """Raise if an array is missing, has another shape than the others say, or points nowhere."""

    def refuse(name: str, wanted: str, got: object) -> DataError:
        return DataError(f"{path}: the array `{name}` must {wanted}, got {got}; {_AGAIN}")

    for name, (_, axes, kinds) in _ARRAYS.items():
        if name not in arrays:
            raise refuse(name, "be there", f"only {sorted(arrays)}")
        if arrays[name].ndim != axes or arrays[name].dtype.kind not in kinds:
            form = "whole numbers" if kinds == "iu" else "floating-point numbers"
            found = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            raise refuse(name, f"hold {form} along {axes} axes", found)
        if name.startswith("num_") and (arrays[name] < 0).any():
            raise refuse(name, "hold counts, none negative", int(arrays[name].min()))
    length = {
        "example": len(described["ids"]),
        "node": int(arrays["num_nodes"].sum()),
        "edge": int(arrays["num_edges"].sum()),
        "face": int(arrays["num_faces"].sum()),
    }
    for name, (counted, *_) in _ARRAYS.items():
        wanted = length.get(counted, len(arrays[name]))
        if len(arrays[name]) != wanted:
            raise refuse(name, f"have {wanted} entries, one for each {counted}", len(arrays[name]))
    tasks = len(described["tasks"])
    if arrays["targets"].shape[1] != tasks:
        raise refuse("targets", f"have {tasks} columns, one a task", arrays["targets"].shape[1])
    crystals = described["domain"] == "crystals"
    edges = arrays["num_edges"].astype(np.int64)
    nodes_there = np.repeat(arrays["num_nodes"].astype(np.int64), edges)
    kinds_there = np.repeat(arrays["num_faces"].astype(np.int64), edges)
    bounds = {
        "senders": nodes_there,
        "receivers": nodes_there,
        "edge_kinds": kinds_there if crystals else np.full(edges.sum(), NUM_BOND_TYPES),
        "twins": np.full((len(arrays["twins"]), 2), length["example"]),
    }
    for name, bound in bounds.items():
        values = arrays[name].astype(np.int64)
        if values.shape != bound.shape:
            raise refuse(name, f"have the shape {bound.shape}", values.shape)
        outside = (values < 0) | (values >= bound)
        if outside.any():
            first = tuple(map(int, np.argwhere(outside)[0]))
            raise refuse(name, f"lie in [0, {bound[first]}) at {first}", int(values[first]))
    unknown = ~np.isin(arrays["atomic_numbers"], described["elements"])
    if unknown.any():
        found = sorted(set(arrays["atomic_numbers"][unknown].tolist()))
        raise refuse("atomic_numbers", f"be among {list(described['elements'])}", found)
    if not np.isfinite(arrays["faces"]).all():
        raise refuse("faces", "be finite", "NaN or infinity")


def _graphs(arrays: Mapping[str, np.ndarray], *, crystals: bool) -> tuple[RawGraph, ...]:
    """The graphs as the chemistry packages gave them: views of a few long arrays."""
    nodes = _cut(arrays["atomic_numbers"].astype(np.int64), arrays["num_nodes"])
    senders, receivers = (
        _cut(arrays[name].astype(np.int64), arrays["num_edges"])
        for name in ("senders", "receivers")
    )
    kinds = arrays["edge_kinds"].astype(np.int64)
    if crystals:
        faces = arrays["num_faces"].astype(np.int64)
        first = np.repeat(np.cumsum(faces) - faces, arrays["num_edges"].astype(np.int64))
        kinds = arrays["faces"][first + kinds]
    attributes = _cut(kinds, arrays["num_edges"])
    return tuple(map(RawGraph, nodes, attributes, senders, receivers))


def _cut(values: Shaped[np.ndarray, "m *k"], lengths: Int[np.ndarray, " n"]) -> list[np.ndarray]:
    """Consecutive parts of these lengths."""
    ends = np.cumsum(lengths.astype(np.int64))
    return [values[start:end] for start, end in zip(ends - lengths, ends, strict=True)]


def _different_rows(
    rows: Float[np.ndarray, "e a"],
) -> tuple[Float[np.ndarray, "d a"], Int[np.ndarray, " e"]]:
    """The different rows in the order in which they come, and of each row which of them it is."""
    different, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return different[order], place[which.ravel()]


def _small(numbers: Int[np.ndarray, " n"] | Sequence[int]) -> Int[np.ndarray, " n"]:
    """The same numbers in the smallest unsigned type that holds them."""
    array = np.asarray(numbers, np.int64)
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
