"""What the curvature of an analysed epoch costs at a revision, and how sure its traces are.

    python -m benchmarks.epoch_costs train RUN                  # once: 100 epochs of QM8
    python -m benchmarks.epoch_costs measure RUN now.json       # about ten quiet minutes
    python -m benchmarks.epoch_costs compare before.json now.json
    python -m benchmarks.epoch_costs turns RUN CHECKOUT         # six quiet minutes

Another revision is measured by the same file from a checkout of that one, with the same RUN:

    PYTHONPATH=. python PATH/TO/THIS/epoch_costs.py measure RUN before.json

Minutes lie between the two, in which a machine may become a tenth faster or slower. That is less
than what traces are held to, not less than what densities are: `turns` times short densities of
one task from this checkout and the other one in turns.

So nothing is imported here but what `hessspec_mtl` has had for long. Training, network and graphs
are those of `--preset small` (QM8, 128 graphs, 64 products for a trace, 2 x 36 for a density).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS = (0, 6, 100)
SEEDS = 3  # traces of each epoch, each with probes of its own; densities are timed once
FEW_STEPS = 2  # of the densities beside the other traces
TURNS, TURNS_EACH, TURN_STEPS = 4, 2, 10  # densities of a process, processes, Lanczos steps
Measured = dict[str, Any]  # of a revision, as its file holds it


@dataclass(frozen=True)
class Study:
    """What is trained and analysed."""

    epochs: tuple[int, ...] = EPOCHS
    num_graphs: int = 128
    tiny: bool = False


TINY = Study(epochs=(0, 1, 2), num_graphs=10, tiny=True)


def encoded_of(study: Study) -> Any:
    """The data set, split and encoded."""
    from hessspec_mtl.datasets.computed import load_molecules
    from hessspec_mtl.datasets.qm8 import load_qm8

    if study.tiny:
        dataset = load_molecules(num_examples=60, progress=False)
    else:
        dataset = load_qm8(download=False, num_examples=2400, progress=False)
    return dataset.encode(dataset.split(0))


def network_of(study: Study, encoded: Any) -> Any:
    """The paper's, or a small relative."""
    from hessspec_mtl.network.model import NetworkConfig

    sizes = {"num_steps": 2, "width": 8, "head_width": 8} if study.tiny else {}
    tasks = tuple(task.name for task in encoded.tasks)
    return NetworkConfig(encoded.node_features, encoded.edge_features, tasks, **sizes)


def train_into(folder: Path, study: Study) -> None:
    """Train, or go on training; the epochs to be analysed are kept."""
    from hessspec_mtl.training.config import TrainConfig
    from hessspec_mtl.training.train import train

    encoded = encoded_of(study)
    config = TrainConfig(num_epochs=study.epochs[-1], batch_size=32, keep_epochs=study.epochs)
    train(config, network_of(study, encoded), encoded, folder)


def _subject(study: Study) -> tuple[Any, Any]:
    """The network, and the examples of its Hessian."""
    from hessspec_mtl.curvature.follow import hessian_indices

    encoded = encoded_of(study)
    chosen = hessian_indices(len(encoded.train), study.num_graphs, 0)
    examples = replace(
        encoded.train,
        ids=[encoded.train.ids[i] for i in chosen],
        graphs=[encoded.train.graphs[i] for i in chosen],
        targets=encoded.train.targets[chosen],
    )
    return network_of(study, encoded), examples


def measure(folder: Path, study: Study, seeds: int = SEEDS) -> Measured:
    """Seconds and stated errors of every epoch. An epoch before the first pays for compilation.

    A density takes six times as long as a trace and its time hardly varies, whereas stated errors
    do: the densities of all seeds but the first are cut short and not told.
    """
    from hessspec_mtl.curvature.follow import CurvatureConfig, follow
    from hessspec_mtl.files.timing import unit_seconds

    config = CurvatureConfig(num_graphs=study.num_graphs, trace_matvecs=64, num_steps=36)
    network, examples, found = *_subject(study), {}
    with tempfile.TemporaryDirectory() as place:
        for epoch, seed in [(study.epochs[0], seeds), *_turns(study.epochs, seeds)]:
            into = Path(place) / f"{epoch}-{seed}"
            told = seed in (0, seeds)  # the last is the epoch before the first
            own = config if told else replace(config, num_steps=FEW_STEPS)
            (curvature,) = follow(
                own, network, examples, [epoch], folder, into, seed=seed, progress=False
            )
            (results,) = into.glob("epoch_*")
            seconds = unit_seconds(results)
            found[epoch, seed] = {
                "seconds": seconds if told else {"trace": seconds["trace"]},
                "stated": np.asarray(curvature.trace.standard_error).tolist(),
                "trace": np.asarray(curvature.trace.value).tolist(),
            }
    calls = {str(e): [found[e, seed] for seed in range(seeds)] for e in study.epochs}
    return {"revision": revision(), "tasks": list(network.tasks), "epochs": calls}


