"""What a Lanczos step costs on many devices: `python -m docs.scale [FOLDER]`.

Messages are counted in the programs that XLA compiles for 8 devices of the host; how many there
are, and how long, does not depend on the machine. Bytes, seconds and the figure are arithmetic, by
the assumptions named below.
"""

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import hessspec
from hessspec._base.probes import gaussian_on
from hessspec._krylov import basis, lockstep
from hessspec._krylov.basis import ROWS_PER_CHUNK, LockstepBases, in_chunks
from hessspec._krylov.lanczos import Recurrence
from hessspec._krylov.lockstep import krylov_bytes
from hessspec._krylov.tiles import Layout
from hessspec._operators.rows import compiled_rows

COUNTED_ON = 8  # devices
WIDTH = 512  # of the network whose product is counted: P = 2 WIDTH²


@dataclass(frozen=True)
class Machine:
    """Round numbers, assumed and not measured.

    Attributes:
        memory: bytes a second that a device reads from its own memory.
        link: bytes a second that a device sends to others, all at once.
        latency: seconds of a message from one device to another.
        flops: floating-point operations a second that a product makes use of.
        room: bytes of memory on a device.
    """

    memory: float = 2e12
    link: float = 5e10
    latency: float = 1e-5
    flops: float = 5e13
    room: float = 80e9


EXAMPLES = 256  # of a batch
PASSES = 8  # forward passes that a product takes, of 2 P operations for each example
STEPS = 60
SIZES = (10**8, 10**9, 10**10)
DEVICES = tuple(2**n for n in range(3, 10))

_MESSAGE = re.compile(
    r"= \(?(\w+)\[([\d,]*)\]\S* (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
)


def messages(program: Any) -> list[tuple[str, int]]:
    """The messages between devices of a program: the kind of each, and its numbers."""
    compiled: Any = program.compile()
    found = _MESSAGE.findall(getattr(compiled, "compiled", compiled).as_text())
    return [(kind, math.prod(map(int, filter(None, size.split(","))))) for _, size, kind in found]


def of_a_step(mesh: jax.sharding.Mesh, dim: int) -> dict[str, list[tuple[str, int]]]:
    """The messages of each program of a step with one probe, and of a start."""
    layout = Layout.of_lanes(dim, np.dtype("float32"), 1, mesh)
    key, one = jax.random.key(0), jnp.arange(1)
    rows = gaussian_on(key, one, dim, jnp.dtype("float32"), mesh)
    lanes = LockstepBases(layout)
    lanes.append(rows)
    chunk = lanes.parts[0].chunks[0]
    block = jax.jit(lambda rows: layout.tiled(rows)[:, :, 0])(rows)
    found, known = Recurrence.begin(jnp.ones(1, bool), 16, rows.dtype), jnp.zeros((1, 16))
    first = lockstep._first_pass.lower(rows, rows, rows, jnp.ones(1), found, 1, layout=layout)
    return {
        "a start": messages(gaussian_on.lower(key, one, dim, rows.dtype, mesh)),
        "two terms": messages(first),
        "a chunk of 16 rows": messages(basis._project.lower(chunk, block, known, 0)),
        "the next row": messages(
            lockstep._extend_tiles.lower(found, 1, (block,), (known,), layout=layout)
        ),
    }


def of_a_product(mesh: jax.sharding.Mesh, cut: P) -> tuple[list[tuple[str, int]], int]:
    """Those of a product with the Hessian of a network of two matrices cut so, and P."""

    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"]) ** 2)

    def put(array, spec):
        return jax.device_put(array, NamedSharding(mesh, spec))

    params = {n: put(jnp.ones((WIDTH, WIDTH)) / WIDTH, cut) for n in ("first", "second")}
    x = put(jnp.ones((COUNTED_ON, WIDTH)), P("x", None))
    operator = hessspec.HessianOperator(loss, params, data=x)
    indices, dtype = jnp.arange(1), jnp.dtype("float32")
    rows = gaussian_on(jax.random.key(0), indices, operator.dim, dtype, operator.mesh)
    program: Any = compiled_rows
    return messages(program.lower(operator, rows, operator.mesh)), operator.dim


