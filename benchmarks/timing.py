"""Interleaved repeats: what is compared runs in turn, so that a drifting machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import numpy as np


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Any) -> Spread:
        lower, median, upper = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
        return cls(float(median), float(lower), float(upper))


@dataclass(frozen=True)
class Timing:
    """Seconds of one unit of work, one for each round.

    Attributes:
        seconds: wall time of a round, divided by the units of work done in it.
        units: units of work in a round (products of a block, say); what the times were divided by.
    """

    seconds: tuple[float, ...]
    units: float = 1.0

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    @property
    def median(self) -> float:
        return self.spread.median

    def over(self, other: Timing) -> Spread:
        """How many times longer than `other`: the ratio of the medians.

        The quartiles are those of the ratios round by round, in which drift cancels.
        """
        paired = Spread.of(np.divide(self.seconds, other.seconds))
        ratio = self.median / other.median
        return Spread(ratio, min(paired.lower, ratio), max(paired.upper, ratio))


@dataclass(frozen=True)
class Task:
    """Something to time: `run` does `units` units of work and returns its results."""

    run: Callable[[], Any]
    units: float = 1.0


def finished(run: Callable[[], Any]) -> Any:
    """The results of `run`, when the device has them."""
    return jax.block_until_ready(run())


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall time until the results are there."""
    start = time.perf_counter()
    finished(run)
    return time.perf_counter() - start


def interleaved(tasks: Mapping[str, Task], repeats: int) -> dict[str, Timing]:
    """Time each task `repeats` times, in turn: A, B, C, A, B, C, ...

    One round before the first pays for compilation and is not counted.
    """
    for task in tasks.values():
        finished(task.run)
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            times[name].append(seconds_of(task.run) / task.units)
    return {name: Timing(tuple(times[name]), tasks[name].units) for name in tasks}


class Compilations:
    """Counts the programs compiled since it was made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **details: Any) -> None:
        del duration, details
        self.count += event == "/jax/core/compile/backend_compile_duration"


def stages_of(call: Callable[[], Any], told: Callable[[str, str, float], None]) -> dict[str, float]:
    """Processor seconds of `call` by stage of tracing and compiling, and of "all" of it.

    Inner stages are not counted twice. `told` hears of each stage of each program: the stage, the
    program, and its seconds with what is inside.
    """
    spent: dict[str, float] = {}
    inside = [0.0]

    @contextmanager
    def timed(_: str, fun_name: str, event: str | None = None) -> Iterator[None]:
        stage = str(event).rsplit("/", 1)[-1].removesuffix("_duration")
        start = time.process_time()
        inside.append(0.0)
        yield
        seconds = time.process_time() - start
        spent[stage] = spent.get(stage, 0.0) + seconds - inside.pop()
        inside[-1] += seconds
        told(stage, fun_name, seconds)

    begin = time.process_time()
    with mock.patch("jax._src.dispatch.log_elapsed_time", timed):
        call()
    return {**spent, "all": time.process_time() - begin}
