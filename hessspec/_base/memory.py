"""How many bytes may be used, and what to say when that is not enough."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jax
from jax.core import Tracer

from hessspec._base.arguments import real_number

_GROUPS = "sys/fs/cgroup"


def default_memory_budget() -> int:
    """Bytes of each device for long-lived arrays: 3/4 of an accelerator's, half of the host's.

    On a CPU the operating system and the user's own arrays live in the same memory, so a
    smaller share is safe there; where it has several devices, they share it. Only devices of
    this process are asked: another's do not answer.
    """
    devices = jax.local_devices()
    statistics = devices[0].memory_stats() or {}
    limit = statistics.get("bytes_limit")
    if limit:
        return int(0.75 * limit)
    return host_memory() // 2 // len(devices)


def host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or its control group's where that is less.

    Containers and batch systems (Slurm) limit a group of processes; beyond the limit the kernel
    ends them without a word. Every group above the process's own has a say.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of all groups of this process, of either version of Linux' control groups."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, limit = root / _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            top, limit = root / _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that of the host: groups that are not there are passed
        # over, and the container's own stands at the top.
        within = PurePosixPath(group.replace("..", "").lstrip("/"))
        for folder in (within, *within.parents):
            # "max" or a number near 2^63: no limit.
            yield from (int(text) for text in _lines(top / folder / limit) if text.isdigit())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def platform_of(tree: Any) -> str:
    """The kind of device that the arrays of a tree are on: "cpu", "gpu", ...

    That of JAX's default device where none is on any, as inside a transformation.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()


def resolve_budget(memory_budget: int | float | None) -> int:
    """`memory_budget` in bytes, or the default of this device if it is None.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is below 1 or not a number of bytes.
    """
    if memory_budget is None:
        return default_memory_budget()
    budget = real_number("memory_budget", memory_budget, "a number of bytes (4 GB: `4e9`)")
    if not budget >= 1:
        raise ValueError(
            f"`memory_budget` must be at least 1 byte, or None for this device's default, got "
            f"{memory_budget!r}."
        )
    return sys.maxsize if math.isinf(budget) else int(memory_budget)


def require_memory(needed: int, budget: int, what: str, ways_out: str) -> None:
    """Raise MemoryError, with the ways out, if `needed` bytes exceed the budget."""
    if needed > budget:
        raise MemoryError(
            f"{what} needs {size(needed)}, `memory_budget` allows {size(budget)}; {ways_out}."
        )


def size(nbytes: float) -> str:
    """Bytes in the largest unit of which there is one, to three digits."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if nbytes >= 1000.0**power:
            return f"{float(f'{nbytes / 1000.0**power:.3g}'):,g} {unit}"
    return "1 byte" if nbytes == 1 else f"{nbytes:.0f} bytes"
