"""Claim: Hutchinson's trace from 48 products is faster than any other library's (tanh network)."""

from __future__ import annotations

import sys

from benchmarks.claims import Result, Scale, command
from benchmarks.peers.comparison import (
    compared,
    missing_bars,
    network_sizes,
    problem,
    trace_deviations,
)
from benchmarks.peers.fleet import PEERS, fleet

SAMPLES = 48


def measure(scale: Scale) -> Result:
    network = problem(scale)
    with fleet(network) as libraries:
        errors = libraries.check_products()
        timings, answers = libraries.interleaved(scale.repeats, do="hutchinson", samples=SAMPLES)
        bounds = dict.fromkeys(PEERS, 1.0)
        bars = compared(timings, bounds)
        return Result(
            claim="Hutchinson's trace from 48 products is faster than that of each other library "
            "(tanh network).",
            bars=tuple(bars),
            sizes={**network_sizes(network), "samples": SAMPLES},
            timings={f"48 samples: {name}": timing for name, timing in timings.items()},
            figures={
                "relative error of products against float64": errors,
                "trace against the reference, in standard deviations": trace_deviations(
                    libraries, answers, SAMPLES
                ),
                **libraries.figures(),
            },
            missing=missing_bars(bars, bounds, libraries),
        )


if __name__ == "__main__":
    sys.exit(command("peers.bench_peers_hutchinson", measure, repeats=3))
