"""QM8: 21,725 organic molecules with their two lowest excitation energies and strengths, at CC2."""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hessspec._base.progress import progress_bar
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset, Task, subset_indices
from hessspec_mtl.datasets.grouping import equal_names
from hessspec_mtl.datasets.sources import (
    QM8,
    QM8_DEEPCHEM,
    DataError,
    Source,
    fetch,
    find,
    not_at_hand,
    sha256_of,
)
from hessspec_mtl.featurize.molecules import Molecule, molecule_of
from hessspec_mtl.featurize.raw_graph import FeaturisationError

TASKS = (
    Task("E1", "E₁", "hartree"),
    Task("E2", "E₂", "hartree"),
    Task("f1", "f₁", "1"),
    Task("f2", "f₂", "1"),
)

ELEMENTS = tuple(range(1, 10))
"""Hydrogen to fluorine: the 9 node features of the paper."""

COLUMNS = ("E1-CC2", "E2-CC2", "f1-CC2", "f2-CC2")

# What identifies a copy whose hash is not known: rows, and what the paper's Table 3 prints.
_NUM_ROWS = 21_786
_NUM_KEPT = 21_725
_MEANS = (0.22010506, 0.24894142, 0.02289806, 0.04326408)


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows of the file: names are row numbers, targets may be anything finite."""

    ids: tuple[str, ...]
    smiles: tuple[str, ...]
    targets: Float[np.ndarray, "N 4"]


def load_qm8(
    directory: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    num_examples: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> MultitaskDataset:
    """QM8 as in the paper: targets E1, E2, f1, f2 at CC2 (hartree, and no unit).

    Molecules with a negative oscillator strength are left out (61 of 21,786). Copies of one
    canonical SMILES (20 pairs) are in one group, so that no split separates them.

    Args:
        directory: folder with `qm8.csv`; None for the one in HESSSPEC_DATA, then the cache.
        download: whether to fetch a file that is in neither.
        num_examples: keep this many molecules: `subset(num_examples, seed)` of the whole.
        seed: of that choice.
        progress: whether to show a progress bar; None for "if standard error is a terminal".

    Raises:
        DataError: if the file cannot be had, or is not QM8.

    Cost: about 5 s for all molecules on one core.
    """
    path, source = _locate(directory, download)
    table = _read(path)
    negative = (table.targets[:, 2:] < 0).any(axis=1)
    left_out = [
        LeftOut(
            table.ids[i],
            "negative oscillator strength",
            f"f1 = {table.targets[i, 2]}, f2 = {table.targets[i, 3]}",
        )
        for i in np.flatnonzero(negative)
    ]
    kept = np.flatnonzero(~negative)
    if num_examples is not None:
        kept = kept[subset_indices(kept.size, num_examples, seed)]
    molecules: list[Molecule] = []
    parsed: list[int] = []
    with progress_bar(kept.size, "molecules", enabled=progress, unit="molecule") as bar:
        for i in kept.tolist():
            try:
                molecules.append(molecule_of(table.smiles[i]))
                parsed.append(i)
            except FeaturisationError as error:
                left_out.append(LeftOut(table.ids[i], "no molecular graph", str(error)))
            bar.update(1)
    return MultitaskDataset(
        name="QM8",
        domain="molecules",
        ids=tuple(table.ids[i] for i in parsed),
        structures=tuple(table.smiles[i] for i in parsed),
        graphs=tuple(molecule.graph for molecule in molecules),
        targets=table.targets[parsed],
        tasks=TASKS,
        groups=equal_names([molecule.canonical for molecule in molecules]),
        elements=ELEMENTS,
        left_out=tuple(left_out),
        sources=(source,),
        published="QM8",
    )


def verify_qm8(path: Path) -> None:
    """Check a copy whose hash is not known against what the paper prints of QM8.

    Raises:
        DataError: if columns, number of rows, number of molecules left by the filter, or the
            means of the targets (to 1e-7) differ.
    """
    table = _read(path)
    kept = table.targets[(table.targets[:, 2:] >= 0).all(axis=1)]
    advice = "the file is truncated, altered or another version; replace it by a fresh copy."
    if len(table.ids) != _NUM_ROWS:
        raise DataError(f"{path} has {len(table.ids):,} rows, QM8 has {_NUM_ROWS:,}: {advice}")
    if kept.shape[0] != _NUM_KEPT:
        raise DataError(
            f"{path} has {kept.shape[0]:,} molecules without a negative oscillator strength, "
            f"QM8 has {_NUM_KEPT:,}: {advice}"
        )
    means = kept.mean(axis=0)
    # Asked this way round, a mean that is NaN is refused too.
    if not np.abs(means - _MEANS).max() <= 1e-7:
        raise DataError(
            f"the targets in {path} have means {means.round(8).tolist()}, those of QM8 have "
            f"{list(_MEANS)}: {advice}"
        )


def _locate(directory: str | os.PathLike[str] | None, download: bool) -> tuple[Path, Source]:
    """The file and which of its known copies it is."""
    path = find(QM8_DEEPCHEM, directory)
    if path is None:
        if not download:
            raise not_at_hand([QM8_DEEPCHEM], directory)
        path = fetch(QM8_DEEPCHEM, verify=verify_qm8)
    if sha256_of(path) == QM8.sha256:
        return path, QM8
    verify_qm8(path)
    return path, QM8_DEEPCHEM


def _read(path: Path) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return _table(path, stream)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV in UTF-8 ({error}); the file is altered or compressed, "
            "replace it by a fresh copy."
        ) from error


def _table(path: Path, stream: Iterable[str]) -> _Table:
    """The rows that `stream`, the text of the file at `path`, holds."""
    rows = csv.reader(stream)
    header = next(rows, [])
    missing = [name for name in ("smiles", *COLUMNS) if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing}; its first line must name the columns of QM8, "
            f"got {header[:8]}."
        )
    # The file names the PBE0 columns twice; those at CC2 come once.
    places = [header.index(name) for name in COLUMNS]
    smiles_place = header.index("smiles")
    smiles: list[str] = []
    targets: list[list[float]] = []
    for row in rows:
        try:
            targets.append([float(row[place]) for place in places])
            smiles.append(row[smiles_place])
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{path}, line {rows.line_num}: expected a SMILES and 16 numbers, got "
                f"{row[:5]} ({error}); the file is truncated or altered, replace it by a "
                "fresh copy."
            ) from error
    ids = tuple(f"qm8-{row:05d}" for row in range(1, len(smiles) + 1))
    return _Table(ids, tuple(smiles), np.array(targets, np.float64).reshape(-1, len(COLUMNS)))
