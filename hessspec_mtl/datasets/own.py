"""One's own molecules and crystals: a CSV file of SMILES, or a folder of CIF files with a CSV file.

A row that cannot be used is left out with a reason that names file, line and column, and is counted
in `MultitaskDataset.left_out`; `strict=True` makes it an error. What concerns the whole file, such
as a column that does not exist, is always an error.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hessspec._base.printing import counted
from hessspec._base.progress import progress_bar
from hessspec_mtl.datasets.base import (
    LeftOut,
    MultitaskDataset,
    Task,
    count_reasons,
    subset_indices,
)
from hessspec_mtl.datasets.cif_files import (
    CifFiles,
    column_of_names,
    with_header,
    without_ending,
)
from hessspec_mtl.datasets.csv_table import (
    Table,
    UnusableError,
    filled_field,
    table_name,
    target_numbers,
)
from hessspec_mtl.datasets.grouping import equal_crystals, indistinguishable_graphs
from hessspec_mtl.datasets.sources import OWN_LICENCE, DataError, Source, sha256_of
from hessspec_mtl.datasets.voronoi import with_voronoi_graphs
from hessspec_mtl.featurize.cif import read_cif
from hessspec_mtl.featurize.crystals import MAX_ATOMIC_NUMBER, Crystal
from hessspec_mtl.featurize.molecules import Molecule, molecule_of
from hessspec_mtl.featurize.raw_graph import FeaturisationError, RawGraph

logger = logging.getLogger(__name__)

# A training and a test side with two examples each, the least that can be standardised and judged.
_FEWEST_EXAMPLES = 4

# Beyond this many times the median size, one graph decides the cost of all.
_GIANT = 50

_SHOWN = 5
"""Problems quoted in full in an error or a warning."""


def load_own_molecules(
    path: str | os.PathLike[str],
    *,
    targets: Sequence[str],
    smiles: str = "smiles",
    units: Sequence[str] | None = None,
    add_hydrogens: bool = True,
    num_examples: int | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: bool | None = None,
) -> MultitaskDataset:
    """Molecules of a CSV file, one a row, with the columns `targets` as tasks.

    Node features are the elements that occur, in order of Z. Rows whose molecules are one to the
    network (stereoisomers, isotopes) are in one group, which no split separates. An example is
    named after its line in the file.

    Args:
        path: a table with column names in its first line (`csv_table`).
        targets: names of the columns to predict, which hold numbers.
        smiles: name of the column of SMILES strings; "smiles" in any case of its letters.
        units: of the targets, for axes and tables; none if not given.
        add_hydrogens: make nodes of the hydrogens that SMILES leaves implicit, as QM8 has them.
        num_examples: keep this many of the usable rows, chosen at random; None for all.
        seed: of that choice.
        strict: raise instead of leaving rows out.
        progress: whether to show a progress bar; None for "if standard error is a terminal".

    Raises:
        DataError: if the file or a column is missing, a column of `targets` holds no number, too
            few rows can be used, or `strict`.
    """
    _check_distinct(targets, "`targets` (--targets)")
    table = Table.read_lines(Path(path))
    smiles = _smiles_column(table, smiles)
    table.check_columns([smiles, *targets])
    table.check_rows().check_numbers(targets, "`targets` (--targets)")
    left_out: list[LeftOut] = []
    rows: list[tuple[str, str, Molecule, list[float]]] = []
    with progress_bar(len(table.rows), "molecules", enabled=progress, unit="molecule") as bar:
        for line, fields in table.rows:
            bar.update(1)
            try:
                row = table.by_column(line, fields)
                numbers = target_numbers(table, line, row, targets)
                text = filled_field(table, line, row, smiles)
                molecule = _molecule(table, line, smiles, text, add_hydrogens)
            except UnusableError as error:
                left_out.append(error.left_out)
                continue
            rows.append((f"line-{line}", text, molecule, numbers))
    _report(left_out, len(rows), table.path, strict)
    if num_examples is not None:
        rows = [rows[i] for i in subset_indices(len(rows), num_examples, seed)]
    ids, texts, molecules, numbers = zip(*rows, strict=True)
    _warn_of_giants(table.path, ids, [molecule.graph for molecule in molecules])
    return MultitaskDataset(
        name=table_name(table.path),
        domain="molecules",
        ids=ids,
        structures=texts,
        graphs=tuple(molecule.graph for molecule in molecules),
        targets=np.array(numbers, np.float64),
        tasks=_tasks(targets, units),
        groups=indistinguishable_graphs([molecule.graph for molecule in molecules]),
        elements=_elements(molecules),
        left_out=tuple(left_out),
        sources=(_own_source(table.path),),
    )


def load_own_crystals(
    directory: str | os.PathLike[str],
    targets_file: str | os.PathLike[str],
    *,
    targets: Sequence[str] | None = None,
    id_column: str | None = None,
    units: Sequence[str] | None = None,
    num_examples: int | None = None,
    seed: int = 0,
    strict: bool = False,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> MultitaskDataset:
    """Crystals of a folder of CIF files, with targets from a CSV file that names the files.

    The unit cells are taken as they stand in the files; cells of one crystal are in one group,
    which no split separates. Node features are Z = 1..112.

    Args:
        directory: folder with one structure in each `NAME.cif` (or `NAME.CIF`).
        targets_file: a table (`csv_table`) with one row for each NAME, and column names in its
            first line; without such a line (cgcnn's `id_prop.csv`) the columns are NAME and
            targets.
        targets: names of the columns to predict; None for every column except `id_column`. They
            must hold numbers: a column of text (a formula, say) is an error that names it, so
            that such a file needs `targets`.
        id_column: name of the column of NAMEs, with or without ".cif" and leading zeros; None for
            the first column, or the one column that does name files.
        units: of the targets, for axes and tables; none if not given.
        num_examples: keep this many of the usable rows, chosen at random; None for all.
        seed: of that choice.
        strict: raise instead of leaving rows and files out.
        num_workers: processes that make graphs; None for one a core.
        progress: whether to show progress bars; None for "if standard error is a terminal".

    Raises:
        DataError: if the folder, the file or a column is missing, a column of targets holds no
            number, too few rows can be used, or `strict`.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise DataError(
            f"`directory` (FOLDER) must be a folder with CIF files, got {str(folder)!r}."
        )
    files = CifFiles.of(folder)
    table = Table.read_lines(Path(targets_file))
    if targets is None and id_column is None:
        table = with_header(table, files)
    table.check_columns([*(targets or ()), *([id_column] if id_column else ())])
    name_column = column_of_names(table.check_rows(), files) if id_column is None else id_column
    others = [column for column in table.header if column not in (name_column, "")]
    tasks = others if targets is None else list(targets)
    if not tasks:
        raise DataError(f"{table.path} has no column of targets beside {name_column!r}.")
    table.check_columns(tasks)
    _check_distinct(tasks, "`targets` (--columns)")
    table.check_numbers(tasks, "`targets` (--columns)")
    rows, left_out = _crystals_with_targets(table, name_column, tasks, files, progress)
    _report(left_out, len(rows), table.path, strict)
    names = list(rows)
    if num_examples is not None:
        names = [names[i] for i in subset_indices(len(names), num_examples, seed)]
    dataset = with_voronoi_graphs(
        MultitaskDataset(
            name=folder.resolve().name,
            domain="crystals",
            ids=tuple(names),
            structures=tuple(rows[name][0] for name in names),
            graphs=(),
            targets=np.array([rows[name][1] for name in names], np.float64),
            tasks=_tasks(tasks, units),
            groups=equal_crystals([rows[name][0] for name in names]),
            elements=tuple(range(1, MAX_ATOMIC_NUMBER + 1)),
            left_out=tuple(left_out),
            sources=(_own_source(table.path),),
        ),
        num_workers=num_workers,
        progress=progress,
    )
    without = [
        replace(record, detail=f"{files.paths[record.id]}: {record.detail}")
        for record in dataset.left_out[len(left_out) :]
    ]
    dataset = replace(dataset, left_out=(*left_out, *without))
    _report(without, len(dataset), table.path, strict)
    _warn_of_giants(table.path, dataset.ids, dataset.graphs)
    return dataset


def _crystals_with_targets(
    table: Table,
    name_column: str,
    tasks: Sequence[str],
    files: CifFiles,
    progress: bool | None,
) -> tuple[dict[str, tuple[Crystal, list[float]]], list[LeftOut]]:
    """Crystal and targets of each usable row by name, and the rows and files of no use."""
    rows: dict[str, tuple[Crystal, list[float]]] = {}
    left_out: list[LeftOut] = []
    notes: list[str] = []
    named: dict[str, int] = {}
    with progress_bar(len(table.rows), "CIF files", enabled=progress, unit="crystal") as bar:
        for line, fields in table.rows:
            bar.update(1)
            try:
                row = table.by_column(line, fields)
                field = filled_field(table, line, row, name_column)
                name = files.exactly(field) or files.by_number(field)
                if name is None:
                    problem = f"there is no file {without_ending(field)}.cif in the folder"
                    problem += files.nearest(without_ending(field))
                    raise table.unusable(line, name_column, "no CIF file", problem)
                if name in named:
                    problem = f"{field!r} stands in an earlier line, {named[name]}"
                    raise table.unusable(line, name_column, "duplicate id", problem)
                named[name] = line
                if files.exactly(field) is None:
                    notes.append(f"line {line}: {field} was taken for {files.paths[name].name}")
                numbers = target_numbers(table, line, row, tasks)
                crystal, done = _crystal(files.paths[name], f"line {line} of {table.path}")
                notes += [f"{files.paths[name]}: {note}" for note in done]
                rows[name] = (crystal, numbers)
            except UnusableError as error:
                left_out.append(error.left_out)
    left_out += [
        LeftOut(name, "no targets", f"{path} is named in no line of {table.path}")
        for name, path in files.paths.items()
        if name not in named
    ]
    _tell(notes, f"of {table.path} and its crystals, read so:")
    return rows, left_out


def _tell(notes: Sequence[str], what: str) -> None:
    """Say what was put right on the way, the first few in full."""
    if notes:
        shown = "".join(f"\n  {note}" for note in notes[:_SHOWN])
        more = f"\n  and {len(notes) - _SHOWN} more" if len(notes) > _SHOWN else ""
        logger.warning("%s %s%s%s", counted(len(notes), "detail"), what, shown, more)


def _smiles_column(table: Table, smiles: str) -> str:
    """The column called `smiles`, or the only one whose name differs from it in case alone."""
    same = [name for name in table.header if name.lower() == smiles.lower()]
    return same[0] if smiles not in table.header and len(same) == 1 else smiles


def _molecule(table: Table, line: int, column: str, smiles: str, add_hydrogens: bool) -> Molecule:
    try:
        return molecule_of(smiles, add_hydrogens=add_hydrogens)
    except FeaturisationError as error:
        raise table.unusable(line, column, "no molecular graph", str(error)) from error


def _crystal(path: Path, named_in: str) -> tuple[Crystal, tuple[str, ...]]:
    """The crystal of a file, and what was put right in reading it."""
    # pymatgen raises errors of many kinds for a bad file.
    try:
        reading = read_cif(path)
    except Exception as error:
        # What pymatgen trips over deep inside says little without its kind.
        known = isinstance(error, ValueError | FeaturisationError)
        what = str(error).rstrip("!. ") if known else f"{type(error).__name__}: {error}"
        problem = f"{path} ({named_in}): {what}; correct the file or remove the line"
        raise UnusableError(LeftOut(path.stem, "unreadable structure", problem)) from error
    return reading.crystal, reading.notes


def _check_distinct(targets: Sequence[str], option: str) -> None:
    if not targets or len(set(targets)) < len(targets):
        raise DataError(
            f"{option} must name at least one column, and each once, got {list(targets)}."
        )


def _tasks(targets: Sequence[str], units: Sequence[str] | None) -> tuple[Task, ...]:
    if units is not None and len(units) != len(targets):
        raise ValueError(
            f"`units` (--units) must have one entry for each of {len(targets)} targets, "
            f"got {len(units)}."
        )
    return tuple(
        Task(name, name, unit)
        for name, unit in zip(targets, units or [""] * len(targets), strict=True)
    )


def _elements(molecules: Sequence[Molecule]) -> tuple[int, ...]:
    return tuple(sorted({int(z) for m in molecules for z in m.graph.atomic_numbers}))


def _own_source(path: Path) -> Source:
    return Source(
        name=path.name,
        file_name=path.name,
        url=None,
        sha256=sha256_of(path),
        licence=OWN_LICENCE,
        citation="",
    )


def _warn_of_giants(path: Path, ids: Sequence[str], graphs: Sequence[RawGraph]) -> None:
    """Say so if some graph is so large that all batches are mostly padding."""
    sizes = np.array([graph.num_nodes for graph in graphs])
    typical, largest = float(np.median(sizes)), int(sizes.argmax())
    if sizes[largest] > _GIANT * typical:
        logger.warning(
            "%s: %s has %d atoms where half of all have at most %g; batches are padded to hold it, "
            "which costs time and memory. Remove the row if it is not meant.",
            path, ids[largest], sizes[largest], typical,
        )  # fmt: skip


def _report(left_out: Sequence[LeftOut], num_usable: int, path: Path, strict: bool) -> None:
    """Say what was left out; raise if nothing may be, or too little remains."""
    counts = ", ".join(f"{reason}: {count}" for reason, count in count_reasons(left_out).items())
    examples = "".join(f"\n  {record.detail}" for record in left_out[:_SHOWN])
    if len(left_out) > _SHOWN:
        examples += f"\n  and {len(left_out) - _SHOWN} more"
    if num_usable < _FEWEST_EXAMPLES:
        raise DataError(
            f"{path} leaves {counted(num_usable, 'usable example')}, at least {_FEWEST_EXAMPLES} "
            f"are needed ({counts or 'nothing was left out'}).{examples}"
        )
    if left_out and strict:
        raise DataError(
            f"{counted(len(left_out), 'record')} cannot be used ({counts}); correct what is wrong, "
            f"or pass `strict=False` to leave such records out.{examples}"
        )
    if left_out:
        found = counted(len(left_out), "record")
        logger.warning("left out: %s (%s).%s", found, counts, examples)
