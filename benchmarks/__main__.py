"""Run all benchmarks and draw the page of results.

    python -m benchmarks                     all claims, then docs/benchmarks.md and its plots
    python -m benchmarks bench_hvp_block     some of them
    python -m benchmarks --render            the page alone, from benchmarks/results/*.json

Each claim runs in a process of its own, one after the other; a failure is reported and the rest
goes on. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import RESULTS
from benchmarks.machine import ROOT

CLAIMS = (
    "bench_hvp_block",
    "bench_network_hvp",
    "bench_lanczos_mlp",
    "bench_lanczos_network",
    "bench_hutchinson_tasks",
    "bench_first_call",
    "bench_first_verbs",
    "bench_memory",
    "peers.bench_peers_block",
    "peers.bench_peers_slq",
    "peers.bench_peers_hutchinson",
    "bench_trace_tasks",
    "bench_trace_states",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(CLAIMS)}")
    parser.add_argument("--render", action="store_true", help="run nothing, draw the page")
    parser.add_argument("--tiny", action="store_true", help="try all out, results thrown away")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    unknown = [claim for claim in options.claims if claim not in CLAIMS]
    if unknown:
        parser.error(f"no such claim: {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    if options.tiny:
        with tempfile.TemporaryDirectory() as folder:
            return _run(options.claims or CLAIMS, ["--tiny", "--output", folder])
    failed = 0
    if not options.render:
        failed = _run(options.claims or CLAIMS, ["--output", str(options.output.resolve())])
    from benchmarks.render import render

    print(render(options.output, ROOT / "docs"))
    return failed


def _run(claims: tuple[str, ...], arguments: list[str]) -> int:
    """The number of claims whose process failed."""
    failed, start = 0, time.perf_counter()
    for claim in claims:
        words = [sys.executable, "-m", f"benchmarks.{claim}", *arguments]
        failed += subprocess.run(words, cwd=ROOT).returncode != 0
    print(f"{len(claims)} claims, {failed} failed, {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
