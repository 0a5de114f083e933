"""A visit to a machine with a GPU: the kit's steps in order, each within its time, brought home.

    python3 visit.py run --out FOLDER [--minutes 9] [--steps card qm8 ...] [--home PARTS]
    python3 visit.py unpack PARTS --to FOLDER

It travels at the root of the kit (see `kit`) and needs the standard library alone. A visit works in
a folder of its own on the machine's disk. After each step, and when a step or the visit runs out of
time, that folder is packed into `--out` as a few files of a size that travels: results, the run
folder of the study, logs, and compiled programs as far as there is room. The next visit takes them
as `--home` and goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KIT = Path(__file__).resolve().parent
MIB = 2**20
PART_BYTES = 15 * MIB
MOST_PARTS = 4
INDEX = "home.json"
SAVING_SECONDS = 15.0  # a step that is asked to stop writes what it has
CLOSING_SECONDS = 12.0  # the last packing

# What is packed, the dearest first: where all of it is too much, the rest stays behind, in words.
PACKED = ("logs", "results", "runs", "compiled")
STATES = "checkpoints"  # of their folders, each is packed whole or not at all, the last one first


@dataclass(frozen=True)
class Step:
    """One command of the visit.

    Attributes:
        arguments: after `python -m`; `{...}` are filled in from the visit.
        tiny: what is added in a rehearsal.
        seconds: how long it may take at most; None for all that is left.
        beside: runs beside the step named here: it checks numbers and times nothing.
    """

    name: str
    arguments: str
    tiny: str = "--tiny"
    seconds: float | None = None
    beside: str = ""


_STUDY = (
    "hessspec_mtl.reproduce --preset gpu --encoded-dir {data} --out {work}/runs --name gpu "
    "--workers 0"
)
_STUDY += " --stages train curvature --keep-states analysed"
# In a rehearsal: the same stages, programs and files for a network and data that take a minute.
_SMALL = "--num-examples 60 --num-epochs 3 --num-graphs 8 --network.width 4 --network.num-steps 1"
_SMALL += " --network.head-width 4 --train.batch-size 8 --curvature.num-epochs 2"
_SMALL += " --curvature.num-steps 4 --curvature.trace-matvecs 8 --curvature.hutchinson-samples 4"
_SMALL += " --curvature.batch-size 8"

STEPS = (
    Step("card", "benchmarks.gpu.card --out {work}/results --seconds {seconds}", seconds=60.0),
    Step("qm8", _STUDY + " --sets {molecules}", _SMALL),
    Step(
        "precision",
        "benchmarks.gpu.precision --out {work}/results --seconds {seconds}",
        seconds=150.0,
        beside="qm8",
    ),
    Step("lighten", "benchmarks.gpu.lighten --runs {work}/runs", tiny=""),
    Step("speed", "benchmarks.gpu.speed --out {work}/results --seconds {seconds}", seconds=240.0),
    Step("ways", "benchmarks.gpu.epochs --out {work}/results --seconds {seconds}", seconds=150.0),
    Step("mp", _STUDY + " --sets {crystals}", _SMALL),
)
USUAL = ("card", "qm8", "precision", "lighten", "speed")
SETS = {"molecules": "qm8", "crystals": "mp"}  # a rehearsal takes the embedded sets, so named

# Left to itself XLA tries every product of matrices, of every shape, in dozens of ways: the network
# alone took 35 s to compile and 2 s without (an H200). cuBLAS chooses well enough.
COMPILING = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"


class Visit:
    """The folder that a visit works in, the time it has, and what it says.

    Attributes:
        work: where everything is written on this machine.
        out: what goes home.
        ends: when all must be packed, by the clock of `time.monotonic`.
    """

    def __init__(self, out: Path, minutes: float, work: Path, tiny: bool) -> None:
        self.out, self.work, self.tiny = out, work, tiny
        self.began = time.monotonic()
        self.ends = self.began + 60 * minutes - CLOSING_SECONDS
        for name in PACKED:
            (work / name).mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until packing."""
        return self.ends - time.monotonic()

    def say(self, words: str) -> None:
        """A line with the time since the visit began, on the terminal and in the log."""
        line = f"[{time.monotonic() - self.began:6.1f} s] {words}"
        print(line, flush=True)
        with (self.work / "logs" / "visit.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def install(visit: Visit) -> Path:
    """Where the kit's wheels are installed: apart from what the machine has."""
    site = visit.work / "site"
    wheels = sorted(map(str, (KIT / "wheels").glob("*.whl")))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    command = [*pip, "--no-cache-dir", "--upgrade", "--target", str(site), *wheels]
    if not wheels:
        raise SystemExit(f"{KIT} has no wheels: run the script of a kit (make gpu-kit).")
    if subprocess.run(command).returncode:
        raise SystemExit("the kit's wheels cannot be installed: see above.")
    visit.say(f"{len(wheels)} wheels installed")
    return site


def environment(visit: Visit, site: Path) -> dict[str, str]:
    """The kit's own packages first, compiled programs kept, memory taken as it is needed."""
    places = [str(KIT), str(site), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(visit.work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": f"{COMPILING} {os.environ.get('XLA_FLAGS', '')}".strip(),
    }


def heed_interrupts() -> None:
    """Steps are asked to stop by an interrupt, which background jobs of a shell ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Running:
    """A step under way."""

    step: Step
    process: subprocess.Popen[bytes]
    began: float
    until: float

    def stop(self) -> None:
        """Ask it to end and save; end it if it does not."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(SAVING_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def started(visit: Visit, step: Step, settings: dict[str, str]) -> Running:
    """The step's process, whose output goes to a log of its own."""
    bound = None if visit.tiny else step.seconds  # a rehearsal has time
    seconds = visit.left() if bound is None else min(bound, visit.left())
    sets = {domain: domain for domain in SETS} if visit.tiny else SETS
    filled = step.arguments.format(work=visit.work, data=KIT / "data", seconds=int(seconds), **sets)
    command = [sys.executable, "-m", *filled.split(), *(step.tiny.split() if visit.tiny else ())]
    visit.say(f"{step.name}: {shlex.join(command[1:])}")
    with (visit.work / "logs" / f"{step.name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=visit.work,
            env=settings,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    now = time.monotonic()
    return Running(step, process, now, now + seconds)


def finished(visit: Visit, running: Running) -> bool:
    """Wait for a step, or stop it when its time is over; whether it ended well."""
    try:
        running.process.wait(max(0.0, running.until - time.monotonic()))
        how = f"ended with {running.process.returncode}"
    except subprocess.TimeoutExpired:
        running.stop()
        how = "stopped, its time was over"
    visit.say(f"{running.step.name}: {how} after {time.monotonic() - running.began:.0f} s")
    for line in tail(visit.work / "logs" / f"{running.step.name}.log"):
        print(f"    {line}", flush=True)
    return running.process.returncode == 0


def tail(path: Path, lines: int = 25) -> list[str]:
    """The last lines of a log, without the states of progress bars that were written over."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.rsplit("\r", 1)[-1] for line in text.splitlines()[-lines:]]


def run(visit: Visit, steps: Sequence[Step]) -> int:
    """All steps that fit; how many of them failed. What they made goes home whatever happens."""
    failed = 0
    try:
        settings = environment(visit, install(visit))
        for step in (each for each in steps if each.beside not in {other.name for other in steps}):
            if visit.left() < SAVING_SECONDS:
                visit.say(f"{step.name}: left for the next visit")
                continue
            beside = [other for other in steps if other.beside == step.name]
            under_way = [started(visit, each, settings) for each in (step, *beside)]
            failed += sum([not finished(visit, each) for each in reversed(under_way)])
            pack(visit)  # a machine that is taken away has sent all but the step it was in
    finally:
        pack(visit)
    return failed


def pack(visit: Visit) -> None:
    """The visit's folder as at most `MOST_PARTS` files in its `out`, and an index of them."""
    budget, parts, left = MOST_PARTS * PART_BYTES, [], []
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=3) as archive:
        for unit in wanted(visit.work):
            # Whatever is compressed already stays as large as it is.
            size = sum(path.stat().st_size + 1024 for path in unit)
            if stream.tell() + size + 64 * 1024 > budget:
                left += [str(path.relative_to(visit.work)) for path in unit]
                continue
            for path in unit:
                archive.add(path, str(path.relative_to(visit.work)))
    data = stream.getvalue()
    for start in range(0, len(data), PART_BYTES):
        name = f"home-{start // PART_BYTES}.part"
        part = data[start : start + PART_BYTES]
        replace(visit.out / name, part)
        parts.append({"name": name, "sha256": hashlib.sha256(part).hexdigest()})
    replace(visit.out / INDEX, json.dumps({"parts": parts, "left": left}, indent=1).encode())
    visit.say(f"packed {len(data) / MIB:.1f} MiB in {len(parts)} parts, {len(left)} files left out")


def wanted(work: Path) -> Iterator[list[Path]]:
    """What may go home, the dearest first: units of files that are of no use without each other."""
    for name in PACKED:
        files = [path for path in (work / name).rglob("*") if path.is_file()]
        states = sorted({state for path in files if (state := _state(path))}, reverse=True)
        loose = (path for path in files if not _state(path))
        yield from ([path] for path in sorted(loose, key=lambda path: path.stat().st_size))
        yield from ([path for path in files if _state(path) == state] for state in states)


def _state(path: Path) -> Path | None:
    """The folder of the state that a file belongs to, or None."""
    return next((folder for folder in path.parents if folder.parent.name == STATES), None)


def replace(path: Path, data: bytes) -> None:
    """`path` with these bytes, whole or not at all."""
    temporary = path.with_suffix(".writing")
    temporary.write_bytes(data)
    temporary.replace(path)


def unpack(home: Path, to: Path) -> None:
    """What a visit packed, in the folder `to`.

    Raises:
        SystemExit: if there is no index, or a part is missing or not the one that the index names.
    """
    stream = io.BytesIO()
    try:
        parts = json.loads((home / INDEX).read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{home / INDEX} must be the index that a visit packed its parts with ({error}); give "
            "the folder that was `--out` there, with all its files."
        ) from error
    for part in parts:
        path = home / part["name"]
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise SystemExit(f"{path} is not the part that {home / INDEX} names; fetch it again.")
        stream.write(data)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:gz") as archive:
        archive.extractall(to, filter="data")


def positive(word: str) -> float:
    """A number of minutes from the command line."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive and finite, got {word}")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(prog="visit.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="run the steps on this machine")
    running.add_argument("--out", type=Path, required=True, help="what goes home is written here")
    running.add_argument("--work", type=Path, default=Path("/tmp/hessspec-visit"))
    running.add_argument("--minutes", type=positive, default=9.0, help="all in all")
    running.add_argument("--home", type=Path, help="parts of an earlier visit, to go on from")
    running.add_argument("--tiny", action="store_true", help="a rehearsal: everything small")
    names = [step.name for step in STEPS]
    running.add_argument("--steps", nargs="+", choices=names, default=list(USUAL))
    opening = verbs.add_parser("unpack", help="join what came home")
    opening.add_argument("home", type=Path)
    opening.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "unpack":
        unpack(options.home, options.to)
        return 0
    heed_interrupts()
    visit = Visit(options.out.resolve(), options.minutes, options.work.resolve(), options.tiny)
    if options.home:
        if any(path.is_file() for path in (visit.work / "runs").rglob("*")):
            raise SystemExit(
                f"{visit.work} holds the work of a visit already, which {options.home} would write "
                "over: leave `--home` out to go on from it, or remove that folder first."
            )
        unpack(options.home, visit.work)
    steps = {step.name: step for step in STEPS}
    return run(visit, [steps[name] for name in options.steps])


if __name__ == "__main__":
    sys.exit(main())
