"""Settings of every test."""

import os
from importlib.metadata import version

import hypothesis

# Tests run as many processes as there are cores. Threads of BLAS wait for one another by spinning:
# on a busy machine a QR of 120 columns then took half a second in place of one millisecond. NumPy
# reads this when it is imported.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Compiling is three quarters of the work of these tests. A compiler that optimises little takes a
# fifth of the time, and what it makes computes the same up to rounding. `TESTS_COMPILE=full`, as in
# `make check-all`, takes the compiler as users have it. These lines come before JAX is imported.
if os.environ.get("TESTS_COMPILE") != "full":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    quick = ["--xla_cpu_parallel_codegen_split_count=1"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later ones do not know it
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([*quick, os.environ.get("XLA_FLAGS", "")]).strip()

# Compilation makes the first example slow; the time of one example says nothing about ours.
hypothesis.settings.register_profile("quick", max_examples=15, deadline=None, derandomize=True)
hypothesis.settings.register_profile("study", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
