"""What numbers were measured on: device, threads, versions, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Task, Timing

ROOT = Path(__file__).parents[1]
_PACKAGES = ("hessspec", "jax", "jaxlib", "equinox", "flax", "numpy", "scipy")
_PEAK_SIZES = (1024, 2048)
_FLOPS_A_ROUND = 2.0e10  # long enough for a clock, short enough to stand between other tasks


def environment() -> dict[str, Any]:
    """Device, threads, versions and revision, for the JSON of a result."""
    device = jax.devices()[0]
    precision = jax.config.jax_default_matmul_precision
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "revision": revision(),
        "device": device.device_kind if device.platform != "cpu" else cpu_model(),
        "platform": device.platform,
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "matmul_precision": precision or "default",
        "x64": bool(jax.config.jax_enable_x64),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; packages that are not there are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The commit, with a plus sign where the packages differ from it; "unknown" outside git.

    A copy that travels without its history says in a file REVISION which commit it is of.
    """
    written = ROOT / "REVISION"
    if written.exists():
        return written.read_text(encoding="utf-8").strip()

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "hessspec", "hessspec_mtl")
    except OSError:
        return "unknown"
    return (commit + "+" * bool(changed)) if commit else "unknown"


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Bytes of main memory."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def free_bytes() -> int:
    """Bytes of main memory that a new process could have; all of it where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return memory_bytes()
    kibibytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes[0]) * 1024 if kibibytes else memory_bytes()


def peak_resident_bytes() -> int:
    """The most memory this process has held so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def peak_tasks() -> dict[str, Task]:
    """Products of square float32 matrices, to be timed among other tasks; a unit is one flop."""
    tasks = {}
    for size in _PEAK_SIZES:
        left, right = jnp.asarray(
            np.random.default_rng(size).normal(size=(2, size, size)), jnp.float32
        )
        calls = max(1, round(_FLOPS_A_ROUND / (2 * size**3)))

        def run(left: jax.Array = left, right: jax.Array = right, calls: int = calls) -> list:
            return [_matmul(left, right) for _ in range(calls)]

        tasks[f"matrix product {size}"] = Task(run, calls * 2.0 * size**3)
    return tasks


@jax.jit
def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return left @ right


def peak_flops(timings: dict[str, Timing]) -> float:
    """Flop/s of the fastest of `peak_tasks`, by its median."""
    return max(
        1.0 / timing.median for name, timing in timings.items() if name.startswith("matrix product")
    )