def _turns(epochs: Sequence[int], seeds: int) -> list[tuple[int, int]]:
    return [(epoch, seed) for seed in range(seeds) for epoch in epochs]


def densities(folder: Path, study: Study) -> list[float]:
    """Seconds of `TURNS` short densities of the first task at the second epoch that was kept."""
    import jax

    import hessspec
    from hessspec_mtl.training.train import load_params

    try:
        from hessspec_mtl.curvature.subject import task_hessians
    except ImportError:  # where it was before
        from hessspec_mtl.curvature.follow import task_hessians
    network, examples = _subject(study)
    params = load_params(folder, study.epochs[1])
    hessian = task_hessians(params, network, examples, batch_size=32).task(0)
    seconds = []
    for seed in range(TURNS + 1):
        begun = time.perf_counter()
        key = jax.random.key(seed)
        hessspec.density(hessian, key=key, num_probes=2, num_steps=TURN_STEPS, progress=False)
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]  # the first one compiles


def in_turns(folder: Path, checkout: Path, *, tiny: bool) -> str:
    """What densities take in a checkout and in this one, by processes of each in turns."""
    here = Path(__file__).resolve()
    places = checkout.resolve(), here.parents[1]
    found: dict[Path, list[float]] = {place: [] for place in places}
    words = [sys.executable, str(here), "densities", str(folder.resolve())]
    for _ in range(TURNS_EACH):
        for place in places:
            environment = {**os.environ, "PYTHONPATH": str(place)}
            done = subprocess.run(
                [*words, "--tiny"] if tiny else words,
                cwd=place,
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            found[place] += json.loads(done.stdout)
    before, now = (float(np.median(found[place])) for place in places)
    each = "; ".join(" ".join(f"{s:.2f}" for s in found[place]) for place in places)
    return f"{before:.2f} s there, {now:.2f} s here: {before / now:.2f} times faster ({each})"


def revision() -> str:
    """The commit of the package that was measured."""
    import hessspec

    place = Path(hessspec.__file__).parent
    words = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def compared(before: Measured, now: Measured) -> list[str]:
    """A line for each epoch.

    Traces by time x variance, so as if both revisions went on to the same stated error; errors are
    rms over the calls, times their medians. Densities by time.
    """
    lines = [
        f"| epoch | traces: seconds at {before['revision']}, {now['revision']} | times faster to "
        "the same stated errors, slowest task (mean) | densities: seconds | times faster |",
        "|---|---|---|---|---|",
    ]
    for epoch in now["epochs"]:
        first, second = before["epochs"][epoch], now["epochs"][epoch]
        times = [[_median(calls, kind) for calls in (first, second)] for kind in KINDS]
        (trace_before, trace_now), (density_before, density_now) = times
        gains = trace_before / trace_now * (_variance(first) / _variance(second))
        mean = float(np.exp(np.mean(np.log(gains))))
        lines.append(
            f"| {epoch} | {trace_before:.1f}, {trace_now:.1f} | {gains.min():.2f} ({mean:.2f}) | "
            f"{density_before:.1f}, {density_now:.1f} | {density_before / density_now:.2f} |"
        )
    return lines


KINDS = ("trace", "density")
TURN_WORDS = ("turns", "densities")  # the second is what `turns` runs in each checkout


def _median(calls: list[Measured], kind: str) -> float:
    return float(np.median([c["seconds"][kind] for c in calls if kind in c["seconds"]]))


def _variance(calls: list[Measured]) -> np.ndarray:
    return np.mean([np.square(call["stated"]) for call in calls], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of analysed epochs.")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it out")
    parser.add_argument("what", choices=("train", "measure", "compare", *TURN_WORDS))
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    options = parser.parse_args()
    study, first = TINY if options.tiny else Study(), options.paths[0]
    if options.what == "train":
        train_into(first, study)
    elif options.what == "measure":
        options.paths[1].write_text(json.dumps(measure(first, study), indent=1) + "\n")
    elif options.what == "densities":
        print(json.dumps(densities(first, study)))
    elif options.what == "turns":
        print(in_turns(first, options.paths[1], tiny=options.tiny))
    else:
        before, now = (json.loads(path.read_text()) for path in options.paths)
        print("\n".join(compared(before, now)))


if __name__ == "__main__":
    main()
