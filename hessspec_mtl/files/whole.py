"""Files that appear whole or not at all, and folders that one process works in at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hessspec._base.locks import LockedError, locked

_PART = ".part"
_LOCK = ".lock"


class FolderInUseError(RuntimeError):
    """Another process works in the folder; the message says which."""


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to `path`; returns the path.

    The content goes to a temporary name in the same folder, which is then renamed: a reader, or a
    run that is killed half-way, sees the old file or the new one and never a part. Missing parent
    folders are made.

    Raises:
        OSError: if it cannot be written (no space, no permission); what stood there stays.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            os.chmod(temporary, 0o644)  # mkstemp gives 0o600, which nobody else could read
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written ({error.strerror}), what stood there before is kept; free "
            "space or make the folder writable",
        ) from error
    return path


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder` and below.

    Only for a folder that no other process writes to (`sole_use`).
    """
    for part in folder.rglob(f".*{_PART}"):
        if part.is_file():
            part.unlink(missing_ok=True)


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """While this lasts, no other process gets the sole use of `folder`.

    The lock is that of `hessspec._base.locks`, on the file `.lock`.

    Raises:
        FolderInUseError: if another process has it.
        OSError: if the folder cannot be written.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / _LOCK))
        except LockedError as error:
            raise FolderInUseError(
                f"another process (number {error.holder}) works in {folder}; wait until it has "
                "ended, or choose another `--name` or `--out`."
            ) from error
        except OSError as error:
            raise OSError(
                error.errno,
                f"{folder} must be a folder that can be written ({error.strerror}); make it so, or "
                "choose another one with `--out`",
            ) from error
        yield
