"""How long finished work took, kept beside it, so that it outlives the process that did it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hessspec_mtl.files.whole import write_whole

_FILE = "seconds.json"


@contextmanager
def timed(folder: str | os.PathLike[str], unit: str) -> Iterator[None]:
    """Record in `folder` the wall-clock seconds that the enclosed work on `unit` takes.

    Enclose the work and save its result afterwards: a process that is killed between the two does
    the unit again, and its time then counts once. Work that fails is not recorded.
    """
    start = time.perf_counter()
    yield
    note_seconds(folder, unit, time.perf_counter() - start)


def note_seconds(folder: str | os.PathLike[str], unit: str, seconds: float) -> None:
    """Record in `folder` that the work on `unit` took so long, wherever it was done."""
    known = {**unit_seconds(folder), unit: seconds}
    write_whole(Path(folder) / _FILE, json.dumps(known, indent=2) + "\n")


def unit_seconds(folder: str | os.PathLike[str]) -> dict[str, float]:
    """Seconds of each unit of work that `folder` knows of; a damaged file knows of none."""
    try:
        content = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
        return {str(unit): float(value) for unit, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
