"""The form in which computed data are shipped: gzipped JSON lines, metadata first."""

import gzip
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hessspec_mtl.files.whole import write_whole

from .worklog import Record

LICENCE = "MIT, as the code of hessspec"


def write_release(path: Path, metadata: Mapping[str, Any], entries: Sequence[Record]) -> Path:
    """Write the file; equal content gives equal bytes (no time, no file name in the gzip header).

    Raises:
        ValueError: if a number is not finite.
    """
    lines = [json.dumps(each, allow_nan=False, ensure_ascii=False) for each in (metadata, *entries)]
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(("\n".join(lines) + "\n").encode("utf-8"))
    return write_whole(path, buffer.getvalue())


def accounting(
    enumerated: int, tried: int, left_out: Sequence[tuple[str, str]], kept: int
) -> dict[str, Any]:
    """How many structures there were, and what became of those that were tried."""
    if tried != kept + len(left_out):
        raise AssertionError(f"{tried} tried, but {kept} kept and {len(left_out)} left out")
    return {
        "enumerated": enumerated,
        "tried": tried,
        "left_out": dict(sorted(Counter(reason for _, reason in left_out).items())),
        "kept": kept,
    }
