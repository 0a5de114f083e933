"""Tables as people and their programs write them."""

import gzip
from pathlib import Path

import pytest

from hessspec_mtl.datasets.csv_table import Table, UnusableError, is_missing, target_numbers
from hessspec_mtl.datasets.sources import DataError

TEXT = 'name,"a, in eV",b\nx,1.5,2\n"y, z",-3,4e-1\n'


def table_of(folder: Path, content: str | bytes, name: str = "t.csv") -> Table:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table.read(path, [])


def numbers(table: Table, columns: list[str]) -> list[list[float]]:
    rows = [(line, table.by_column(line, fields)) for line, fields in table.rows]
    return [target_numbers(table, line, row, columns) for line, row in rows]


WRITTEN = {
    "as it stands": TEXT.encode(),
    "with a byte-order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "with line ends of Windows": TEXT.replace("\n", "\r\n").encode(),
    "with line ends of old Macs": TEXT.replace("\n", "\r").encode(),
    "in UTF-16": TEXT.encode("utf-16"),
    "packed": gzip.compress(TEXT.encode()),
    "with blanks before fields": TEXT.replace(",", ", ").replace('"a,  in', '"a, in').encode(),
    "with empty lines at both ends": b"\n" + TEXT.encode() + b",,\n\n  \n",
    "without a last line end": TEXT.rstrip().encode(),
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_one_table_is_read_however_it_is_written(tmp_path, content):
    table = table_of(tmp_path, content)
    assert table.header == ("name", "a, in eV", "b")
    assert numbers(table, ["a, in eV", "b"]) == [[1.5, 2.0], [-3.0, 0.4]]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_where_commas_do_not_separate_they_may_be_decimal(tmp_path, separator):
    text = "name;a;b\nx;1,5;2\ny;-,25;1,5E-3\nz;2.5;3\n".replace(";", separator)
    table = table_of(tmp_path, text)
    assert numbers(table, ["a", "b"]) == [[1.5, 2.0], [-0.25, 0.0015], [2.5, 3.0]]


@pytest.mark.parametrize("field", ["1.234,56", "1,234,567", "1,5 eV", "1_000", "inf", "nan1", "½"])
def test_what_is_no_number_for_certain_is_none(tmp_path, field):
    table = table_of(tmp_path, f"a;b\n{field};1\n")
    assert table.number(field) is None
    with pytest.raises(
        UnusableError, match=r"t\.csv, line 2, column 'a': .* is not a finite number"
    ):
        numbers(table, ["a"])


def test_a_minus_sign_of_a_word_processor_is_a_minus_sign(tmp_path):
    assert numbers(table_of(tmp_path, "a,b\n\N{MINUS SIGN}1.5,1\n"), ["a"]) == [[-1.5]]


@pytest.mark.parametrize("field", ["", "NA", "n/a", "NaN", "null", "None", "-", "?"])
def test_the_ways_of_saying_that_there_is_no_number(tmp_path, field):
    assert is_missing(field)
    table = table_of(tmp_path, f"a,b\n{field},1\n")
    with pytest.raises(UnusableError) as caught:
        numbers(table, ["a"])
    assert caught.value.left_out.reason == "missing target"


def test_of_columns_with_one_name_and_the_same_fields_either_is_taken(tmp_path):
    table = table_of(tmp_path, "a,b,a,,\n1,2,1,,\n3,4,3,,\n")
    table.check_columns(["a", "b"])
    assert numbers(table, ["a", "b"]) == [[1.0, 2.0], [3.0, 4.0]]
    differing = table_of(tmp_path, "a,b,a\n1,2,1\n3,4,5\n")
    differing.check_columns(["b"])
    with pytest.raises(DataError, match=r"'a' more than once .* \(line 3: '3', '5'\)"):
        differing.check_columns(["a"])


def test_a_first_line_can_be_made_a_row(tmp_path):
    table = table_of(tmp_path, "x,1\ny,2\n").without_header(["id", "target"])
    assert table.rows == ((1, ("x", "1")), (2, ("y", "2")))
    assert numbers(table, ["target"]) == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT.encode())[:-9], "cannot be unpacked .* cut short or altered"),
        (b"a,b\n\xe9,1\n", "cannot be read as CSV in UTF-8"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
    ],
    ids=["cut short", "Latin-1", "empty", "blank lines"],  # packed bytes hold the time
)
def test_what_is_no_table_says_why(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, content)


def test_a_row_with_a_field_too_many_or_too_few_names_the_separator(tmp_path):
    table = table_of(tmp_path, "a;b\n1\n1;2;3\n")
    with pytest.raises(
        UnusableError, match=r"line 2: 1 fields .* an empty field needs its semicolon"
    ):
        table.by_column(*table.rows[0])
    with pytest.raises(UnusableError, match=r"line 3: 3 fields .* around a text with a semicolon"):
        table.by_column(*table.rows[1])
