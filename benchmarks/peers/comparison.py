"""What the comparisons with other libraries share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.claims import Bar, Scale
from benchmarks.peers.fleet import OURS, Fleet
from benchmarks.problems import TanhNetwork
from benchmarks.timing import Timing


def problem(scale: Scale) -> TanhNetwork:
    """The network that all libraries get."""
    return TanhNetwork((8, 16, 16, 2), 32) if scale.tiny else TanhNetwork()


def network_sizes(network: TanhNetwork) -> dict[str, Any]:
    """The network in words."""
    return {"P": network.dim, "N": network.num_examples, "layers": list(network.sizes)}


def compared(timings: Mapping[str, Timing], bounds: Mapping[str, float]) -> list[Bar]:
    """How many times faster than each library that has a bound."""
    return [
        Bar(f"times faster than {name}", timings[name].over(timings[OURS]), ">=", bound, "x")
        for name, bound in bounds.items()
        if name in timings
    ]


def missing_bars(bars: list[Bar], bounds: Mapping[str, float], libraries: Fleet) -> str:
    """Why there is no number for some bound; empty if there is one for each."""
    reasons = [f"{name}: {libraries.failed[name]}" for name in bounds if name in libraries.failed]
    return "; ".join(reasons) if len(bars) < len(bounds) else ""


def trace_deviations(
    libraries: Fleet, answers: Mapping[str, list[dict[str, Any]]], samples: int
) -> dict[str, float]:
    """How far each library's mean trace is from the reference, in standard deviations."""
    return {
        name: libraries.trace_deviation(
            sum(answer["trace"] for answer in found) / len(found), samples * len(found)
        )
        for name, found in answers.items()
    }
