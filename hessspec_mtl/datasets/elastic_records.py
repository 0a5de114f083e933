"""Crystals with elastic properties, read from the files that hold them.

A damaged file stops with an error that names file and line; a record that is whole but of no use
(a missing modulus, a disordered structure) is handed back with the reason.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessspec_mtl.datasets.base import LeftOut
from hessspec_mtl.datasets.sources import DataError
from hessspec_mtl.featurize.crystals import Crystal, crystal_from_cell, crystal_of

_FRESH_COPY = "the file is truncated or altered; replace it by a fresh copy."

_MATBENCH_COLUMNS = ("log10(G_VRH)", "log10(K_VRH)")


@dataclass(frozen=True, eq=False)
class ElasticRecord:
    """One crystal with its Voigt-Reuss-Hill moduli in GPa and its Poisson ratio."""

    id: str
    crystal: Crystal
    bulk_modulus: float
    shear_modulus: float
    poisson_ratio: float


Records = tuple[list[ElasticRecord], list[LeftOut]]
"""What a file holds: records of use, and the others with the reason."""


def read_elastic_records(path: Path, snapshot: str | None = None) -> Records:
    """Records of a file, compressed by gzip, with one JSON object a line.

    Each object holds `material_id`, `K_VRH`, `G_VRH` (GPa), `poisson_ratio` and either `cell`,
    `species` and `frac`, or `structure` (a pymatgen dictionary). A Poisson ratio that is null is
    computed from the moduli.

    Args:
        path: the file.
        snapshot: leave out records whose field `snapshot` is another.

    Raises:
        DataError: if the file is damaged, naming the line.
    """
    rows: list[ElasticRecord | LeftOut] = []
    for line, row in _json_lines(path):
        name = str(row.get("material_id") or f"line {line} of {path.name}")
        if snapshot is not None and row.get("snapshot") != snapshot:
            reason = f"not in the database of {snapshot}"
            rows.append(LeftOut(name, reason, f"snapshot {row.get('snapshot')}"))
        else:
            rows.append(_elastic_record(name, lambda row=row: _crystal_of_row(row), row))
    return _sorted_out(rows)


def read_matbench(shear: Path, bulk: Path) -> Records:
    """Records of matbench's two tables, of log10 G_VRH and of log10 K_VRH, joined row by row.

    The Poisson ratio is computed from the moduli. Records are named by their row, which is all
    the name that matbench gives them.

    Raises:
        DataError: if a file is damaged, or the two do not hold the same crystals in one order.
    """
    tables = [
        _matbench_rows(path, column)
        for path, column in zip((shear, bulk), _MATBENCH_COLUMNS, strict=True)
    ]
    if len(tables[0]) != len(tables[1]):
        raise DataError(
            f"{shear} has {len(tables[0]):,} rows and {bulk} has {len(tables[1]):,}; they must "
            f"hold the same crystals: {_FRESH_COPY}"
        )
    rows: list[ElasticRecord | LeftOut] = []
    for number, ((structure, log_g), (other, log_k)) in enumerate(zip(*tables, strict=True), 1):
        name = f"matbench-{number:05d}"
        if structure != other:
            raise DataError(
                f"row {number} of {shear} and of {bulk} hold different structures; the two files "
                "must be of one version of matbench."
            )
        moduli = {"G_VRH": _power_of_ten(log_g), "K_VRH": _power_of_ten(log_k)}
        rows.append(_elastic_record(name, lambda s=structure: crystal_of(s), moduli))
    return _sorted_out(rows)


def poisson_ratio_of(bulk_modulus: float, shear_modulus: float) -> float:
    """(3K - 2G) / (6K + 2G), the Poisson ratio of an isotropic solid; no unit."""
    return (3 * bulk_modulus - 2 * shear_modulus) / (6 * bulk_modulus + 2 * shear_modulus)


def _elastic_record(
    name: str, crystal: Callable[[], Crystal], row: dict[str, Any]
) -> ElasticRecord | LeftOut:
    """The record, or why it is of no use."""
    try:
        moduli = [_number(row, "K_VRH"), _number(row, "G_VRH")]
        if row.get("poisson_ratio") is not None:
            poisson_ratio = _number(row, "poisson_ratio")
        elif 6 * moduli[0] + 2 * moduli[1] != 0:
            poisson_ratio = poisson_ratio_of(*moduli)
        else:
            return LeftOut(name, "missing target", "no Poisson ratio, and none follows from K, G")
    except LookupError as error:
        return LeftOut(name, "missing target", str(error.args[0]))
    except ValueError as error:
        return LeftOut(name, "non-numeric target", str(error))
    # Whatever pymatgen finds wrong with a structure, it is this record's fault.
    try:
        return ElasticRecord(name, crystal(), moduli[0], moduli[1], poisson_ratio)
    except Exception as error:
        return LeftOut(name, "unreadable structure", f"{type(error).__name__}: {error}")


def _number(row: dict[str, Any], field: str) -> float:
    value = row.get(field)
    if value is None:
        raise LookupError(f"{field} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field} is {value!r}, expected a number")
    return float(value)


def _power_of_ten(exponent: object) -> object:
    """10 to that power; anything but a number is handed on, to be reported as such."""
    return 10.0**exponent if isinstance(exponent, int | float) else exponent


def _crystal_of_row(row: dict[str, Any]) -> Crystal:
    if "structure" in row:
        return crystal_of(row["structure"])
    a, b, c, alpha, beta, gamma = (float(number) for number in row["cell"])
    fractional = [[float(number) for number in site] for site in row["frac"]]
    return crystal_from_cell((a, b, c, alpha, beta, gamma), row["species"], fractional)


def _sorted_out(rows: list[ElasticRecord | LeftOut]) -> Records:
    """Records of use apart from the others; of equal ids the first one counts."""
    records: dict[str, ElasticRecord] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        if isinstance(row, LeftOut):
            left_out.append(row)
        elif row.id in records:
            left_out.append(LeftOut(row.id, "duplicate id", "the first record of this id is kept"))
        else:
            records[row.id] = row
    return list(records.values()), left_out


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects."""
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line, text in enumerate(stream, 1):
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                yield line, row
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}, after line {line - 1}: {error}; {_FRESH_COPY}") from error


def _matbench_rows(path: Path, column: str) -> list[tuple[dict[str, Any], object]]:
    """Structure and value of each row of a table that pandas wrote with orient="split"."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            table = json.load(stream)
        columns, data = table["columns"], table["data"]
        places = columns.index("structure"), columns.index(column)
        return [(row[places[0]], row[places[1]]) for row in data]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is not a matbench table with the columns 'structure' and {column!r} "
            f"({type(error).__name__}: {error}); {_FRESH_COPY}"
        ) from error
