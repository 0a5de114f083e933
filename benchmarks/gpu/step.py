"""A step of measurements: written after each, bounded in time, resumed where it stopped."""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims import write_result
from benchmarks.machine import environment

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One thing to measure.

    Attributes:
        name: its key in the file.
        seconds: what it is expected to take, compilation included; it is left out where less is
            left of the call.
        run: measures, and returns what goes into the file: numbers, text, lists, mappings.
    """

    name: str
    seconds: float
    run: Callable[[], Figures]


class Step:
    """The file of a step and the clock of this call.

    Args:
        name: of the step and its file.
        out: folder of the file; what it already holds is kept and not measured again.
        seconds: for this call.
        tiny: small sizes; kept apart from measurements in earnest.

    Raises:
        ValueError: if the file there was measured on another device, or at another size.
    """

    def __init__(self, name: str, out: Path, seconds: float, tiny: bool) -> None:
        self.start, self.seconds, self.out = time.monotonic(), seconds, out
        path = out / f"{name}.json"
        here = environment()
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        before = known.get("environment", here)["device"], known.get("tiny", tiny)
        if before != (here["device"], tiny):
            raise ValueError(
                f"{path} holds measurements of {_words(*before)}, this call is on "
                f"{_words(here['device'], tiny)}; give it an `--out` of its own."
            )
        self.content: dict[str, Any] = {
            "name": name,
            "tiny": tiny,
            "environment": here,
            "measurements": known.get("measurements", {}),
            "failed": {},
            "left_out": {},
        }

    @property
    def left(self) -> float:
        """Seconds until this call should be over."""
        return self.seconds - (time.monotonic() - self.start)

    def take(self, measurements: Sequence[Measurement]) -> None:
        """Measure each in turn that is not in the file yet and still fits.

        What fails is noted with its error, and the next one is measured: on a borrowed device one
        wrong line must not cost the rest.
        """
        for measurement in measurements:
            self._take(measurement)

    def _take(self, measurement: Measurement) -> None:
        name = measurement.name
        if name in self.content["measurements"]:
            print(f"{name}: there already", flush=True)
            return
        if measurement.seconds > self.left:
            reason = f"expected to take {measurement.seconds:.0f} s, {max(self.left, 0):.0f} s left"
            self.content["left_out"][name] = reason
            print(f"{name}: left out ({reason})", flush=True)
            return self._write()
        begin = time.monotonic()
        try:
            figures = dict(measurement.run())
        except Exception as error:
            lines = " ".join(f"{type(error).__name__}: {error}".split())[:2000]
            self.content["failed"][name] = {"error": lines, "trace": traceback.format_exc()[-4000:]}
            print(f"{name}: FAILED, {lines[:300]}", flush=True)
            return self._write()
        seconds = round(time.monotonic() - begin, 2)
        # Failures and omissions of earlier calls are gone from the file by now: only figures stay.
        self.content["measurements"][name] = {"seconds": seconds, **figures}
        print(f"{name} ({seconds:.1f} s): {shown(figures)}", flush=True)
        return self._write()

    def _write(self) -> None:
        write_result(self.out, self.content)


def _words(device: str, tiny: bool) -> str:
    return f"{device}, tiny sizes" if tiny else device


def shown(figures: Any) -> str:
    """Figures in one line."""
    if isinstance(figures, Mapping):
        return ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
    if isinstance(figures, bool):
        return str(figures)
    if isinstance(figures, int | float):
        return f"{figures:.4g}"
    if isinstance(figures, Sequence) and not isinstance(figures, str):
        return f"[{', '.join(map(shown, figures))}]"
    return str(figures)


def command(
    name: str, measurements: Callable[[bool, Path], Sequence[Measurement]], seconds: float
) -> int:
    """The command line of a step; `measurements(tiny, out)` says what it measures, in order."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{name}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"limit (default {seconds:.0f})"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to rehearse on a CPU")
    options = parser.parse_args()
    step = Step(name, options.out, options.seconds, options.tiny)
    print(f"{name} on {step.content['environment']['device']}", flush=True)
    step.take(measurements(options.tiny, options.out))
    failed, left_out = (len(step.content[key]) for key in ("failed", "left_out"))
    done = len(step.content["measurements"])
    print(f"{name}: {done} measured, {left_out} left out, {failed} failed", flush=True)
    return 1 if failed else 0
