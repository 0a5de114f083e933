"""How much memory there is: the machine's, or what a container or a batch system allows."""

import math
import os
import sys

import numpy as np
import pytest

from hessspec._base.memory import host_memory, resolve_budget

pytestmark = pytest.mark.any_dtype

GIB = 2**30
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system(root, cgroup, limits):
    """A file system under `root` in which this process is in the groups of `cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


V1, NO_LIMIT = "memory.limit_in_bytes", 9223372036854771712
CASES = {
    "no control groups": (None, {}, MACHINE),
    "version 2, unlimited": ("0::/user.slice\n", {"user.slice/memory.max": "max"}, MACHINE),
    "version 2, limited": ("0::/job\n", {"job/memory.max": GIB}, GIB),
    "version 2, container": ("0::/\n", {"memory.max": GIB}, GIB),
    "version 2, limited above": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0\n",
        {
            "system.slice/slurmstepd.scope/job_7/memory.max": GIB // 2,
            "system.slice/slurmstepd.scope/job_7/step_0/memory.max": "max",
        },
        GIB // 2,
    ),
    "version 1, limited": (
        "9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
        {f"memory/job/{V1}": GIB, f"memory/{V1}": NO_LIMIT},
        GIB,
    ),
    "version 1, the host's path": (
        "4:hugetlb,memory:/docker/0123\n",
        {f"memory/{V1}": GIB},
        GIB,
    ),
    "version 1, unlimited": ("4:memory:/\n", {f"memory/{V1}": NO_LIMIT}, MACHINE),
    "a path above the root": ("0::/../../other\n", {"memory.max": GIB}, GIB),
    "more than there is": ("0::/\n", {"memory.max": 2 * MACHINE}, MACHINE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_tightest_limit_of_all_groups_counts(case, tmp_path):
    cgroup, limits, expected = CASES[case]
    root = tmp_path if cgroup is None else system(tmp_path, cgroup, limits)
    assert host_memory(root) == expected


def test_a_budget_is_a_number_of_bytes():
    assert resolve_budget(1e9) == 10**9
    assert resolve_budget(np.int64(5)) == 5
    assert resolve_budget(math.inf) == sys.maxsize
    assert resolve_budget(None) > 0
    for wrong in ("1GB", True, [1]):
        with pytest.raises(TypeError, match=r"`memory_budget` must be a number of bytes \(4 GB: "):
            resolve_budget(wrong)
    for wrong in (-1, 0, 0.5, math.nan):
        with pytest.raises(ValueError, match="`memory_budget` must be at least 1 byte, or None"):
            resolve_budget(wrong)
