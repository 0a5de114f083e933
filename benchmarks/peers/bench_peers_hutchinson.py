"""For the record: Hutchinson's trace from 48 products by each library (tanh network). No bar."""

from __future__ import annotations

import sys

from benchmarks.claims import Result, Scale, command
from benchmarks.peers.comparison import compared, network_sizes, problem, trace_deviations
from benchmarks.peers.fleet import PEERS, fleet

SAMPLES = 48


def measure(scale: Scale) -> Result:
    network = problem(scale)
    with fleet(network) as libraries:
        errors = libraries.check_products()
        timings, answers = libraries.interleaved(scale.repeats, do="hutchinson", samples=SAMPLES)
        return Result(
            claim="Hutchinson's trace from 48 products is faster than that of each other library "
            "(tanh network).",
            bars=tuple(compared(timings, dict.fromkeys(PEERS, 1.0))),
            sizes={**network_sizes(network), "samples": SAMPLES},
            timings={f"48 samples: {name}": timing for name, timing in timings.items()},
            figures={
                "relative error of products against float64": errors,
                "trace against the reference, in standard deviations": trace_deviations(
                    libraries, answers, SAMPLES
                ),
                **libraries.figures(),
            },
        )


if __name__ == "__main__":
    sys.exit(command("peers.bench_peers_hutchinson", measure, repeats=3))
