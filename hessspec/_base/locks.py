"""Files that one run holds at a time, so that two do not write in one folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None


class LockedError(RuntimeError):
    """Another run holds the file.

    Attributes:
        holder: the number of its process, as far as it is known.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"process {holder} holds it")
        self.holder = holder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this lasts, nobody else gets the file at `path`, in this process or another.

    The lock is advisory and belongs to the open file: the operating system releases it when the
    process ends, however it ends. Where a file system knows no locks, nothing is locked.

    Raises:
        LockedError: if another has it.
        OSError: if the file cannot be made or written.
    """
    with path.open("a+") as stream:
        if not _taken(stream):
            stream.seek(0)
            raise LockedError(stream.read().strip() or "unknown")
        try:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            yield
        finally:
            _released(stream)


def _taken(stream: TextIO) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _released(stream: TextIO) -> None:
    """Also for children that were forked meanwhile, such as loaders of data: theirs is the same."""
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_UN)
    except OSError:  # a file system without locks
        return
