"""What a result was made with: the device, and packages with their versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax

import hessspec

PACKAGES = (
    *("jax", "jaxlib", "equinox", "numpy", "scipy", "flax", "jraph", "optax"),
    *("orbax-checkpoint", "pandas", "rdkit", "pymatgen"),
)
"""Those that are named with the results of a study."""


@dataclass(frozen=True)
class Machine:
    """Where a part of the work was done: the device in words, package -> version."""

    device: str
    versions: Mapping[str, str]


def this_machine(packages: Iterable[str]) -> Machine:
    """The first device of JAX with its default precision, and the versions of `packages`."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    precision = "float64" if jax.config.read("jax_enable_x64") else "float32"
    return Machine(f"{kind}, {precision}", versions(packages))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version, this project's, and those of `packages`, as far as they are installed.

    The project may be run from its sources, which know their version, without being installed.
    """
    found = {"python": platform.python_version(), "hessspec": hessspec.__version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
