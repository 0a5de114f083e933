"""A table as a person writes it, read as it was meant; what is wrong is named by file and line.

Read are fields separated by commas, semicolons or tabs, with quotes where a field needs them, in
UTF-8 (with or without a byte-order mark) or in the UTF-16 of spreadsheets, packed by gzip or not.
Only the columns that are asked for must be there, and be of use.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hessspec._base.arguments import did_you_mean
from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.datasets.sources import DataError

_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

_SEPARATORS = (",", ";", "\t")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")

# What people and programs write where there is no number.
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "#n/a", "<na>"})

_MINUS = "\N{MINUS SIGN}"
"""What word processors make of a hyphen before a number."""


class UnusableError(Exception):
    """A row that is of no use."""

    def __init__(self, left_out: LeftOut) -> None:
        super().__init__(left_out.detail)
        self.left_out = left_out


@dataclass(frozen=True)
class Table:
    """The column names, and the fields of each row with the line that it ends on.

    Attributes:
        path: the file.
        header: the column names, in order; those that nobody asks for may repeat or be empty.
        rows: line number and fields of every row that is not blank.
        separator: what stands between fields; only where it is no comma may a number have one.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    separator: str = ","

    @classmethod
    def read(cls, path: Path, columns: Sequence[str]) -> "Table":
        """The file, which must have `columns` and rows below the line that names them."""
        table = cls.read_lines(path)
        table.check_columns(columns)
        return table.check_rows()

    @classmethod
    def read_lines(cls, path: Path) -> "Table":
        """The file, its first line taken for the column names."""
        text = _text_of(path)
        try:
            separator = _separator_of(text)
            lines = _numbered_lines(text, separator)
            _, header = next(lines, (0, ()))
            rows = tuple(lines)
        except csv.Error as error:
            raise DataError(
                f'{path} cannot be read as CSV ({error}); look for a quote (") that is opened and '
                "not closed."
            ) from error
        if not header:
            raise DataError(f"{path} is empty; its first line must name the columns.")
        return cls(path, header, rows, separator)

    def without_header(self, header: Sequence[str]) -> "Table":
        """The same file, with the first line as a row of it and the columns called `header`."""
        return replace(self, header=tuple(header), rows=((1, self.header), *self.rows))

    def check_rows(self) -> "Table":
        """This table; raise if there is nothing in it."""
        if not self.rows:
            raise DataError(
                f"{self.path} has no rows below its first line, which names the columns."
            )
        return self

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise unless every one of `columns` is there, and means one thing."""
        missing = [column for column in columns if column not in self.header]
        if missing:
            raise DataError(
                f"{self.path} has no column {missing}{did_you_mean(missing[0], self.header)}, its "
                f"first line names {list(self.header)}{self._looks_like_data()}; give the columns "
                "as they are spelled there (--smiles, --targets for molecules, --columns, "
                "--id-column for crystals)."
            )
        for column in columns:
            if self.header.count(column) > 1:
                self._check_copies(column)

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
            filled = [(line, row[place]) for line, row in rows if not is_missing(row[place])]
            if rows and all(self.number(field) is None for _, field in filled):
                holds = f"text ({filled[0][1]!r} in line {filled[0][0]})" if filled else "nothing"
                raise DataError(
                    f"column {column!r} of {self.path} holds {holds} where numbers are needed; "
                    f"name the columns to predict in {option}, without this one."
                )

    def by_column(self, line: int, fields: Sequence[str]) -> dict[str, str]:
        """The fields of a row by column name; a row with too many or too few is of no use."""
        if len(fields) == len(self.header):
            # Of columns with one name the first counts; `check_columns` has seen that it may.
            return dict(zip(reversed(self.header), reversed(fields), strict=True))
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
            problem += f"; an empty field needs its {_NAMES[self.separator][:-1]} too"
        else:
            reason = "too many fields"
            problem += (
                "; write numbers with a decimal point (1.5), not a decimal comma (1,5), and put "
                f"quotes around a text with a {_NAMES[self.separator][:-1]}"
            )
        raise UnusableError(LeftOut(f"line-{line}", reason, problem))

    def unusable(self, line: int, column: str, reason: str, problem: str) -> UnusableError:
        """The row, named by file, line and column, with what is wrong."""
        where = f"{self.path}, line {line}, column {column!r}"
        return UnusableError(LeftOut(f"line-{line}", reason, f"{where}: {problem}"))

    def number(self, field: str) -> float | None:
        """The number that `field` is, or None if it is none that can be learnt.

        A decimal comma (1,5) is read where commas do not separate the fields.
        """
        if "_" in field:  # Python reads 1_000 as a number, and nobody else does
            return None
        field = field.replace(_MINUS, "-")
        if self.separator != "," and _DECIMAL_COMMA.fullmatch(field):
            field = field.replace(",", ".")
        try:
            number = float(field)
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def _looks_like_data(self) -> str:
        """A hint, if the first line seems to be a row and no line of names."""
        if any(self.number(field) is not None for field in self.header):
            return ", which looks like a row: put a line of names above it"
        return ""

    def _check_copies(self, column: str) -> None:
        """Raise unless all columns of this name hold the same in every row."""
        places = [place for place, name in enumerate(self.header) if name == column]
        for line, row in self.rows:
            held = [row[place] for place in places if place < len(row)]
            if len(set(held)) > 1:
                raise DataError(
                    f"{self.path} names the column {column!r} more than once in its first line, "
                    f"with different fields (line {line}: {', '.join(map(repr, held))}); give "
                    "each its own name."
                )


def table_name(path: Path) -> str:
    """The file's name without its endings: `my` of `my.csv` and of `my.csv.gz`."""
    return Path(path.name.removesuffix(".gz")).stem


