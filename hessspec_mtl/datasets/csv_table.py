"""A CSV file as a person writes it: what is wrong is named by file, line and column."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.datasets.sources import DataError


class UnusableError(Exception):
    """A row that is of no use."""

    def __init__(self, left_out: LeftOut) -> None:
        super().__init__(left_out.detail)
        self.left_out = left_out


@dataclass(frozen=True)
class Table:
    """A CSV file: the column names, and the fields of each row with the line that it ends on."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def read(cls, path: Path, columns: Sequence[str]) -> "Table":
        """The file, which must have `columns`."""
        if not path.is_file():
            raise DataError(f"there is no file {str(path)!r}; check the path to the CSV file.")
        try:
            # "utf-8-sig" also reads what spreadsheets write, with a byte-order mark in front.
            with path.open(newline="", encoding="utf-8-sig") as stream:
                lines = _numbered_lines(stream)
                _, header = next(lines, (0, []))
                rows = tuple((line, tuple(row)) for line, row in lines if row)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} cannot be read as CSV in UTF-8 ({error}); save it again in that form "
                "(a spreadsheet calls it `CSV UTF-8`)."
            ) from error
        except csv.Error as error:
            raise DataError(
                f'{path} cannot be read as CSV ({error}); look for a quote (") that is opened and '
                "not closed."
            ) from error
        if not header:
            raise DataError(f"{path} is empty; its first line must name the columns.")
        table = cls(path, tuple(header), rows)
        table.check_separator()
        table.check_columns(columns)
        if not rows:
            raise DataError(f"{path} has no rows below its first line, which names the columns.")
        return table

    def check_separator(self) -> None:
        """Raise if the fields are separated by something else than commas."""
        if len(self.header) == 1:
            for separator, name in ((";", "semicolons"), ("\t", "tabs")):
                if separator in self.header[0]:
                    raise DataError(
                        f"the fields of {self.path} are separated by {name}; save it again with "
                        "commas, and with a point (1.5), not a comma (1,5), in numbers."
                    )

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise unless every one of `columns` is there exactly once."""
        missing = [column for column in columns if column not in self.header]
        if missing:
            raise DataError(
                f"{self.path} has no column {missing}, its first line names {list(self.header)}; "
                "give the columns as they are spelled there (--smiles, --targets for molecules, "
                "--columns for crystals)."
            )
        repeated = [name for name in self.header if self.header.count(name) > 1]
        if repeated:
            raise DataError(
                f"{self.path} names the columns {sorted(set(repeated))} more than once in its "
                "first line; give each its own name."
            )

    def check_numbers(self, columns: Sequence[str], option: str) -> None:
        """Raise if one of `columns` holds no number at all: it was not meant as a target.

        Args:
            columns: are in the header.
            option: how the reader chooses other columns.
        """
        rows = [(line, row) for line, row in self.rows if len(row) == len(self.header)]
        for column in columns:
            place = self.header.index(column)
            # A column that is empty throughout says no more about itself than its name.
            filled = [(line, row[place]) for line, row in rows if row[place]]
            if rows and all(_finite(field) is None for _, field in filled):
                holds = f"text ({filled[0][1]!r} in line {filled[0][0]})" if filled else "nothing"
                raise DataError(
                    f"column {column!r} of {self.path} holds {holds} where numbers are needed; "
                    f"name the columns to predict in {option}, without this one."
                )

    def by_column(self, line: int, fields: Sequence[str]) -> dict[str, str]:
        """The fields of a row by column name; a row with too many or too few is of no use."""
        if len(fields) == len(self.header):
            return dict(zip(self.header, fields, strict=True))
        # Nothing tells which of the fields is the one too many or the one that lacks.
        problem = (
            f"{self.path}, line {line}: {len(fields)} fields where the first line names "
            f"{len(self.header)} columns"
        )
        if any("\n" in field for field in fields):
            reason = "field over several lines"
            problem += ', one of them over several lines; is a quote (") opened and not closed?'
        elif len(fields) < len(self.header):
            reason = "too few fields"
            problem += "; an empty field needs its comma too"
        else:
            reason = "too many fields"
            problem += (
                "; write numbers with a decimal point (1.5), not a decimal comma (1,5), and put "
                "quotes around a text with a comma"
            )
        raise UnusableError(LeftOut(f"line-{line}", reason, problem))

    def unusable(self, line: int, column: str, reason: str, problem: str) -> UnusableError:
        """The row, named by file, line and column, with what is wrong."""
        where = f"{self.path}, line {line}, column {column!r}"
        return UnusableError(LeftOut(f"line-{line}", reason, f"{where}: {problem}"))


def _numbered_lines(stream: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(stream)
    for row in reader:
        yield reader.line_num, [field.strip() for field in row]


def filled_field(table: Table, line: int, row: dict[str, str], column: str) -> str:
    """The field in `column`; a row where it is empty is of no use."""
    if not row[column]:
        raise table.unusable(line, column, "missing structure", "the field is empty")
    return row[column]


def target_numbers(
    table: Table, line: int, row: dict[str, str], columns: Sequence[str]
) -> list[float]:
    """The numbers in `columns`; a row that lacks one is of no use."""
    numbers = []
    for column in columns:
        if not row[column]:
            raise table.unusable(line, column, "missing target", "the field is empty")
        number = _finite(row[column])
        if number is None:
            problem = f"{row[column]!r} is not a finite number"
            raise table.unusable(line, column, "non-numeric target", problem)
        numbers.append(number)
    return numbers


def _finite(field: str) -> float | None:
    """The number that `field` is, or None if it is none that can be learnt."""
    if "_" in field:  # Python reads 1_000 as a number, and nobody else does
        return None
    try:
        number = float(field)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
