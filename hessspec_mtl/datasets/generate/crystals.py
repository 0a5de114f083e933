"""The crystals: which ones, and what is computed of each."""

import dataclasses
import functools
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .elasticity import CrystalFailed, ElasticitySettings, elastic_crystal, voigt_reuss_hill
from .orderings import enumerate_orderings
from .worklog import Record, run_jobs

PACKAGES = ("ase", "pymatgen", "numpy", "scipy")


def crystal_record(name: str, settings: ElasticitySettings) -> Record:
    """Everything computed of one ordering, or the reason why there is nothing.

    Lattice in angstrom; moduli and the upper triangle of the elastic tensor, row by row in Voigt's
    order, in GPa.
    """
    (ordering,) = (each for each in enumerate_orderings() if each.name == name)
    record: Record = {"id": name}
    try:
        crystal = elastic_crystal(ordering, settings)
    except CrystalFailed as failure:
        return {**record, "failed": str(failure)}
    moduli = voigt_reuss_hill(crystal.stiffness)
    return {
        **record,
        "lattice": crystal.atoms.cell[:].round(6).tolist(),
        "atomic_numbers": crystal.atoms.numbers.tolist(),
        "fractional": (crystal.atoms.get_scaled_positions().round(8) % 1.0).tolist(),
        "stiffness": (crystal.stiffness[np.triu_indices(6)].round(3) + 0.0).tolist(),
        "K_VRH": round(moduli.bulk, 3),
        "G_VRH": round(moduli.shear, 3),
        "poisson": round(moduli.poisson, 5),
    }


def compute_crystals(
    out: Path, *, processes: int, settings: ElasticitySettings, progress: bool = True
) -> tuple[Record, ...]:
    """The records of all orderings, kept in `out`/crystals.jsonl."""
    return run_jobs(
        functools.partial(crystal_record, settings=settings),
        [ordering.name for ordering in enumerate_orderings()],
        out / "crystals.jsonl",
        {
            "settings": dataclasses.asdict(settings),
            "versions": {package: version(package) for package in PACKAGES},
        },
        processes=processes,
        description="crystals",
        progress=progress,
    )
