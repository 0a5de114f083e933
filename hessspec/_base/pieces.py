"""Long rows on disk: a file for each device's share of them, read again by any devices.

A file holds some columns of a block of rows and says in its name where they begin. What rows are
filled up with on a mesh is not written, so that another mesh, or one device, reads the same files.
Arrays alone are written, and nothing is ever unpickled.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hessspec._base.meshes import cut_along, width_on


def write_rows(folder: Path, name: str, rows: Float[Array, "k width"], dim: int) -> None:
    """Write the shares of the first `dim` columns that devices of this process hold.

    A file appears whole or not at all.
    """
    for shard in rows.addressable_shards:
        if shard.replica_id != 0:
            continue
        first = shard.index[1].start or 0
        piece = np.asarray(shard.data)[:, : max(dim - first, 0)]
        if piece.shape[1]:
            path = folder / f"{name}.{first:014d}.npy"
            # Processes that all hold a vector write the same file, each under a name of its own.
            hidden = path.with_suffix(f".{jax.process_index()}.part")
            try:
                with hidden.open("wb") as stream:
                    np.save(stream, piece, allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())
                hidden.replace(path)
            except BaseException:  # on a full disk, what it holds of the file is given back
                hidden.unlink(missing_ok=True)
                raise


def read_rows(
    folder: Path, name: str, mesh: Mesh | None, dim: int, dtype: np.dtype
) -> Float[Array, "k width"]:
    """The rows written under a name, on the devices of a mesh; each device's share is read alone.

    Raises:
        ValueError: if columns are missing, or a file is damaged.
    """
    pieces = [
        (int(path.name.split(".")[-2]), _opened(path))
        for path in sorted(folder.glob(f"{name}.*.npy"))
    ]
    found = sum(piece.shape[1] for _, piece in pieces)
    if found != dim:
        raise ValueError(
            f"`checkpoint` must hold all {dim:,} entries of each vector, but {name} in {folder} "
            f"has {found:,}: every process must see one folder; if files were removed, begin anew "
            "in an empty one."
        )
    count, wide = pieces[0][1].shape[0], width_on(mesh, dim)

    def share(index: Any) -> np.ndarray:
        first, last, _ = index[1].indices(wide)
        block = np.zeros((count, last - first), dtype)
        for begin, piece in pieces:
            low, high = max(first, begin), min(last, begin + piece.shape[1])
            if low < high:
                block[:, low - first : high - first] = piece[:, low - begin : high - begin]
        return block

    if mesh is None:
        return jnp.asarray(share((slice(None), slice(None))))
    return jax.make_array_from_callback((count, wide), cut_along(mesh, 1), share)


def _opened(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"`checkpoint` must hold what was written there, but {path} is damaged ({error}); "
            "begin anew in an empty folder."
        ) from error


def remove_rows(folder: Path, name: str) -> None:
    """Remove what was written under a name, files that were never finished among it."""
    for pattern in (f"{name}.*.npy", f"{name}.*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
