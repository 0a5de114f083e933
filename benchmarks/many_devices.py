"""Claim: a density over 8 devices leaves an eighth of its vectors on each, and survives a kill.

    python -m benchmarks.many_devices [--dim 100_000_000] [--folder FOLDER] [--output PATH]

One probe, 10 steps with reorthogonalisation, of a network whose parameters lie over 8 devices that
are made of the host; 1e8 of them take about 15 GB of memory. Three processes: one that is killed by
SIGKILL once half of the steps are on disk, one that goes on from there, and one that is never
interrupted. The last two must agree in every bit. Bytes are those of all arrays alive after each
step, by device.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import hessspec
from benchmarks.machine import ROOT, environment, peak_resident_bytes
from hessspec._base import kept
from hessspec._base.kept import KeptRun
from hessspec._krylov import lockstep
from hessspec._krylov.lockstep import State, _stepped

DEVICES, STEPS, EXAMPLES = 8, 10, 8
NOTED = ("steps on disk", "seconds of steps", "seconds of writing")


def loss(params, x):
    """Of a network with one hidden layer and outputs that are wanted to be small."""
    return jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"]) ** 2)


def problem(dim: int, mesh: Mesh) -> tuple[dict[str, jax.Array], jax.Array]:
    """Two matrices of dim/2 entries, each cut over all devices, drawn where they lie."""
    width = int((dim / 2) ** 0.5) // DEVICES * DEVICES
    cut = NamedSharding(mesh, P("x", None))

    @jax.jit
    def drawn(key: jax.Array) -> jax.Array:
        matrix = jax.random.normal(key, (width, width)) / width**0.5
        return jax.lax.with_sharding_constraint(matrix, cut)

    params = {name: drawn(jax.random.key(i)) for i, name in enumerate(("first", "second"))}
    x = jax.random.normal(jax.random.key(2), (EXAMPLES, width))
    return params, jax.device_put(x, NamedSharding(mesh, P()))


def alive() -> tuple[int, list[int]]:
    """Bytes of all arrays, each counted once, and those on each device."""
    on_device = dict.fromkeys(jax.devices(), 0)
    whole = 0
    for array in jax.live_arrays():
        whole += array.nbytes
        for shard in array.addressable_shards:
            on_device[shard.device] += shard.data.nbytes
    return whole, list(on_device.values())


def work(dim: int, folder: str | None, killed_at: int) -> dict[str, Any]:
    """One density; killed by itself once `killed_at` steps are on disk, if that is not 0."""
    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    params, x = problem(dim, mesh)
    notes: dict[str, Any] = {
        "steps on disk": [],
        "seconds of steps": [],
        "seconds of writing": [],
    }
    most = {"share": 0.0, "whole": 0, "largest": 0}

    def watched(*arguments) -> State:
        begin = time.perf_counter()
        state = jax.block_until_ready(_stepped(*arguments))
        notes["seconds of steps"].append(round(time.perf_counter() - begin, 1))
        whole, on_device = alive()
        if max(on_device) / whole > most["share"]:
            most.update(share=max(on_device) / whole, whole=whole, largest=max(on_device))
        print(f"step {state.done}", flush=True)
        return state

    write, read = KeptRun.write, KeptRun.read

    def writing(self, state):
        write(self, state)
        notes["steps on disk"].append(state["done"])
        notes["seconds of writing"].append(round(self.took, 1))
        if killed_at and state["done"] >= killed_at:
            print(json.dumps(notes), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def reading(self):
        state = read(self)
        notes["goes on from step"] = 0 if state is None else state["done"]
        return state

    lockstep._stepped, KeptRun.write, KeptRun.read = watched, writing, reading
    kept._PARTS_OF_TIME = 1  # every step is written, however long that takes
    begin = time.perf_counter()
    found = hessspec.density(
        loss,
        params,
        jax.random.key(3),
        data=x,
        num_probes=1,
        num_steps=STEPS,
        checkpoint=folder,
        progress=False,
    )
    return {
        **notes,
        "P": found.dim,
        "alpha": [float(a).hex() for a in found.alpha[0]],
        "beta": [float(b).hex() for b in found.beta[0]],
        "nodes": [float(x).hex() for x in found.nodes[0]],
        "weights": [float(x).hex() for x in found.weights[0]],
        "bytes of all arrays": most["whole"],
        "bytes on the fullest device": most["largest"],
        "share of the fullest device": most["share"],
        "peak of the process": peak_resident_bytes(),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def in_a_process(dim: int, folder: Path | None, killed_at: int = 0) -> tuple[int, dict]:
    """The exit status of a process with 8 devices, and the last thing that it told."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    options = ["--folder", str(folder)] if folder else []
    command = [sys.executable, "-u", "-m", "benchmarks.many_devices", "--dim", str(dim), *options]
    command += ["--killed-at", str(killed_at), "--work"]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return done.returncode, told


def bytes_in(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def study(dim: int, folder: Path) -> dict[str, Any]:
    """The three processes, and what they show."""
    status, killed = in_a_process(dim, folder, STEPS // 2)
    assert status == -signal.SIGKILL, status
    on_disk = bytes_in(folder)
    status, resumed = in_a_process(dim, folder)
    assert status == 0, status
    afterwards = bytes_in(folder)
    status, whole = in_a_process(dim, None)
    assert status == 0, status
    numbers = ("alpha", "beta", "nodes", "weights")
    assert resumed["goes on from step"] == killed["steps on disk"][-1]
    assert all(resumed[name] == whole[name] for name in numbers), "other numbers"
    return {
        "claim": (
            "Bytes per device at most 1/8 of the whole plus 10 %, and a run that is killed halfway "
            "ends with the numbers of one that is not, to the last bit."
        ),
        "P": whole["P"],
        "devices": DEVICES,
        "probes": 1,
        "steps": STEPS,
        "equal to the last bit": list(numbers),
        "killed after step": killed["steps on disk"][-1],
        "steps on disk": killed["steps on disk"] + resumed["steps on disk"],
        "seconds of writing": killed["seconds of writing"] + resumed["seconds of writing"],
        "gone on from step": resumed["goes on from step"],
        "bytes on disk when killed": on_disk,
        "bytes on disk afterwards": afterwards,
        "of the run that was not interrupted": {
            name: value for name, value in whole.items() if value != [] and name not in numbers
        },
        "share allowed": 1.1 / DEVICES,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dim", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="for what is kept; by default a temporary one")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/studies/many_devices.json")
    parser.add_argument("--killed-at", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.dim, options.folder, options.killed_at)))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hessspec"))
    try:
        found = study(options.dim, folder / "run")
    finally:
        shutil.rmtree(folder / "run", ignore_errors=True)
    whole = found["of the run that was not interrupted"]
    assert whole["share of the fullest device"] <= found["share allowed"], whole
    options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
