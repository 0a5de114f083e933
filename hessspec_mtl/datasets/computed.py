"""Two small data sets that come with the package: molecules and crystals that we computed.

They need no network and no file, so everything can be tried at once. They show the paper's kind of
problem, with the same targets, and are not comparable with its numbers: see `embedded/README.md`
for what they are, and `hessspec_mtl.datasets.generate` for how to compute them again.
"""

import gzip
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hessspec._base.progress import progress_bar
from hessspec_mtl.datasets import materials_project, qm8
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset, subset_indices
from hessspec_mtl.datasets.grouping import equal_names
from hessspec_mtl.datasets.sources import DataError, Source, sha256_of
from hessspec_mtl.datasets.voronoi import with_voronoi_graphs
from hessspec_mtl.featurize.crystals import Crystal
from hessspec_mtl.featurize.molecules import molecule_of

EMBEDDED = Path(__file__).parent / "embedded"
"""Folder of the shipped files."""

_CITATION = "computed by the hessspec project; see the data card beside the file"


@dataclass(frozen=True)
class EmbeddedFile:
    """A shipped file: what was computed, with what, and the results, one entry a structure."""

    metadata: Mapping[str, Any]
    entries: tuple[Mapping[str, Any], ...]


def read_embedded(path: str | os.PathLike[str]) -> EmbeddedFile:
    """Metadata (first line) and entries (the others) of gzipped JSON lines.

    Raises:
        DataError: if the file is missing, or cut short or altered.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            metadata, *entries = (json.loads(line) for line in stream)
        expected = metadata["counts"]["kept"]
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; it is part of the package, which must be installed again."
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is truncated or altered ({error}); install the package again."
        ) from error
    if len(entries) != expected:
        raise DataError(
            f"{path} holds {len(entries)} of {expected} entries; install the package again."
        )
    return EmbeddedFile(metadata, tuple(entries))


def load_molecules(
    *, num_examples: int | None = None, seed: int = 0, progress: bool | None = None
) -> MultitaskDataset:
    """Small molecules of C, N, O, F and H with E1, E2, f1, f2 at TDA-PBE0 (hartree, and no unit).

    The targets are those of `load_qm8`, by a cheaper method. Node features are the elements that
    occur.

    Args:
        num_examples: keep this many molecules: `subset(num_examples, seed)` of the whole.
        seed: of that choice.
        progress: whether to show a progress bar; None for "if standard error is a terminal".

    Cost: under 1 s.
    """
    path = EMBEDDED / "molecules.jsonl.gz"
    file = read_embedded(path)
    entries = _chosen(file, num_examples, seed)
    molecules = []
    with progress_bar(len(entries), "molecules", enabled=progress, unit="molecule") as bar:
        for entry in entries:
            molecules.append(molecule_of(entry["smiles"]))
            bar.update(1)
    return MultitaskDataset(
        name="molecules",
        domain="molecules",
        ids=tuple(entry["id"] for entry in entries),
        structures=tuple(entry["smiles"] for entry in entries),
        graphs=tuple(molecule.graph for molecule in molecules),
        targets=np.array([[entry[task.name] for task in qm8.TASKS] for entry in entries]),
        tasks=qm8.TASKS,
        groups=equal_names([molecule.canonical for molecule in molecules]),
        elements=_elements(file),
        left_out=_left_out(file),
        sources=(_source("molecules computed by hessspec", path, file),),
    )


def load_crystals(
    *,
    num_examples: int | None = None,
    seed: int = 0,
    graphs: bool = True,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> MultitaskDataset:
    """Ordered metals with log G_VRH, log K_VRH (natural logarithms, GPa) and Poisson ratio.

    The targets are those of `load_materials_project`, from effective-medium theory. Node features
    are the elements that occur.

    Args:
        num_examples: keep this many crystals: `subset(num_examples, seed)` of the whole, chosen
            before the graphs are made.
        seed: of that choice.
        graphs: False leaves the graphs out, for statistics of the targets.
        num_workers: processes that make graphs; None for one a core.
        progress: whether to show progress bars; None for "if standard error is a terminal".

    Cost: the graphs take about 0.05 s of one core a crystal the first time, and are then read from
    the cache (`datasets.voronoi`).
    """
    path = EMBEDDED / "crystals.jsonl.gz"
    file = read_embedded(path)
    entries = _chosen(file, num_examples, seed)
    dataset = MultitaskDataset(
        name="crystals",
        domain="crystals",
        ids=tuple(entry["id"] for entry in entries),
        structures=tuple(crystal_of_entry(entry) for entry in entries),
        graphs=(),
        targets=np.array(
            [
                (math.log(entry["G_VRH"]), math.log(entry["K_VRH"]), entry["poisson"])
                for entry in entries
            ]
        ),
        tasks=materials_project.TASKS,
        groups=np.arange(len(entries)),
        elements=_elements(file),
        left_out=_left_out(file),
        sources=(_source("crystals computed by hessspec", path, file),),
    )
    if not graphs:
        return dataset
    return with_voronoi_graphs(dataset, num_workers=num_workers, progress=progress)


def crystal_of_entry(entry: Mapping[str, Any]) -> Crystal:
    """The unit cell of one entry."""
    return Crystal(
        lattice=np.array(entry["lattice"], np.float64),
        atomic_numbers=np.array(entry["atomic_numbers"], np.int64),
        fractional=np.array(entry["fractional"], np.float64),
    )


def stiffness_of_entry(entry: Mapping[str, Any]) -> Float[np.ndarray, "6 6"]:
    """The elastic tensor of one entry in GPa, in Voigt's order xx yy zz yz xz xy."""
    stiffness = np.zeros((6, 6))
    stiffness[np.triu_indices(6)] = entry["stiffness"]
    return np.triu(stiffness) + np.triu(stiffness, k=1).T


def _chosen(
    file: EmbeddedFile, num_examples: int | None, seed: int
) -> tuple[Mapping[str, Any], ...]:
    if num_examples is None:
        return file.entries
    indices = subset_indices(len(file.entries), num_examples, seed)
    return tuple(file.entries[index] for index in indices)


def _elements(file: EmbeddedFile) -> tuple[int, ...]:
    """Atomic numbers in the whole file, so that a subset has the same node features."""
    return tuple(sorted({z for entry in file.entries for z in entry["atomic_numbers"]}))


def _left_out(file: EmbeddedFile) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(name, reason) for name, reason in file.metadata["left_out"])


def _source(name: str, path: Path, file: EmbeddedFile) -> Source:
    return Source(
        name=name,
        file_name=path.name,
        url=None,
        sha256=sha256_of(path),
        licence=file.metadata["licence"],
        citation=_CITATION,
    )
