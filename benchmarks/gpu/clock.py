"""Times on a device that works behind the host's back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.timing import Spread, finished, seconds_of

_ROUND = 0.03  # seconds of work between two readings of the clock: the wait at its end is 0.1 %


def seconds_each(run: Callable[[], Any], rounds: int = 7, most: float = 2.0) -> dict[str, float]:
    """Median and quartiles of the seconds of `run`, once it is compiled.

    Calls are enqueued until a round is long enough for the clock, and the last one is waited for:
    a device works them off in their order.
    """

    def several(calls: int) -> Any:
        result = None
        for _ in range(calls):
            result = run()  # the one before is dropped: no more than two are in memory
        return result

    finished(run)
    once = max(seconds_of(run), 1e-7)
    calls = max(1, min(200, round(_ROUND / once)))
    rounds = max(1, min(rounds, int(most / (calls * once))))
    times = [seconds_of(partial(several, calls)) / calls for _ in range(rounds)]
    spread = Spread.of(times)
    return {
        "median_s": spread.median,
        "lower_s": spread.lower,
        "upper_s": spread.upper,
        "rounds": rounds,
        "calls": calls,
    }


def first_calls(tasks: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each task's first call, its compilation, all at the same time on threads.

    Compilers leave Python's lock; on a machine of many cores programs are compiled side by side.
    """

    def timed(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        finished(run)
        return time.perf_counter() - start

    with ThreadPoolExecutor(max(1, min(8, len(tasks)))) as pool:
        found = {name: pool.submit(timed, run) for name, run in tasks.items()}
        return {name: future.result() for name, future in found.items()}
