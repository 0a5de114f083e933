"""Many independent jobs over several processes, each finished one kept at once in a file.

The file is a log of JSON lines: a header that says what was asked, then one record a job, in the
order in which they finished. A run that was stopped continues where it was; a run with other
settings refuses to mix its records with those that are there.
"""

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hessspec_mtl.files.environment import environment_kept

Record = dict[str, Any]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_jobs(
    job: Callable[[str], Record],
    names: Sequence[str],
    log: Path,
    header: Mapping[str, Any],
    *,
    processes: int,
    description: str,
    progress: bool = True,
) -> tuple[Record, ...]:
    """The records of all `names`, in their order; those already in `log` are not computed again.

    Every job runs single-threaded in a fresh process of its own pool, also when `processes` is 1,
    so the records do not depend on the number of processes.

    Args:
        job: a picklable function of one name; its record must be JSON and must not depend on
            anything but the name and the `header`.
        names: unique names of the jobs.
        log: file that is created, or continued.
        header: settings and versions; the first line of the log.
        processes: at least 1.

    Raises:
        ValueError: if `processes` is below 1, or `log` was begun with another header.
    """
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}.")
    done = read_log(log, header)
    waiting = [name for name in names if name not in done]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as file,
        tqdm(total=len(names), initial=len(names) - len(waiting), desc=description,
             disable=not progress, smoothing=0.05) as bar,
    ):  # fmt: skip
        if not done and file.tell() == 0:
            append_line(file, {"header": dict(header)})
        for name, record in _computed(job, waiting, processes):
            append_line(file, {"name": name, "record": record})
            done[name] = record
            bar.update()
    return tuple(done[name] for name in names)


def read_log(log: Path, header: Mapping[str, Any]) -> dict[str, Record]:
    """Records by name. A last line cut short by an interruption is removed from the file.

    Raises:
        ValueError: if the log was begun with another header.
    """
    if not log.exists():
        return {}
    content = log.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(log, len(complete))
    lines = [json.loads(line) for line in complete.splitlines()]
    if not lines:
        return {}
    found, wanted = lines[0].get("header"), json.loads(json.dumps(dict(header)))
    if found != wanted:
        differing = sorted(
            key for key in {*(found or {}), *wanted} if (found or {}).get(key) != wanted.get(key)
        )
        raise ValueError(
            f"`{log}` was begun with other settings or versions (they differ in: "
            f"{', '.join(differing)}); choose an empty folder, or remove the file to start again."
        )
    return {line["name"]: line["record"] for line in lines[1:]}


def append_line(file: Any, content: Mapping[str, Any]) -> None:
    """Write one JSON line and hand it to the operating system at once."""
    file.write(json.dumps(content) + "\n")
    file.flush()


def _computed(
    job: Callable[[str], Record], names: Sequence[str], processes: int
) -> Iterator[tuple[str, Record]]:
    """Names and records in the order in which they finish."""
    if not names:
        return
    context = multiprocessing.get_context("spawn")
    with (
        one_thread_each(),
        ProcessPoolExecutor(min(processes, len(names)), mp_context=context) as pool,
    ):
        futures = {pool.submit(job, name): name for name in names}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Children started inside use one thread: BLAS and OpenMP read these variables at start."""
    with environment_kept(THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        yield
