"""Encoded data sets: `python -m hessspec_mtl.encode --sets qm8 mp --to FOLDER`.

A machine that trains, a node of a cluster say, reads them with `--encoded-dir FOLDER` of
`hessspec_mtl.reproduce`. It needs neither the source files nor the chemistry packages, and gets the
same graphs, targets and splits to the last bit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from hessspec_mtl.datasets.encoded import write_encoded
from hessspec_mtl.study.loading import encoded_name, named
from hessspec_mtl.study.options import with_values
from hessspec_mtl.study.presets import DatasetName


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Write data sets as compact files that are read without chemistry packages.

    Attributes:
        to: folder for the files; one a set, named after it.
        sets: which data sets.
        data_dir: folder with the data files; by default the variable HESSSPEC_DATA, then a cache
            that is filled by download.
        api_key: query the Materials Project with this key instead of reading a file.
        progress: progress bars; by default shown in a terminal only.
    """

    to: Path
    sets: tuple[DatasetName, ...] = ("qm8", "mp")
    data_dir: Path | None = None
    api_key: str | None = None
    progress: bool | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (0: done, 1: stopped with a message)."""
    options = tyro.cli(
        Encode,
        args=with_values(sys.argv[1:] if argv is None else argv),
        prog="python -m hessspec_mtl.encode",
        description=(Encode.__doc__ or "").split("Attributes:")[0],
    )
    try:
        for name in options.sets:
            encode(options, name)
    except KeyboardInterrupt:
        print("\nStopped. What is written is whole.", file=sys.stderr)
        return 130
    except Exception as error:  # told in one line, as `hessspec_mtl.reproduce` does
        print(f"\nStopped: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def encode(options: Encode, name: DatasetName) -> Path:
    """Read the set `name` and write its file; returns its path."""
    start = time.perf_counter()
    print(f"Reading {name}", flush=True)
    whole, part = named(
        name, None, data_dir=options.data_dir, api_key=options.api_key, progress=options.progress
    )
    # Read without graphs, the whole may have none; all of it is the part that was asked for.
    path = write_encoded(part if part.graphs else whole, options.to / encoded_name(name))
    size, seconds = path.stat().st_size, time.perf_counter() - start
    print(f"{path}: {len(part):,} examples, {size / 1e6:.1f} MB, made in {seconds:.0f} s")
    return path


if __name__ == "__main__":
    sys.exit(main())