def count() -> None:
    """Print the messages, on as many devices as there are."""
    mesh = jax.make_mesh((COUNTED_ON,), ("x",), axis_types=(AxisType.Auto,))
    for name, found in of_a_step(mesh, 2**20).items():
        print(f"{name}: {found}")
    for name, cut in (("by rows", P("x", None)), ("by columns", P(None, "x")), ("whole", P())):
        found, dim = of_a_product(mesh, cut)
        total = sum(numbers for _, numbers in found)
        print(f"a product, matrices {name}: {len(found)} messages, {total / dim:.2f} P numbers")


def seconds(dim: int, devices: int, machine: Machine) -> dict[str, float]:
    """Seconds of the last of `STEPS` steps with one probe, by what takes them."""
    share, nbytes = dim / devices, 4
    hops = 2 * math.log2(devices)  # of an all-reduce in a tree, up and down
    reductions = 2 + math.ceil(STEPS / ROWS_PER_CHUNK)
    # Sharded over all devices, parameters and the vector are gathered for the pass forward and for
    # that back, and the product is summed up and scattered: five times P numbers past each device.
    moved = 5 * dim * nbytes * (devices - 1) / devices
    return {
        "operations of the product": PASSES * 2 * dim * EXAMPLES / devices / machine.flops,
        "messages of the product": moved / machine.link,
        "reading of the basis": 2 * in_chunks(STEPS) * share * nbytes / machine.memory,
        "our reductions": reductions * hops * machine.latency,
    }


def nbytes(dim: int, devices: int) -> int:
    """Bytes of bases and vectors on each device, by the package's own plan."""
    mesh: Any = _Devices(devices)
    return krylov_bytes(1, STEPS, dim, np.dtype("float32"), mesh)


@dataclass(frozen=True)
class _Devices:
    """As much of a mesh as a plan of memory asks for."""

    size: int


def draw(folder: Path) -> None:
    """Bytes and seconds by the number of devices, and print them as a table."""
    from matplotlib import pyplot

    machine = Machine()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for dim in SIZES:
        name = f"P = 1e{round(math.log10(dim))}"
        held = [nbytes(dim, devices) / 1e9 for devices in DEVICES]
        times = [seconds(dim, devices, machine) for devices in DEVICES]
        (line,) = left.plot(DEVICES, held, "o-", markersize=3, label=name)
        total = [sum(each.values()) for each in times]
        right.plot(DEVICES, total, "o-", markersize=3, color=line.get_color(), label=name)
        own = [each["reading of the basis"] + each["our reductions"] for each in times]
        right.plot(DEVICES, own, "--", color=line.get_color())
        for devices, size, each in zip(DEVICES, held, times, strict=True):
            if devices in (8, 64, 512):
                cells = " | ".join(f"{1e3 * part:.3g}" for part in each.values())
                print(f"| {name[4:]} | {devices} | {size:.3g} | {cells} |")
    left.axhline(machine.room / 1e9, color="0.4", linewidth=0.8)
    left.text(DEVICES[0], 1.15 * machine.room / 1e9, "a device", color="0.4")
    left.set(ylabel=f"GB on each device, {STEPS} steps")
    right.set(ylabel="seconds of a step (dashed: of hessspec)")
    for panel in (left, right):
        panel.set(xscale="log", yscale="log", xlabel="devices")
        panel.set_xticks(DEVICES, [str(devices) for devices in DEVICES])
        panel.minorticks_off()
    left.legend(frameon=False)
    figure.savefig(folder / "scale.png", dpi=110, metadata={"Software": None})


def main(folder: Path) -> None:
    """Count in a process with 8 devices, then draw."""
    flags = f"--xla_force_host_platform_device_count={COUNTED_ON}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "docs.scale", "--count"]
    subprocess.run(command, env=environment, check=True)
    draw(folder)


if __name__ == "__main__":
    if "--count" in sys.argv:
        count()
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
