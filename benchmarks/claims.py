"""A claim, the bars it is held against, and the JSON file that keeps what was measured."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.machine import environment, peak_resident_bytes
from benchmarks.timing import Spread, Timing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Scale:
    """How much work a benchmark does.

    Attributes:
        tiny: small relatives of the networks, to try a benchmark out; its numbers mean nothing.
        repeats: rounds of interleaved repeats.
    """

    tiny: bool = False
    repeats: int = 7


@dataclass(frozen=True)
class Bar:
    """A measured number and the bound that the claim sets it.

    Attributes:
        what: the number in words.
        value: as measured, with quartiles where there are repeats.
        relation: "<=" for at most `bound`, ">=" for at least.
        unit: of value and bound.
        claimed: False for a stretch or an aim, which the verdict leaves out.
    """

    what: str
    value: Spread
    relation: Literal["<=", ">="]
    bound: float
    unit: str = ""
    claimed: bool = True

    @property
    def met(self) -> bool:
        value = self.value.median
        return value <= self.bound if self.relation == "<=" else value >= self.bound


@dataclass(frozen=True)
class Check:
    """A number that must be right before anything is timed: `deviation` at most `tolerance`."""

    what: str
    deviation: float
    tolerance: float

    def require(self) -> Check:
        """Itself.

        Raises:
            ArithmeticError: if the deviation is too large; wrong results are not timed.
        """
        if not self.deviation <= self.tolerance:
            raise ArithmeticError(
                f"{self.what}: the deviation must be at most {self.tolerance:.2g}, "
                f"got {self.deviation:.2g}; wrong numbers are not timed."
            )
        return self


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        claim: the claim in a sentence.
        bars: empty where nothing could be measured; `missing` then says why.
        sizes: what was run, for whoever repeats it.
        checks: what was checked before timing.
        timings: seconds of a unit of work, by name.
        figures: further numbers, in the words a reader will see.
        notes: what is scaled, left out or different from the wording of the claim.
    """

    claim: str
    bars: tuple[Bar, ...] = ()
    sizes: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    timings: Mapping[str, Timing] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    missing: str = ""
    dtype: str = "float32"

    @property
    def verdict(self) -> str:
        if self.missing:
            return "not measured"
        return "met" if all(bar.met for bar in self.bars if bar.claimed) else "falls short"


Measure = Callable[[Scale], Result]


def relative_difference(found: Any, expected: Any) -> float:
    """The largest ‖found - expected‖ / ‖expected‖ over the rows."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    difference = np.linalg.norm(found - expected, axis=-1)
    return float(np.max(difference / np.linalg.norm(expected, axis=-1)))


# A product is a chain of sums of some thousand terms, whose rounding adds like a random walk.
ROUNDING = 100 * float(np.finfo(np.float32).eps)


def as_json(name: str, result: Result, scale: Scale, seconds: float) -> dict[str, Any]:
    """Everything that the file of a result holds."""
    return {
        "name": name,
        "claim": result.claim,
        "verdict": result.verdict,
        "missing": result.missing,
        "bars": [{**asdict(bar), "met": bar.met} for bar in result.bars],
        "sizes": dict(result.sizes),
        "dtype": result.dtype,
        "repeats": scale.repeats,
        "tiny": scale.tiny,
        "checks": [asdict(check) for check in result.checks],
        "timings": {
            label: {**asdict(timing), **asdict(timing.spread)}
            for label, timing in result.timings.items()
        },
        "figures": dict(result.figures),
        "notes": list(result.notes),
        "seconds": round(seconds, 1),
        "peak_resident_bytes": peak_resident_bytes(),
        "environment": environment(),
    }


def write_result(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write `<folder>/<name>.json` whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['name']}.json"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return path


def run(name: str, measure: Measure, scale: Scale, folder: Path) -> dict[str, Any]:
    """Measure, write the file, and return what it holds."""
    start = time.perf_counter()
    result = measure(scale)
    content = as_json(name, result, scale, time.perf_counter() - start)
    write_result(folder, content)
    return content


def summary(content: Mapping[str, Any]) -> str:
    """A result in a few lines of text."""
    lines = [f"{content['name']}: {content['verdict']} ({content['seconds']:.0f} s)"]
    if content["missing"]:
        lines.append(f"  {content['missing']}")
    for bar in content["bars"]:
        value, mark = bar["value"], "" if bar["met"] else "  <- falls short"
        lines.append(
            f"  {bar['what']}: {value['median']:.3g} [{value['lower']:.3g}, {value['upper']:.3g}] "
            f"{bar['unit']}, {bar['relation']} {bar['bound']:g}{mark}"
        )
    return "\n".join(lines)


def command(name: str, measure: Measure, repeats: int = Scale.repeats) -> int:
    """The command line of one benchmark: `python -m benchmarks.<name>`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--repeats", type=int, default=None, help=f"rounds (default {repeats})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    options = parser.parse_args()
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny needs an --output of its own: its numbers mean nothing")
    rounds = options.repeats or (2 if options.tiny else repeats)
    print(summary(run(name, measure, Scale(options.tiny, rounds), options.output)), flush=True)
    return 0
