"""One process a library, all alive through the run, asked in turn: A, B, C, A, B, C, ..."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.claims import ROUNDING, relative_difference
from benchmarks.machine import ROOT
from benchmarks.peers.install import interpreter
from benchmarks.problems import TanhNetwork
from benchmarks.timing import Timing

OURS = "hessspec"
PEERS = {
    "matfree": ("jax", "benchmarks.peers.worker_jax", "matfree"),
    "traceax": ("jax", "benchmarks.peers.worker_jax", "traceax"),
    "curvlinops": ("torch", "benchmarks.peers.worker_torch", "curvlinops"),
    "eigenthings": ("torch", "benchmarks.peers.worker_torch", "eigenthings"),
}
SETTLE = 0.1  # seconds after an answer in which threads of the last worker go to sleep
PATIENCE = 600.0  # seconds before an answer is given up


class PeerError(Exception):
    """A library could not be started or could not answer; the message is its own last line."""


@dataclass
class Worker:
    """A process and the two ends of its pipe."""

    name: str
    process: subprocess.Popen[str]
    log: IO[str]
    versions: dict[str, str] = field(default_factory=dict)
    can: tuple[str, ...] = ()
    idle_seconds: float = 0.0  # processor time used while others worked

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            PeerError: if there is none.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_line()) from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the pipe."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise PeerError(self._last_line() if ready else f"no answer in {PATIENCE:.0f} s")
        found = json.loads(line)
        if "error" in found:
            raise PeerError(found["error"])
        return found

    def processor_seconds(self) -> float:
        """Processor time of this process so far, 0 where that is not known."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _last_line(self) -> str:
        self.log.flush()
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"ended with status {self.process.poll()}"

    def close(self) -> None:
        """End the process."""
        try:
            with contextlib.suppress(BrokenPipeError):
                if self.process.stdin is not None:
                    self.process.stdin.close()
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.log.close()


@dataclass
class Fleet:
    """All workers, what failed, and the problem with its truth.

    Attributes:
        workers: this package's first.
        failed: the error line of each library that is out.
        idle_wall: seconds in which some other worker was busy, summed over workers.
    """

    workers: list[Worker]
    failed: dict[str, str]
    network: TanhNetwork
    truth: dict[str, np.ndarray]
    folder: Path
    idle_wall: float = 0.0

    @property
    def trace(self) -> float:
        """tr H from the reference's samples."""
        return float(self.truth["forms"].mean())

    def trace_deviation(self, found: float, samples: int) -> float:
        """|found - tr H| in standard deviations of an estimate from so many samples."""
        forms = self.truth["forms"]
        spread = forms.std(ddof=1) * (1.0 / samples + 1.0 / forms.size) ** 0.5
        return abs(found - self.trace) / float(spread)

    def drop(self, worker: Worker, why: str) -> None:
        """Go on without a library.

        Raises:
            PeerError: if it is this package.
        """
        if worker.name == OURS:
            raise PeerError(f"{OURS}: {why}")
        self.failed[worker.name] = why
        self.workers.remove(worker)
        worker.close()

    def check_products(self) -> dict[str, float]:
        """The relative error of two products of each library; wrong ones are out."""
        errors = {}
        for worker in list(self.workers):
            out = self.folder / f"{worker.name}.npy"
            try:
                worker.ask(do="products", count=2, out=str(out))
            except PeerError as error:
                self.drop(worker, str(error))
                continue
            errors[worker.name] = relative_difference(np.load(out), self.truth["products"])
            if not errors[worker.name] <= ROUNDING:
                self.drop(worker, f"wrong products, relative error {errors[worker.name]:.1e}")
        return errors

    def interleaved(
        self, repeats: int, units: float = 1.0, **request: Any
    ) -> tuple[dict[str, Timing], dict[str, list[dict[str, Any]]]]:
        """Times and answers of all workers that know the request, A, B, C, A, B, C, ...

        One round before the first is not counted. The seed of round r is r + 1.
        """
        asked = [worker for worker in self.workers if request["do"] in worker.can]
        times: dict[str, list[float]] = {worker.name: [] for worker in asked}
        answers: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in asked}
        for turn in range(-1, repeats):
            for worker in [w for w in asked if w in self.workers]:
                before = {w.name: w.processor_seconds() for w in self.workers}
                start = time.perf_counter()
                seeded = request if request["do"] == "products" else {**request, "seed": turn + 1}
                try:
                    answer = worker.ask(**seeded)
                except PeerError as error:
                    self.drop(worker, str(error))
                    continue
                wall = time.perf_counter() - start
                for other in self.workers:
                    if other is not worker:
                        other.idle_seconds += other.processor_seconds() - before[other.name]
                        self.idle_wall += wall
                if turn >= 0:
                    times[worker.name].append(answer["seconds"] / units)
                    answers[worker.name].append(answer)
                time.sleep(SETTLE)
        whole = {name for name, seconds in times.items() if len(seconds) == repeats}
        return (
            {name: Timing(tuple(times[name]), units) for name in times if name in whole},
            {name: answers[name] for name in answers if name in whole},
        )

    def figures(self) -> dict[str, Any]:
        """What the page says of the libraries themselves."""
        idle = sum(worker.idle_seconds for worker in self.workers)
        return {
            "versions": {worker.name: worker.versions for worker in self.workers},
            "not run": self.failed,
            "processor time of idle workers, share of one core": idle / max(self.idle_wall, 1e-9),
        }


@contextlib.contextmanager
def fleet(network: TanhNetwork, only: tuple[str, ...] = tuple(PEERS)) -> Iterator[Fleet]:
    """Start a worker for each library, and end them all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = folder / "problem.npz"
        np.savez(problem, **network.arrays())
        truth = _truth(problem, network)
        found = Fleet([], {}, network, truth, folder)
        commands = {OURS: [sys.executable, "-m", "benchmarks.peers.worker_hessspec", str(problem)]}
        for peer in only:
            environment, module, library = PEERS[peer]
            python = interpreter(environment)
            if not python.exists():
                found.failed[peer] = (
                    "its environment is missing: python -m benchmarks.peers.install makes it"
                )
                continue
            commands[peer] = [str(python), "-m", module, str(problem), library]
        try:
            for peer, words in commands.items():
                worker = start(peer, words, folder)
                found.workers.append(worker)
                try:
                    greeting = worker.answer()
                except PeerError as error:
                    found.drop(worker, str(error))
                    continue
                worker.versions, worker.can = greeting["versions"], tuple(greeting["ready"])
            yield found
        finally:
            for worker in found.workers:
                worker.close()


def start(name: str, words: list[str], folder: Path) -> Worker:
    """A worker from its command line; its greeting is its first answer."""
    log = (folder / f"{name}.log").open("w+")
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )
    return Worker(name, process, log)


def _truth(problem: Path, network: TanhNetwork) -> dict[str, np.ndarray]:
    """What `reference` finds, kept in the folder for temporary files: it never changes."""
    sizes = "-".join(map(str, (*network.sizes, network.num_examples)))
    out = Path(tempfile.gettempdir()) / "hessspec-benchmarks" / f"reference-{sizes}.npz"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = problem.with_name("reference.npz")
        settings = {**os.environ, "JAX_ENABLE_X64": "1"}
        words = [sys.executable, "-m", "benchmarks.peers.reference", str(problem), str(part)]
        done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the float64 reference failed: {done.stderr[-2000:]}")
        shutil.move(part, out)
    with np.load(out) as file:
        return {key: file[key] for key in file.files}
