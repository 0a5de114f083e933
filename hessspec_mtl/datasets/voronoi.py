"""Voronoi graphs of many crystals: made once, in parallel, and kept on disk.

The cache is a folder of small files, each with the graphs of a few crystals under the hash of their
content, so that it can be filled in any order, by any data set, and be interrupted at any moment.
The folder's name holds the versions of pymatgen and of our own rules.
"""

import hashlib
import logging
import multiprocessing
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hessspec._base.progress import progress_bar
from hessspec._base.records import load_record, save_record
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset
from hessspec_mtl.datasets.sources import cache_directory
from hessspec_mtl.featurize.crystals import (
    FACE_ATTRIBUTES,
    VORONOI_VERSION,
    Crystal,
    graphs_or_reasons,
)
from hessspec_mtl.featurize.raw_graph import NoGraph, RawGraph

logger = logging.getLogger(__name__)

# Crystals in one file, and in one task of a worker: a few seconds of work to lose or to repeat.
_CHUNK = 32

_KIND = "VoronoiGraphs"


def voronoi_graphs(
    crystals: Sequence[Crystal],
    *,
    directory: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> tuple[RawGraph | NoGraph, ...]:
    """The graph of each crystal, or why it has none, in the order given.

    What the cache holds is read; the rest is featurised in chunks, each written as soon as it is
    done. A damaged file of the cache is named in a warning, removed and made again.

    Args:
        crystals: unit cells; copies are featurised once.
        directory: folder of the cache; None for `voronoi_directory()`.
        num_workers: spawned processes; None for one a core, 1 to stay in this process.
        progress: whether to show a progress bar; None for "if standard error is a terminal".

    Raises:
        RuntimeError: if a worker process dies; what is done is kept.

    Cost: about 0.1 to 0.2 s of one core a crystal the first time, under 1 ms after that.
    """
    folder = voronoi_directory() if directory is None else Path(directory)
    keys = [crystal.key for crystal in crystals]
    known = _read_cache(folder)
    missing = {
        key: crystal for key, crystal in zip(keys, crystals, strict=True) if key not in known
    }
    if missing:
        with progress_bar(len(missing), "Voronoi graphs", enabled=progress, unit="crystal") as bar:
            for chunk in _featurised_chunks(missing, num_workers):
                _write_chunk(folder, chunk)
                known.update(chunk)
                bar.update(len(chunk))
    return tuple(known[key] for key in keys)


def with_voronoi_graphs(
    dataset: MultitaskDataset, *, num_workers: int | None = None, progress: bool | None = None
) -> MultitaskDataset:
    """The data set of crystals with its graphs; crystals that have none move to `left_out`."""
    found = voronoi_graphs(dataset.structures, num_workers=num_workers, progress=progress)
    has_graph = [i for i, graph in enumerate(found) if isinstance(graph, RawGraph)]
    without = tuple(
        LeftOut(dataset.ids[i], "no Voronoi graph", graph.reason)
        for i, graph in enumerate(found)
        if not isinstance(graph, RawGraph)
    )
    return replace(
        dataset.take(np.array(has_graph, np.int64)),
        graphs=tuple(graph for graph in found if isinstance(graph, RawGraph)),
        left_out=(*dataset.left_out, *without),
    )


def voronoi_directory() -> Path:
    """The default folder of the cache, for this pymatgen and this version of our rules."""
    return cache_directory() / f"voronoi-{VORONOI_VERSION}-pymatgen-{version('pymatgen')}"


_Graphs = dict[str, RawGraph | NoGraph]


def _featurised_chunks(missing: dict[str, Crystal], num_workers: int | None) -> Iterator[_Graphs]:
    """Graphs of the missing crystals, chunk by chunk, in the order in which they are done."""
    items = list(missing.items())
    chunks = [dict(items[i : i + _CHUNK]) for i in range(0, len(items), _CHUNK)]
    workers = min(num_workers or _num_cores(), len(chunks))
    if workers <= 1:
        for chunk in chunks:
            yield dict(zip(chunk, graphs_or_reasons(list(chunk.values())), strict=True))
        return
    # Spawned, not forked: JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            futures = {pool.submit(graphs_or_reasons, list(c.values())): c for c in chunks}
            for done in as_completed(futures):
                yield dict(zip(futures[done], done.result(), strict=True))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died while making Voronoi graphs; what is done is kept. Run "
                'again with `num_workers=1`, or put your script under `if __name__ == "__main__":`'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_chunk(folder: Path, chunk: _Graphs) -> None:
    """One file for the chunk, named after its keys; a folder that cannot be written is no error."""
    graphs = [graph for graph in chunk.values() if isinstance(graph, RawGraph)]
    arrays = {
        "num_nodes": np.array([graph.num_nodes for graph in graphs], np.int64),
        "num_edges": np.array([graph.num_edges for graph in graphs], np.int64),
        "atomic_numbers": _concatenated([graph.atomic_numbers for graph in graphs], (0,), np.int64),
        "senders": _concatenated([graph.senders for graph in graphs], (0,), np.int64),
        "receivers": _concatenated([graph.receivers for graph in graphs], (0,), np.int64),
        "edge_attributes": _concatenated(
            [graph.edge_attributes for graph in graphs], (0, len(FACE_ATTRIBUTES)), np.float64
        ),
    }
    meta = {
        "keys": [key for key, graph in chunk.items() if isinstance(graph, RawGraph)],
        "reasons": {
            key: graph.reason for key, graph in chunk.items() if isinstance(graph, NoGraph)
        },
    }
    name = hashlib.sha256("".join(chunk).encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_record(folder / f"{name}.npz", _KIND, arrays, meta)
    except OSError as error:
        logger.warning(
            "the Voronoi graphs of %d crystals could not be kept in %s (%s) and will be made again "
            "next time; make the folder writable or set HESSSPEC_CACHE to one that is",
            len(chunk), folder, error,
        )  # fmt: skip


def _concatenated(
    parts: list[np.ndarray], empty: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(empty, dtype)


def _read_cache(folder: Path) -> _Graphs:
    """Every graph in the folder; damaged files are named, removed and left to be made again."""
    known: _Graphs = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            known.update(_read_chunk(path))
        except (ValueError, KeyError, IndexError, OSError, zlib.error) as error:
            logger.warning("damaged cache file %s is made again (%s)", path, error)
            path.unlink(missing_ok=True)
    return known


def _read_chunk(path: Path) -> _Graphs:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is truncated or no archive at all")
    arrays, meta = load_record(path, _KIND)
    known: _Graphs = {key: NoGraph(reason) for key, reason in meta["reasons"].items()}
    nodes = np.split(arrays["atomic_numbers"], np.cumsum(arrays["num_nodes"])[:-1])
    cuts = np.cumsum(arrays["num_edges"])[:-1]
    edges = zip(
        np.split(arrays["edge_attributes"], cuts),
        np.split(arrays["senders"], cuts),
        np.split(arrays["receivers"], cuts),
        strict=True,
    )
    if meta["keys"]:
        known |= {
            key: RawGraph(atomic_numbers, *edge)
            for key, atomic_numbers, edge in zip(meta["keys"], nodes, edges, strict=True)
        }
    return known
