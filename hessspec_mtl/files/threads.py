"""One thread for each process that computes, so that a result does not depend on the machine.

Sums are cut among threads, and other cuts round otherwise: with two threads in place of one the
last digits of a density differ. A study uses several cores by several processes instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

ONE_THREAD: Mapping[str, str] = {
    "PJRT_NPROC": "1",  # XLA's own pool on a CPU
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's and SciPy's, which JAX's LAPACK on a CPU is too
    "MKL_NUM_THREADS": "1",
}
"""Variables of the environment, read when NumPy is imported and when JAX first computes."""


def keep_to_one_thread() -> None:
    """Set what is not set yet of `ONE_THREAD`. Call it before NumPy is imported."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """Cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
