"""Results on disk: arrays and plain metadata in one `.npz` file, written whole, never unpickled."""

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = 1
_HEADER = "hessspec.json"


def record_parts(
    record: Any, leave_out: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The fields of a dataclass as `save_record` takes them: arrays, and the static ones as meta.

    What is None or left out is not among the arrays.
    """
    arrays, meta = {}, {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if entry.metadata.get("static"):
            meta[entry.name] = value
        elif value is not None and entry.name not in leave_out:
            arrays[entry.name] = np.asarray(value)
    return arrays, meta


def save_record(
    path: str | os.PathLike[str],
    kind: str,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write `arrays` and JSON-able `meta` to `path`; returns the path written.

    The file appears whole or not at all: it is written under a temporary name in the same
    folder and then renamed.

    Args:
        path: file to write, in a folder that exists.
        kind: what the record is, e.g. "SpectralDensity"; checked again on loading.
        arrays: named arrays of numbers or booleans (objects are refused).
        meta: anything JSON can hold.

    Raises:
        TypeError: if an array holds Python objects, which only pickle could store.
        FileNotFoundError: if the folder of `path` does not exist.
        IsADirectoryError: if `path` is a folder.
        PermissionError: if nothing may be written there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`path` must lie in a folder that exists, got {path}; make it first with "
            f"`Path({str(path.parent)!r}).mkdir(parents=True)`."
        )
    if path.is_dir():
        raise IsADirectoryError(f"`path` must name a file, got the folder {path}")
    stored = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in stored.items():
        if array.dtype.hasobject:
            raise TypeError(f"`{name}` must be an array of numbers to be saved, got {array.dtype}")
    header = json.dumps({"version": FORMAT_VERSION, "kind": kind, "meta": dict(meta or {})})
    stored[_HEADER] = np.frombuffer(header.encode(), dtype=np.uint8)
    hidden = {"dir": path.parent, "prefix": f".{path.name}.", "suffix": ".part"}
    try:
        handle, temporary = tempfile.mkstemp(**hidden)
    except PermissionError as error:
        raise PermissionError(
            f"`path` must lie in a folder one may write to, got {path}"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **stored)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())  # else a power failure may leave an empty file of that name
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load_record(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_record` wrote: `(arrays, meta)`.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if the file is damaged, of another kind, or of a newer format.
    """
    path = Path(path)
    try:
        # Opened here: numpy leaves the file open when it is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(_HEADER).tobytes().decode())
        if not (isinstance(header, dict) and isinstance(header.get("meta"), dict)):
            raise ValueError("its header is not one")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a saved {kind}: it is damaged or was not written by "
            f"`save` ({error}); delete it and compute it again."
        ) from error
    if header.get("version", 0) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {header['version']}, this hessspec reads up to "
            f"{FORMAT_VERSION}; update hessspec."
        )
    if header.get("kind") != kind:
        raise ValueError(
            f"{path} holds a {header.get('kind')}, expected a {kind}; "
            f"load it with `hessspec.{header.get('kind')}.load`."
        )
    return arrays, header["meta"]
