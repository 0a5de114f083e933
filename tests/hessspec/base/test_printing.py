"""Numbers and records as they are printed: errors set the digits, and printing never fails."""

from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

from hessspec._base.printing import Facts, Printed, interval, number, shortened, with_error

pytestmark = pytest.mark.any_dtype


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.3456, 0.0521, "12.346 ± 0.052"),
        (12.3456, 3.0, "12.3 ± 3.0"),
        (1234567.8, 4321.0, "1,234,600 ± 4,300"),
        (-0.5, 12.0, "0 ± 12"),
        (1.0e-9, 2.0e-11, "(1.000 ± 0.020)e-09"),
        (3.2e12, 1.0e10, "(3.200 ± 0.010)e+12"),
        (2.0, 0.0, "2 ± 0"),
        (0.123456789, 1e-17, "0.12345679 ± 1.0e-17"),
        (5.0, np.inf, "5 ± inf"),
        (np.nan, 1.0, "nan ± 1"),
    ],
)
def test_the_error_sets_the_digits_of_the_value(value, error, text):
    assert with_error(value, error).replace("-0 ", "0 ") == text


def test_a_format_is_applied_to_value_and_error():
    assert with_error(12.3456, 0.0521, ".1f") == "12.3 ± 0.1"
    assert with_error(12.3456, 0.0521, ".2e") == "1.23e+01 ± 5.21e-02"


def test_ends_of_an_interval_can_be_told_apart():
    assert interval(0.5, 2.0) == "[0.5, 2]"
    assert interval(1.00001, 1.00003) == "[1.00001, 1.00003]"
    assert interval(-np.inf, np.inf) == "[-inf, inf]"


def test_large_numbers_have_thousands_apart():
    assert [number(n) for n in (1510, 1915392.4, 0.00012345, 1e30)] == [
        "1,510",
        "1,915,392",
        "0.0001234",
        "1e+30",
    ]


def test_a_long_table_keeps_its_ends():
    rows = [(str(i), "") for i in range(100)]
    shown = shortened(rows, 6)
    assert [name for name, _ in shown] == ["0", "1", "2", "3", "...", "99"]
    assert shown[-2][1] == "95 more"
    assert shortened(rows[:6], 6) == rows[:6]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Sized(Printed):
    numbers: object
    name: str = field(default="n", metadata={"static": True})

    def _facts(self):
        return Facts("Sized", [("largest", number(np.max(self.numbers)))])


def test_a_record_prints_what_it_holds_and_html_escapes_it():
    record = Sized(np.array([1.0, 2.0]))
    assert repr(record) == "Sized\n  largest  2"
    assert "<td style='text-align:left'>2</td>" in record._repr_html_()


@pytest.mark.parametrize("numbers", [object(), None, np.zeros(0), {"a": object()}])
def test_a_record_without_readable_numbers_prints_its_shapes(numbers):
    assert repr(Sized(numbers)).startswith("Sized(numbers=")
    assert "Sized(numbers=" in Sized(numbers)._repr_html_()


def test_a_record_of_tracers_prints_their_shapes():
    said = []

    @jax.jit
    def program(record):
        said.append(repr(record) + record._repr_html_())
        return record.numbers

    program(Sized(np.zeros((3, 2), np.float32)))
    assert "numbers=float32[3, 2] traced" in said[0]
    jax.vmap(program)(Sized(np.zeros((3, 2), np.float32)))
    assert "numbers=float32[2] traced" in said[1]
