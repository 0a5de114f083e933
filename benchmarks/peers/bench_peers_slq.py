"""Claim: a density from 2 probes of 50 steps is at least 1.8 times faster than matfree's and 1.5
times faster than that of hessian-eigenthings (tanh network)."""

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
from benchmarks.peers.fleet import fleet

PROBES, STEPS = 2, 50
ONLY = ("matfree", "curvlinops", "eigenthings")
BOUNDS = {"matfree": 1.8, "eigenthings": 1.5}


def measure(scale: Scale) -> Result:
    network = problem(scale)
    with fleet(network, ONLY) as libraries:
        errors = libraries.check_products()
        ends = [float(end) for end in libraries.truth["ends"]]
        timings, answers = libraries.interleaved(
            scale.repeats, do="slq", probes=PROBES, steps=STEPS, boundaries=ends
        )
        bars = compared(timings, BOUNDS)
        largest = {
            name: max(abs(a["largest"] / ends[1] - 1.0) for a in found)
            for name, found in answers.items()
            if "largest" in found[0]
        }
        return Result(
            claim="A density from 2 probes of 50 steps is at least 1.8 times faster than "
            "matfree's and 1.5 times faster than hessian-eigenthings' (tanh network).",
            bars=tuple(bars),
            sizes={**network_sizes(network), "probes": PROBES, "steps": STEPS},
            timings={f"2 x 50 steps: {name}": timing for name, timing in timings.items()},
            figures={
                "relative error of products against float64": errors,
                "trace against the reference, in standard deviations": trace_deviations(
                    libraries, answers, PROBES
                ),
                "largest eigenvalue against float64, relative": largest,
                **libraries.figures(),
            },
            notes=(
                "curvlinops keeps no basis and does not reorthogonalise; it is told the ends of "
                "the spectrum, which it would else find by further products. matfree returns the "
                "trace of a function and no nodes. traceax has no Lanczos quadrature.",
            ),
            missing=missing_bars(bars, BOUNDS, libraries),
        )


if __name__ == "__main__":
    sys.exit(command("peers.bench_peers_slq", measure, repeats=3))