def is_missing(field: str) -> bool:
    """Whether a field says that there is no number: empty, NA, n/a, nan, null, none, - or ?."""
    return field.lower() in _MISSING


def filled_field(table: Table, line: int, row: dict[str, str], column: str) -> str:
    """The field in `column`; a row where it is empty is of no use."""
    if not row[column]:
        raise table.unusable(line, column, "missing structure", "the field is empty")
    return row[column]


def target_numbers(
    table: Table, line: int, row: dict[str, str], columns: Sequence[str]
) -> list[float]:
    """The numbers in `columns`, NaN where the row lacks one; a row without any is of no use."""
    numbers = []
    for column in columns:
        number = math.nan if is_missing(row[column]) else table.number(row[column])
        if number is None:
            problem = f"{row[column]!r} is not a finite number"
            raise table.unusable(line, column, "non-numeric target", problem)
        numbers.append(number)
    if all(map(math.isnan, numbers)):
        held = f"holds {row[columns[0]]!r}" if row[columns[0]] else "is empty"
        others = f", and there is no number in {list(columns[1:])}" if len(columns) > 1 else ""
        raise table.unusable(line, columns[0], "missing target", f"the field {held}{others}")
    return numbers


def _text_of(path: Path) -> str:
    """All of the file, unpacked and decoded, its line ends as they are."""
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}; check the path to the CSV file.")
    content = path.read_bytes()
    try:
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be unpacked ({error}); it is cut short or altered."
        ) from error
    try:
        if content.startswith(_UTF_16):
            return content.decode("utf-16")
        # "utf-8-sig" also reads what spreadsheets write, with a byte-order mark in front.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as CSV in UTF-8 ({error}); save it again in that form "
            "(a spreadsheet calls it `CSV UTF-8`)."
        ) from error


def _separator_of(text: str) -> str:
    """What splits the first line that is not blank into most fields; commas if nothing does."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    # Of equals the first counts.
    return max(_SEPARATORS, key=lambda s: len(next(csv.reader([first], delimiter=s), [])))


def _numbered_lines(text: str, separator: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every row that holds anything, with the line that it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    for row in reader:
        fields = tuple(field.strip() for field in row)
        if any(fields):
            yield reader.line_num, fields
