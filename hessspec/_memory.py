"""How many bytes may be used, and what to say when that is not enough."""

import os

import jax


def default_memory_budget() -> int:
    """Bytes that long-lived arrays may take: 3/4 of the accelerator's memory, half of the host's.

    On a CPU the operating system and the user's own arrays live in the same memory, so a
    smaller share is safe there.
    """
    statistics = jax.devices()[0].memory_stats() or {}
    limit = statistics.get("bytes_limit")
    if limit:
        return int(0.75 * limit)
    return int(0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def resolve_budget(memory_budget: int | float | None) -> int:
    """`memory_budget` in bytes, or the default of this device if it is None."""
    if memory_budget is None:
        return default_memory_budget()
    if not memory_budget > 0:
        raise ValueError(
            f"`memory_budget` must be a positive number of bytes or None, got {memory_budget!r}"
        )
    return int(memory_budget)


def require_memory(needed: int, budget: int, what: str, ways_out: str) -> None:
    """Raise MemoryError, with the ways out, if `needed` bytes exceed the budget."""
    if needed > budget:
        raise MemoryError(
            f"{what} needs {_readable(needed)}, `memory_budget` allows {_readable(budget)}; "
            f"{ways_out}."
        )


def _readable(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
