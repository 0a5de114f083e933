"""A folder of CIF files and the table that names them: which line means which file."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hessspec_mtl.datasets.csv_table import Table, is_missing
from hessspec_mtl.datasets.sources import DataError

logger = logging.getLogger(__name__)

CIF = ".cif"


@dataclass(frozen=True)
class CifFiles:
    """The CIF files of a folder by name without ending, in order of their names."""

    folder: Path
    paths: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> "CifFiles":
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == CIF)
        if not paths:
            raise DataError(
                f"{folder} holds no files whose name ends in .cif or .CIF; check `directory` "
                "(FOLDER)."
            )
        named: dict[str, Path] = {}
        for path in paths:
            name = _composed(path.stem)
            if name in named:
                raise DataError(
                    f"{folder} holds both {named[name].name} and {path.name}, which a line of "
                    "targets cannot tell apart; rename or remove one."
                )
            named[name] = path
        return cls(folder, named)

    def exactly(self, field: str) -> str | None:
        """The name of the file that a field of the table spells, with or without its ending."""
        name = _composed(without_ending(field))
        return name if name in self.paths else None

    def by_number(self, field: str) -> str | None:
        """The name of the only file with the number of the field: 12 means 0012.cif."""
        number = _whole_number(without_ending(field))
        names = self._by_number.get(number, []) if number is not None else []
        return names[0] if len(names) == 1 else None

    @cached_property
    def _by_number(self) -> dict[int, list[str]]:
        names: dict[int, list[str]] = {}
        for name in self.paths:
            number = _whole_number(name)
            if number is not None:
                names.setdefault(number, []).append(name)
        return names

    def nearest(self, field: str) -> str:
        """What a line may have meant."""
        last = Path(field).name
        if last in self.paths:
            return f"; name the file without its folder: {last}"
        same = [other for other in self.paths if other.lower() == last.lower()]
        if same:
            return f", but {self.paths[same[0]].name}; spell the name as the file has it"
        if re.fullmatch(r"\d([.,]\d+)?E\+\d+", field, flags=re.IGNORECASE):
            return "; a spreadsheet has shortened the name, mark its column as text there"
        return ""


def _composed(name: str) -> str:
    """Letters with accents as one character each: some file systems take them apart."""
    return unicodedata.normalize("NFC", name)


def _whole_number(text: str) -> int | None:
    match = re.fullmatch(r"(\d+)(\.0*)?", text, flags=re.ASCII)
    return int(match[1]) if match else None


def with_header(table: Table, files: CifFiles) -> Table:
    """The table with a line of names, also where the file has none."""
    first, *others = table.header
    numbers = [field for field in others if table.number(field) is not None]
    if not numbers or len(numbers) + sum(map(is_missing, others)) < len(others):
        return table
    if files.exactly(first) is None and files.by_number(first) is None:
        raise DataError(
            f"the first line of {table.path} ({', '.join(table.header)}) may be a crystal, but "
            f"there is no file {first}.cif, or a line of names; in that case name the columns to "
            "predict in `targets` (--columns)."
        )
    if len(others) == 1:
        names = ["target"]
    else:
        names = [f"target_{number}" for number in range(1, len(others) + 1)]
    logger.warning(
        "%s has no line of column names: its first line is taken for a crystal, and its targets "
        "are called %s",
        table.path, ", ".join(names),
    )  # fmt: skip
    return table.without_header(["id", *names])


def column_of_names(table: Table, files: CifFiles) -> str:
    """The column that names files: the first one if it does, or the only one that does."""
    for names_file in (files.exactly, files.by_number):
        counts: Counter[str] = Counter()
        for _, fields in table.rows:
            if len(fields) == len(table.header):
                named = [c for c, f in zip(table.header, fields, strict=True) if names_file(f)]
                counts.update(dict.fromkeys(named, 1))
        if counts[table.header[0]]:
            return table.header[0]
        if len(counts) == 1:
            (column,) = counts
            logger.warning("the files are named in column %r of %s", column, table.path)
            return column
        if counts:
            raise DataError(
                f"the columns {list(counts)} of {table.path} name files of {files.folder}, but not "
                "the first one does; say which in `id_column` (--id-column)."
            )
    line, fields = table.rows[0]
    raise DataError(
        f"no line of {table.path} names a file of {files.folder}: line {line} has {fields[0]!r} in "
        f"its first column, the first file is {next(iter(files.paths.values())).name}; correct the "
        "names, or say which column holds them in `id_column` (--id-column)."
    )


def without_ending(field: str) -> str:
    return field[: -len(CIF)] if field.lower().endswith(CIF) else field
