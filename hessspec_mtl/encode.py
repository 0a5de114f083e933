"""Encoded data sets: `python -m hessspec_mtl.encode --sets qm8 mp --to FOLDER`.

A machine that trains, a node of a cluster say, reads them with `--encoded-dir FOLDER` of
`hessspec_mtl.reproduce`. It needs neither the source files nor the chemistry packages, and gets the
same graphs, targets and splits to the last bit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.encoded import write_encoded
from hessspec_mtl.study.loading import CrystalFolder, MoleculeTable, encoded_name, named
from hessspec_mtl.study.options import command_line, ended
from hessspec_mtl.study.presets import DatasetName


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to.

    Attributes:
        to: folder for the files; one a set, named after it.
        progress: progress bars; by default shown in a terminal only.
    """

    to: Path
    progress: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Encode(Target):
    """Write data sets as compact files that are read without chemistry packages.

    A set of your own: `molecules FILE.csv ...` or `crystals FOLDER ...` in place of `--sets`.

    Attributes:
        sets: which data sets.
        data_dir: folder with the data files; by default the variable HESSSPEC_DATA, then a cache
            that is filled by download.
        api_key: query the Materials Project with this key instead of reading a file.
    """

    sets: tuple[DatasetName, ...] = ("qm8", "mp")
    data_dir: Path | None = None
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncodeMolecules(Target, MoleculeTable):
    """Write molecules of your own, a CSV file with SMILES and target columns, as a compact file."""


@dataclass(frozen=True, kw_only=True)
class EncodeCrystals(Target, CrystalFolder):
    """Write crystals of your own, a folder of CIF files and a CSV file, as a compact file."""


_OWN = {"molecules": EncodeMolecules, "crystals": EncodeCrystals}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (0: done, 1: stopped with a message)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = _OWN.get(arguments[0]) if arguments else None
    kind = own or Encode
    program = "python -m hessspec_mtl.encode" + (f" {arguments[0]}" if own else "")
    options = command_line(kind, arguments[1:] if own else arguments, program)

    def work() -> None:
        for name, read in _sets(options):
            _encode(options.to / encoded_name(name), name, read)

    return ended(work, "What is written is whole.")


def _sets(
    options: Encode | EncodeMolecules | EncodeCrystals,
) -> Iterator[tuple[str, Callable[[], MultitaskDataset]]]:
    """Name and reader of each data set."""
    if not isinstance(options, Encode):
        yield options.set_name, options.read
        return
    given = {"data_dir": options.data_dir, "api_key": options.api_key}
    for name in options.sets:
        # Of the whole, the second is the part that has graphs in any case.
        yield name, lambda n=name: named(n, None, progress=options.progress, **given)[1]


def _encode(path: Path, name: str, read: Callable[[], MultitaskDataset]) -> None:
    start = time.perf_counter()
    print(f"Reading {name}", flush=True)
    dataset = read()
    size = write_encoded(dataset, path).stat().st_size
    seconds = time.perf_counter() - start
    print(f"{path}: {len(dataset):,} examples, {size / 1e6:.1f} MB, made in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
