"""A folder of checkpoints, one for each epoch kept, written and removed so that a kill is harmless.

`<directory>/epoch_000012` holds the state after epoch 12, written by orbax. A checkpoint appears
under its name in one rename, when it is complete, and leaves it in one rename, before anything in
it is removed. Whatever else stands in the folder (names that start with a dot) is left over from a
process that was killed, and is swept away by the next one.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np


class CheckpointError(RuntimeError):
    """A checkpoint that is missing or cannot be read; the message says which and what to do."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in `directory`, by epoch. A state is a nested dict of arrays."""

    directory: Path

    def path(self, epoch: int) -> Path:
        """Where the state after `epoch` is or would be."""
        return self.directory / f"epoch_{epoch:06d}"

    def epochs(self) -> list[int]:
        """Epochs with a finished checkpoint, in order."""
        if not self.directory.is_dir():
            return []
        names = (re.fullmatch(r"epoch_(\d{6,})", entry.name) for entry in self.directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch`, replacing one that is there.

        Raises:
            CheckpointError: if the folder cannot be written.
        """
        state = jax.tree.map(np.asarray, state)
        hidden = self.directory / f".writing_{epoch:06d}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(hidden, ignore_errors=True)
            with _absl_silenced():
                _checkpointer().save(hidden.absolute(), {**state, "checksum": _checksum(state)})
            self._remove(epoch)
            os.replace(hidden, self.path(epoch))
        # A full disk is an OSError here and a ValueError of tensorstore's there.
        except (OSError, RuntimeError, ValueError) as error:
            self.sweep()
            raise self._unwritable(epoch, error) from error

    def _unwritable(self, epoch: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self.path(epoch)} cannot be written ({_reason(error)}), earlier "
            "ones are kept; free space, make the folder writable or choose another one."
        )

    def adopt(self, epoch: int, files: Mapping[str, bytes]) -> None:
        """Put in place the state after `epoch` that was saved elsewhere, from its files by name.

        Raises:
            CheckpointError: if the folder cannot be written.
        """
        hidden = self.directory / f".writing_{epoch:06d}"
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            for name, content in files.items():
                path = hidden / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._remove(epoch)
            os.replace(hidden, self.path(epoch))
        except OSError as error:
            self.sweep()
            raise self._unwritable(epoch, error) from error

    def restore(self, epoch: int) -> dict[str, Any]:
        """The state after `epoch`, as NumPy arrays.

        Raises:
            CheckpointError: if it is missing, incomplete or altered (its checksum is tested).
        """
        path = self.path(epoch)
        if not path.is_dir():
            raise CheckpointError(
                f"there is no checkpoint of epoch {epoch} in {self.directory}; "
                f"there are those of epochs {self.epochs()}. Name the epoch in `keep_epochs` "
                "before training, or take another."
            )
        try:
            with _absl_silenced():
                state = _checkpointer().restore(path.absolute())
            checksum = state.pop("checksum")
        # orbax and tensorstore have no common base class for what a damaged file raises.
        except Exception as error:
            raise _damaged(path, _reason(error)) from error
        if int(checksum) != int(_checksum(state)):
            raise _damaged(path, "its checksum does not match its contents")
        return state

    def sound_epochs(self) -> list[int]:
        """Epochs whose checkpoint can be read, in order.

        One that cannot is passed over with a warning that names it. Cost: reads all of them.

        Raises:
            CheckpointError: if there are checkpoints and none can be read.
        """
        sound, damaged = [], []
        for epoch in self.epochs():
            try:
                self.restore(epoch)
                sound.append(epoch)
            except CheckpointError as error:
                damaged.append(error)
        if damaged and not sound:
            raise damaged[-1]
        for error in damaged:
            warnings.warn(str(error), stacklevel=2)
        return sound

    def prune(self, keep: Collection[int], newest: int = 2) -> None:
        """Remove all checkpoints but those of the epochs `keep` and the `newest` last ones."""
        epochs = self.epochs()
        for epoch in epochs[: len(epochs) - newest]:
            if epoch not in keep:
                self._remove(epoch)

    def sweep(self) -> None:
        """Remove what killed processes left half written or half removed."""
        if self.directory.is_dir():
            for entry in self.directory.glob(".*"):
                shutil.rmtree(entry, ignore_errors=True)

    def _remove(self, epoch: int) -> None:
        if self.path(epoch).exists():
            hidden = self.directory / f".removing_{epoch:06d}"
            shutil.rmtree(hidden, ignore_errors=True)
            os.replace(self.path(epoch), hidden)
            shutil.rmtree(hidden)


def _checkpointer() -> Any:
    # Imported late: orbax takes a second, and whoever asks for the options needs no state.
    from hessspec_mtl.training.state_files import checkpointer

    return checkpointer()


@contextmanager
def _absl_silenced() -> Iterator[None]:
    """orbax logs pages of tracebacks of the errors that it also raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """The first line of the message; of a long one the end, where the cause stands."""
    line = (str(error) or repr(error)).splitlines()[0]
    return line if len(line) <= 200 else f"... {line[-160:]}"


def _checksum(state: dict[str, Any]) -> np.ndarray:
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        header = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}"
        total = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), zlib.crc32(header.encode(), total))
    return np.asarray(total, np.uint32)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} cannot be read: {reason}. Training makes it again from an earlier "
        "one, or from the start if you remove all that are there."
    )
