"""Data sets by the names that the command knows them by, read as late and as little as can be.

Loaders are imported when they are called: chemistry packages take seconds to load, and a machine
that reads encoded data sets (`datasets.encoded`) need not have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.csv_table import table_name
from hessspec_mtl.datasets.encoded import read_encoded
from hessspec_mtl.datasets.sources import DataError
from hessspec_mtl.study.presets import DATA_SEED, DatasetName

Loaded = tuple[MultitaskDataset, MultitaskDataset]
"""The whole data set (perhaps without its graphs), for the tables, and the part to be studied."""

Load = Callable[[int | None], Loaded]
"""Takes the number of examples to keep."""


@dataclass(frozen=True, kw_only=True)
class MoleculeTable:
    """Molecules of one's own.

    Attributes:
        file: the CSV file, with a header; semicolons and tabs are read too, and .csv.gz.
        smiles: the column of SMILES strings.
        targets: the columns to learn, numbers.
        units: their units, in the same order.
        add_hydrogens: make hydrogens nodes although the SMILES leave them out, as the paper has
            them.
    """

    file: Annotated[Path, tyro.conf.Positional]
    smiles: str = "smiles"
    targets: tuple[str, ...]
    units: tuple[str, ...] | None = None
    add_hydrogens: bool = True

    @property
    def set_name(self) -> str:
        """What the data set is called."""
        return table_name(self.file.resolve())

    def read(self) -> MultitaskDataset:
        """The data set (`datasets.own.load_own_molecules`)."""
        from hessspec_mtl.datasets.own import load_own_molecules

        return load_own_molecules(
            self.file,
            targets=self.targets,
            smiles=self.smiles,
            units=self.units,
            add_hydrogens=self.add_hydrogens,
            progress=_progress(self),
        )


@dataclass(frozen=True, kw_only=True)
class CrystalFolder:
    """Crystals of one's own.

    Attributes:
        folder: the folder with one CIF file a crystal.
        targets: the CSV file, with a header or without one (cgcnn's `id_prop.csv`).
        columns: the columns to learn; default: every column but the one that names the files.
        id_column: the column that names the files; default: the first, or the only one that does.
        units: their units, in the same order.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    targets: Path
    columns: tuple[str, ...] | None = None
    id_column: str | None = None
    units: tuple[str, ...] | None = None

    @property
    def set_name(self) -> str:
        """What the data set is called."""
        return self.folder.resolve().stem

    def read(self) -> MultitaskDataset:
        """The data set (`datasets.own.load_own_crystals`)."""
        from hessspec_mtl.datasets.own import load_own_crystals

        return load_own_crystals(
            self.folder,
            self.targets,
            targets=self.columns,
            id_column=self.id_column,
            units=self.units,
            progress=_progress(self),
        )


def _progress(options: Any) -> bool | None:
    """Whether progress is to be shown, where the command has an option for it."""
    return getattr(options, "progress", None)


def named(
    name: DatasetName,
    num_examples: int | None,
    *,
    data_dir: Path | None = None,
    encoded_dir: Path | None = None,
    api_key: str | None = None,
    progress: bool | None = None,
) -> Loaded:
    """One of the sets that presets know: from its encoded file in `encoded_dir`, if that is given.

    Raises:
        DataError: if a file cannot be had, or is not what it should be.
    """
    if encoded_dir is not None:
        path = encoded_dir / encoded_name(name)
        loaded = encoded(path, num_examples)
        if (found := loaded[0].name).lower() != name:
            raise DataError(
                f"{path} must hold the data set {name}, it holds {found}; a file is named after "
                "its set, as python -m hessspec_mtl.encode does."
            )
        return loaded
    match name:
        case "molecules":
            from hessspec_mtl.datasets.computed import load_molecules

            whole = load_molecules(progress=progress)
        case "crystals":
            from hessspec_mtl.datasets.computed import load_crystals

            whole = load_crystals(progress=progress)
        case "qm8":
            from hessspec_mtl.datasets.qm8 import load_qm8

            whole = load_qm8(data_dir, progress=progress)
        case "mp":
            from hessspec_mtl.datasets.materials_project import load_materials_project

            # Making graphs takes 0.1 s a crystal: only those of the subset are made.
            load = partial(load_materials_project, data_dir, api_key=api_key, progress=progress)
            whole = load(graphs=False)
            few = num_examples is not None and num_examples < len(whole)
            part = load(num_examples=num_examples if few else None, seed=DATA_SEED)
            return without_failures(whole, part), part
    return whole, subset(whole, num_examples)


def encoded_name(name: str) -> str:
    """What the encoded file of a set is called."""
    return f"{name}.npz"


def encoded(path: Path, num_examples: int | None) -> Loaded:
    """The data set in an encoded file."""
    whole = read_encoded(path)
    return whole, subset(whole, num_examples)


def own(
    files: MoleculeTable | CrystalFolder,
    num_examples: int | None,
    *,
    encoded_dir: Path | None = None,
) -> Loaded:
    """One's own data: from their encoded file in `encoded_dir`, if that is given.

    Raises:
        DataError: if that file is not what it should be, or holds other targets.
    """
    if encoded_dir is not None:
        path = encoded_dir / encoded_name(files.set_name)
        loaded = encoded(path, num_examples)
        asked = files.targets if isinstance(files, MoleculeTable) else files.columns
        found = tuple(task.name for task in loaded[0].tasks)
        if asked is not None and tuple(asked) != found:
            raise DataError(
                f"{path} holds the targets {', '.join(found)}, not {', '.join(asked)}; encode the "
                "data set again with these (python -m hessspec_mtl.encode), or name those."
            )
        return loaded
    whole = files.read()
    return whole, subset(whole, num_examples)


def without_failures(whole: MultitaskDataset, part: MultitaskDataset) -> MultitaskDataset:
    """`whole`, loaded without graphs, less the crystals that turned out to have none in `part`."""
    failed = {record.id for record in set(part.left_out) - set(whole.left_out)}
    kept = np.array([i for i, name in enumerate(whole.ids) if name not in failed], np.int64)
    return replace(whole.take(kept), left_out=part.left_out)


def subset(whole: MultitaskDataset, num_examples: int | None) -> MultitaskDataset:
    """`num_examples` of `whole`, the same whenever it is asked; all if there are no more."""
    if num_examples is None or num_examples >= len(whole):
        return whole
    return whole.subset(num_examples, DATA_SEED)
